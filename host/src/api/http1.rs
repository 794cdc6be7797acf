//! HTTP/1.1 on the client port: /health, /livez, /readyz and /version, with etcd's paths, texts and headers
//! (server/etcdserver/api/etcdhttp).

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use prost::Message;
use proto::etcdserverpb::RangeRequest;

use super::coordinator::{AlarmKind, Coordinator, RequestError};
use super::grpc::Service;
use super::wire::{self, EtcdRequest};
use crate::config::{ETCD_CLUSTER_VERSION, ETCD_VERSION};

type Answer = Response<Full<Bytes>>;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What etcd says to browsers as long as --cors is its default.
const CORS: [(HeaderName, &str); 3] = [
    (http::header::ACCESS_CONTROL_ALLOW_METHODS, "POST, GET, OPTIONS, PUT, DELETE"),
    (http::header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
    (http::header::ACCESS_CONTROL_ALLOW_HEADERS, "accept, content-type, authorization"),
];

/// Serves one request. Its body is not read.
pub(super) async fn serve<C: Coordinator>(
    service: Arc<Service<C>>,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    let mut answer = route(&service, &request).await;
    for (name, value) in CORS {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(answer)
}

async fn route<C: Coordinator>(service: &Service<C>, request: &Request<Incoming>) -> Answer {
    if request.method() == Method::OPTIONS {
        // A browser that asks whether it may ask.
        return Answer::default();
    }
    let path = request.uri().path();
    let checks = Check::under(path);
    if checks.is_empty() && path != "/health" && path != "/version" {
        return error(StatusCode::NOT_FOUND, "404 page not found");
    }
    if request.method() != Method::GET {
        let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return answer;
    }
    let query = Query::parse(request.uri().query().unwrap_or_default());
    match path {
        "/health" => health(service, &query).await,
        "/version" => version(service),
        _ => run_checks(service, path, checks, &query).await,
    }
}

fn answer(status: StatusCode, content_type: HeaderValue, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

fn text_without_sniffing(status: StatusCode, body: String) -> Answer {
    let mut answer = answer(status, TEXT, body);
    answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// As Go's `http.Error` gives it: with a line break.
fn error(status: StatusCode, body: &str) -> Answer {
    text_without_sniffing(status, format!("{body}\n"))
}

fn version<C: Coordinator>(service: &Service<C>) -> Answer {
    // The cluster's version is known once its first entries are applied.
    let cluster = match service.coordinator.status().raft_applied_index {
        0 => "not_decided",
        _ => ETCD_CLUSTER_VERSION,
    };
    let body = format!(
        r#"{{"etcdserver":"{ETCD_VERSION}","etcdcluster":"{cluster}","storage":"{ETCD_CLUSTER_VERSION}"}}"#
    );
    answer(StatusCode::OK, JSON, body)
}

/// `/health`: no alarm, a leader, and a read that works. `?serializable=true` asks for this member only.
async fn health<C: Coordinator>(service: &Service<C>, query: &Query) -> Answer {
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
        return answer(StatusCode::OK, TEXT, body);
    }
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
enum Check {
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
    fn under(path: &str) -> &'static [Check] {
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

async fn run_checks<C: Coordinator>(
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
        match check.run(service).await {
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

/// The parameters of a URL, as Go reads them: what cannot be decoded is left out.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Query {
        let pairs = text.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';'));
        let decoded = pairs.filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode_percent(name)?, decode_percent(value)?))
        });
        Query(decoded.collect())
    }

    fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    fn has(&self, name: &str, value: &str) -> bool {
        self.0.iter().any(|pair| pair.0 == name && pair.1 == value)
    }
}

fn decode_percent(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                (digit()? << 4 | digit()?) as u8
            }
            plain => plain,
        });
    }
    String::from_utf8(bytes).ok()
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

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("exclude=A&exclude=%42&a;b=1&verbose&%zz=1&c=d+e%20f&=");
        assert!(query.has("exclude", "A") && query.has("exclude", "B") && query.has("c", "d e f"));
        assert_eq!(query.first("verbose"), Some(""));
        assert_eq!(query.0.len(), 5);
    }
}
