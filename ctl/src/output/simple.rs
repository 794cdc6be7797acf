//! The format for people: what matters, a line for each thing.

use proto::authpb::Permission;
use proto::authpb::permission::Type;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::response_op::Response;
use proto::mvccpb::KeyValue;
use proto::mvccpb::event::EventType;

use super::{Answer, Output, table};
use crate::go;

const ROOT_ROLE: &str = "root";
const OPEN_END: &[u8] = b"\0";

pub fn render(answer: &Answer, output: &Output) -> Vec<u8> {
    let mut text = Vec::new();
    match answer {
        Answer::Get(response) => pairs(&response.kvs, output, &mut text),
        Answer::Put(response) => put(response, output, &mut text),
        Answer::Delete(response) => delete(response, output, &mut text),
        Answer::Txn(response) => txn(response, output, &mut text),
        Answer::Watch(response) => watch(response, output, &mut text),
        Answer::Health(healths) => healths.iter().for_each(|health| match health.error.as_str() {
            "" => push(
                &mut text,
                format!(
                    "{} is healthy: successfully committed proposal: took = {}",
                    health.endpoint,
                    health.took()
                ),
            ),
            error => {
                eprintln!("{} is unhealthy: failed to commit proposal: {error}", health.endpoint)
            }
        }),
        Answer::RoleGet { role, response } => role_get(role, response, &mut text),
        other => match table::rows(other) {
            Some((_, rows)) => rows.iter().for_each(|row| push(&mut text, row.join(", "))),
            None => push(&mut text, sentence(other)),
        },
    }
    text
}

fn push(text: &mut Vec<u8>, line: impl AsRef<[u8]>) {
    text.extend_from_slice(line.as_ref());
    text.push(b'\n');
}

fn pair(pair: &KeyValue, output: &Output, text: &mut Vec<u8>) {
    let mut write = |bytes: &[u8]| match output.hex {
        false => push(text, bytes),
        true => push(text, bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>()),
    };
    if !output.value_only {
        write(&pair.key);
    }
    write(&pair.value);
}

fn pairs(all: &[KeyValue], output: &Output, text: &mut Vec<u8>) {
    all.iter().for_each(|one| pair(one, output, text));
}

fn put(response: &pb::PutResponse, output: &Output, text: &mut Vec<u8>) {
    push(text, "OK");
    response.prev_kv.iter().for_each(|previous| pair(previous, output, text));
}

fn delete(response: &pb::DeleteRangeResponse, output: &Output, text: &mut Vec<u8>) {
    push(text, response.deleted.to_string());
    pairs(&response.prev_kvs, output, text);
}

fn txn(response: &pb::TxnResponse, output: &Output, text: &mut Vec<u8>) {
    push(text, if response.succeeded { "SUCCESS" } else { "FAILURE" });
    for operation in &response.responses {
        push(text, "");
        match &operation.response {
            Some(Response::ResponseRange(response)) => pairs(&response.kvs, output, text),
            Some(Response::ResponsePut(response)) => put(response, output, text),
            Some(Response::ResponseDeleteRange(response)) => delete(response, output, text),
            Some(Response::ResponseTxn(response)) => txn(response, output, text),
            None => push(text, "unexpected response"),
        }
    }
}

fn watch(response: &pb::WatchResponse, output: &Output, text: &mut Vec<u8>) {
    for event in &response.events {
        push(text, event_type(event.r#type));
        event.prev_kv.iter().for_each(|previous| pair(previous, output, text));
        pair(&event.kv.clone().unwrap_or_default(), output, text);
    }
}

pub fn event_type(number: i32) -> &'static str {
    match EventType::try_from(number) {
        Ok(EventType::Put) => "PUT",
        Ok(EventType::Delete) => "DELETE",
        Err(_) => "UNKNOWN",
    }
}

fn role_get(role: &str, response: &pb::AuthRoleGetResponse, text: &mut Vec<u8>) {
    push(text, format!("Role {role}"));
    if role == ROOT_ROLE && response.perm.is_empty() {
        for title in ["KV Read:", "KV Write:"] {
            push(text, title);
            push(text, "\t[, <open ended>");
        }
        return;
    }
    for (title, kind) in [("KV Read:", Type::Read), ("KV Write:", Type::Write)] {
        push(text, title);
        let allows = |permission: &&Permission| {
            [kind, Type::Readwrite].iter().any(|kind| permission.perm_type == *kind as i32)
        };
        response.perm.iter().filter(allows).for_each(|one| push(text, permission(one)));
    }
}

fn permission(permission: &Permission) -> Vec<u8> {
    let (key, end) = (&permission.key[..], &permission.range_end[..]);
    let mut line = match end {
        b"" => [b"\t", key].concat(),
        OPEN_END => [b"\t[", key, b", <open ended>"].concat(),
        end => [b"\t[", key, b", ", end, b")"].concat(),
    };
    if !end.is_empty() && !key.is_empty() && go::prefix_end(key) == end {
        line.extend([b" (prefix ", key, b")"].concat());
    }
    line
}

fn cluster(header: &Option<pb::ResponseHeader>) -> u64 {
    header.as_ref().map_or(0, |header| header.cluster_id)
}

/// What is said in one line, or few.
fn sentence(answer: &Answer) -> String {
    match answer {
        Answer::Grant(response) => {
            format!("lease {:016x} granted with TTL({}s)", response.id, response.ttl)
        }
        Answer::Revoke { id, .. } => format!("lease {id:016x} revoked"),
        Answer::KeepAlive(response) => {
            format!("lease {:016x} keepalived with TTL({})", response.id, response.ttl)
        }
        Answer::TimeToLive { response, keys } => time_to_live(response, *keys),
        Answer::Leases(response) => {
            let ids = response.leases.iter().map(|lease| format!("\n{:016x}", lease.id));
            format!("found {} leases{}", response.leases.len(), ids.collect::<String>())
        }
        Answer::Machines(machines) => super::machines::text(machines),
        Answer::Shadow(report) => super::shadow::text(report),
        Answer::Modules(modules) => super::modules::text(modules),
        Answer::MoveLeader { from, to, .. } => {
            format!("Leadership transferred from {from:x} to {to:x}")
        }
        Answer::Downgrade { action, response } => {
            format!("Downgrade {action} success, cluster version {}", response.version)
        }
        Answer::AuthStatus(response) => format!(
            "Authentication Status: {}\nAuthRevision: {}",
            response.enabled, response.auth_revision
        ),
        other => member_sentence(other).unwrap_or_else(|| auth_sentence(other)),
    }
}

fn time_to_live(response: &pb::LeaseTimeToLiveResponse, keys: bool) -> String {
    if response.granted_ttl == 0 && response.ttl == -1 {
        return format!("lease {:016x} already expired", response.id);
    }
    let mut text = format!(
        "lease {:016x} granted with TTL({}s), remaining({}s)",
        response.id, response.granted_ttl, response.ttl
    );
    if keys {
        let keys: Vec<_> = response.keys.iter().map(|key| String::from_utf8_lossy(key)).collect();
        text += &format!(", attached keys([{}])", keys.join(" "));
    }
    text
}

fn member_sentence(answer: &Answer) -> Option<String> {
    Some(match answer {
        Answer::MemberAdd(response) => {
            let member = response.member.clone().unwrap_or_default();
            let learner = if member.is_learner { " as learner " } else { " " };
            let cluster = cluster(&response.header);
            format!("Member {:16x} added{learner}to cluster {cluster:16x}", member.id)
        }
        Answer::MemberRemove { id, response } => {
            format!("Member {id:16x} removed from cluster {:16x}", cluster(&response.header))
        }
        Answer::MemberUpdate { id, response } => {
            format!("Member {id:16x} updated in cluster {:16x}", cluster(&response.header))
        }
        Answer::MemberPromote { id, response } => {
            format!("Member {id:16x} promoted in cluster {:16x}", cluster(&response.header))
        }
        _ => return None,
    })
}

fn auth_sentence(answer: &Answer) -> String {
    match answer {
        Answer::RoleAdd { role, .. } => format!("Role {role} created"),
        Answer::RoleDelete { role, .. } => format!("Role {role} deleted"),
        Answer::RoleGrant { role, .. } => format!("Role {role} updated"),
        Answer::RoleRevoke { role, key, range_end, .. } => match range_end.as_slice() {
            b"" => format!("Permission of key {key} is revoked from role {role}"),
            OPEN_END => {
                format!("Permission of range [{key}, <open ended> is revoked from role {role}")
            }
            end => {
                let end = String::from_utf8_lossy(end);
                format!("Permission of range [{key}, {end}) is revoked from role {role}")
            }
        },
        Answer::UserAdd { user, .. } => format!("User {user} created"),
        Answer::UserGet { user, response } => {
            let roles: String = response.roles.iter().map(|role| format!(" {role}")).collect();
            format!("User: {user}\nRoles:{roles}")
        }
        Answer::UserPassword(_) => "Password updated".into(),
        Answer::UserGrant { user, role, .. } => format!("Role {role} is granted to user {user}"),
        Answer::UserRevoke { user, role, .. } => format!("Role {role} is revoked from user {user}"),
        Answer::UserDelete { user, .. } => format!("User {user} deleted"),
        _ => String::new(),
    }
}
