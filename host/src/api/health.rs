//! /health, /livez and /readyz, with etcd's texts (server/etcdserver/api/etcdhttp/health.go).

use bytes::Bytes;
use http::StatusCode;
use prost::Message;
use proto::etcdserverpb::RangeRequest;

use super::coordinator::{AlarmKind, Coordinator, RequestError};
use super::grpc::Service;
use super::http1::{Answer, Query, TEXT, answer, error, text_without_sniffing};
use super::wire::{self, EtcdRequest};
use crate::metrics::metrics;

/// `/health`: no alarm, a leader, and a read that works. `?serializable=true` asks for this member only.
pub(super) async fn health<C: Coordinator>(service: &Service<C>, query: &Query) -> Answer {
    let serializable = query.first("serializable") == Some("true");
    let status = service.coordinator.status();
    let alarm = status.alarms.iter().find(|alarm| !query.has("exclude", alarm.kind.name()));
    let reason = if let Some(alarm) = alarm {
        format!("ALARM {}", alarm.kind.name())
    } else if !serializable && status.standing.leader == 0 {
        "RAFT NO LEADER".to_owned()
    } else {
        match read(service, serializable).await {
            Ok(()) => String::new(),
            Err(error) => format!("RANGE ERROR:{error}"),
        }
    };
    let is_healthy = reason.is_empty();
    let body = format!(
        r#"{{"health":"{is_healthy}","reason":{}}}"#,
        serde_json::Value::from(reason.as_str())
    );
    if is_healthy {
        metrics().health.success.inc();
        return answer(StatusCode::OK, TEXT, body);
    }
    metrics().health.failures.inc();
    tracing::warn!(output = body, "status-code" = 503, "/health error");
    error(StatusCode::SERVICE_UNAVAILABLE, &body)
}

/// Reads one key that is not there.
async fn read<C: Coordinator>(
    service: &Service<C>,
    serializable: bool,
) -> Result<(), RequestError> {
    let range = RangeRequest {
        key: Bytes::from_static(b"\0"),
        limit: 1,
        keys_only: true,
        serializable,
        ..Default::default()
    };
    let request = wire::etcd_request(EtcdRequest::Range, &range.encode_to_vec());
    if !serializable {
        service.coordinator.read_index().await?;
    }
    service.coordinator.query(request, false).await.map(|_| ())
}

/// The checks that /livez and /readyz are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Check {
    const LIVEZ: &[Check] = &[Check::SerializableRead];
    const READYZ: &[Check] = &[
        Check::DataCorruption,
        Check::SerializableRead,
        Check::LinearizableRead,
        Check::NonLearner,
    ];

    fn name(self) -> &'static str {
        match self {
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
        }
    }

    /// The checks that a path stands for: all of /livez or /readyz, or one of them. None if it is no such path.
    pub(super) fn under(path: &str) -> &'static [Check] {
        let Some((root, checks)) = [("/livez", Check::LIVEZ), ("/readyz", Check::READYZ)]
            .into_iter()
            .find(|(root, _)| path.starts_with(root))
        else {
            return &[];
        };
        match path[root.len()..].strip_prefix('/') {
            None if path.len() == root.len() => checks,
            None => &[],
            Some(name) => match checks.iter().position(|check| check.name() == name) {
                Some(at) => &checks[at..=at],
                None => &[],
            },
        }
    }

    fn record(self, path: &str, is_ok: bool) {
        let kind = if path.starts_with("/livez") { "livez" } else { "readyz" };
        let status = if is_ok { "success" } else { "error" };
        metrics().health.check.with_label_values(&[kind, self.name()]).set(is_ok.into());
        metrics().health.checks.with_label_values(&[kind, self.name(), status]).inc();
    }

    async fn run<C: Coordinator>(self, service: &Service<C>) -> Result<(), String> {
        let coordinator = &service.coordinator;
        let read = |serializable| read(service, serializable);
        match self {
            Check::SerializableRead => read(true).await.map_err(|error| error.to_string()),
            Check::LinearizableRead => read(false).await.map_err(|error| error.to_string()),
            Check::DataCorruption => {
                let alarms = coordinator.status().alarms;
                match alarms.iter().any(|alarm| alarm.kind == AlarmKind::Corrupt) {
                    true => Err("alarm activated: CORRUPT".to_owned()),
                    false => Ok(()),
                }
            }
            Check::NonLearner if coordinator.standing().is_learner => {
                Err("not supported for learner".to_owned())
            }
            Check::NonLearner => Ok(()),
        }
    }
}

pub(super) async fn run_checks<C: Coordinator>(
    service: &Service<C>,
    path: &str,
    checks: &[Check],
    query: &Query,
) -> Answer {
    // As in etcd, a path that names one check cannot exclude it.
    let is_root = path.rfind('/') == Some(0);
    let mut reason = String::new();
    let mut failed = false;
    for check in checks {
        if is_root && query.has("exclude", check.name()) {
            continue;
        }
        let result = check.run(service).await;
        check.record(path, result.is_ok());
        match result {
            Ok(()) => reason.push_str(&format!("[+]{} ok\n", check.name())),
            Err(error) => {
                failed = true;
                reason.push_str(&format!("[-]{} failed: {error}\n", check.name()));
            }
        }
    }
    if failed {
        tracing::warn!(path, reason, "status-code" = 503, "Health check error");
        return error(StatusCode::SERVICE_UNAVAILABLE, &reason);
    }
    let verbose = query.first("verbose").is_some();
    let body = if verbose { reason + "ok\n" } else { "ok\n".to_owned() };
    text_without_sniffing(StatusCode::OK, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stand_for_checks() {
        assert_eq!(Check::under("/livez"), Check::LIVEZ);
        assert_eq!(Check::under("/readyz"), Check::READYZ);
        assert_eq!(Check::under("/readyz/non_learner"), [Check::NonLearner]);
        for path in
            ["/livez/", "/livez/non_learner", "/livezz", "/readyz/non_learner/", "/", "", "/health"]
        {
            assert_eq!(Check::under(path), [], "{path}");
        }
    }
}
