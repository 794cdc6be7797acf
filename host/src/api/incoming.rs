//! The messages of a client that sends more than one in a call.

use bytes::{Buf, Bytes, BytesMut};
use h2::RecvStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::call::{check_prefix, large_message_budget, unexpected_end};
use super::status::{Code, Status};
use super::wire::FRAME_PREFIX_BYTES;
use crate::limits;

/// Reads one message after the other. It holds no more than the one that is being received, and what the client's window
/// lets through beside it.
pub(super) struct Incoming<'a> {
    body: RecvStream,
    most_message_bytes: usize,
    large_messages: &'a Semaphore,
    /// What was received and is no message yet.
    rest: BytesMut,
    /// The part of the budget for large messages that the one being received takes up.
    budget: Option<SemaphorePermit<'a>>,
}

impl<'a> Incoming<'a> {
    pub(super) fn new(
        body: RecvStream,
        most_message_bytes: usize,
        large_messages: &'a Semaphore,
    ) -> Self {
        let rest = BytesMut::new();
        Incoming { body, most_message_bytes, large_messages, rest, budget: None }
    }

    /// The next message, however long it takes to come; none if the client has sent its last. It can be given up and
    /// asked for again.
    ///
    /// # Errors
    /// In the words of grpc-go: a message that is too long, compressed, cut short, or does not arrive in time once it
    /// has begun.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.take()? {
                self.budget = None;
                return Ok(Some(message));
            }
            if let Some(length) = self.length()
                && length + FRAME_PREFIX_BYTES > limits::CALL_WINDOW_BYTES as usize
                && self.budget.is_none()
            {
                self.budget = Some(large_message_budget(length, self.large_messages).await?);
            }
            let chunk = match self.rest.is_empty() {
                true => self.body.data().await,
                false => timeout(limits::RECEIVE_STALL, self.body.data()).await.map_err(|_| {
                    Status::new(Code::Unknown, "instar: the request did not arrive in time")
                })?,
            };
            match chunk {
                Some(Ok(chunk)) => {
                    self.rest.extend_from_slice(&chunk);
                    // It fails for a stream that is gone, which the next read says more clearly.
                    let _ = self.body.flow_control().release_capacity(chunk.len());
                }
                Some(Err(error)) => return Err(Status::new(Code::Cancelled, error.to_string())),
                None if self.rest.is_empty() => return Ok(None),
                None => return Err(unexpected_end()),
            }
        }
    }

    /// What the prefix says, if it is there.
    fn length(&self) -> Option<usize> {
        let prefix: [u8; FRAME_PREFIX_BYTES] =
            self.rest.get(..FRAME_PREFIX_BYTES)?.try_into().ok()?;
        Some(u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize)
    }

    fn take(&mut self) -> Result<Option<Bytes>, Status> {
        let Some(length) = self.length() else { return Ok(None) };
        check_prefix(self.rest[0], length, self.most_message_bytes)?;
        if self.rest.len() < FRAME_PREFIX_BYTES + length {
            return Ok(None);
        }
        self.rest.advance(FRAME_PREFIX_BYTES);
        Ok(Some(self.rest.split_to(length).freeze()))
    }
}
