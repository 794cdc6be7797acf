//! What a client that does not read is owed: the answers of one connection that wait, and who may add to them.
//!
//! All calls of a connection run on its thread: nothing happens between a look at the count and the wait that follows.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use crate::limits;

/// What the calls of one connection share.
#[derive(Debug)]
pub(super) struct Unread {
    /// Of answers that wait for the client to read.
    bytes: AtomicUsize,
    /// Wakes one call at a time: whoever was woken wakes the next, once its own answer is counted.
    bearable: Notify,
    /// For queries whose answers may be large.
    heavy: Semaphore,
}

impl Unread {
    pub(super) fn new() -> Unread {
        Unread {
            bytes: AtomicUsize::new(0),
            bearable: Notify::new(),
            heavy: Semaphore::new(limits::HEAVY_QUERIES),
        }
    }

    fn is_bearable(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) <= limits::UNREAD_ANSWERS_BYTES
    }

    fn wake_next(&self) {
        if self.is_bearable() {
            self.bearable.notify_one();
        }
    }

    /// Waits until the client has read enough for another call to be begun.
    pub(super) async fn turn(&self) -> Turn<'_> {
        let mut turn = Turn { unread: self, heavy: None };
        turn.bearable().await;
        turn
    }

    /// Counts bytes as unread until the result is dropped.
    pub(super) fn add(&self, bytes: usize) -> Waiting<'_> {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Waiting { unread: self, bytes }
    }
}

/// A call that is served.
pub(super) struct Turn<'a> {
    unread: &'a Unread,
    heavy: Option<SemaphorePermit<'a>>,
}

impl Turn<'_> {
    async fn bearable(&mut self) {
        while !self.unread.is_bearable() {
            self.unread.bearable.notified().await;
        }
    }

    /// Waits until an answer may be made, which it has to be at once.
    pub(super) async fn may_answer(&mut self, is_heavy: bool) {
        if is_heavy && self.heavy.is_none() {
            // It fails only for a semaphore that is closed, and this one never is.
            self.heavy = self.unread.heavy.acquire().await.ok();
        }
        self.bearable().await;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.unread.wake_next();
    }
}

/// Bytes that count as unread until this is dropped.
pub(super) struct Waiting<'a> {
    unread: &'a Unread,
    bytes: usize,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.unread.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.unread.wake_next();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use super::*;

    /// When room comes, one call after the other is let in, and not all that wait at once.
    #[tokio::test]
    async fn calls_are_let_in_one_by_one() {
        let unread = Unread::new();
        let much = unread.add(limits::UNREAD_ANSWERS_BYTES + 1);
        let (mut first, mut second) = (pin!(unread.turn()), pin!(unread.turn()));
        let none = poll_fn(|cx| {
            let waits =
                first.as_mut().poll(cx).is_pending() && second.as_mut().poll(cx).is_pending();
            Poll::Ready(waits)
        });
        assert!(none.await);
        drop(much);
        let turn = first.await;
        let answer = unread.add(limits::UNREAD_ANSWERS_BYTES + 1);
        drop(turn);
        assert!(poll_fn(|cx| Poll::Ready(second.as_mut().poll(cx).is_pending())).await);
        drop(answer);
        drop(second.await);
        drop(unread.turn().await);
    }
}
