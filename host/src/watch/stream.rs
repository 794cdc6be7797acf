//! What a stream is to send, and its watchers.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::Notify;

use super::watcher::WatcherKey;
use crate::limits;
use crate::metrics::metrics;
use crate::raft::WatchEvent;

/// One WatchResponse.
#[derive(Debug, Clone)]
pub enum WatchMessage {
    Created {
        id: i64,
        revision: i64,
    },
    /// A watcher that was not created.
    Refused {
        revision: i64,
        reason: &'static str,
    },
    Canceled {
        id: i64,
        revision: i64,
    },
    /// Cancelled by the server: what it asks for is no more.
    Compacted {
        id: i64,
        compact_revision: i64,
    },
    /// Everything up to `revision` has been sent. -1 stands for all watchers of the stream.
    Progress {
        id: i64,
        revision: i64,
    },
    Events {
        id: i64,
        revision: i64,
        events: Arc<[Arc<WatchEvent>]>,
        /// Whether the previous values go with them; they have been looked up.
        prev_kv: bool,
        fragment: bool,
    },
}

impl WatchMessage {
    fn events(&self) -> i64 {
        match self {
            WatchMessage::Events { events, .. } => events.len() as i64,
            _ => 0,
        }
    }

    fn bytes(&self) -> usize {
        /// What a message takes beside its events.
        const MESSAGE_BYTES: usize = 96;
        let WatchMessage::Events { events, prev_kv, .. } = self else { return MESSAGE_BYTES };
        let previous = |event: &WatchEvent| match (prev_kv, event.previous.get()) {
            (true, Some(Some(previous))) => previous.len(),
            _ => 0,
        };
        MESSAGE_BYTES + events.iter().map(|event| event.bytes() + previous(event)).sum::<usize>()
    }
}

#[derive(Debug, Default)]
pub struct Stream {
    pub watchers: HashMap<i64, WatcherKey>,
    /// The next id that is tried for a watcher that did not choose one.
    pub next_id: i64,
    /// Watchers that are not synced.
    pub behind: usize,
    pub stalled: BTreeSet<WatcherKey>,
    /// By the revisions they begin at: those who begin later than the store was at some time.
    pub future: BTreeSet<(i64, WatcherKey)>,
    /// Those who want to be notified of progress now and then.
    pub notified: BTreeSet<WatcherKey>,
    /// The highest revision that it has been told of in any way. Less than that is never promised: a client resumes
    /// behind what it was promised last.
    pub reached: i64,
    /// A request for progress that is answered once the hub has come to this revision.
    pub progress_wanted: Option<i64>,
    pub ready: Arc<Notify>,
    outbox: VecDeque<WatchMessage>,
    outbox_bytes: usize,
    is_woken: bool,
}

impl Stream {
    pub fn new(ready: Arc<Notify>) -> Stream {
        Stream { ready, ..Stream::default() }
    }

    /// Events that wait to be sent.
    pub fn pending_events(&self) -> i64 {
        self.outbox.iter().map(WatchMessage::events).sum()
    }

    pub fn has_room(&self) -> bool {
        self.outbox_bytes < limits::WATCH_STREAM_QUEUE_BYTES
    }

    pub fn push(&mut self, message: WatchMessage) {
        self.outbox_bytes += message.bytes();
        metrics().watches.pending_events.add(message.events());
        self.outbox.push_back(message);
        // One wake-up, however many messages.
        if !std::mem::replace(&mut self.is_woken, true) {
            self.ready.notify_one();
        }
    }

    pub fn pop(&mut self) -> Option<WatchMessage> {
        let message = self.outbox.pop_front();
        match &message {
            Some(message) => {
                self.outbox_bytes -= message.bytes();
                metrics().watches.pending_events.sub(message.events());
            }
            None => self.is_woken = false,
        }
        message
    }

    /// Whether every watcher has been told all up to `revision`, which must be the hub's.
    pub fn is_synced(&mut self, revision: i64) -> bool {
        while self.future.first().is_some_and(|(start, _)| *start <= revision) {
            self.future.pop_first();
        }
        !self.watchers.is_empty() && self.behind == 0 && self.future.is_empty()
    }
}
