//! The watchers of one client runtime, and what they are told as batches come.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::interest::Interest;
use super::stream::{Stream, WatchMessage};
use super::watcher::{Standing, WatchRequest, Watcher, WatcherKey};
use crate::limits;
use crate::metrics::metrics;
use crate::raft::{Batches, EventBatch, EventFeed, WatchEvent};

/// The id of a watcher that is none, and of all watchers of a stream.
const ALL_WATCHERS: i64 = -1;

/// What is not in memory.
pub trait History: Send + Sync {
    /// Answers a query that may take long, from a state that is at least as new as the feed's revision.
    fn page(&self, request: Bytes) -> impl Future<Output = Result<Bytes, HistoryError>> + Send;

    /// The KeyValue of an event's key before the event. None if there was none, or it is compacted.
    fn previous(&self, event: &WatchEvent) -> Option<Bytes>;
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the history cannot be read: {0}")]
pub struct HistoryError(pub String);

/// To be used on its runtime alone, so that its lock is never waited for.
#[derive(Debug)]
pub struct Hub {
    pub(super) feed: Arc<EventFeed>,
    /// Of its subscription.
    number: usize,
    batches: Mutex<Option<Batches>>,
    state: Mutex<State>,
    /// Told when a watcher lags.
    pub(super) lagging: Notify,
}

impl Hub {
    pub fn new(feed: Arc<EventFeed>, number: usize) -> Hub {
        let batches = Mutex::new(feed.subscribe(number));
        let state = Mutex::new(State { revision: feed.revision(), ..State::default() });
        Hub { feed, number, batches, state, lagging: Notify::new() }
    }

    /// Tells watchers, until the feed ends. Later calls do nothing.
    pub async fn run(&self, history: &impl History) {
        let batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut batches) = batches else { return };
        let receive = async {
            while let Some(batch) = batches.recv().await {
                self.feed.taken(self.number, &batch);
                self.lock().receive(batch, history);
                self.wake_if_lagging();
            }
        };
        tokio::select! {
            () = receive => {}
            () = self.catch_up(history) => {}
        }
    }

    /// A stream without watchers. It ends when the result is dropped.
    pub fn open(&self) -> WatchStream<'_> {
        let mut state = self.lock();
        state.last_stream += 1;
        let number = state.last_stream;
        let ready = Arc::new(Notify::new());
        state.streams.insert(number, Stream::new(ready.clone()));
        metrics().watches.streams.inc();
        WatchStream { hub: self, number, ready }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_if_lagging(&self) {
        if !self.lock().lagging.is_empty() {
            self.lagging.notify_one();
        }
    }
}

/// One client's stream of watches.
pub struct WatchStream<'h> {
    hub: &'h Hub,
    number: u64,
    ready: Arc<Notify>,
}

impl WatchStream<'_> {
    /// Returns when there may be something to `pop`.
    pub async fn ready(&self) {
        self.ready.notified().await;
    }

    /// Whether a request may be taken.
    pub fn has_room(&self) -> bool {
        self.hub.lock().streams.get(&self.number).is_some_and(Stream::has_room)
    }

    /// What is to be sent next.
    pub fn pop(&self) -> Option<WatchMessage> {
        let mut state = self.hub.lock();
        let stream = state.streams.get_mut(&self.number)?;
        let message = stream.pop();
        if stream.has_room() && !stream.stalled.is_empty() {
            for watcher in std::mem::take(&mut stream.stalled) {
                state.set_standing(watcher, Standing::Lagging);
            }
            self.hub.lagging.notify_one();
        }
        message
    }

    pub fn create(&self, request: &WatchRequest) {
        let mut state = self.hub.lock();
        if state.watchers.is_empty() {
            self.hub.feed.set_active(self.hub.number, true);
            state.revision = state.revision.max(self.hub.feed.revision());
            state.recent.clear();
        }
        let revision = self.hub.feed.revision();
        if let Err(reason) = state.create(self.number, request, revision) {
            state.push(self.number, WatchMessage::Refused { revision, reason });
        }
        state.rest(self.hub);
        drop(state);
        self.hub.wake_if_lagging();
    }

    /// Without an answer if there is no such watcher.
    pub fn cancel(&self, id: i64) {
        let mut state = self.hub.lock();
        let Some(stream) = state.streams.get_mut(&self.number) else { return };
        let Some(watcher) = stream.watchers.remove(&id) else { return };
        state.remove(watcher);
        let revision = self.hub.feed.revision();
        state.push(self.number, WatchMessage::Canceled { id, revision });
        state.rest(self.hub);
    }

    /// Is answered once the store's revision of now is covered; not at all if a watcher is behind, as in etcd.
    pub fn request_progress(&self) {
        let mut state = self.hub.lock();
        let revision = self.hub.feed.revision();
        let reached = state.revision;
        let Some(stream) = state.streams.get_mut(&self.number) else { return };
        if stream.is_synced(revision) {
            stream.progress_wanted = Some(revision);
            if reached < revision {
                state.progress_wanted.push(self.number);
            } else {
                state.answer_progress(self.number);
            }
        }
    }

    /// Tells those of their progress who want to be told now and then, and had no event since the last time.
    pub fn notify_progress(&self) {
        let mut state = self.hub.lock();
        let revision = state.revision;
        let Some(stream) = state.streams.get(&self.number) else { return };
        for key in stream.notified.iter().copied().collect::<Vec<_>>() {
            let Some(watcher) = state.watchers.get_mut(&key) else { continue };
            let was_quiet = std::mem::replace(&mut watcher.quiet, true);
            let id = watcher.id;
            let is_told =
                watcher.standing == Standing::Synced && watcher.start_revision <= revision;
            let is_told = is_told && watcher.next <= revision + 1;
            if let Some(stream) = state.streams.get_mut(&self.number)
                && was_quiet
                && is_told
                && stream.has_room()
            {
                stream.push(WatchMessage::Progress { id, revision });
            }
        }
    }
}

impl Drop for WatchStream<'_> {
    fn drop(&mut self) {
        let mut state = self.hub.lock();
        let Some(stream) = state.streams.remove(&self.number) else { return };
        metrics().watches.streams.dec();
        metrics().watches.pending_events.sub(stream.pending_events());
        for watcher in stream.watchers.into_values() {
            state.remove(watcher);
        }
        state.rest(self.hub);
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// What synced watchers have been told of.
    pub(super) revision: i64,
    pub(super) watchers: HashMap<WatcherKey, Watcher>,
    /// Those that are synced.
    synced: Interest,
    /// Those that are to be caught up, by their `next`.
    pub(super) lagging: BTreeSet<(i64, WatcherKey)>,
    pub(super) streams: HashMap<u64, Stream>,
    /// The last batches, without a gap between them.
    pub(super) recent: VecDeque<Arc<EventBatch>>,
    recent_bytes: usize,
    /// Streams that wait for the hub to come further.
    progress_wanted: Vec<u64>,
    last_watcher: WatcherKey,
    last_stream: u64,
    /// Of all watchers.
    key_bytes: usize,
}

impl State {
    /// `revision` is the store's.
    fn create(
        &mut self,
        number: u64,
        request: &WatchRequest,
        revision: i64,
    ) -> Result<(), &'static str> {
        if request.start_revision < 0 {
            return Err("etcdserver: mvcc: required revision has been compacted");
        }
        let mut watcher =
            Watcher::new(number, request.id, request).ok_or("mvcc: watcher range is empty")?;
        let is_full = self.watchers.len() >= limits::WATCHERS
            || self.key_bytes + watcher.key_bytes() > limits::WATCHER_KEYS_BYTES;
        let Some(stream) = self.streams.get_mut(&number).filter(|_| !is_full) else {
            return Err("etcdserver: too many requests");
        };
        if request.id == 0 {
            while stream.watchers.contains_key(&stream.next_id) {
                stream.next_id += 1;
            }
            watcher.id = stream.next_id;
            stream.next_id += 1;
        } else if stream.watchers.contains_key(&request.id) {
            return Err("mvcc: duplicate watch ID provided on the WatchStream");
        }
        self.last_watcher += 1;
        let key = self.last_watcher;
        stream.watchers.insert(watcher.id, key);
        if watcher.progress_notify {
            stream.notified.insert(key);
        }
        if watcher.start_revision > revision {
            stream.future.insert((watcher.start_revision, key));
        }
        stream.push(WatchMessage::Created { id: watcher.id, revision });
        stream.reached = stream.reached.max(revision);
        self.key_bytes += watcher.key_bytes();
        let is_past = watcher.start_revision != 0 && watcher.start_revision <= revision;
        watcher.next = watcher.start_revision.max(if is_past { 0 } else { revision + 1 });
        watcher.asks_storage = is_past;
        self.synced.insert(&watcher.key, watcher.end.as_ref(), key);
        self.watchers.insert(key, watcher);
        metrics().watches.watchers.inc();
        if is_past {
            self.set_standing(key, Standing::Lagging);
        }
        Ok(())
    }

    /// Moves a watcher from one set to another.
    pub(super) fn set_standing(&mut self, key: WatcherKey, standing: Standing) {
        let Some(watcher) = self.watchers.get_mut(&key) else { return };
        let before = std::mem::replace(&mut watcher.standing, standing);
        let slow = i64::from(standing.is_slow()) - i64::from(before.is_slow());
        metrics().watches.slow_watchers.add(slow);
        let Some(stream) = self.streams.get_mut(&watcher.stream) else { return };
        match before {
            Standing::Synced => {
                self.synced.remove(&watcher.key, watcher.end.as_ref(), key);
                stream.behind += 1;
            }
            Standing::Lagging => drop(self.lagging.remove(&(watcher.next, key))),
            Standing::Stalled => drop(stream.stalled.remove(&key)),
            Standing::Compacted => {}
        }
        match standing {
            Standing::Synced => {
                self.synced.insert(&watcher.key, watcher.end.as_ref(), key);
                stream.behind -= 1;
            }
            Standing::Lagging => drop(self.lagging.insert((watcher.next, key))),
            Standing::Stalled => drop(stream.stalled.insert(key)),
            Standing::Compacted => {}
        }
    }

    fn remove(&mut self, key: WatcherKey) {
        let Some(watcher) = self.watchers.remove(&key) else { return };
        self.key_bytes -= watcher.key_bytes();
        metrics().watches.watchers.dec();
        metrics().watches.slow_watchers.sub(watcher.standing.is_slow().into());
        self.lagging.remove(&(watcher.next, key));
        if watcher.standing == Standing::Synced {
            self.synced.remove(&watcher.key, watcher.end.as_ref(), key);
        }
        if let Some(stream) = self.streams.get_mut(&watcher.stream) {
            stream.behind -= usize::from(watcher.standing != Standing::Synced);
            stream.stalled.remove(&key);
            stream.future.remove(&(watcher.start_revision, key));
            stream.notified.remove(&key);
        }
    }

    /// Asks for no more batches when nobody watches.
    fn rest(&mut self, hub: &Hub) {
        if self.watchers.is_empty() {
            hub.feed.set_active(hub.number, false);
            self.recent.clear();
            self.recent_bytes = 0;
        }
    }

    pub(super) fn push(&mut self, stream: u64, message: WatchMessage) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.push(message);
        }
    }

    fn receive(&mut self, batch: Arc<EventBatch>, history: &impl History) {
        if batch.revision <= self.revision {
            return;
        }
        match &batch.events {
            Some(events) if batch.before <= self.revision => {
                for events in events.chunk_by(|one, other| one.revision == other.revision) {
                    self.tell(events, history);
                }
                self.revision = batch.revision;
                self.remember(batch);
            }
            _ => self.miss(batch.revision),
        }
        for stream in std::mem::take(&mut self.progress_wanted) {
            self.answer_progress(stream);
        }
    }

    /// Tells of the events of one revision.
    fn tell(&mut self, events: &[Arc<WatchEvent>], history: &impl History) {
        if let [event] = events {
            let mut concerned = Vec::new();
            self.synced.visit(&event.key, &mut |watcher| concerned.push(watcher));
            let events: Arc<[Arc<WatchEvent>]> = Arc::from([event.clone()]);
            for watcher in concerned {
                self.tell_watcher(watcher, event.revision, &events, history);
            }
            return;
        }
        let mut concerned = HashMap::<WatcherKey, Vec<Arc<WatchEvent>>>::new();
        for event in events {
            let add = &mut |key| concerned.entry(key).or_default().push(event.clone());
            self.synced.visit(&event.key, add);
        }
        for (watcher, events) in concerned {
            let revision = events[0].revision;
            self.tell_watcher(watcher, revision, &events.into(), history);
        }
    }

    fn tell_watcher(
        &mut self,
        key: WatcherKey,
        revision: i64,
        events: &Arc<[Arc<WatchEvent>]>,
        history: &impl History,
    ) {
        let Some(watcher) = self.watchers.get_mut(&key) else { return };
        if revision < watcher.next {
            return;
        }
        let Some(stream) = self.streams.get_mut(&watcher.stream) else { return };
        if !stream.has_room() {
            watcher.next = watcher.next.max(self.revision + 1);
            self.set_standing(key, Standing::Stalled);
            return;
        }
        watcher.next = revision + 1;
        if let Some(message) = events_message(watcher, revision, events, history) {
            stream.push(message);
        }
    }

    /// The events up to `revision` are in the storage alone.
    pub(super) fn miss(&mut self, revision: i64) {
        let synced =
            |(_, watcher): &(&WatcherKey, &mut Watcher)| watcher.standing == Standing::Synced;
        let from = self.revision + 1;
        let mut behind = Vec::new();
        for (key, watcher) in self.watchers.iter_mut().filter(synced) {
            watcher.next = watcher.next.max(from);
            if watcher.next <= revision {
                behind.push(*key);
            }
        }
        for key in behind {
            self.set_standing(key, Standing::Lagging);
        }
        self.revision = revision;
        self.recent.clear();
        self.recent_bytes = 0;
    }

    fn remember(&mut self, batch: Arc<EventBatch>) {
        self.recent_bytes += batch.bytes;
        self.recent.push_back(batch);
        while self.recent_bytes > limits::WATCH_RECENT_BYTES
            || self.recent.len() > limits::WATCH_RECENT_BATCHES
        {
            let Some(oldest) = self.recent.pop_front() else { return };
            self.recent_bytes -= oldest.bytes;
        }
    }

    fn answer_progress(&mut self, number: u64) {
        let revision = self.revision;
        let Some(stream) = self.streams.get_mut(&number) else { return };
        match stream.progress_wanted {
            Some(wanted) if wanted.max(stream.reached) > revision => {
                self.progress_wanted.push(number)
            }
            Some(_) => {
                stream.progress_wanted = None;
                if stream.is_synced(revision) {
                    stream.push(WatchMessage::Progress { id: ALL_WATCHERS, revision });
                }
            }
            None => {}
        }
    }
}

/// None if the watcher wants none of the events.
pub(super) fn events_message(
    watcher: &mut Watcher,
    revision: i64,
    events: &Arc<[Arc<WatchEvent>]>,
    history: &impl History,
) -> Option<WatchMessage> {
    let events = watcher.wanted(events);
    if events.is_empty() {
        return None;
    }
    let (prev_kv, fragment) = (watcher.prev_kv, watcher.fragment);
    if prev_kv {
        for event in events.iter().filter(|event| !event.is_create) {
            event.previous.get_or_init(|| history.previous(event));
        }
    }
    watcher.quiet = false;
    Some(WatchMessage::Events { id: watcher.id, revision, events, prev_kv, fragment })
}
