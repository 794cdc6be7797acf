//! HTTP/1.1 on the client ports: who may ask, and who answers. Paths, texts and headers are etcd's
//! (server/embed/serve.go, server/etcdserver/api/etcdhttp).

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ALLOW, CONTENT_TYPE, HOST, HeaderName, LOCATION, ORIGIN, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;

use super::coordinator::Coordinator;
use super::debug;
use super::gateway::{self, Loopback};
use super::grpc::Service;
use super::health::{self, Check};
use super::listener::Purpose;
use super::module;
use crate::config::{ETCD_CLUSTER_VERSION, ETCD_VERSION, HttpConfig};

pub(super) type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

pub(super) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A client's connection.
pub(super) struct Client<C> {
    pub(super) service: Arc<Service<C>>,
    pub(super) purpose: Purpose,
    /// The gateway's way to the gRPC server.
    pub(super) loopback: Loopback<C>,
}

/// Serves one request.
pub(super) async fn serve<C: Coordinator>(
    client: Arc<Client<C>>,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    if client.purpose == Purpose::MetricsOnly {
        return Ok(route(&client, request).await);
    }
    let http = &client.service.settings.http;
    if let Some(refusal) = check_host(http, request.headers()) {
        return Ok(refusal);
    }
    let origin = allowed_origin(http, request.headers());
    let mut answer = match request.method() == Method::OPTIONS {
        // A browser that asks whether it may ask.
        true => Answer::default(),
        false => route(&client, request).await,
    };
    if let Some(origin) = origin {
        add_cors(answer.headers_mut(), origin);
    }
    Ok(answer)
}

/// Refuses a request to a name that the operator has not listed: a browser that was led here by a forged DNS answer.
fn check_host(http: &HttpConfig, headers: &HeaderMap) -> Option<Answer> {
    let host = headers.get(HOST).map_or("", |host| host.to_str().unwrap_or_default());
    // Without the port, and without the brackets of an IPv6 address.
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None if host.matches(':').count() == 1 => host.split(':').next().unwrap_or_default(),
        None => host,
    };
    if http.host_whitelist.is_empty() || http.host_whitelist.iter().any(|listed| listed == name) {
        return None;
    }
    tracing::warn!(host = name, "rejecting HTTP request to prevent DNS rebinding attacks");
    let body = format!(
        "\netcd received your request, but the Host header was unrecognized.\n\n\
         To fix this, choose one of the following options:\n\
         - Enable TLS, then any HTTPS request will be allowed.\n\
         - Add the hostname you want to use to the whitelist in settings.\n  \
         - e.g. etcd --host-whitelist {name:?}\n\n\
         This requirement has been added to help prevent \"DNS Rebinding\" attacks (CVE-2018-5702).\n"
    );
    Some(error(StatusCode::MISDIRECTED_REQUEST, &body))
}

/// What CORS is answered with: any origin, or the one that asks if it is listed.
fn allowed_origin(http: &HttpConfig, headers: &HeaderMap) -> Option<HeaderValue> {
    if http.cors.is_empty() {
        return Some(HeaderValue::from_static("*"));
    }
    let origin = headers.get(ORIGIN)?;
    http.cors.iter().any(|listed| listed.as_bytes() == origin.as_bytes()).then(|| origin.clone())
}

fn add_cors(headers: &mut HeaderMap, origin: HeaderValue) {
    const FIXED: [(HeaderName, &str); 2] = [
        (http::header::ACCESS_CONTROL_ALLOW_METHODS, "POST, GET, OPTIONS, PUT, DELETE"),
        (http::header::ACCESS_CONTROL_ALLOW_HEADERS, "accept, content-type, authorization"),
    ];
    headers.insert(http::header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    for (name, value) in FIXED {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

async fn route<C: Coordinator>(client: &Arc<Client<C>>, request: Request<Incoming>) -> Answer {
    let service = &client.service;
    let path = request.uri().path();
    let is_for_metrics = client.purpose == Purpose::MetricsOnly;
    if !is_for_metrics && service.settings.http.gateway {
        // What etcd 3.3 called them.
        let current = path.strip_prefix("/v3beta/").map(|rest| format!("/v3/{rest}"));
        let path = current.as_deref().unwrap_or(path);
        if path == "/v3" {
            return redirect(request.method(), "/v3/");
        }
        if path.starts_with("/v3/") {
            let path = path.to_owned();
            return gateway::serve(client, &path, request).await;
        }
    }
    if !is_for_metrics && let Some(path) = path.strip_prefix("/instar/v1/modules/") {
        let path = path.to_owned();
        return module::serve_http(service, &path, request).await;
    }
    let checks = Check::under(path);
    match path {
        "/metrics" => return debug::metrics(service),
        "/debug/vars" if !is_for_metrics => return debug::vars(service),
        "/health" => {}
        "/version" if !is_for_metrics => {}
        _ if checks.is_empty() => return error(StatusCode::NOT_FOUND, "404 page not found"),
        _ => {}
    }
    if request.method() != Method::GET {
        let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return answer;
    }
    let query = Query::parse(request.uri().query().unwrap_or_default());
    match path {
        "/health" => health::health(service, &query).await,
        "/version" => version(service),
        _ => health::run_checks(service, path, checks, &query).await,
    }
}

pub(super) fn answer(
    status: StatusCode,
    content_type: HeaderValue,
    body: impl Into<Bytes>,
) -> Answer {
    let mut answer = Response::new(Full::new(body.into()).boxed_unsync());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

/// As Go's `http.Redirect`, which has a page for those who look.
fn redirect(method: &Method, to: &'static str) -> Answer {
    let mut answer = match method == Method::GET || method == Method::HEAD {
        true => {
            let html = HeaderValue::from_static("text/html; charset=utf-8");
            let page = format!("<a href=\"{to}\">Temporary Redirect</a>.\n\n");
            answer(StatusCode::TEMPORARY_REDIRECT, html, page)
        }
        false => Answer::default(),
    };
    *answer.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    answer.headers_mut().insert(LOCATION, HeaderValue::from_static(to));
    answer
}

pub(super) fn text_without_sniffing(status: StatusCode, body: String) -> Answer {
    let mut answer = answer(status, TEXT, body);
    answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// As Go's `http.Error` gives it: with a line break.
pub(super) fn error(status: StatusCode, body: &str) -> Answer {
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

/// The parameters of a URL, as Go reads them: what cannot be decoded is left out.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Query {
        let pairs = text.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';'));
        let decoded = pairs.filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode_percent(name)?, decode_percent(value)?))
        });
        Query(decoded.collect())
    }

    pub(super) fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn has(&self, name: &str, value: &str) -> bool {
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

    fn config(cors: &[&str], hosts: &[&str]) -> HttpConfig {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        HttpConfig {
            listen_http_urls: Vec::new(),
            listen_metrics_urls: Vec::new(),
            gateway: true,
            cors: owned(cors),
            host_whitelist: owned(hosts),
        }
    }

    #[test]
    fn hosts_and_origins_are_checked() {
        let headers = |name: HeaderName, value: &'static str| {
            HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
        };
        let listed = config(&["http://a:1"], &["a", "::1"]);
        for (host, is_allowed) in
            [("a", true), ("a:2379", true), ("[::1]:2379", true), ("b:1", false), ("", false)]
        {
            assert_eq!(check_host(&listed, &headers(HOST, host)).is_none(), is_allowed, "{host}");
        }
        assert!(check_host(&config(&[], &[]), &headers(HOST, "b")).is_none());
        let origin = |config: &HttpConfig, origin| allowed_origin(config, &headers(ORIGIN, origin));
        assert_eq!(origin(&listed, "http://a:1").unwrap(), "http://a:1");
        assert_eq!(origin(&listed, "http://b:1"), None);
        assert_eq!(origin(&config(&[], &[]), "http://b:1").unwrap(), "*");
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("exclude=A&exclude=%42&a;b=1&verbose&%zz=1&c=d+e%20f&=");
        assert!(query.has("exclude", "A") && query.has("exclude", "B") && query.has("c", "d e f"));
        assert_eq!(query.first("verbose"), Some(""));
        assert_eq!(query.0.len(), 5);
    }
}
