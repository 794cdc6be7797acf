//! One client connection, from its first bytes to its end.
//!
//! As in etcd, HTTP/2 on a client port is gRPC and nothing else, and HTTP/1.1 is what `http1` serves. Which of them a
//! client speaks, its first bytes tell.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use h2::{Ping, PingPong};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::Settings;
use super::client_stream::ClientStream;
use super::coordinator::Coordinator;
use super::gateway::Loopback;
use super::grpc::{self, Service};
use super::http1;
use super::joined_writes::JoinedWrites;
use super::keepalive::Guarded;
use super::listener::Purpose;
use super::prefixed::Prefixed;
use super::unread::Unread;
use crate::limits;

/// What every HTTP/2 connection begins with.
pub(super) const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A call that counts as open until this is dropped.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(calls: &Arc<AtomicUsize>) -> Open {
        calls.fetch_add(1, Ordering::Relaxed);
        Open(calls.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves a connection until it ends. What goes wrong with it is its client's affair, and logged at debug level.
pub(super) async fn serve<C: Coordinator>(
    service: Arc<Service<C>>,
    mut stream: ClientStream,
    purpose: Purpose,
) {
    let stopping = service.stopping.clone();
    let Some((prefix, is_http2)) = first_bytes(&mut stream, stopping.clone()).await else { return };
    let io = Prefixed::new(prefix, stream);
    match (is_http2, purpose) {
        (true, Purpose::Everything | Purpose::GrpcOnly) => serve_http2(service, io, stopping).await,
        // As in etcd, what speaks the wrong protocol is hung up on.
        (true, Purpose::HttpOnly | Purpose::MetricsOnly) | (false, Purpose::GrpcOnly) => {}
        (false, _) => serve_http1(service, io, purpose, stopping).await,
    }
}

/// Reads until it is clear whether this is HTTP/2. None if there is nothing to serve.
async fn first_bytes(
    stream: &mut ClientStream,
    mut stopping: watch::Receiver<bool>,
) -> Option<(Bytes, bool)> {
    let read = async {
        let mut prefix = BytesMut::with_capacity(HTTP2_PREFACE.len());
        loop {
            let bytes = prefix.len();
            if prefix != HTTP2_PREFACE[..bytes.min(HTTP2_PREFACE.len())] {
                return Some((prefix.freeze(), false));
            }
            if bytes == HTTP2_PREFACE.len() {
                return Some((prefix.freeze(), true));
            }
            let mut missing = [0; HTTP2_PREFACE.len()];
            match stream.read(&mut missing[bytes..]).await {
                Ok(0) | Err(_) => return None,
                Ok(count) => prefix.extend_from_slice(&missing[bytes..bytes + count]),
            }
        }
    };
    tokio::select! {
        biased;
        read = timeout(limits::FIRST_BYTES_TIMEOUT, read) => read.ok().flatten(),
        () = has_stopped(&mut stopping) => None,
    }
}

/// Returns when the server stops, or is gone.
async fn has_stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

async fn serve_http1<C: Coordinator>(
    service: Arc<Service<C>>,
    io: Prefixed<ClientStream>,
    purpose: Purpose,
    mut stopping: watch::Receiver<bool>,
) {
    let client =
        Arc::new(http1::Client { loopback: Loopback::new(service.clone()), service, purpose });
    let handler = hyper::service::service_fn(move |request| http1::serve(client.clone(), request));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::FIRST_BYTES_TIMEOUT)
        .max_buf_size(limits::HTTP1_BUFFER_BYTES)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(io), handler)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = &mut connection => ended,
        () = has_stopped(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP/1.1 connection broke");
    }
}

/// Serves gRPC: a client's connection, or the gateway's.
pub(super) async fn serve_http2<C: Coordinator>(
    service: Arc<Service<C>>,
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    mut stopping: watch::Receiver<bool>,
) {
    let settings = service.settings.clone();
    let calls = Arc::new(AtomicUsize::new(0));
    let min_time = settings.grpc.keepalive_min_time;
    let io = JoinedWrites::new(io);
    let io = Guarded::new(io, HTTP2_PREFACE.len(), min_time, calls.clone());
    let handshake = http2_settings(&settings).handshake::<_, Bytes>(io);
    let mut connection = match timeout(limits::FIRST_BYTES_TIMEOUT, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::debug!(%error, "an HTTP/2 connection did not begin"),
        Err(_) => return,
    };
    let mut client_died = pin!(client_died(connection.ping_pong(), &settings));
    let mut stopped = pin!(has_stopped(&mut stopping));
    let mut is_stopping = false;
    let unread = Arc::new(Unread::new());
    loop {
        tokio::select! {
            biased;
            accepted = connection.accept() => match accepted {
                Some(Ok((request, response))) => {
                    let call = grpc::serve(service.clone(), unread.clone(), request, response);
                    let open = Open::new(&calls);
                    // An `async` block would have room for the call twice, and copy all of it.
                    tokio::spawn(call.map(move |()| drop(open)));
                }
                Some(Err(error)) => return tracing::debug!(%error, "an HTTP/2 connection broke"),
                None => return,
            },
            () = &mut client_died => return tracing::debug!("a client does not answer any more"),
            () = &mut stopped, if !is_stopping => {
                is_stopping = true;
                connection.graceful_shutdown();
            }
        }
    }
}

fn http2_settings(settings: &Settings) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(limits::CALL_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(limits::CONCURRENT_CALLS.min(settings.grpc.max_concurrent_streams))
        .max_header_list_size(limits::HEADER_LIST_BYTES)
        .max_send_buffer_size(limits::SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(limits::CONCURRENT_CALLS as usize)
        .data_frame_budget(limits::SMALL_FRAMES_BYTES);
    builder
}

/// Returns when the client has not answered a ping in time.
async fn client_died(ping_pong: Option<PingPong>, settings: &Settings) {
    let Some(mut ping_pong) = ping_pong else { return std::future::pending().await };
    loop {
        sleep(settings.grpc.keepalive_interval).await;
        match timeout(settings.grpc.keepalive_timeout, ping_pong.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}
