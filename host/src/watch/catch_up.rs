//! How watchers that lag are told of what they missed.
//!
//! From the recent batches if they go back far enough, else by pages from the storage, of which each serves all who
//! lag that far. A page may be old by the time it is here; the recent batches close the gap, without waiting in
//! between: so a watcher joins even while the store never rests.

use std::collections::HashMap;
use std::sync::Arc;

use prost::Message;
use proto::instar::kv;

use super::hub::{History, Hub, State, events_message};
use super::interest::Interest;
use super::stream::WatchMessage;
use super::watcher::{Standing, WatcherKey};
use crate::limits;
use crate::raft::WatchEvent;

/// Watchers that are caught up from memory before others get their turn on the runtime.
const WATCHERS_AT_ONCE: usize = 64;
/// Revisions in one response; etcd's watchBatchMaxRevs.
const RESPONSE_REVISIONS: usize = 1_000;

/// What is to be done next.
enum Step {
    Rest,
    Again,
    /// A page has to be read, from this revision on.
    Read(i64),
}

/// Rows of the storage from one revision to another.
struct Page {
    from: i64,
    /// The first revision behind it.
    next: i64,
    compacted: i64,
    /// The store's when it was read.
    revision: i64,
    events: Vec<Arc<WatchEvent>>,
}

impl Hub {
    pub(super) async fn catch_up(&self, history: &impl History) {
        loop {
            let step = self.lock().catch_up_from_memory(history);
            match step {
                Step::Rest => self.lagging.notified().await,
                Step::Again => tokio::task::yield_now().await,
                Step::Read(from) => match self.read(from, history).await {
                    Ok(page) => self.lock().tell_page(&page, history),
                    Err(reason) => {
                        tracing::warn!(
                            reason,
                            "watchers cannot be caught up, which is tried again"
                        );
                        tokio::time::sleep(limits::WATCH_RETRY).await;
                    }
                },
            }
        }
    }

    async fn read(&self, from: i64, history: &impl History) -> Result<Page, String> {
        // Before the view is chosen: the page may hold more.
        let revision = self.feed.revision();
        let target_bytes = limits::WATCH_PAGE_BYTES as u64;
        let step = kv::WatchStep { revision: from, target_bytes };
        let request = kv::Request { kind: Some(kv::request::Kind::WatchStep(step)) };
        let answer = history.page(request.encode_to_vec().into()).await;
        let answer = answer.map_err(|error| error.to_string())?;
        let page = kv::WatchPage::decode(answer).map_err(|error| error.to_string())?;
        let events = page.keys.iter().zip(page.rows).map(|(key, row)| {
            WatchEvent::from_row(key, row).map(Arc::new).ok_or("a row is no event")
        });
        Ok(Page {
            from,
            next: page.next_revision,
            compacted: page.compacted_revision,
            revision: revision.max(page.next_revision - 1),
            events: events.collect::<Result<_, _>>()?,
        })
    }
}

impl State {
    fn catch_up_from_memory(&mut self, history: &impl History) -> Step {
        for _ in 0..WATCHERS_AT_ONCE {
            let Some((next, key)) = self.lagging.first().copied() else { return Step::Rest };
            let covered = self.recent.front().is_some_and(|batch| batch.before < next);
            let asks = self.watchers.get(&key).is_some_and(|watcher| watcher.asks_storage);
            if asks || next <= self.revision && !covered {
                return Step::Read(next);
            }
            self.tell_recent(key, next, history);
        }
        Step::Again
    }

    /// Tells one watcher of the recent batches, as far as its stream has room.
    fn tell_recent(&mut self, key: WatcherKey, next: i64, history: &impl History) {
        let first = self.recent.partition_point(|batch| batch.revision < next);
        let recent: Vec<_> = self.recent.range(first..).cloned().collect();
        let events = recent.iter().flat_map(|batch| batch.events.iter().flatten());
        let (revision, next) = (self.revision, self.revision + 1);
        Telling::new(self, vec![key], revision, next).tell(events, history);
    }

    /// Tells all of a page who lag that far.
    fn tell_page(&mut self, page: &Page, history: &impl History) {
        let reached = self.lagging.range((page.from, 0)..(page.next.max(page.compacted), 0));
        let reached: Vec<_> = reached.copied().collect();
        let mut told = Vec::new();
        for (next, key) in reached {
            let Some(watcher) = self.watchers.get_mut(&key) else { continue };
            watcher.asks_storage = false;
            if next < page.compacted {
                let (stream, id) = (watcher.stream, watcher.id);
                self.set_standing(key, Standing::Compacted);
                let compact_revision = page.compacted;
                self.push(stream, WatchMessage::Compacted { id, compact_revision });
            } else {
                told.push(key);
            }
        }
        Telling::new(self, told, page.revision, page.next).tell(page.events.iter(), history);
    }
}

/// Events on their way to watchers that lag.
struct Telling<'s> {
    state: &'s mut State,
    watchers: Vec<WatcherKey>,
    interest: Interest,
    /// For the headers.
    revision: i64,
    /// The first revision behind the events.
    next: i64,
    pending: HashMap<WatcherKey, Pending>,
}

/// What one watcher is told in its next response.
#[derive(Default)]
struct Pending {
    events: Vec<Arc<WatchEvent>>,
    revisions: usize,
    bytes: usize,
}

impl<'s> Telling<'s> {
    fn new(state: &'s mut State, watchers: Vec<WatcherKey>, revision: i64, next: i64) -> Self {
        let mut interest = Interest::default();
        for key in &watchers {
            if let Some(watcher) = state.watchers.get(key) {
                interest.insert(&watcher.key, watcher.end.as_ref(), *key);
            }
        }
        Telling { state, watchers, interest, revision, next, pending: HashMap::new() }
    }

    fn tell<'e>(
        mut self,
        events: impl Iterator<Item = &'e Arc<WatchEvent>>,
        history: &impl History,
    ) {
        let mut concerned = Vec::new();
        for event in events {
            concerned.clear();
            self.interest.visit(&event.key, &mut |key| concerned.push(key));
            for key in &concerned {
                self.add(*key, event, history);
            }
        }
        for key in std::mem::take(&mut self.watchers) {
            if self.is_lagging(key) {
                self.flush(key, self.next, history);
            }
        }
    }

    /// Not any more once its stream has no room.
    fn is_lagging(&self, key: WatcherKey) -> bool {
        self.state.watchers.get(&key).is_some_and(|watcher| watcher.standing == Standing::Lagging)
    }

    fn add(&mut self, key: WatcherKey, event: &Arc<WatchEvent>, history: &impl History) {
        let next = self.state.watchers.get(&key).map_or(i64::MAX, |watcher| watcher.next);
        if event.revision < next || !self.is_lagging(key) {
            return;
        }
        let pending = self.pending.entry(key).or_default();
        // A response ends between revisions only.
        if pending.is_full() && !pending.has(event.revision) {
            self.flush(key, event.revision, history);
        }
        if self.is_lagging(key) {
            let pending = self.pending.entry(key).or_default();
            pending.revisions += usize::from(!pending.has(event.revision));
            pending.bytes += event.bytes();
            pending.events.push(event.clone());
        }
    }

    /// Sends what a watcher is to be told; it has been told of all before `next` then.
    fn flush(&mut self, key: WatcherKey, next: i64, history: &impl History) {
        let pending = self.pending.remove(&key).unwrap_or_default();
        let state = &mut *self.state;
        let Some(watcher) = state.watchers.get_mut(&key) else { return };
        let Some(stream) = state.streams.get_mut(&watcher.stream) else { return };
        let has_room = stream.has_room();
        if has_room {
            state.lagging.remove(&(watcher.next, key));
            watcher.next = watcher.next.max(next);
            stream.reached = stream.reached.max(next - 1);
            state.lagging.insert((watcher.next, key));
            let events = pending.events.into();
            if let Some(message) = events_message(watcher, self.revision, &events, history) {
                stream.push(message);
            }
        }
        let is_there = watcher.next > state.revision;
        if !has_room {
            state.set_standing(key, Standing::Stalled);
        } else if is_there {
            state.set_standing(key, Standing::Synced);
        }
    }
}

impl Pending {
    fn is_full(&self) -> bool {
        self.revisions >= RESPONSE_REVISIONS || self.bytes >= limits::WATCH_RESPONSE_BYTES
    }

    fn has(&self, revision: i64) -> bool {
        self.events.last().is_some_and(|event| event.revision == revision)
    }
}
