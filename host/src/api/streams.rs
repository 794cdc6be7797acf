//! The two directions of a call that streams: request messages as they come, response messages as the client takes them.
//!
//! Services see messages and nothing of the transport: the same function serves an HTTP/2 stream and the gateway, which
//! reads and writes JSON at the other end of two channels. Both directions can be waited for at the same time:
//!
//! ```text
//! loop {
//!     tokio::select! {
//!         room = responses.drive() => room?,                                   // sends; fails when the client is gone
//!         request = requests.next(), if responses.has_room() => ...,           // None: the client has no more
//!         event = events.next(), if responses.has_room() => responses.push(..),
//!     }
//! }
//! ```
//!
//! - All futures here may be dropped at any point, and lose nothing.
//! - What waits for a client that does not read is bounded for each stream, and holds up no other stream.
//! - The call ends with the server: whoever runs the service drops it then. A service need not look for that.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use h2::RecvStream;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::time::{Instant, timeout, timeout_at};

use super::call::{self, Gone};
use super::status::{Code, Status};
use super::wire::{FRAME_PREFIX_BYTES, Frame};
use crate::limits;

/// The request messages of one call.
pub(super) struct Requests<'a>(Source<'a>);

enum Source<'a> {
    Http2(Box<Http2Requests<'a>>),
    #[cfg_attr(not(test), allow(dead_code, reason = "the gateway's way in"))]
    InProcess(mpsc::Receiver<Bytes>),
}

impl<'a> Requests<'a> {
    pub(super) fn http2(
        body: RecvStream,
        most_bytes: usize,
        large_messages: &'a Semaphore,
    ) -> Requests<'a> {
        Requests(Source::Http2(Box::new(Http2Requests {
            body,
            most_bytes,
            large_messages,
            buffer: BytesMut::new(),
            held_bytes: 0,
            budget: None,
            stalled_at: None,
        })))
    }

    #[cfg_attr(not(test), allow(dead_code, reason = "the gateway's way in"))]
    /// Messages from within the process. The channel's bound is its maker's.
    pub(super) fn in_process(messages: mpsc::Receiver<Bytes>) -> Requests<'static> {
        Requests(Source::InProcess(messages))
    }

    /// The next message. None once the client has ended its side, which is not yet the end of the call.
    ///
    /// # Errors
    /// In the words of grpc-go: a message that is too long, compressed or cut short. The call is to end with it.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        match &mut self.0 {
            Source::Http2(requests) => requests.next().await,
            Source::InProcess(messages) => Ok(messages.recv().await),
        }
    }
}

struct Http2Requests<'a> {
    body: RecvStream,
    most_bytes: usize,
    large_messages: &'a Semaphore,
    /// What has arrived and was not given out.
    buffer: BytesMut,
    /// What of it counts against the call's window: the client can send that much less.
    held_bytes: usize,
    /// For a message that does not fit the window, until the next one is asked for.
    budget: Option<SemaphorePermit<'a>>,
    /// When the rest of such a message has to have come on.
    stalled_at: Option<Instant>,
}

impl Http2Requests<'_> {
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            let length = match self.buffer.first_chunk::<FRAME_PREFIX_BYTES>() {
                None => None,
                Some([format, length @ ..]) => {
                    let length = u32::from_be_bytes(*length) as usize;
                    call::check_prefix(*format, length, self.most_bytes)?;
                    Some(length)
                }
            };
            if let Some(length) = length {
                if self.buffer.len() >= FRAME_PREFIX_BYTES + length {
                    return Ok(Some(self.take(length)));
                }
                self.make_room_for(length).await?;
            }
            match self.chunk().await? {
                Some(chunk) => {
                    self.held_bytes += chunk.len();
                    self.buffer.extend_from_slice(&chunk);
                }
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Status::new(Code::Unknown, "unexpected EOF")),
            }
        }
    }

    fn take(&mut self, length: usize) -> Bytes {
        self.buffer.advance(FRAME_PREFIX_BYTES);
        let message = self.buffer.split_to(length).freeze();
        if self.stalled_at.take().is_none() {
            self.budget = None;
        }
        self.release(self.held_bytes.saturating_sub(self.buffer.len()));
        message
    }

    /// Lets the client send on if the message is larger than the window; the budget holds it then.
    async fn make_room_for(&mut self, length: usize) -> Result<(), Status> {
        if FRAME_PREFIX_BYTES + length <= limits::CALL_WINDOW_BYTES as usize {
            return Ok(());
        }
        if self.stalled_at.is_none() {
            self.budget = None;
            self.budget = Some(call::large_message_budget(length, self.large_messages).await?);
            self.stalled_at = Some(Instant::now() + limits::RECEIVE_STALL);
        }
        self.release(self.held_bytes);
        Ok(())
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, Status> {
        let data = self.body.data();
        let chunk = match self.stalled_at {
            None => data.await,
            Some(deadline) => timeout_at(deadline, data).await.map_err(|_| {
                Status::new(Code::Unknown, "instar: the request did not arrive in time")
            })?,
        };
        if let Some(deadline) = &mut self.stalled_at {
            *deadline = Instant::now() + limits::RECEIVE_STALL;
        }
        chunk.transpose().map_err(|error| Status::new(Code::Cancelled, error.to_string()))
    }

    fn release(&mut self, bytes: usize) {
        self.held_bytes -= bytes;
        call::release(&mut self.body, bytes);
    }
}

/// Where the messages of a response go.
pub(super) trait Sink: Send {
    /// Sends a message, as far as there is room for it. Not ready: what is left in the frame is to be sent.
    fn poll_send(&mut self, cx: &mut Context<'_>, frame: &mut Frame) -> Poll<Result<(), Gone>>;

    /// Ready when nobody reads any more.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// The response messages of one call.
pub(super) struct Responses<'a> {
    sink: &'a mut (dyn Sink + 'a),
    /// What the client has no room for yet. The first one may have been sent in part.
    queue: VecDeque<Frame>,
    queued_bytes: usize,
    is_gone: bool,
}

impl<'a> Responses<'a> {
    pub(super) fn new(sink: &'a mut (dyn Sink + 'a)) -> Responses<'a> {
        Responses { sink, queue: VecDeque::new(), queued_bytes: 0, is_gone: false }
    }

    /// Whether more may be pushed. Only what goes beyond the client's own window counts.
    pub(super) fn has_room(&self) -> bool {
        self.queued_bytes < limits::STREAM_QUEUE_BYTES
    }

    /// Sends a message, at once or when the client has room for it (`drive`). To be called when there is room here.
    pub(super) fn push(&mut self, frame: Frame) {
        self.queued_bytes += frame.bytes();
        self.queue.push_back(frame);
        if self.queue.len() == 1 {
            // Who is gone is found out by the next `drive`.
            let _ = self.poll_queue(&mut Context::from_waker(Waker::noop()));
        }
    }

    /// Sends what waits. Returns only when there is room again after there was none.
    ///
    /// # Errors
    /// The client is gone, whether something waited or not.
    pub(super) async fn drive(&mut self) -> Result<(), Gone> {
        let was_full = !self.has_room();
        poll_fn(|cx| match self.poll_queue(cx) {
            Poll::Ready(Err(gone)) => Poll::Ready(Err(gone)),
            _ if was_full && self.has_room() => Poll::Ready(Ok(())),
            _ => self.sink.poll_gone(cx).map(|()| Err(Gone)),
        })
        .await
    }

    /// Sends a message, and waits until there is room for another one.
    pub(super) async fn send(&mut self, frame: Frame) -> Result<(), Gone> {
        self.push(frame);
        match self.has_room() {
            true => Ok(()),
            false => self.drive().await,
        }
    }

    /// Sends all that waits, if the client reads it within a time.
    pub(super) async fn flush(&mut self) -> Result<(), Gone> {
        let sent = timeout(limits::SEND_STALL, poll_fn(|cx| self.poll_queue(cx))).await;
        sent.unwrap_or(Err(Gone))
    }

    fn poll_queue(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        if self.is_gone {
            return Poll::Ready(Err(Gone));
        }
        while let Some(frame) = self.queue.front_mut() {
            let before = frame.bytes();
            let polled = self.sink.poll_send(cx, frame);
            match polled {
                Poll::Ready(Ok(())) => {
                    self.queued_bytes -= before;
                    self.queue.pop_front();
                }
                Poll::Ready(Err(gone)) => {
                    self.is_gone = true;
                    return Poll::Ready(Err(gone));
                }
                Poll::Pending => {
                    self.queued_bytes -= before - frame.bytes();
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg_attr(not(test), allow(dead_code, reason = "the gateway's way out"))]
/// Gives responses to a reader within the process, one after the other: what waits, waits in `Responses`.
pub(super) struct InProcessSink {
    messages: mpsc::Sender<Bytes>,
    /// Waits until the channel has room, or is closed.
    room: Option<BoxFuture<'static, Result<mpsc::OwnedPermit<Bytes>, mpsc::error::SendError<()>>>>,
    closed: BoxFuture<'static, ()>,
}

#[cfg_attr(not(test), allow(dead_code, reason = "the gateway's way out"))]
impl InProcessSink {
    pub(super) fn new(messages: mpsc::Sender<Bytes>) -> InProcessSink {
        let sender = messages.clone();
        let closed = async move { sender.closed().await }.boxed();
        InProcessSink { messages, room: None, closed }
    }
}

impl Sink for InProcessSink {
    fn poll_send(&mut self, cx: &mut Context<'_>, frame: &mut Frame) -> Poll<Result<(), Gone>> {
        let messages = &self.messages;
        let room = self.room.get_or_insert_with(|| messages.clone().reserve_owned().boxed());
        let permit = ready!(room.as_mut().poll(cx));
        self.room = None;
        let Ok(permit) = permit else { return Poll::Ready(Err(Gone)) };
        permit.send(frame.take_message());
        Poll::Ready(Ok(()))
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.closed.poll_unpin(cx)
    }
}
