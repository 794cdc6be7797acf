//! One gRPC call on an HTTP/2 stream: reads the request message, sends response messages and the status.
//!
//! It works on the `h2` crate itself, without hyper and tonic: for calls that do next to nothing those layers cost
//! half of the processor time. What it does beside the protocol is to keep memory bounded, whatever a client does:
//! a call's window is the most that is taken from a client unread, larger messages share a budget, and a client that
//! does not read is not served further.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::status::{Code, Status};
use super::streams::Sink;
use super::unread::Unread;
use super::wire::{FRAME_PREFIX_BYTES, Frame};
use crate::limits;

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
/// The h2 crate copies DATA frames below 256 bytes into its output buffer, and writes each longer one with a system call
/// of its own. Up to a kilobyte, several short frames are cheaper than that by a third of the call.
const PIECE_BYTES: usize = 255;
const IN_PIECES_BYTES: usize = 1024;
const GRPC_STATUS: &str = "grpc-status";
const GRPC_MESSAGE: &str = "grpc-message";

/// A request message, and the part of the budget for large ones that it takes up.
pub(super) struct Message<'a> {
    pub(super) bytes: Bytes,
    _budget: Option<SemaphorePermit<'a>>,
}

/// Reads the one message of a request.
///
/// # Errors
/// In the words of grpc-go: a message that is too long, compressed or cut short.
pub(super) async fn receive<'a>(
    body: &mut RecvStream,
    most_bytes: usize,
    large_messages: &'a Semaphore,
) -> Result<Message<'a>, Status> {
    let (mut first, mut held) = first_chunk(body).await?;
    let format = first.get_u8();
    let length = first.get_u32() as usize;
    check_prefix(format, length, most_bytes)?;

    if first.len() >= length {
        first.truncate(length);
        release(body, held);
        return Ok(Message { bytes: first, _budget: None });
    }
    let mut budget = None;
    if length + FRAME_PREFIX_BYTES > limits::CALL_WINDOW_BYTES as usize {
        budget = Some(large_message_budget(length, large_messages).await?);
        release(body, held);
        held = 0;
    }
    // Grows as the bytes arrive: what a client claims to send is not yet worth memory.
    let mut message = BytesMut::from(first.as_ref());
    while message.len() < length {
        let chunk = next_chunk(body).await?.ok_or_else(unexpected_end)?;
        message.extend_from_slice(&chunk);
        held += chunk.len();
        if budget.is_some() {
            release(body, held);
            held = 0;
        }
    }
    release(body, held);
    message.truncate(length);
    Ok(Message { bytes: message.freeze(), _budget: budget })
}

/// The beginning of a message with at least its prefix, and how many bytes that is.
async fn first_chunk(body: &mut RecvStream) -> Result<(Bytes, usize), Status> {
    let end = || Status::new(Code::Unknown, "EOF");
    let first = next_chunk(body).await?.ok_or_else(end)?;
    if first.len() >= FRAME_PREFIX_BYTES {
        let bytes = first.len();
        return Ok((first, bytes));
    }
    let mut joined = BytesMut::from(first.as_ref());
    while joined.len() < FRAME_PREFIX_BYTES {
        let chunk = next_chunk(body).await?.ok_or_else(end)?;
        joined.extend_from_slice(&chunk);
    }
    let bytes = joined.len();
    Ok((joined.freeze(), bytes))
}

pub(super) fn check_prefix(format: u8, length: usize, most_bytes: usize) -> Result<(), Status> {
    if length > most_bytes {
        let message = format!("grpc: received message larger than max ({length} vs. {most_bytes})");
        return Err(Status::new(Code::ResourceExhausted, message));
    }
    match format {
        0 => Ok(()),
        1 => Err(Status::new(
            Code::Internal,
            "grpc: compressed flag set with identity or empty encoding",
        )),
        other => Err(Status::new(
            Code::Internal,
            format!("grpc: received unexpected payload format {other}"),
        )),
    }
}

pub(super) async fn large_message_budget(
    length: usize,
    large_messages: &Semaphore,
) -> Result<SemaphorePermit<'_>, Status> {
    let kib = u32::try_from(length.div_ceil(1024)).unwrap_or(u32::MAX);
    match timeout(limits::RECEIVE_STALL, large_messages.acquire_many(kib)).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => Err(Status::new(
            Code::ResourceExhausted,
            "instar: too many large requests at once, try again later",
        )),
    }
}

fn unexpected_end() -> Status {
    Status::new(Code::Unknown, "unexpected EOF")
}

/// The next bytes of a request, if it has more. Most of the time they are there already.
async fn next_chunk(body: &mut RecvStream) -> Result<Option<Bytes>, Status> {
    let polled = body.poll_data(&mut Context::from_waker(std::task::Waker::noop()));
    let ready = match polled {
        Poll::Ready(ready) => ready,
        // A timer is only worth its price where there is something to wait for.
        Poll::Pending => timeout(limits::RECEIVE_STALL, body.data()).await.map_err(|_| {
            Status::new(Code::Unknown, "instar: the request did not arrive in time")
        })?,
    };
    match ready {
        Some(Ok(chunk)) => Ok(Some(chunk)),
        Some(Err(error)) => Err(Status::new(Code::Cancelled, error.to_string())),
        None => Ok(None),
    }
}

pub(super) fn release(body: &mut RecvStream, bytes: usize) {
    // It fails for a stream that is gone, which the next use of it says more clearly.
    let _ = body.flow_control().release_capacity(bytes);
}

/// The client has gone away, or does not read: there is nobody to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

impl From<h2::Error> for Gone {
    fn from(_: h2::Error) -> Gone {
        Gone
    }
}

/// The sending half of a call.
pub(super) struct Responder<'a> {
    /// The client's own, subtype included.
    content_type: HeaderValue,
    response: SendResponse<Bytes>,
    /// There once the headers are sent.
    stream: Option<SendStream<Bytes>>,
    unread: &'a Unread,
}

impl<'a> Responder<'a> {
    pub(super) fn new(response: SendResponse<Bytes>, unread: &'a Unread) -> Responder<'a> {
        Responder { content_type: GRPC, response, stream: None, unread }
    }

    /// Answers with the client's subtype of `application/grpc`.
    pub(super) fn set_subtype(&mut self, subtype: &[u8]) {
        let content_type = [GRPC.as_bytes(), b"+", subtype].concat();
        self.content_type = HeaderValue::from_bytes(&content_type).unwrap_or(GRPC);
    }

    pub(super) fn unread(&self) -> &'a Unread {
        self.unread
    }

    /// Ready when the client has given the call up.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let polled = match &mut self.stream {
            Some(stream) => stream.poll_reset(cx),
            None => self.response.poll_reset(cx),
        };
        polled.map(|_| ())
    }

    /// What messages go out on. The headers go before the first one.
    fn stream(&mut self) -> Result<&mut SendStream<Bytes>, Gone> {
        if self.stream.is_none() {
            let headers = HeaderMap::with_capacity(1);
            let response = response_with(StatusCode::OK, &self.content_type, headers);
            self.stream = Some(self.response.send_response(response, false)?);
        }
        self.stream.as_mut().ok_or(Gone)
    }

    /// Sends one message of the response, as soon as the client has room for it.
    pub(super) async fn message(&mut self, frame: Frame) -> Result<(), Gone> {
        let unread = self.unread;
        let stream = self.stream()?;
        if frame.bytes() <= limits::SMALL_MESSAGE_BYTES {
            let mut rest = frame.head;
            let piece_bytes = if rest.len() <= IN_PIECES_BYTES { PIECE_BYTES } else { rest.len() };
            while rest.len() > piece_bytes {
                stream.send_data(rest.split_to(piece_bytes), false)?;
            }
            stream.send_data(rest, false)?;
            return Ok(());
        }
        let _waiting = unread.add(frame.bytes());
        for part in [frame.head, frame.body] {
            let sent = send_when_there_is_room(stream, part).await;
            if sent.is_err() {
                stream.send_reset(Reason::CANCEL);
                return sent;
            }
        }
        Ok(())
    }

    /// Ends the call.
    pub(super) fn finish(mut self, result: Result<(), Status>) {
        let trailers = match &result {
            Ok(()) => ok_trailers(),
            Err(status) => status_headers(status),
        };
        // What fails here fails because the client is gone.
        let _ = match self.stream {
            Some(mut stream) => stream.send_trailers(trailers),
            None => {
                let response = response_with(StatusCode::OK, &self.content_type, trailers);
                self.response.send_response(response, true).map(|_| ())
            }
        };
    }

    /// Refuses a request that is no gRPC, or not right as such: with an HTTP status, before it is looked at further.
    pub(super) fn refuse(mut self, code: StatusCode, status: &Status) {
        let response = response_with(code, &self.content_type, status_headers(status));
        let _ = self.response.send_response(response, true);
    }

    /// Breaks the call off.
    pub(super) fn reset(mut self) {
        match &mut self.stream {
            Some(stream) => stream.send_reset(Reason::CANCEL),
            None => self.response.send_reset(Reason::CANCEL),
        }
    }
}

impl Sink for Responder<'_> {
    fn poll_send(&mut self, cx: &mut Context<'_>, frame: &mut Frame) -> Poll<Result<(), Gone>> {
        let stream = self.stream()?;
        for part in [&mut frame.head, &mut frame.body] {
            while !part.is_empty() {
                stream.reserve_capacity(part.len().min(limits::SEND_BUFFER_BYTES));
                let room = match stream.capacity() {
                    0 => ready!(stream.poll_capacity(cx)).ok_or(Gone)??,
                    room => room,
                };
                if room > 0 {
                    stream.send_data(part.split_to(room.min(part.len())), false)?;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Responder::poll_gone(self, cx)
    }
}

fn response_with(
    status: StatusCode,
    content_type: &HeaderValue,
    mut headers: HeaderMap,
) -> Response<()> {
    headers.insert(CONTENT_TYPE, content_type.clone());
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn ok_trailers() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
    trailers
}

fn status_headers(status: &Status) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(3);
    headers.insert(GRPC_STATUS, status.code_header());
    if let Some(message) = status.message_header() {
        headers.insert(GRPC_MESSAGE, message);
    }
    headers
}

/// Hands bytes to HTTP/2 only as far as the client's window goes, so that they wait here, where they are counted.
async fn send_when_there_is_room(
    stream: &mut SendStream<Bytes>,
    mut bytes: Bytes,
) -> Result<(), Gone> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len().min(limits::SEND_BUFFER_BYTES));
        let room = match stream.capacity() {
            0 => timeout(limits::SEND_STALL, poll_fn(|cx| stream.poll_capacity(cx)))
                .await
                .map_err(|_| Gone)?
                .ok_or(Gone)??,
            room => room,
        };
        stream.send_data(bytes.split_to(room.min(bytes.len())), false)?;
    }
    Ok(())
}

/// Reads `grpc-timeout`.
///
/// # Errors
/// What is wrong with it, in the words of grpc-go.
pub(super) fn parse_timeout(value: &HeaderValue) -> Result<Duration, String> {
    let text = String::from_utf8_lossy(value.as_bytes());
    let size = text.len();
    if size < 2 {
        return Err(format!("transport: timeout string is too short: {text:?}"));
    }
    if size > 9 {
        return Err(format!("transport: timeout string is too long: {text:?}"));
    }
    let unit: fn(u64) -> Duration = match text.as_bytes()[size - 1] {
        b'H' => |hours| Duration::from_secs(hours * 3600),
        b'M' => |minutes| Duration::from_secs(minutes * 60),
        b'S' => Duration::from_secs,
        b'm' => Duration::from_millis,
        b'u' => Duration::from_micros,
        b'n' => Duration::from_nanos,
        _ => return Err(format!("transport: timeout unit is not recognized: {text:?}")),
    };
    let digits = text.get(..size - 1).unwrap_or_default();
    match digits.parse::<u64>() {
        Ok(amount) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(unit(amount)),
        _ => Err(format!("strconv.ParseUint: parsing {digits:?}: invalid syntax")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_go_reads_them() {
        let read = |text: &'static str| parse_timeout(&HeaderValue::from_static(text));
        assert_eq!(read("5S"), Ok(Duration::from_secs(5)));
        assert_eq!(read("99999999H"), Ok(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(read("250m"), Ok(Duration::from_millis(250)));
        assert_eq!(read("7u"), Ok(Duration::from_micros(7)));
        assert_eq!(read("0n"), Ok(Duration::ZERO));
        for (text, message) in [
            ("S", "transport: timeout string is too short: \"S\""),
            ("123456789S", "transport: timeout string is too long: \"123456789S\""),
            ("xx", "transport: timeout unit is not recognized: \"xx\""),
            ("xS", "strconv.ParseUint: parsing \"x\": invalid syntax"),
            ("+1S", "strconv.ParseUint: parsing \"+1\": invalid syntax"),
        ] {
            assert_eq!(read(text), Err(message.to_owned()));
        }
        assert!(parse_timeout(&HeaderValue::from_bytes(b"\xff\xff").unwrap()).is_err());
    }
}
