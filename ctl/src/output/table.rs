//! Tables with borders; and the rows that `simple` prints as well, separated by commas.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, TableComponent};
use proto::etcdserverpb as pb;
use unicode_width::UnicodeWidthStr;

use super::{Answer, Failure, Format, Health};
use crate::go;

type Rows = (Vec<&'static str>, Vec<Vec<String>>);

/// What can be printed as a table, but for health, which `simple` says in sentences.
pub fn rows(answer: &Answer) -> Option<Rows> {
    Some(match answer {
        Answer::MemberList(response) => {
            let header = ["ID", "Status", "Name", "Peer Addrs", "Client Addrs", "Is Learner"];
            (header.to_vec(), response.members.iter().map(member).collect())
        }
        Answer::Status(statuses) => {
            (STATUS_HEADER.to_vec(), statuses.iter().map(|(at, one)| status(at, one)).collect())
        }
        Answer::HashKv(hashes) => {
            let row = |(endpoint, hash): &(String, pb::HashKvResponse)| {
                vec![endpoint.clone(), hash.hash.to_string(), hash.hash_revision.to_string()]
            };
            (vec!["endpoint", "hash", "hash_revision"], hashes.iter().map(row).collect())
        }
        Answer::SnapshotStatus(status) => {
            let header = vec!["hash", "revision", "total keys", "total size", "version"];
            let row = vec![
                format!("{:x}", status.hash),
                status.revision.to_string(),
                status.keys.to_string(),
                go::size(status.bytes),
                status.version.clone(),
            ];
            (header, vec![row])
        }
        Answer::FileHash(hash) => {
            let row = [
                hash.hash.to_string(),
                hash.revision.to_string(),
                hash.compact_revision.to_string(),
            ];
            (vec!["hash", "hash revision", "compact revision"], vec![row.to_vec()])
        }
        // A list that is said line by line.
        Answer::RoleList(response) => {
            (vec![], response.roles.iter().map(|role| vec![role.clone()]).collect())
        }
        Answer::UserList(response) => {
            (vec![], response.users.iter().map(|user| vec![user.clone()]).collect())
        }
        Answer::Alarm(response) => (vec![], response.alarms.iter().map(alarm).collect()),
        _ => return None,
    })
}

const STATUS_HEADER: [&str; 16] = [
    "endpoint",
    "ID",
    "version",
    "storage version",
    "db size",
    "in use",
    "percentage not in use",
    "quota",
    "is leader",
    "is learner",
    "raft term",
    "raft index",
    "raft applied index",
    "errors",
    "downgrade target version",
    "downgrade enabled",
];

fn member(member: &pb::Member) -> Vec<String> {
    vec![
        format!("{:x}", member.id),
        if member.name.is_empty() { "unstarted" } else { "started" }.into(),
        member.name.clone(),
        member.peer_ur_ls.join(","),
        member.client_ur_ls.join(","),
        member.is_learner.to_string(),
    ]
}

fn status(endpoint: &str, status: &pb::StatusResponse) -> Vec<String> {
    let id = status.header.as_ref().map_or(0, |header| header.member_id);
    let downgrade = status.downgrade_info.clone().unwrap_or_default();
    let size = |bytes: i64| go::size(bytes.unsigned_abs());
    // A server that tells no size is one that uses none of it.
    let used = status.db_size_in_use.saturating_mul(100).checked_div(status.db_size);
    vec![
        endpoint.to_owned(),
        format!("{id:x}"),
        status.version.clone(),
        status.storage_version.clone(),
        size(status.db_size),
        size(status.db_size_in_use),
        format!("{}%", 100 - used.unwrap_or(100)),
        size(status.db_size_quota),
        (status.leader == id).to_string(),
        status.is_learner.to_string(),
        status.raft_term.to_string(),
        status.raft_index.to_string(),
        status.raft_applied_index.to_string(),
        status.errors.join(", "),
        downgrade.target_version,
        downgrade.enabled.to_string(),
    ]
}

fn alarm(alarm: &pb::AlarmMember) -> Vec<String> {
    let name = alarm_name(alarm.alarm);
    let parts = [
        (alarm.member_id != 0).then(|| format!("memberID:{}", alarm.member_id)),
        (alarm.alarm != 0).then(|| format!("alarm:{name}")),
    ];
    vec![parts.into_iter().flatten().collect::<Vec<_>>().join(" ")]
}

pub fn alarm_name(number: i32) -> String {
    match pb::AlarmType::try_from(number) {
        Ok(known) => known.as_str_name().to_owned(),
        Err(_) => number.to_string(),
    }
}

fn health(health: &Health) -> Vec<String> {
    vec![
        health.endpoint.clone(),
        health.is_healthy.to_string(),
        health.took(),
        health.error.clone(),
    ]
}

pub fn render(answer: &Answer) -> Result<String, Failure> {
    let (header, rows) = match answer {
        Answer::Health(all) => {
            (vec!["endpoint", "health", "took", "error"], all.iter().map(health).collect())
        }
        other => rows(other)
            .filter(|(header, _)| !header.is_empty())
            .ok_or_else(|| Format::Table.unsupported())?,
    };
    let mut table = Table::new();
    table.set_content_arrangement(ContentArrangement::Disabled);
    border(&mut table);
    table.set_header(header.iter().enumerate().map(|(at, title)| {
        // A name's words are apart in a heading.
        let title = title.to_uppercase().replace('_', " ");
        let cells = rows.iter().filter_map(|row| row.get(at));
        let width = cells.map(|cell| cell.width()).max().unwrap_or(0);
        // Where a title cannot stand in the middle, it stands nearer to the left.
        let indent = width.saturating_sub(title.width()) / 2;
        Cell::new(" ".repeat(indent) + &title).set_alignment(CellAlignment::Left)
    }));
    for row in rows {
        let cells = row.into_iter().map(|cell| Cell::new(cell).set_alignment(CellAlignment::Right));
        table.add_row(cells);
    }
    Ok(format!("{table}\n"))
}

/// Thin lines around and between columns, and one below the heading.
fn border(table: &mut Table) {
    use TableComponent as Part;
    table.load_preset(comfy_table::presets::NOTHING);
    for (part, line) in [
        (Part::TopBorder, '─'),
        (Part::TopLeftCorner, '┌'),
        (Part::TopRightCorner, '┐'),
        (Part::TopBorderIntersections, '┬'),
        (Part::HeaderLines, '─'),
        (Part::LeftHeaderIntersection, '├'),
        (Part::MiddleHeaderIntersections, '┼'),
        (Part::RightHeaderIntersection, '┤'),
        (Part::BottomBorder, '─'),
        (Part::BottomLeftCorner, '└'),
        (Part::BottomRightCorner, '┘'),
        (Part::BottomBorderIntersections, '┴'),
        (Part::LeftBorder, '│'),
        (Part::RightBorder, '│'),
        (Part::VerticalLines, '│'),
    ] {
        table.set_style(part, line);
    }
}
