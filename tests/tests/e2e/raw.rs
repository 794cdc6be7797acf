//! Bytes over a socket, below gRPC: HTTP/1.1 requests and streams that keep no protocol.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a server may take to answer or to close.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The most of an answer that is read.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Sends bytes and reads until the server closes, the answer is long, or `patience` is over.
pub async fn exchange(address: &str, sent: &[u8], patience: Duration) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await.context("connect")?;
    // The server may close before it has read everything, which is an answer too.
    drop(stream.write_all(sent).await);
    let mut answer = Vec::new();
    let mut limited = stream.take(ANSWER_BYTES_MAX);
    drop(tokio::time::timeout(patience, limited.read_to_end(&mut answer)).await);
    Ok(answer)
}

/// An HTTP/1.1 answer: its status and its body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Http {
    pub status: String,
    pub body: String,
}

impl Http {
    pub fn sort_lines(&mut self) {
        let mut lines: Vec<&str> = self.body.lines().collect();
        lines.sort_unstable();
        self.body = lines.join("\n");
    }
}

/// One HTTP/1.1 request without a body.
pub async fn http(address: &str, method: &str, path: &str) -> Result<Http> {
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let answer = exchange(address, request.as_bytes(), ANSWER_WITHIN).await?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").context("no end of the header")?;
    let status = head.split_whitespace().nth(1).context("no status")?;
    let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunk(body) } else { body.to_owned() };
    Ok(Http { status: status.to_owned(), body })
}

/// An HTTP/1.1 answer with its headers, whose names are in lower case.
#[derive(Clone, Debug)]
pub struct Headed {
    pub status: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// One HTTP/1.1 request; a header `Host` replaces the address.
pub async fn http_with(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Headed> {
    let host = headers.iter().find(|(name, _)| *name == "Host").map_or(address, |(_, host)| host);
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers.iter().filter(|(name, _)| *name != "Host") {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("\r\n{body}"));
    let answer = exchange(address, request.as_bytes(), ANSWER_WITHIN).await?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").context("no end of the header")?;
    let mut lines = head.lines();
    let status =
        lines.next().and_then(|line| line.split_whitespace().nth(1)).context("no status")?;
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_lowercase(), value.trim().to_owned()))
    };
    let headers: Vec<(String, String)> = lines.filter_map(header).collect();
    let chunked = headers.iter().any(|(name, _)| name == "transfer-encoding");
    let body = if chunked { unchunk(body) } else { body.to_owned() };
    Ok(Headed { status: status.to_owned(), headers, body })
}

fn unchunk(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).unwrap_or(0);
        if length == 0 || after.len() < length {
            break;
        }
        body.push_str(&after[..length]);
        rest = after[length..].trim_start_matches("\r\n");
    }
    body
}

/// A gRPC message: not compressed, its length, its bytes.
pub fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    frame.freeze()
}

/// An HTTP/2 connection; the task that drives it ends with it.
pub async fn h2_connect(address: &str) -> Result<h2::client::SendRequest<Bytes>> {
    let stream = TcpStream::connect(address).await.context("connect")?;
    let (sender, connection) = h2::client::handshake(stream).await.context("handshake")?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// A gRPC request's header.
pub fn grpc_request(address: &str, path: &str) -> Result<http::Request<()>> {
    let uri = format!("http://{address}{path}");
    let request = http::Request::post(uri).header("te", "trailers");
    Ok(request.header("content-type", "application/grpc").body(())?)
}

/// What a server says to the body of a gRPC request: `grpc-status` and `grpc-message`, or how it broke
/// the stream off.
pub async fn grpc_answer(address: &str, path: &str, body: Bytes) -> Result<String> {
    let request = grpc_request(address, path)?;
    let answer = async {
        let mut sender = h2_connect(address).await?.ready().await?;
        let (response, mut stream) = sender.send_request(request, false)?;
        stream.send_data(body, true)?;
        let mut response = response.await?;
        let mut headers = response.headers().clone();
        while let Some(data) = response.body_mut().data().await {
            response.body_mut().flow_control().release_capacity(data?.len())?;
        }
        headers.extend(response.body_mut().trailers().await?.unwrap_or_default());
        let text = |name| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("-").to_owned();
        anyhow::Ok(format!("{} {}", text("grpc-status"), text("grpc-message")))
    };
    match tokio::time::timeout(ANSWER_WITHIN, answer).await {
        Err(_) => anyhow::bail!("no answer within {} s", ANSWER_WITHIN.as_secs()),
        Ok(answer) => Ok(answer.unwrap_or_else(|error| format!("broken off: {error}"))),
    }
}
