//! One watcher: what it asks for, and how far it has been told.

use std::sync::Arc;

use bytes::Bytes;

use super::intervals::End;
use crate::raft::WatchEvent;

/// Names a watcher of a hub.
pub type WatcherKey = u64;

/// What a client asks for.
#[derive(Debug, Clone, Default)]
pub struct WatchRequest {
    /// 0: any that is free.
    pub id: i64,
    /// Empty: the smallest key.
    pub key: Bytes,
    /// As on the wire: empty for one key, a zero byte for everything from `key` on.
    pub range_end: Bytes,
    /// 0: what happens from now on.
    pub start_revision: i64,
    pub prev_kv: bool,
    pub no_put: bool,
    pub no_delete: bool,
    pub fragment: bool,
    pub progress_notify: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Told by the hub as batches come.
    Synced,
    /// To be told of what it missed.
    Lagging,
    /// The same, but its stream has no room.
    Stalled,
    /// It asked for what is compacted. It is told nothing more; its id stays taken until it is cancelled, as in etcd.
    Compacted,
}

impl Standing {
    /// Whether there is something that it is still to be told of, by others than the hub.
    pub fn is_slow(self) -> bool {
        matches!(self, Standing::Lagging | Standing::Stalled)
    }
}

#[derive(Debug)]
pub struct Watcher {
    pub stream: u64,
    pub id: i64,
    pub key: Bytes,
    /// None: a single key.
    pub end: Option<End>,
    pub start_revision: i64,
    /// The first revision that its stream's outbox does not cover yet.
    pub next: i64,
    pub standing: Standing,
    /// Whether the storage has yet to say that where it begins is not compacted: the recent batches do not know.
    pub asks_storage: bool,
    pub prev_kv: bool,
    pub fragment: bool,
    pub progress_notify: bool,
    /// Whether it was told of no event since the last progress notification was due.
    pub quiet: bool,
    no_put: bool,
    no_delete: bool,
}

impl Watcher {
    /// None if the range is empty.
    pub fn new(stream: u64, id: i64, request: &WatchRequest) -> Option<Watcher> {
        let key = match request.key.is_empty() {
            true => Bytes::from_static(&[0]),
            false => request.key.clone(),
        };
        let end = match request.range_end.as_ref() {
            [] => None,
            [0] => Some(End::Never),
            end if key.as_ref() >= end => return None,
            _ => Some(End::Before(request.range_end.clone())),
        };
        Some(Watcher {
            stream,
            id,
            key,
            end,
            start_revision: request.start_revision,
            next: request.start_revision,
            standing: Standing::Synced,
            asks_storage: false,
            prev_kv: request.prev_kv,
            fragment: request.fragment,
            progress_notify: request.progress_notify,
            quiet: true,
            no_put: request.no_put,
            no_delete: request.no_delete,
        })
    }

    /// What it keeps of its client's, in bytes.
    pub fn key_bytes(&self) -> usize {
        let end = match &self.end {
            Some(End::Before(end)) => end.len(),
            _ => 0,
        };
        self.key.len() + end
    }

    pub fn wants(&self, event: &WatchEvent) -> bool {
        !(event.is_delete && self.no_delete || !event.is_delete && self.no_put)
    }

    /// The events it wants; the same list if it wants all.
    pub fn wanted(&self, events: &Arc<[Arc<WatchEvent>]>) -> Arc<[Arc<WatchEvent>]> {
        if events.iter().all(|event| self.wants(event)) {
            return events.clone();
        }
        events.iter().filter(|event| self.wants(event)).cloned().collect()
    }
}
