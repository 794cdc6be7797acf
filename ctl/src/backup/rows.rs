//! The rows of the small buckets, each by itself.

use prost::Message;
use proto::etcdserverpb::{AlarmMember, AlarmType};

use super::error::Fault;
use super::revision::Revision;

/// etcd's MaxLeaseTTL.
const LEASE_TTL_MOST_S: i64 = 9_000_000_000;
/// etcd's counters in the bucket `meta`.
const COUNTER_BYTES: usize = 8;
pub const SCHEDULED_COMPACTION: &[u8] = b"scheduledCompactRev";
pub const FINISHED_COMPACTION: &[u8] = b"finishedCompactRev";

/// leasepb.Lease, which is in no .proto of etcd's API.
#[derive(Clone, PartialEq, Message)]
struct Lease {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int64, tag = "2")]
    ttl: i64,
    #[prost(int64, tag = "3")]
    remaining_ttl: i64,
}

pub fn check_lease(key: &[u8], value: &[u8]) -> Result<(), Fault> {
    let no_lease = Fault::Unreadable("it is no lease");
    let lease = Lease::decode(value).map_err(|_| no_lease.clone())?;
    if lease.id == 0 || key != lease.id.to_be_bytes() {
        return Err(no_lease);
    }
    // A TTL below the least is raised by whoever serves it, etcd and Instar alike.
    let longest_s = lease.ttl.max(lease.remaining_ttl);
    match longest_s <= LEASE_TTL_MOST_S && lease.remaining_ttl >= 0 {
        true => Ok(()),
        false => Err(Fault::Ttl { ttl_s: lease.ttl, remaining_s: lease.remaining_ttl }),
    }
}

pub fn check_alarm(key: &[u8], value: &[u8]) -> Result<(), Fault> {
    let alarm = AlarmMember::decode(key).map_err(|_| Fault::Unreadable("it is no alarm"))?;
    if !value.is_empty() {
        return Err(Fault::Length { bytes: value.len(), wanted: 0 });
    }
    match alarm.alarm == AlarmType::None as i32 {
        true => Err(Fault::AlarmKind),
        false => Ok(()),
    }
}

pub fn check_member(key: &[u8], value: &[u8]) -> Result<(), Fault> {
    let id = member_id(key)?;
    let member: serde_json::Value =
        serde_json::from_slice(value).map_err(|_| Fault::Json("a member"))?;
    let own = member.get("id").and_then(serde_json::Value::as_u64);
    let is_text = |value: &serde_json::Value| value.is_string();
    // Go writes null for a list that it has none of.
    let has_urls = ["peerURLs", "clientURLs"].iter().all(|name| match member.get(name) {
        None | Some(serde_json::Value::Null) => true,
        Some(urls) => urls.as_array().is_some_and(|urls| urls.iter().all(is_text)),
    });
    match own {
        None => Err(Fault::Json("a member")),
        Some(own) if own != id => Err(Fault::OtherMember),
        Some(_) if !has_urls => Err(Fault::Json("a member")),
        Some(_) => Ok(()),
    }
}

pub fn check_removed_member(key: &[u8], _: &[u8]) -> Result<(), Fault> {
    member_id(key).map(drop)
}

/// Members stand under their IDs in hexadecimal, without zeros in front.
fn member_id(key: &[u8]) -> Result<u64, Fault> {
    let text = std::str::from_utf8(key).map_err(|_| Fault::MemberId)?;
    let id = u64::from_str_radix(text, 16).map_err(|_| Fault::MemberId)?;
    match format!("{id:x}") == text {
        true => Ok(id),
        false => Err(Fault::MemberId),
    }
}

/// The rows of the bucket `meta`: raft's position, and how far the history is compacted.
#[derive(Default)]
pub struct Meta {
    finished: i64,
}

impl Meta {
    /// Checks the next row. The keys ascend: `finished` is known when `scheduled` comes.
    pub fn check(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        match key {
            b"consistent_index" | b"term" if value.len() != COUNTER_BYTES => {
                Err(Fault::Length { bytes: value.len(), wanted: COUNTER_BYTES })
            }
            b"confState" => {
                let state = serde_json::from_slice::<serde_json::Value>(value);
                match state.is_ok_and(|state| state.is_object()) {
                    true => Ok(()),
                    false => Err(Fault::Json("a configuration of raft's")),
                }
            }
            FINISHED_COMPACTION => {
                self.finished = compaction(value)?;
                Ok(())
            }
            SCHEDULED_COMPACTION => match compaction(value)? {
                scheduled if scheduled < self.finished => {
                    Err(Fault::Compaction { finished: self.finished, scheduled })
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

fn compaction(value: &[u8]) -> Result<i64, Fault> {
    match Revision::decode(value) {
        Some(Revision { main, is_tombstone: false, .. }) => Ok(main),
        _ => Err(Fault::Unreadable("its value is no revision")),
    }
}
