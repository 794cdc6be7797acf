//! The JSON gateway: HTTP and JSON in, the same gRPC services, HTTP and JSON out, as grpc-gateway does it for etcd.
//!
//! ```text
//! request ─> routes ─> json ─> loopback (HTTP/2 in memory) ─> grpc ─> … ─> lines ─> response, or websocket
//! ```
//!
//! It knows no service. Paths come from the HTTP annotations of etcd's .proto files, messages are turned by their
//! descriptors, and calls go to this process's own gRPC server over a connection in memory, as etcd's do: with its
//! limits, deadlines, counts and texts, and to whatever service it serves.

mod exchange;
mod json;
mod loopback;
mod routes;
mod websocket;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use self::exchange::{Exchange, Line, Source};
pub(super) use self::loopback::Loopback;
use super::call::parse_timeout;
use super::coordinator::Coordinator;
use super::http1::{Answer, Client, JSON, answer};
use super::status::{Code, Status};

/// The least time that a timer here tells; what is to be over before, is.
const TIMER_STEP: Duration = Duration::from_millis(1);

const GRPC_CONTENT_TYPE: (HeaderName, HeaderValue) = (
    HeaderName::from_static("grpc-metadata-content-type"),
    HeaderValue::from_static("application/grpc"),
);

/// Serves a request to a path under /v3/.
pub(super) async fn serve<C: Coordinator>(
    client: &Arc<Client<C>>,
    path: &str,
    mut request: Request<Incoming>,
) -> Answer {
    let Some(route) = routes::find(path) else {
        return refuse(&Status::new(Code::NotFound, "Not Found"));
    };
    let most_bytes = client.service.most_json_bytes();
    if websocket::is_upgrade(&request) {
        return websocket::serve(client.clone(), route, &mut request, most_bytes);
    }
    if method(&request) != Method::POST {
        return refuse(&Status::new(Code::Unimplemented, "Method Not Allowed"));
    }
    let served = async {
        let metadata = metadata(request.headers())?;
        let source = Source::http(request.into_body(), most_bytes);
        let exchange = Exchange::open(&client.loopback, route, metadata).await?;
        match route.streams_responses() {
            true => stream(exchange, source).await,
            false => exchange.unary(source).await.map(ok),
        }
    };
    served.await.unwrap_or_else(|status| refuse(&status))
}

/// The method, which a form may replace by a header, as browsers without others had to.
fn method(request: &Request<Incoming>) -> Method {
    let header = |name: &str| request.headers().get(name).map_or(&b""[..], HeaderValue::as_bytes);
    let is_form = header(CONTENT_TYPE.as_str()) == b"application/x-www-form-urlencoded";
    match header("x-http-method-override") {
        b"" => request.method().clone(),
        other if is_form && request.method() == Method::POST => {
            Method::from_bytes(&other.to_ascii_uppercase()).unwrap_or(Method::POST)
        }
        _ => request.method().clone(),
    }
}

/// What goes to gRPC of the request's headers: the token, the deadline, and what is marked as metadata.
fn metadata(headers: &HeaderMap) -> Result<HeaderMap, Status> {
    const MARK: &str = "grpc-metadata-";
    /// Names that are gRPC's or HTTP/2's own.
    const OWN: [&str; 8] = [
        "connection",
        "content-type",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
    ];
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        let Some(marked) = name.as_str().strip_prefix(MARK) else { continue };
        if let Ok(name) = HeaderName::from_bytes(marked.as_bytes())
            && !OWN.contains(&marked)
            && !marked.starts_with("grpc-")
        {
            metadata.append(name, value.clone());
        }
    }
    if let Some(token) = headers.get(AUTHORIZATION) {
        metadata.insert(AUTHORIZATION, token.clone());
    }
    if let Some(timeout) = headers.get("grpc-timeout") {
        let deadline = parse_timeout(timeout).map_err(|_| {
            let text = String::from_utf8_lossy(timeout.as_bytes());
            Status::new(Code::InvalidArgument, format!("invalid grpc-timeout: {text}"))
        })?;
        if deadline < TIMER_STEP {
            return Err(Status::new(Code::DeadlineExceeded, "context deadline exceeded"));
        }
        metadata.insert("grpc-timeout", timeout.clone());
    }
    Ok(metadata)
}

fn ok(body: Vec<u8>) -> Answer {
    let mut answer = answer(StatusCode::OK, JSON, body);
    answer.headers_mut().extend([GRPC_CONTENT_TYPE]);
    answer
}

/// An error as grpc-gateway writes it.
pub(super) fn refuse(status: &Status) -> Answer {
    answer(http_status(status.code), JSON, json::status(status).to_string())
}

/// Answers with a line of JSON for each message. The first one decides on the status.
async fn stream<C: Coordinator>(exchange: Exchange<C>, source: Source) -> Result<Answer, Status> {
    let mut lines = exchange.stream(source).await?;
    let first = match lines.recv().await {
        None => return Ok(ok(Vec::new())),
        Some(Line::Error(status)) => {
            let mut answer = answer(http_status(status.code), JSON, json::error_line(&status));
            answer.headers_mut().extend([GRPC_CONTENT_TYPE]);
            return Ok(answer);
        }
        Some(Line::Result(line)) => line,
    };
    let rest = ReceiverStream::new(lines).map(|line| match line {
        Line::Result(line) => line,
        Line::Error(status) => Bytes::from(json::error_line(&status)),
    });
    let frames = tokio_stream::once(first).chain(rest).map(|line| Ok(Frame::data(line)));
    let mut answer = ok(Vec::new());
    *answer.body_mut() = StreamBody::new(frames).boxed_unsync();
    Ok(answer)
}

/// grpc-gateway's `HTTPStatusFromCode`.
fn http_status(code: u32) -> StatusCode {
    let number = match code {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    };
    StatusCode::from_u16(number).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
