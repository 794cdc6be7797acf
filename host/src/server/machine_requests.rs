//! The few requests that this member makes of the KV machine on its own account, and what it reads from the answers.

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::InternalRaftRequest;
use proto::instar::kv;

use crate::api::{Alarm, AlarmKind};

fn etcd(request: InternalRaftRequest) -> Bytes {
    kv::Request { kind: Some(kv::request::Kind::Etcd(request)) }.encode_to_vec().into()
}

/// A query for all alarms.
pub fn list_alarms() -> Bytes {
    let alarm = Some(pb::AlarmRequest::default());
    etcd(InternalRaftRequest { alarm, ..Default::default() })
}

/// The alarms in the answer to `list_alarms`. Kinds that this host does not know are left out.
pub fn alarms(body: &[u8]) -> Vec<Alarm> {
    let response = pb::AlarmResponse::decode(body).unwrap_or_default();
    let alarm = |member: &pb::AlarmMember| {
        let kind = match member.alarm() {
            pb::AlarmType::Nospace => AlarmKind::NoSpace,
            pb::AlarmType::Corrupt => AlarmKind::Corrupt,
            pb::AlarmType::None => return None,
        };
        Some(Alarm { member_id: member.member_id, kind })
    };
    response.alarms.iter().filter_map(alarm).collect()
}

/// The command that says that a member's state (0: nobody knows whose) is not that of the others.
pub fn raise_corrupt(member_id: u64) -> Bytes {
    let action = pb::alarm_request::AlarmAction::Activate.into();
    let alarm = pb::AlarmRequest { action, member_id, alarm: pb::AlarmType::Corrupt.into() };
    etcd(InternalRaftRequest { alarm: Some(alarm), ..Default::default() })
}

/// The command that compacts up to a revision.
pub fn compact(revision: i64) -> Bytes {
    let compaction = Some(pb::CompactionRequest { revision, physical: false });
    etcd(InternalRaftRequest { compaction, ..Default::default() })
}

/// A query for how far compactions are.
pub fn compaction_progress() -> Bytes {
    let step = kv::request::Kind::CompactionStep(kv::CompactionStep::default());
    kv::Request { kind: Some(step) }.encode_to_vec().into()
}

/// The last revision whose compaction has removed all its rows; none if that is no answer to `compaction_progress`.
pub fn finished_compaction(body: &[u8]) -> Option<i64> {
    kv::CompactionProgress::decode(body).ok().map(|progress| progress.finished_revision)
}
