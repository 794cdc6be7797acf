//! Streams over websockets, as etcd's grpc-websocket-proxy has them: each message is a JSON value of the request, each
//! line of the answer a message. The token may come as the subprotocol "Bearer".

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::header::{
    AUTHORIZATION, CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::super::coordinator::Coordinator;
use super::super::http1::{Answer, Client, error};
use super::super::status::Status;
use super::exchange::{Exchange, Line, Source};
use super::json;
use super::routes::Route;
use crate::limits;

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|it| it.trim().eq_ignore_ascii_case(token))
}

pub(super) fn is_upgrade(request: &Request<Incoming>) -> bool {
    let headers = request.headers();
    has_token(headers, &CONNECTION, "upgrade") && has_token(headers, &UPGRADE, "websocket")
}

/// Answers the upgrade, and serves the stream on a task of its own.
pub(super) fn serve<C: Coordinator>(
    client: Arc<Client<C>>,
    route: &'static Route,
    request: &mut Request<Incoming>,
    most_bytes: usize,
) -> Answer {
    let key = request.headers().get(SEC_WEBSOCKET_KEY).cloned();
    let is_current = has_token(request.headers(), &SEC_WEBSOCKET_VERSION, "13");
    let Some(key) = key.filter(|_| is_current) else {
        return error(StatusCode::BAD_REQUEST, "Bad Request");
    };
    let mut metadata = match super::metadata(request.headers()) {
        Ok(metadata) => metadata,
        Err(status) => return super::refuse(&status),
    };
    let mut answer = Answer::default();
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    let protocol = request.headers().get(SEC_WEBSOCKET_PROTOCOL);
    let protocol = protocol.and_then(|value| value.to_str().ok()).unwrap_or_default();
    if protocol.starts_with("Bearer") {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("Bearer"));
    }
    if let Some((_, token)) = protocol.split_once("Bearer,")
        && let Ok(token) = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
    {
        metadata.insert(AUTHORIZATION, token);
    }
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        if let Some(socket) = upgraded(upgrade, most_bytes).await {
            exchange(&client, route, metadata, socket, most_bytes).await;
        }
    });
    answer
}

type Socket = WebSocketStream<TokioIo<Upgraded>>;

async fn upgraded(upgrade: OnUpgrade, most_bytes: usize) -> Option<Socket> {
    match upgrade.await {
        Ok(io) => {
            let config = WebSocketConfig::default()
                .max_message_size(Some(most_bytes))
                .max_frame_size(Some(most_bytes));
            Some(
                WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, Some(config))
                    .await,
            )
        }
        Err(error) => {
            tracing::debug!(%error, "a websocket did not begin");
            None
        }
    }
}

async fn exchange<C: Coordinator>(
    client: &Client<C>,
    route: &'static Route,
    metadata: HeaderMap,
    socket: Socket,
    most_bytes: usize,
) {
    let (mut sink, mut stream) = socket.split();
    let (requests, received) = mpsc::channel(limits::GATEWAY_LINES);
    let source = Source::websocket(received, most_bytes);
    let answering = async {
        let mut send = async |line: Bytes| {
            let text = line.trim_ascii_end();
            let text = Utf8Bytes::try_from(line.slice_ref(text));
            match text {
                Ok(text) => sink.send(Message::Text(text)).await.is_ok(),
                Err(_) => false,
            }
        };
        let failed = |status: &Status| Bytes::from(json::error_line(status));
        let opened = Exchange::open(&client.loopback, route, metadata).await;
        let lines = match opened {
            Ok(exchange) if route.streams_responses() => exchange.stream(source).await,
            Ok(exchange) => match exchange.unary(source).await {
                Ok(json) => {
                    send(json.into()).await;
                    return;
                }
                Err(status) => Err(status),
            },
            Err(status) => Err(status),
        };
        match lines {
            Ok(mut lines) => {
                while let Some(line) = lines.recv().await {
                    let line = match line {
                        Line::Result(line) => line,
                        Line::Error(status) => failed(&status),
                    };
                    if !send(line).await {
                        return;
                    }
                }
            }
            Err(status) => {
                send(json::status(&status).to_string().into()).await;
            }
        }
    };
    let reading = async {
        while let Some(Ok(message)) = stream.next().await {
            let bytes = match message {
                Message::Text(text) => Bytes::from(text),
                Message::Binary(bytes) => bytes,
                Message::Close(_) => break,
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            };
            if requests.send(bytes).await.is_err() || requests.send("\n".into()).await.is_err() {
                // The call takes nothing more; its answers go on.
                std::future::pending::<()>().await;
            }
        }
    };
    // When the client goes, so does the call.
    tokio::select! {
        () = answering => {}
        () = reading => {}
    }
}
