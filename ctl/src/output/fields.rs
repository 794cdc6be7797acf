//! A line for each field: `"Name" : value`.

use proto::authpb::permission::Type;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::response_op::Response;
use proto::mvccpb::KeyValue;

use super::{Answer, Failure, Format, simple, table};
use crate::go;

/// Collects lines.
struct Lines {
    text: String,
    hex: bool,
}

pub fn render(answer: &Answer, hex: bool) -> Result<String, Failure> {
    let mut lines = Lines { text: String::new(), hex };
    let known = lines.kv(answer)
        || lines.lease(answer)
        || lines.cluster(answer)
        || lines.auth(answer)
        || lines.file(answer);
    match known {
        true => Ok(lines.text),
        false => Err(Format::Fields.unsupported()),
    }
}

impl Lines {
    fn field(&mut self, name: &str, value: impl std::fmt::Display) {
        self.text += &format!("\"{name}\" : {value}\n");
    }

    fn quoted(&mut self, name: &str, value: &[u8]) {
        self.field(name, go::quote(value));
    }

    /// A number that `--hex` shows in its base.
    fn id(&mut self, name: &str, id: u64) {
        match self.hex {
            true => self.field(name, format_args!("{id:x}")),
            false => self.field(name, id),
        }
    }

    fn lease_id(&mut self, name: &str, id: i64) {
        match self.hex {
            true => self.field(name, format_args!("{id:016x}")),
            false => self.field(name, id),
        }
    }

    fn header(&mut self, header: &Option<pb::ResponseHeader>) {
        let header = header.unwrap_or_default();
        self.id("ClusterID", header.cluster_id);
        self.id("MemberID", header.member_id);
        // Not every answer has one.
        if header.revision > 0 {
            self.field("Revision", header.revision);
        }
        self.field("RaftTerm", header.raft_term);
    }

    fn pair(&mut self, prefix: &str, pair: &KeyValue) {
        self.quoted(&format!("{prefix}Key"), &pair.key);
        self.field(&format!("{prefix}CreateRevision"), pair.create_revision);
        self.field(&format!("{prefix}ModRevision"), pair.mod_revision);
        self.field(&format!("{prefix}Version"), pair.version);
        self.quoted(&format!("{prefix}Value"), &pair.value);
        self.lease_id(&format!("{prefix}Lease"), pair.lease);
    }

    fn range(&mut self, response: &pb::RangeResponse) {
        self.header(&response.header);
        response.kvs.iter().for_each(|pair| self.pair("", pair));
        self.field("More", response.more);
        self.field("Count", response.count);
    }

    fn put(&mut self, response: &pb::PutResponse) {
        self.header(&response.header);
        response.prev_kv.iter().for_each(|pair| self.pair("Prev", pair));
    }

    fn delete(&mut self, response: &pb::DeleteRangeResponse) {
        self.header(&response.header);
        self.field("Deleted", response.deleted);
        response.prev_kvs.iter().for_each(|pair| self.pair("Prev", pair));
    }

    fn txn(&mut self, response: &pb::TxnResponse) {
        self.header(&response.header);
        self.field("Succeeded", response.succeeded);
        for operation in &response.responses {
            match &operation.response {
                Some(Response::ResponseRange(response)) => self.range(response),
                Some(Response::ResponsePut(response)) => self.put(response),
                Some(Response::ResponseDeleteRange(response)) => self.delete(response),
                Some(Response::ResponseTxn(response)) => self.txn(response),
                None => {}
            }
        }
    }

    fn kv(&mut self, answer: &Answer) -> bool {
        match answer {
            Answer::Get(response) => self.range(response),
            Answer::Put(response) => self.put(response),
            Answer::Delete(response) => self.delete(response),
            Answer::Txn(response) => self.txn(response),
            Answer::Watch(response) => {
                self.header(&response.header);
                for event in &response.events {
                    self.field("Type", simple::event_type(event.r#type));
                    event.prev_kv.iter().for_each(|pair| self.pair("Prev", pair));
                    self.pair("", &event.kv.clone().unwrap_or_default());
                }
            }
            _ => return false,
        }
        true
    }

    fn lease(&mut self, answer: &Answer) -> bool {
        match answer {
            Answer::Grant(response) => {
                self.header(&response.header);
                self.lease_id("ID", response.id);
                self.field("TTL", response.ttl);
            }
            Answer::Revoke { response, .. } => self.header(&response.header),
            Answer::KeepAlive(response) => {
                self.header(&response.header);
                self.lease_id("ID", response.id);
                self.field("TTL", response.ttl);
            }
            Answer::TimeToLive { response, .. } => {
                self.header(&response.header);
                self.lease_id("ID", response.id);
                self.field("TTL", response.ttl);
                self.field("GrantedTTL", response.granted_ttl);
                response.keys.iter().for_each(|key| self.quoted("Key", key));
            }
            Answer::Leases(response) => {
                self.header(&response.header);
                response.leases.iter().for_each(|lease| self.lease_id("ID", lease.id));
            }
            _ => return false,
        }
        true
    }

    fn cluster(&mut self, answer: &Answer) -> bool {
        match answer {
            Answer::MemberList(response) => {
                self.header(&response.header);
                response.members.iter().for_each(|member| self.member(member));
            }
            Answer::Health(healths) => {
                for health in healths {
                    self.quoted("Endpoint", health.endpoint.as_bytes());
                    self.field("Health", health.is_healthy);
                    self.field("Took", health.took());
                    self.field("Error", &health.error);
                    self.text.push('\n');
                }
            }
            Answer::Status(statuses) => {
                statuses.iter().for_each(|(endpoint, status)| self.status(endpoint, status));
            }
            Answer::HashKv(hashes) => {
                for (endpoint, hash) in hashes {
                    self.header(&hash.header);
                    self.quoted("Endpoint", endpoint.as_bytes());
                    self.field("Hash", hash.hash);
                    self.field("HashRevision", hash.hash_revision);
                    self.text.push('\n');
                }
            }
            Answer::Alarm(response) => {
                self.header(&response.header);
                for alarm in &response.alarms {
                    self.id("MemberID", alarm.member_id);
                    self.field("AlarmType", table::alarm_name(alarm.alarm));
                    self.text.push('\n');
                }
            }
            _ => return false,
        }
        true
    }

    fn member(&mut self, member: &pb::Member) {
        self.id("ID", member.id);
        self.quoted("Name", member.name.as_bytes());
        member.peer_ur_ls.iter().for_each(|url| self.quoted("PeerURL", url.as_bytes()));
        member.client_ur_ls.iter().for_each(|url| self.quoted("ClientURL", url.as_bytes()));
        self.field("IsLearner", member.is_learner);
        self.text.push('\n');
    }

    fn status(&mut self, endpoint: &str, status: &pb::StatusResponse) {
        let downgrade = status.downgrade_info.clone().unwrap_or_default();
        self.header(&status.header);
        self.quoted("Version", status.version.as_bytes());
        self.quoted("StorageVersion", status.storage_version.as_bytes());
        self.field("DBSize", status.db_size);
        self.field("DBSizeInUse", status.db_size_in_use);
        self.field("DBSizeQuota", status.db_size_quota);
        self.field("Leader", status.leader);
        self.field("IsLearner", status.is_learner);
        self.field("RaftIndex", status.raft_index);
        self.field("RaftTerm", status.raft_term);
        self.field("RaftAppliedIndex", status.raft_applied_index);
        self.field("Errors", format_args!("[{}]", status.errors.join(" ")));
        self.quoted("Endpoint", endpoint.as_bytes());
        self.quoted("DowngradeTargetVersion", downgrade.target_version.as_bytes());
        self.field("DowngradeEnabled", downgrade.enabled);
        self.text.push('\n');
    }

    fn auth(&mut self, answer: &Answer) -> bool {
        match answer {
            Answer::RoleGet { response, .. } => {
                self.header(&response.header);
                for permission in &response.perm {
                    let kind = Type::try_from(permission.perm_type);
                    let name = kind.map_or("UNKNOWN", |kind| kind.as_str_name());
                    // etcdctl, too, has a space more here.
                    self.field("PermType", format_args!(" {name}"));
                    self.quoted("Key", &permission.key);
                    self.quoted("RangeEnd", &permission.range_end);
                }
            }
            Answer::RoleList(response) => {
                self.header(&response.header);
                let roles = response.roles.iter().map(|role| go::quote(role.as_bytes()));
                let roles: String = roles.map(|role| format!(" {role}")).collect();
                self.text += &format!("\"Roles\" :{roles}\n");
            }
            Answer::RoleAdd { response, .. } => self.header(&response.header),
            Answer::RoleDelete { response, .. } => self.header(&response.header),
            Answer::RoleGrant { response, .. } => self.header(&response.header),
            Answer::RoleRevoke { response, .. } => self.header(&response.header),
            Answer::UserAdd { response, .. } => self.header(&response.header),
            Answer::UserPassword(response) => self.header(&response.header),
            Answer::UserGrant { response, .. } => self.header(&response.header),
            Answer::UserRevoke { response, .. } => self.header(&response.header),
            Answer::UserDelete { response, .. } => self.header(&response.header),
            _ => return false,
        }
        true
    }

    fn file(&mut self, answer: &Answer) -> bool {
        match answer {
            Answer::SnapshotStatus(status) => {
                self.field("Hash", status.hash);
                self.field("Revision", status.revision);
                self.field("Keys", status.keys);
                self.field("Size", status.bytes);
                self.field("Version", &status.version);
            }
            Answer::FileHash(hash) => {
                self.field("Hash", hash.hash);
                self.field("Hash revision", hash.revision);
                self.field("Compact revision", hash.compact_revision);
            }
            _ => return false,
        }
        true
    }
}
