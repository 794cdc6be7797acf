//! Answers as the messages that they came in.

use prost::Message;

use super::{Answer, Failure, Format};
use crate::failure;

pub fn render(answer: &Answer) -> Result<Vec<u8>, Failure> {
    Ok(match answer {
        Answer::Get(response) => response.encode_to_vec(),
        Answer::Put(response) => response.encode_to_vec(),
        Answer::Delete(response) => response.encode_to_vec(),
        Answer::Txn(response) => response.encode_to_vec(),
        Answer::Watch(response) => {
            let mut response = response.clone();
            // What belongs to the stream is not told.
            (response.watch_id, response.fragment) = (0, false);
            response.cancel_reason.clear();
            response.encode_to_vec()
        }
        Answer::Revoke { response, .. } => response.encode_to_vec(),
        Answer::MemberAdd(response) => response.encode_to_vec(),
        Answer::MemberRemove { response, .. } => response.encode_to_vec(),
        Answer::MemberUpdate { response, .. } => response.encode_to_vec(),
        Answer::MemberPromote { response, .. } => response.encode_to_vec(),
        Answer::MemberList(response) => response.encode_to_vec(),
        Answer::Machines(machines) => machines.encode_to_vec(),
        Answer::Shadow(report) => report.encode_to_vec(),
        Answer::Modules(modules) => modules.encode_to_vec(),
        Answer::MoveLeader { response, .. } => response.encode_to_vec(),
        Answer::Downgrade { response, .. } => response.encode_to_vec(),
        Answer::Alarm(response) => response.encode_to_vec(),
        Answer::RoleAdd { response, .. } => response.encode_to_vec(),
        Answer::RoleGet { response, .. } => response.encode_to_vec(),
        Answer::RoleDelete { response, .. } => response.encode_to_vec(),
        Answer::RoleList(response) => response.encode_to_vec(),
        Answer::RoleGrant { response, .. } => response.encode_to_vec(),
        Answer::RoleRevoke { response, .. } => response.encode_to_vec(),
        Answer::UserAdd { response, .. } => response.encode_to_vec(),
        Answer::UserGet { response, .. } => response.encode_to_vec(),
        Answer::UserList(response) => response.encode_to_vec(),
        Answer::UserPassword(response) => response.encode_to_vec(),
        Answer::UserGrant { response, .. } => response.encode_to_vec(),
        Answer::UserRevoke { response, .. } => response.encode_to_vec(),
        Answer::UserDelete { response, .. } => response.encode_to_vec(),
        Answer::AuthStatus(response) => response.encode_to_vec(),
        // etcd's client has types of its own for these, which are no messages.
        Answer::Grant(_) => return Err(no_message("*clientv3.LeaseGrantResponse")),
        Answer::KeepAlive(_) => return Err(no_message("*clientv3.LeaseKeepAliveResponse")),
        Answer::TimeToLive { .. } => return Err(no_message("*clientv3.LeaseTimeToLiveResponse")),
        Answer::Leases(_) => return Err(no_message("*clientv3.LeaseLeasesResponse")),
        Answer::Health(_) | Answer::Status(_) | Answer::HashKv(_) => {
            return Err(Format::Protobuf.unsupported());
        }
        Answer::SnapshotStatus(_) | Answer::FileHash(_) => {
            return Err(Format::Protobuf.unsupported());
        }
    })
}

fn no_message(name: &str) -> Failure {
    Failure::new(failure::BAD_FEATURE, format!("marshal unsupported for type {name}"))
}
