//! One call of the gateway: JSON values in, gRPC messages to and fro, JSON out.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::super::coordinator::Coordinator;
use super::super::status::{Code, Status};
use super::super::wire::FRAME_PREFIX_BYTES;
use super::json::{self, Values};
use super::loopback::Loopback;
use super::routes::Route;
use crate::limits;

/// Where request messages come from.
pub(super) struct Source {
    chunks: Chunks,
    values: Values,
}

enum Chunks {
    Http(Incoming),
    Websocket(mpsc::Receiver<Bytes>),
}

impl Source {
    pub(super) fn http(body: Incoming, most_bytes: usize) -> Source {
        Source { chunks: Chunks::Http(body), values: Values::new(most_bytes) }
    }

    pub(super) fn websocket(messages: mpsc::Receiver<Bytes>, most_bytes: usize) -> Source {
        Source { chunks: Chunks::Websocket(messages), values: Values::new(most_bytes) }
    }

    /// The next JSON value; none at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(value) = self.values.next()? {
                return Ok(Some(value));
            }
            match self.chunk().await {
                Some(chunk) => self.values.push(&chunk),
                None => return self.values.end().map(|()| None),
            }
        }
    }

    /// A body that breaks off ends: what is missing then, the JSON says.
    async fn chunk(&mut self) -> Option<Bytes> {
        match &mut self.chunks {
            Chunks::Websocket(messages) => messages.recv().await,
            Chunks::Http(body) => loop {
                match body.frame().await?.ok()?.into_data() {
                    Ok(data) => return Some(data),
                    // Trailers mean nothing here.
                    Err(_) => {}
                }
            },
        }
    }
}

/// A line of a stream's answer.
pub(super) enum Line {
    /// With its line break.
    Result(Bytes),
    /// The last one.
    Error(Status),
}

/// A call that is open.
pub(super) struct Exchange<C> {
    route: &'static Route,
    requests: SendStream<Bytes>,
    response: ResponseFuture,
    marker: std::marker::PhantomData<Arc<C>>,
}

fn broken(error: h2::Error) -> Status {
    Status::new(Code::Unavailable, error.to_string())
}

impl<C: Coordinator> Exchange<C> {
    pub(super) async fn open(
        loopback: &Loopback<C>,
        route: &'static Route,
        metadata: HeaderMap,
    ) -> Result<Exchange<C>, Status> {
        let mut sender = loopback.sender().await?;
        let mut head = Request::new(());
        *head.method_mut() = http::Method::POST;
        *head.uri_mut() = format!("http://localhost{}", route.grpc_path)
            .parse()
            .map_err(|_| Status::new(Code::Internal, "a path of gRPC is no path of HTTP"))?;
        *head.headers_mut() = metadata;
        let headers = head.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("te", HeaderValue::from_static("trailers"));
        let (response, requests) = sender.send_request(head, false).map_err(broken)?;
        Ok(Exchange { route, requests, response, marker: std::marker::PhantomData })
    }

    /// One message each way. What follows the first JSON value is not read.
    pub(super) async fn unary(mut self, mut source: Source) -> Result<Vec<u8>, Status> {
        let value = source.next().await?.unwrap_or_else(|| Bytes::from_static(b"{}"));
        let message = json::decode(self.route.method.input(), &value)?;
        send(&mut self.requests, Some(message), true).await;
        let mut messages = Messages::of(self.response.await.map_err(broken)?);
        let first = messages.next().await?;
        // The status comes behind the message.
        while messages.next().await?.is_some() {}
        let first = first.ok_or_else(|| Status::new(Code::Internal, "empty response"))?;
        json::encode(self.route.method.output(), first)
    }

    /// Any number of messages back. The call ends when nobody receives any more.
    pub(super) async fn stream(
        mut self,
        mut source: Source,
    ) -> Result<mpsc::Receiver<Line>, Status> {
        let (lines, receiver) = mpsc::channel(limits::GATEWAY_LINES);
        let route = self.route;
        let sending = if route.method.is_client_streaming() {
            AbortOnDrop(tokio::spawn(send_all(route, source, self.requests)))
        } else {
            let value = source.next().await?.unwrap_or_else(|| Bytes::from_static(b"{}"));
            let message = json::decode(route.method.input(), &value)?;
            send(&mut self.requests, Some(message), true).await;
            AbortOnDrop(tokio::spawn(std::future::ready(())))
        };
        let response = self.response;
        tokio::spawn(async move {
            let _sending = sending;
            tokio::select! {
                () = lines.closed() => {}
                () = receive_all(route, response, &lines) => {}
            }
        });
        Ok(receiver)
    }
}

/// A task that does not outlive this.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends every value; what is no message ends the requests, and nothing else, as in grpc-gateway.
async fn send_all(route: &Route, mut source: Source, mut requests: SendStream<Bytes>) {
    loop {
        let message = match source.next().await {
            Ok(Some(value)) => json::decode(route.method.input(), &value),
            Ok(None) => break,
            Err(status) => Err(status),
        };
        match message {
            Ok(message) => send(&mut requests, Some(message), false).await,
            Err(status) => {
                tracing::debug!(error = status.message, "a request of a stream cannot be read");
                break;
            }
        }
    }
    send(&mut requests, None, true).await;
}

/// Sends a message, as the server takes it. A call that is over, its response explains.
async fn send(requests: &mut SendStream<Bytes>, message: Option<Bytes>, is_last: bool) {
    let mut frame = BytesMut::new();
    if let Some(message) = message {
        frame.reserve(FRAME_PREFIX_BYTES + message.len());
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
        frame.extend_from_slice(&message);
    }
    let mut frame = frame.freeze();
    while !frame.is_empty() {
        requests.reserve_capacity(frame.len());
        let room = match poll_fn(|cx| requests.poll_capacity(cx)).await {
            Some(Ok(room)) => room,
            Some(Err(_)) | None => return,
        };
        let part = frame.split_to(room.min(frame.len()));
        if requests.send_data(part, is_last && frame.is_empty()).is_err() {
            return;
        }
    }
    if is_last && requests.send_data(Bytes::new(), true).is_err() {
        // The end went with the last part.
    }
}

async fn receive_all(route: &Route, response: ResponseFuture, lines: &mpsc::Sender<Line>) {
    let received = async {
        let mut messages = Messages::of(response.await.map_err(broken)?);
        while let Some(message) = messages.next().await? {
            let json = json::encode(route.method.output(), message)?;
            if lines.send(Line::Result(json::result_line(&json))).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    if let Err(status) = received.await {
        // Nobody may be there to be told.
        drop(lines.send(Line::Error(status)).await);
    }
}

/// The messages of a response.
struct Messages {
    headers: HeaderMap,
    body: RecvStream,
    buffer: BytesMut,
}

impl Messages {
    fn of(response: http::Response<RecvStream>) -> Messages {
        let (head, body) = response.into_parts();
        Messages { headers: head.headers, body, buffer: BytesMut::new() }
    }

    /// The next message; none at the end of a call that succeeded.
    ///
    /// # Errors
    /// The status of one that failed.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if self.buffer.len() >= FRAME_PREFIX_BYTES {
                let length = self.buffer[1..FRAME_PREFIX_BYTES].iter();
                let length = length.fold(0, |length, byte| length << 8 | usize::from(*byte));
                if self.buffer.len() >= FRAME_PREFIX_BYTES + length {
                    let mut message = self.buffer.split_to(FRAME_PREFIX_BYTES + length);
                    return Ok(Some(message.split_off(FRAME_PREFIX_BYTES).freeze()));
                }
            }
            match self.body.data().await {
                Some(chunk) => {
                    let chunk = chunk.map_err(broken)?;
                    self.body.flow_control().release_capacity(chunk.len()).map_err(broken)?;
                    self.buffer.extend_from_slice(&chunk);
                }
                None => break,
            }
        }
        let trailers = self.body.trailers().await.map_err(broken)?;
        status(trailers.as_ref().unwrap_or(&self.headers)).map(|()| None)
    }
}

/// What trailers say.
fn status(trailers: &HeaderMap) -> Result<(), Status> {
    let text = |name| trailers.get(name).map_or("", |value| value.to_str().unwrap_or_default());
    match text("grpc-status").parse() {
        Ok(0) => Ok(()),
        Ok(code) => Err(Status { code, message: decode_percent(text("grpc-message")) }),
        Err(_) => Err(Status::new(Code::Internal, "the call ended without a status")),
    }
}

/// As `Status::message_header` encodes it.
fn decode_percent(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let encoded = match (first, tail) {
            (b'%', [high, low, ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                digit(high).zip(digit(low)).map(|(high, low)| (high << 4 | low) as u8)
            }
            _ => None,
        };
        bytes.push(encoded.unwrap_or(*first));
        rest = if encoded.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_statuses_survive() {
        for message in ["", "etcdserver: no leader", "100%", "\u{e4}\n%41"] {
            let status = Status::new(Code::Unknown, message);
            let header = status.message_header().unwrap();
            assert_eq!(decode_percent(header.to_str().unwrap()), message);
        }
    }
}
