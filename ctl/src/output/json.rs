//! JSON as Go's library writes etcd's types: numbers as numbers, bytes in base64, nothing that is zero.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::response_op::Response;
use proto::mvccpb::{Event, KeyValue};

use super::Answer;

/// An object under construction; members that are zero are left out.
struct Object(String);

impl Object {
    fn new() -> Self {
        Self(String::from("{"))
    }

    /// With its header first.
    fn headed(header: &Option<pb::ResponseHeader>) -> Self {
        Self::new().header(header)
    }

    fn header(self, header: &Option<pb::ResponseHeader>) -> Self {
        match header {
            Some(known) => self.raw("header", &header_fields(Self::new(), known).end()),
            None => self,
        }
    }

    fn raw(mut self, name: &str, json: &str) -> Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        _ = write!(self.0, "\"{name}\":{json}");
        self
    }

    fn number<N: Default + PartialEq + std::fmt::Display>(self, name: &str, number: N) -> Self {
        match number == N::default() {
            true => self,
            false => self.raw(name, &number.to_string()),
        }
    }

    fn bool(self, name: &str, value: bool) -> Self {
        if value { self.raw(name, "true") } else { self }
    }

    fn text(self, name: &str, text: &str) -> Self {
        if text.is_empty() { self } else { self.raw(name, &string(text.as_bytes())) }
    }

    fn bytes(self, name: &str, bytes: &[u8]) -> Self {
        if bytes.is_empty() { self } else { self.raw(name, &base64(bytes)) }
    }

    fn list(self, name: &str, items: Vec<String>) -> Self {
        if items.is_empty() { self } else { self.raw(name, &array(items)) }
    }

    fn texts(self, name: &str, items: &[String]) -> Self {
        self.list(name, items.iter().map(|item| string(item.as_bytes())).collect())
    }

    fn end(self) -> String {
        self.0 + "}"
    }
}

fn array(items: Vec<String>) -> String {
    format!("[{}]", items.join(","))
}

fn base64(bytes: &[u8]) -> String {
    format!("\"{}\"", STANDARD.encode(bytes))
}

/// A string, with what HTML would take for markup escaped.
pub fn string(bytes: &[u8]) -> String {
    let mut json = String::from("\"");
    for c in String::from_utf8_lossy(bytes).chars() {
        _ = match c {
            '"' => json.write_str("\\\""),
            '\\' => json.write_str("\\\\"),
            '\n' => json.write_str("\\n"),
            '\r' => json.write_str("\\r"),
            '\t' => json.write_str("\\t"),
            '\u{8}' => json.write_str("\\b"),
            '\u{c}' => json.write_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | ..' ' => {
                write!(json, "\\u{:04x}", u32::from(c))
            }
            c => json.write_char(c),
        };
    }
    json + "\""
}

pub fn render(answer: &Answer, hex: bool) -> String {
    let json = kv(answer)
        .or_else(|| lease(answer))
        .or_else(|| members(answer, hex))
        .or_else(|| endpoints(answer))
        .or_else(|| auth(answer))
        .unwrap_or_else(|| other(answer));
    json + "\n"
}

fn header_fields(object: Object, header: &pb::ResponseHeader) -> Object {
    object
        .number("cluster_id", header.cluster_id)
        .number("member_id", header.member_id)
        .number("revision", header.revision)
        .number("raft_term", header.raft_term)
}

/// The header's fields among the answer's own, as etcd's client has them for leases.
fn flattened(header: &Option<pb::ResponseHeader>) -> Object {
    let object = Object::new();
    match header {
        Some(header) => header_fields(object, header),
        None => object,
    }
}

fn pair(pair: &KeyValue) -> String {
    Object::new()
        .bytes("key", &pair.key)
        .number("create_revision", pair.create_revision)
        .number("mod_revision", pair.mod_revision)
        .number("version", pair.version)
        .bytes("value", &pair.value)
        .number("lease", pair.lease)
        .end()
}

fn range(response: &pb::RangeResponse) -> String {
    Object::headed(&response.header)
        .list("kvs", response.kvs.iter().map(pair).collect())
        .bool("more", response.more)
        .number("count", response.count)
        .end()
}

fn put(response: &pb::PutResponse) -> String {
    let object = Object::headed(&response.header);
    match &response.prev_kv {
        Some(previous) => object.raw("prev_kv", &pair(previous)).end(),
        None => object.end(),
    }
}

fn delete(response: &pb::DeleteRangeResponse) -> String {
    Object::headed(&response.header)
        .number("deleted", response.deleted)
        .list("prev_kvs", response.prev_kvs.iter().map(pair).collect())
        .end()
}

fn txn(response: &pb::TxnResponse) -> String {
    let operation = |operation: &pb::ResponseOp| {
        let object = Object::new();
        let inner = match &operation.response {
            Some(Response::ResponseRange(response)) => {
                object.raw("response_range", &range(response))
            }
            Some(Response::ResponsePut(response)) => object.raw("response_put", &put(response)),
            Some(Response::ResponseDeleteRange(response)) => {
                object.raw("response_delete_range", &delete(response))
            }
            Some(Response::ResponseTxn(response)) => object.raw("response_txn", &txn(response)),
            None => object,
        };
        Object::new().raw("Response", &inner.end()).end()
    };
    Object::headed(&response.header)
        .bool("succeeded", response.succeeded)
        .list("responses", response.responses.iter().map(operation).collect())
        .end()
}

fn event(event: &Event) -> String {
    let mut object = Object::new().number("type", event.r#type);
    if let Some(known) = &event.kv {
        object = object.raw("kv", &pair(known));
    }
    if let Some(known) = &event.prev_kv {
        object = object.raw("prev_kv", &pair(known));
    }
    object.end()
}

/// etcd's client has a type of its own for these, whose members have no other names than Go's.
fn watch(response: &pb::WatchResponse) -> String {
    let header = header_fields(Object::new(), &response.header.unwrap_or_default()).end();
    let events = match response.events.is_empty() {
        true => "[]".to_owned(),
        false => array(response.events.iter().map(event).collect()),
    };
    Object::new()
        .raw("Header", &header)
        .raw("Events", &events)
        .raw("CompactRevision", &response.compact_revision.to_string())
        .raw("Canceled", &response.canceled.to_string())
        .raw("Created", &response.created.to_string())
        .raw("CancelReason", &string(response.cancel_reason.as_bytes()))
        .end()
}

fn kv(answer: &Answer) -> Option<String> {
    Some(match answer {
        Answer::Get(response) => range(response),
        Answer::Put(response) => put(response),
        Answer::Delete(response) => delete(response),
        Answer::Txn(response) => txn(response),
        Answer::Watch(response) => watch(response),
        _ => return None,
    })
}

fn lease(answer: &Answer) -> Option<String> {
    Some(match answer {
        Answer::Grant(response) => flattened(&response.header)
            .raw("ID", &response.id.to_string())
            .raw("TTL", &response.ttl.to_string())
            .raw("Error", &string(response.error.as_bytes()))
            .end(),
        Answer::Revoke { response, .. } => Object::headed(&response.header).end(),
        Answer::KeepAlive(response) => flattened(&response.header)
            .raw("ID", &response.id.to_string())
            .raw("TTL", &response.ttl.to_string())
            .end(),
        Answer::TimeToLive { response, .. } => {
            let keys = match response.keys.is_empty() {
                true => "null".to_owned(),
                false => array(response.keys.iter().map(|key| base64(key)).collect()),
            };
            flattened(&response.header)
                .raw("id", &response.id.to_string())
                .raw("ttl", &response.ttl.to_string())
                .raw("granted-ttl", &response.granted_ttl.to_string())
                .raw("keys", &keys)
                .end()
        }
        Answer::Leases(response) => {
            let ids = response.leases.iter().map(|lease| format!("{{\"id\":{}}}", lease.id));
            flattened(&response.header).raw("leases", &array(ids.collect())).end()
        }
        _ => return None,
    })
}

/// Members, whose ids `--hex` writes in its base.
fn members(answer: &Answer, hex: bool) -> Option<String> {
    let (header, added, members) = match answer {
        Answer::MemberAdd(response) => {
            (&response.header, Some(response.member.clone()), &response.members)
        }
        Answer::MemberRemove { response, .. } => (&response.header, None, &response.members),
        Answer::MemberUpdate { response, .. } => (&response.header, None, &response.members),
        Answer::MemberPromote { response, .. } => (&response.header, None, &response.members),
        Answer::MemberList(response) => (&response.header, None, &response.members),
        _ => return None,
    };
    let object = match (hex, header) {
        (true, Some(header)) => {
            let inner = Object::new()
                .raw("cluster_id", &format!("\"{:x}\"", header.cluster_id))
                .raw("member_id", &format!("\"{:x}\"", header.member_id))
                .number("revision", header.revision)
                .number("raft_term", header.raft_term);
            Object::new().raw("header", &inner.end())
        }
        _ => Object::headed(header),
    };
    let object = match added {
        Some(Some(added)) => object.raw("member", &member(&added, hex)),
        _ => object,
    };
    let all: Vec<String> = members.iter().map(|one| member(one, hex)).collect();
    Some(if hex { object.raw("members", &array(all)) } else { object.list("members", all) }.end())
}

fn member(member: &pb::Member, hex: bool) -> String {
    let object = match hex {
        true => Object::new().raw("ID", &format!("\"{:x}\"", member.id)),
        false => Object::new().number("ID", member.id),
    };
    object
        .text("name", &member.name)
        .texts("peerURLs", &member.peer_ur_ls)
        .texts("clientURLs", &member.client_ur_ls)
        .bool("isLearner", member.is_learner)
        .end()
}

fn endpoints(answer: &Answer) -> Option<String> {
    let at = |endpoint: &str, name: &str, inner: String| {
        Object::new().raw("Endpoint", &string(endpoint.as_bytes())).raw(name, &inner).end()
    };
    let all: Vec<String> = match answer {
        Answer::Health(healths) => healths
            .iter()
            .map(|health| {
                Object::new()
                    .raw("endpoint", &string(health.endpoint.as_bytes()))
                    .raw("health", &health.is_healthy.to_string())
                    .raw("took", &string(health.took().as_bytes()))
                    .text("error", &health.error)
                    .end()
            })
            .collect(),
        Answer::Status(statuses) => {
            statuses.iter().map(|(endpoint, one)| at(endpoint, "Status", status(one))).collect()
        }
        Answer::HashKv(hashes) => hashes
            .iter()
            .map(|(endpoint, hash)| {
                let inner = Object::headed(&hash.header)
                    .number("hash", hash.hash)
                    .number("compact_revision", hash.compact_revision)
                    .number("hash_revision", hash.hash_revision);
                at(endpoint, "HashKV", inner.end())
            })
            .collect(),
        _ => return None,
    };
    // A list that nothing was put into is none.
    Some(if all.is_empty() { "null".into() } else { array(all) })
}

fn status(status: &pb::StatusResponse) -> String {
    let object = Object::headed(&status.header)
        .text("version", &status.version)
        .number("dbSize", status.db_size)
        .number("leader", status.leader)
        .number("raftIndex", status.raft_index)
        .number("raftTerm", status.raft_term)
        .number("raftAppliedIndex", status.raft_applied_index)
        .texts("errors", &status.errors)
        .number("dbSizeInUse", status.db_size_in_use)
        .bool("isLearner", status.is_learner)
        .text("storageVersion", &status.storage_version)
        .number("dbSizeQuota", status.db_size_quota);
    match &status.downgrade_info {
        Some(downgrade) => {
            let inner = Object::new()
                .bool("enabled", downgrade.enabled)
                .text("targetVersion", &downgrade.target_version);
            object.raw("downgradeInfo", &inner.end()).end()
        }
        None => object.end(),
    }
}

fn auth(answer: &Answer) -> Option<String> {
    let headed = Object::headed;
    let object = match answer {
        Answer::RoleGet { response, .. } => {
            let permissions = response.perm.iter().map(|permission| {
                Object::new()
                    .number("permType", permission.perm_type)
                    .bytes("key", &permission.key)
                    .bytes("range_end", &permission.range_end)
                    .end()
            });
            headed(&response.header).list("perm", permissions.collect())
        }
        Answer::RoleList(response) => headed(&response.header).texts("roles", &response.roles),
        Answer::UserGet { response, .. } => {
            headed(&response.header).texts("roles", &response.roles)
        }
        Answer::UserList(response) => headed(&response.header).texts("users", &response.users),
        Answer::AuthStatus(response) => headed(&response.header)
            .bool("enabled", response.enabled)
            .number("authRevision", response.auth_revision),
        Answer::RoleAdd { response, .. } => headed(&response.header),
        Answer::RoleDelete { response, .. } => headed(&response.header),
        Answer::RoleGrant { response, .. } => headed(&response.header),
        Answer::RoleRevoke { response, .. } => headed(&response.header),
        Answer::UserAdd { response, .. } => headed(&response.header),
        Answer::UserPassword(response) => headed(&response.header),
        Answer::UserGrant { response, .. } => headed(&response.header),
        Answer::UserRevoke { response, .. } => headed(&response.header),
        Answer::UserDelete { response, .. } => headed(&response.header),
        _ => return None,
    };
    Some(object.end())
}

fn other(answer: &Answer) -> String {
    let object = match answer {
        Answer::Machines(machines) => return super::machines::json(machines),
        Answer::Shadow(report) => return super::shadow::json(report),
        Answer::Modules(modules) => return super::modules::json(modules),
        Answer::MoveLeader { response, .. } => Object::headed(&response.header),
        Answer::Downgrade { response, .. } => {
            Object::headed(&response.header).text("version", &response.version)
        }
        Answer::Alarm(response) => {
            let alarms = response.alarms.iter().map(|alarm| {
                let object = Object::new().number("memberID", alarm.member_id);
                object.number("alarm", alarm.alarm).end()
            });
            Object::headed(&response.header).list("alarms", alarms.collect())
        }
        Answer::SnapshotStatus(status) => Object::new()
            .raw("hash", &status.hash.to_string())
            .raw("revision", &status.revision.to_string())
            .raw("totalKey", &status.keys.to_string())
            .raw("totalSize", &status.bytes.to_string())
            .raw("version", &string(status.version.as_bytes())),
        Answer::FileHash(hash) => Object::new()
            .raw("hash", &hash.hash.to_string())
            .raw("hashRevision", &hash.revision.to_string())
            .raw("compactRevision", &hash.compact_revision.to_string()),
        _ => Object::new(),
    };
    object.end()
}
