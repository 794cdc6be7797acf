//! Unary gRPC calls and streams on the `h2` crate, with nothing between: no channel, no service stack, no codec.

use std::future::poll_fn;
use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use tokio::net::TcpStream;

use super::message::FRAME_BYTES;

pub const PUT: &str = "/etcdserverpb.KV/Put";
pub const RANGE: &str = "/etcdserverpb.KV/Range";
pub const TXN: &str = "/etcdserverpb.KV/Txn";
pub const WATCH: &str = "/etcdserverpb.Watch/Watch";
pub const LEASE_GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
pub const LEASE_KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
pub const LEASE_LEASES: &str = "/etcdserverpb.Lease/LeaseLeases";
pub const STATUS: &str = "/etcdserverpb.Maintenance/Status";

/// Windows large enough that a server never waits for this client; the same for every program.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The server answered with an error; the connection goes on.
    #[error("gRPC code {code}: {message}")]
    Status { code: String, message: String },
    /// The connection, or what came over it, is unusable.
    #[error("the connection broke: {0}")]
    Connection(String),
}

impl From<h2::Error> for CallError {
    fn from(error: h2::Error) -> Self {
        Self::Connection(error.to_string())
    }
}

/// A call's message: as much of it as the caller wanted to keep, and its whole length.
#[derive(Debug)]
pub struct Answer {
    pub message: Bytes,
    pub bytes: u64,
}

/// Opens an HTTP/2 connection; a task of the current runtime drives it.
pub async fn connect(address: SocketAddr) -> Result<SendRequest<Bytes>, CallError> {
    let broken = |error: std::io::Error| CallError::Connection(format!("{address}: {error}"));
    let socket = TcpStream::connect(address).await.map_err(broken)?;
    socket.set_nodelay(true).map_err(broken)?;
    let (sender, connection) = h2::client::Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .handshake(socket)
        .await?;
    // An error of the connection reaches every call on it; nothing is lost with the task's result.
    tokio::spawn(connection);
    Ok(sender)
}

/// The head that every call of a method on a member shares.
pub fn head(address: SocketAddr, path: &str) -> Result<Request<()>, CallError> {
    Request::post(format!("http://{address}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .map_err(|error| CallError::Connection(error.to_string()))
}

/// Sends a framed message and reads the answer, keeping at most `kept_bytes` of it (or the first piece
/// that arrives, if that is more).
pub async fn call(
    sender: &mut SendRequest<Bytes>,
    head: &Request<()>,
    frame: Bytes,
    kept_bytes: usize,
) -> Result<Answer, CallError> {
    poll_fn(|context| sender.poll_ready(context)).await?;
    let (response, mut stream) = sender.send_request(head.clone(), false)?;
    stream.send_data(frame, true)?;
    let mut body = begun(response).await?;
    let mut kept = Bytes::new();
    let mut bytes = 0;
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        if bytes == 0 {
            kept = chunk.clone();
        } else if bytes + chunk.len() <= kept_bytes {
            let mut joined = BytesMut::from(kept);
            joined.put_slice(&chunk);
            kept = joined.freeze();
        }
        bytes += chunk.len();
    }
    check_status(&body.trailers().await?.unwrap_or_default())?;
    unframed(kept, bytes)
}

/// The body of an answer whose head says nothing bad.
async fn begun(response: ResponseFuture) -> Result<RecvStream, CallError> {
    let response = response.await?;
    if response.status() != http::StatusCode::OK {
        return Err(CallError::Connection(format!("HTTP status {}", response.status())));
    }
    if response.headers().contains_key("grpc-status") {
        check_status(response.headers())?;
    }
    Ok(response.into_body())
}

/// A stream in both directions.
pub struct Stream {
    sender: SendStream<Bytes>,
    receiver: Receiver,
    /// What has come of messages that nobody has taken.
    rest: Bytes,
}

enum Receiver {
    /// A server may hold the head back until it has a first message.
    Opening(Option<ResponseFuture>),
    Open(RecvStream),
}

impl Stream {
    /// Opens a stream with its first message.
    pub async fn open(
        sender: &mut SendRequest<Bytes>,
        head: &Request<()>,
        frame: Bytes,
    ) -> Result<Self, CallError> {
        poll_fn(|context| sender.poll_ready(context)).await?;
        let (response, mut sender) = sender.send_request(head.clone(), false)?;
        sender.send_data(frame, false)?;
        Ok(Self { sender, receiver: Receiver::Opening(Some(response)), rest: Bytes::new() })
    }

    /// Sends one more message.
    pub fn send(&mut self, frame: Bytes) -> Result<(), CallError> {
        Ok(self.sender.send_data(frame, false)?)
    }

    /// The next message. A stream that the server ends is an error: no client here waits for that.
    pub async fn next(&mut self) -> Result<Bytes, CallError> {
        loop {
            if let Some(message) = take_message(&mut self.rest)? {
                return Ok(message);
            }
            let body = match &mut self.receiver {
                Receiver::Open(body) => body,
                Receiver::Opening(response) => {
                    let gone = || CallError::Connection("a stream's head came to nothing".into());
                    self.receiver = Receiver::Open(begun(response.take().ok_or_else(gone)?).await?);
                    continue;
                }
            };
            let Some(chunk) = body.data().await else {
                check_status(&body.trailers().await?.unwrap_or_default())?;
                return Err(CallError::Connection("the server ended a stream".into()));
            };
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            self.rest = if self.rest.is_empty() {
                chunk
            } else {
                let mut joined = BytesMut::from(&self.rest[..]);
                joined.put_slice(&chunk);
                joined.freeze()
            };
        }
    }
}

/// Takes a whole message off the front, if there is one.
fn take_message(rest: &mut Bytes) -> Result<Option<Bytes>, CallError> {
    let Some(&[flag, a, b, c, d]) = rest.first_chunk::<FRAME_BYTES>() else { return Ok(None) };
    if flag != 0 {
        return Err(CallError::Connection(format!("a message came with the flag {flag}")));
    }
    let end = FRAME_BYTES + u32::from_be_bytes([a, b, c, d]) as usize;
    if rest.len() < end {
        return Ok(None);
    }
    Ok(Some(rest.split_to(end).split_off(FRAME_BYTES)))
}

fn check_status(headers: &HeaderMap) -> Result<(), CallError> {
    let text = |name: &str| {
        let value = headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
        value.unwrap_or_default().into_owned()
    };
    match headers.get("grpc-status") {
        Some(status) if status.as_bytes() == b"0" => Ok(()),
        Some(_) => {
            Err(CallError::Status { code: text("grpc-status"), message: text("grpc-message") })
        }
        None => Err(CallError::Connection("an answer ended without grpc-status".into())),
    }
}

/// Takes the frame off, which must say the length that came.
fn unframed(mut kept: Bytes, bytes: usize) -> Result<Answer, CallError> {
    let said = kept.get(..FRAME_BYTES).map(|frame| {
        (frame[0], u32::from_be_bytes([frame[1], frame[2], frame[3], frame[4]]) as usize)
    });
    match said {
        Some((0, length)) if length + FRAME_BYTES == bytes => {
            Ok(Answer { message: kept.split_off(FRAME_BYTES), bytes: length as u64 })
        }
        other => Err(CallError::Connection(format!("{bytes} bytes came with the frame {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_whole_and_in_order() {
        let whole = Bytes::from_static(b"\0\0\0\0\x02ab\0\0\0\0\0\0\0\0\0\x01c");
        for cut in 0..=whole.len() {
            let (mut taken, mut rest) = (Vec::new(), whole.slice(..cut));
            while let Some(message) = take_message(&mut rest).expect("good frames") {
                taken.push(message);
            }
            let mut rest = Bytes::from([&rest[..], &whole[cut..]].concat());
            while let Some(message) = take_message(&mut rest).expect("good frames") {
                taken.push(message);
            }
            assert_eq!(taken, ["ab", "", "c"], "cut at {cut}");
            assert!(rest.is_empty());
        }
        take_message(&mut Bytes::from_static(b"\x01\0\0\0\0")).expect_err("compressed");
    }
}
