//! /metrics and /debug/vars.

use http::{HeaderValue, StatusCode};
use serde_json::json;

use super::coordinator::Coordinator;
use super::grpc::Service;
use super::http1::{Answer, answer, error};
use super::quota::DEFAULT_QUOTA_BYTES;
use crate::config::{ETCD_CLUSTER_VERSION, ETCD_VERSION, PRODUCT_VERSION};
use crate::metrics::{self, Figures};

/// As promhttp names it, for whoever does not ask for OpenMetrics.
const PROMETHEUS_TEXT: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8; escaping=underscores");
const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

pub(super) fn metrics<C: Coordinator>(service: &Service<C>) -> Answer {
    match metrics::metrics().render(&figures(service), &service.calls) {
        Ok(text) => answer(StatusCode::OK, PROMETHEUS_TEXT, text),
        Err(failure) => error(
            StatusCode::INTERNAL_SERVER_ERROR,
            &format!("metrics cannot be written: {failure}"),
        ),
    }
}

fn figures<C: Coordinator>(service: &Service<C>) -> Figures {
    let coordinator = &service.coordinator;
    let status = coordinator.status();
    let own = service.settings.member_id;
    let members = coordinator.members().into_iter().map(|member| member.id);
    Figures {
        member_id: own,
        etcd_version: ETCD_VERSION,
        cluster_version: ETCD_CLUSTER_VERSION,
        product_version: PRODUCT_VERSION,
        has_leader: status.standing.leader != 0,
        is_leader: status.standing.leader == own,
        is_learner: status.standing.is_learner,
        // An empty store is at revision 1; the machine says so with its first entry.
        revision: status.revision.max(1),
        proposals_committed: status.raft_index,
        proposals_applied: status.raft_applied_index,
        proposals_pending: coordinator.pending_proposals(),
        db_size_bytes: status.db_size_bytes,
        db_size_in_use_bytes: status.db_size_in_use_bytes,
        quota_bytes: match service.settings.quota_backend_bytes {
            0 => DEFAULT_QUOTA_BYTES,
            quota => quota,
        },
        peers: members.filter(|id| *id != own).collect(),
    }
}

/// Go's `expvar`, without what only Go's runtime has.
pub(super) fn vars<C: Coordinator>(service: &Service<C>) -> Answer {
    let status = service.coordinator.status();
    let hex = |id: u64| format!("{id:x}");
    let (own, leader) = (service.settings.member_id, status.standing.leader);
    let state = match leader == own {
        true => "StateLeader",
        false => "StateFollower",
    };
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let arguments: Vec<String> =
        std::env::args_os().map(|it| it.to_string_lossy().into()).collect();
    let vars = json!({
        "cmdline": arguments,
        "file_descriptor_limit": limit.unwrap_or(u64::MAX),
        "raft.status": {
            "id": hex(own),
            "term": status.standing.raft_term,
            "lead": hex(leader),
            "raftState": state,
            "commit": status.raft_index,
            "applied": status.raft_applied_index,
        },
    });
    answer(StatusCode::OK, JSON, format!("{vars:#}\n"))
}
