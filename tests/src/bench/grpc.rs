//! Unary gRPC calls on the `h2` crate, with nothing between: no channel, no service stack, no codec.

use std::future::poll_fn;
use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use tokio::net::TcpStream;

use super::message::FRAME_BYTES;

pub const PUT: &str = "/etcdserverpb.KV/Put";
pub const RANGE: &str = "/etcdserverpb.KV/Range";
pub const TXN: &str = "/etcdserverpb.KV/Txn";
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
    let response = response.await?;
    if response.status() != http::StatusCode::OK {
        return Err(CallError::Connection(format!("HTTP status {}", response.status())));
    }
    if response.headers().contains_key("grpc-status") {
        check_status(response.headers())?;
    }
    let mut body = response.into_body();
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
