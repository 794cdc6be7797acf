//! Every limit of the server that is not an operator's choice, with its unit and its reason.

use std::time::Duration;

// What clients may do to the server (`api`).

/// Client connections at the same time; further ones are closed as soon as they are accepted.
pub const CLIENT_CONNECTIONS: usize = 50_000;
/// Connections that are accepted, and wait for their runtime to take them. Beyond it no more are accepted.
pub const ACCEPTED_CONNECTIONS: usize = 1_024;
/// Connections that the kernel keeps until they are accepted.
pub const LISTEN_BACKLOG: i32 = 4_096;
/// How long accepting rests after it failed, as it does without a free file descriptor.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection may take to say its first bytes, and HTTP/1.1 the headers of its next request. grpc-go's.
pub const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(120);
/// After this time the server asks a gRPC client whether it is still there: etcd's grpc-keepalive-interval.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2 * 60 * 60);
/// How long the client may take to answer that: etcd's grpc-keepalive-timeout.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Silence after which the kernel asks whether the other end of a connection is still there, and how often: Go's.
pub const TCP_KEEPALIVE: Duration = Duration::from_secs(15);
/// Calls at the same time on one connection; a client that wants more has to wait.
pub const CONCURRENT_CALLS: u32 = 4_096;
/// All headers of one request, in bytes, as HTTP/2 counts them.
pub const HEADER_LIST_BYTES: u32 = 16 << 10;
/// What HTTP/1.1 keeps of one connection, in bytes; a request's head has to fit.
pub const HTTP1_BUFFER_BYTES: usize = 16 << 10;
/// What a client may send for one call before the server has read any of it, in bytes.
pub const CALL_WINDOW_BYTES: u32 = 64 << 10;
/// The same for all calls of one connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// What the frames of requests that no call has read yet may cost beyond their content, in bytes: HTTP/2's own count,
/// of 256 for a small frame. Each call needs room for its first frames.
pub const SMALL_FRAMES_BYTES: usize = 4 * 256 * CONCURRENT_CALLS as usize;
/// Messages that do not fit a call's window, all those together that are being received or worked on, in KiB.
/// Further ones have to wait.
pub const LARGE_MESSAGES_KIB: usize = 512 << 10;
/// How long a client may make no progress with a message that it sends.
pub const RECEIVE_STALL: Duration = Duration::from_secs(60);
/// How long a client may make no progress with a message that it is sent.
pub const SEND_STALL: Duration = Duration::from_secs(60);
/// What may wait in HTTP/2's buffers for one call, in bytes.
pub const SEND_BUFFER_BYTES: usize = 64 << 10;
/// A message of up to this many bytes is not worth waiting for the client's window.
pub const SMALL_MESSAGE_BYTES: usize = 4 << 10;
/// Answers of one connection that wait for its client to read, in bytes. Beyond it no further call is begun.
pub const UNREAD_ANSWERS_BYTES: usize = 4 << 20;
/// Queries of one connection at the same time that may touch many rows; counted until their answers are sent.
pub const HEAVY_QUERIES: usize = 16;
/// What gRPC may add to a request of --max-request-bytes, in bytes: etcd's grpcOverheadBytes.
pub const GRPC_OVERHEAD_BYTES: usize = 512 << 10;
/// The largest message that gRPC's prefix and its clients can take, in bytes.
pub const ANSWER_MESSAGE_BYTES: usize = i32::MAX as usize;

// The log of the server itself (`logging`).

/// Lines that wait for their output; further ones are dropped and counted.
pub const WAITING_LOG_LINES: usize = 8_192;
/// One line, in bytes; what exceeds it is cut from its fields.
pub const LOG_LINE_BYTES: usize = 16 << 10;
/// How long the process waits, as it ends, for its last lines to be written.
pub const LOG_FLUSH_TIMEOUT: Duration = Duration::from_millis(500);
