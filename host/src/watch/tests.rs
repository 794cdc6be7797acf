//! The hub beside a model that keeps every event and filters it anew.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use prost::Message;
use proto::instar::kv;
use proto::mvccpb::KeyValue;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::limits;
use crate::raft::{EventFeed, WatchEvent};

/// The rows of a store, as the machine would answer for them.
#[derive(Debug, Default)]
struct Rows {
    rows: Mutex<BTreeMap<Vec<u8>, Bytes>>,
    compacted: Mutex<i64>,
    pages: AtomicU64,
}

impl Rows {
    fn revision(&self) -> i64 {
        let rows = self.rows.lock().unwrap();
        rows.last_key_value().map_or(1, |(key, _)| revision_of(key))
    }

    /// Writes one revision, and gives its events.
    fn write(&self, revision: i64, changes: &[(String, bool, usize)]) -> Vec<Arc<WatchEvent>> {
        let mut rows = self.rows.lock().unwrap();
        let mut events = Vec::new();
        for (sub, (key, is_delete, bytes)) in changes.iter().enumerate() {
            let mut row_key = revision.to_be_bytes().to_vec();
            row_key.push(b'_');
            row_key.extend((sub as i64).to_be_bytes());
            let mut row = KeyValue { key: key.clone().into(), ..KeyValue::default() };
            if *is_delete {
                row_key.push(b't');
            } else {
                row.mod_revision = revision;
                row.value = vec![b'v'; *bytes].into();
            }
            let row = Bytes::from(row.encode_to_vec());
            events.push(Arc::new(WatchEvent::from_row(&row_key, row.clone()).unwrap()));
            rows.insert(row_key, row);
        }
        events
    }
}

fn revision_of(key: &[u8]) -> i64 {
    i64::from_be_bytes(*key.first_chunk().unwrap())
}

impl History for Rows {
    async fn page(&self, request: Bytes) -> Result<Bytes, HistoryError> {
        self.pages.fetch_add(1, Ordering::SeqCst);
        let Some(kv::request::Kind::WatchStep(step)) = kv::Request::decode(request).unwrap().kind
        else {
            panic!("another request")
        };
        let mut page = kv::WatchPage {
            next_revision: self.revision() + 1,
            compacted_revision: *self.compacted.lock().unwrap(),
            ..Default::default()
        };
        let from = step.revision.max(page.compacted_revision);
        let (mut bytes, mut last) = (0, from);
        for (key, row) in self.rows.lock().unwrap().range(from.to_be_bytes().to_vec()..) {
            if revision_of(key) != last && bytes >= step.target_bytes {
                page.next_revision = revision_of(key);
                break;
            }
            last = revision_of(key);
            bytes += row.len() as u64;
            page.keys.push(key.clone().into());
            page.rows.push(row.clone());
        }
        // As if it took its time.
        tokio::task::yield_now().await;
        Ok(page.encode_to_vec().into())
    }

    fn previous(&self, event: &WatchEvent) -> Option<Bytes> {
        Some(Bytes::from(format!("before {}", event.revision)))
    }
}

/// What a client knows of one watcher.
struct Client {
    request: WatchRequest,
    /// The first revision that it is to be told of.
    from: i64,
    told: Vec<(i64, Bytes, bool)>,
    is_over: bool,
}

impl Client {
    fn expects(&self, rows: &Rows, up_to: i64) -> Vec<(i64, Bytes, bool)> {
        let rows = rows.rows.lock().unwrap();
        let events = rows.iter().map(|(row_key, row)| {
            let key = KeyValue::decode(row.clone()).unwrap().key;
            (revision_of(row_key), key, row_key.ends_with(b"t"))
        });
        let request = &self.request;
        let wanted = |(revision, key, is_delete): &(i64, Bytes, bool)| {
            let in_range = match request.range_end.as_ref() {
                [] => *key == request.key,
                [0] => *key >= request.key,
                end => *key >= request.key && key.as_ref() < end,
            };
            let filtered = if *is_delete { request.no_delete } else { request.no_put };
            in_range && !filtered && *revision >= self.from && *revision <= up_to
        };
        events.filter(wanted).collect()
    }
}

/// A stream and all that came of it.
struct Reader<'h> {
    stream: WatchStream<'h>,
    clients: BTreeMap<i64, Client>,
    /// Requests that the server has not answered.
    created: VecDeque<WatchRequest>,
}

impl Reader<'_> {
    /// For progress, after a cancellation now and then.
    fn ask(&mut self, random: &mut StdRng) {
        if let Some(id) = self.clients.keys().next().copied()
            && random.random_range(0..3) == 0
        {
            self.stream.cancel(id);
        }
        self.stream.request_progress();
        self.stream.notify_progress();
    }

    /// Takes messages, and checks what each of them promises.
    fn read(&mut self, rows: &Rows, most: usize) {
        for _ in 0..most {
            match self.stream.pop() {
                None => return,
                Some(WatchMessage::Created { id, revision }) => {
                    let request = self.created.pop_front().expect("a request");
                    let from = match request.start_revision {
                        0 => revision + 1,
                        start => start,
                    };
                    let client = Client { request, from, told: Vec::new(), is_over: false };
                    assert!(self.clients.insert(id, client).is_none());
                }
                Some(WatchMessage::Events { id, revision, events, prev_kv, .. }) => {
                    let client = self.clients.get_mut(&id).expect("a watcher");
                    assert!(!client.is_over);
                    for event in events.iter() {
                        assert!(event.revision <= revision);
                        assert_eq!(prev_kv, client.request.prev_kv);
                        assert!(!prev_kv || event.is_create || event.previous.get().is_some());
                        client.told.push((event.revision, event.key.clone(), event.is_delete));
                    }
                    // Whole revisions.
                    let last = events.last().expect("no empty response").revision;
                    assert_eq!(client.told, client.expects(rows, last), "watcher {id}");
                }
                Some(WatchMessage::Progress { id, revision }) => {
                    for (_, client) in
                        self.clients.iter().filter(|(other, _)| id == -1 || **other == id)
                    {
                        assert_eq!(client.told, client.expects(rows, revision));
                        assert!(client.from <= revision + 1);
                    }
                }
                Some(WatchMessage::Canceled { id, .. }) => {
                    self.clients.remove(&id).expect("a watcher");
                }
                Some(WatchMessage::Compacted { id, compact_revision }) => {
                    let client = self.clients.get_mut(&id).expect("a watcher");
                    client.is_over = true;
                    let next = client.told.last().map_or(client.from, |told| told.0 + 1);
                    assert!(next < compact_revision);
                }
                Some(WatchMessage::Refused { reason, .. }) => panic!("{reason}"),
            }
        }
    }
}

fn random_request(random: &mut StdRng, revision: i64) -> WatchRequest {
    let name = |random: &mut StdRng| Bytes::from(format!("k{}", random.random_range(0..6)));
    let key = name(random);
    let range_end = match random.random_range(0..4) {
        0 => Bytes::from_static(&[0]),
        1 => Bytes::from_static(b"k9"),
        _ => Bytes::new(),
    };
    let start_revision = match random.random_range(0..4) {
        0 | 1 => 0,
        2 => random.random_range(1..=revision),
        _ => revision + random.random_range(0..5),
    };
    WatchRequest {
        id: 0,
        key,
        range_end,
        start_revision,
        prev_kv: random.random(),
        no_put: random.random_range(0..8) == 0,
        no_delete: random.random_range(0..8) == 0,
        fragment: false,
        progress_notify: random.random(),
    }
}

/// One batch of a few revisions, of which the hub may not be given the events.
fn write_some(random: &mut StdRng, rows: &Rows, feed: &EventFeed) {
    let (mut events, mut revision) = (Vec::new(), feed.revision());
    for _ in 0..random.random_range(1..4) {
        revision += 1;
        let change = |key| {
            let bytes = match random.random_range(0..20) {
                0 => limits::WATCH_STREAM_QUEUE_BYTES / 2,
                _ => 10,
            };
            (format!("k{}", key * 2), random.random_range(0..4) == 0, bytes)
        };
        let changes: Vec<_> = (0..1 + revision % 3).map(change).collect();
        events.extend(rows.write(revision, &changes));
    }
    let is_lost = random.random_range(0..10) == 0;
    feed.publish(revision as u64, (!is_lost).then_some(events));
}

/// Random writes, watchers, readers of every speed, lost batches: all is told once and in order, and every promise kept.
#[tokio::test]
async fn whatever_happens_all_is_told_once_and_in_order() {
    let mut pages = 0;
    for seed in 0..30 {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let (feed, rows) = (Arc::new(EventFeed::new(1, 1)), Arc::new(Rows::default()));
        let hub = Hub::new(feed.clone(), 0);
        let mut readers: Vec<Reader<'_>> = Vec::new();
        let drive = async {
            for _ in 0..400 {
                match random.random_range(0..12) {
                    0 if readers.len() < 4 => {
                        let (clients, created) = Default::default();
                        readers.push(Reader { stream: hub.open(), clients, created });
                    }
                    1 if readers.len() > 1 => drop(readers.remove(0)),
                    2..=3 if !readers.is_empty() => {
                        let at = random.random_range(0..readers.len());
                        let request = random_request(&mut random, feed.revision());
                        readers[at].stream.create(&request);
                        readers[at].created.push_back(request);
                    }
                    4 => readers.iter_mut().for_each(|reader| reader.ask(&mut random)),
                    5 => {
                        let most = random.random_range(0..20);
                        readers.iter_mut().for_each(|reader| reader.read(&rows, most));
                    }
                    _ => write_some(&mut random, &rows, &feed),
                }
                if random.random() {
                    tokio::task::yield_now().await;
                }
            }
            // Now all who read are told everything.
            let end = feed.revision();
            for _ in 0..10_000 {
                readers.iter_mut().for_each(|reader| reader.read(&rows, usize::MAX));
                let is_told = |client: &Client| client.told == client.expects(&rows, end);
                if readers.iter().all(|reader| reader.clients.values().all(is_told)) {
                    return;
                }
                tokio::task::yield_now().await;
            }
            panic!("seed {seed}: something was never told");
        };
        tokio::select! {
            () = hub.run(&*rows) => panic!("the feed ended"),
            () = drive => {}
        }
        drop(readers);
        pages += rows.pages.load(Ordering::SeqCst);
        assert!(hub.lock().watchers.is_empty() && hub.lock().lagging.is_empty());
    }
    assert!(pages > 100, "catching up from the storage is hardly tested: {pages} pages");
}

#[tokio::test]
async fn what_is_compacted_is_said_to_be_and_ids_stay_taken() {
    let (feed, rows) = (Arc::new(EventFeed::new(1, 1)), Rows::default());
    let hub = Hub::new(feed.clone(), 0);
    for revision in 2..10 {
        rows.write(revision, &[("k".into(), false, 1)]);
        feed.publish(revision as u64, None);
    }
    *rows.compacted.lock().unwrap() = 5;
    let stream = hub.open();
    for start_revision in [4, 5] {
        stream.create(&WatchRequest { key: "k".into(), start_revision, ..Default::default() });
    }
    let mut messages = Vec::new();
    tokio::select! {
        () = hub.run(&rows) => {}
        () = async { while messages.len() < 4 { stream.ready().await; messages.extend(std::iter::from_fn(|| stream.pop())); } } => {}
    }
    assert!(
        matches!(messages[2], WatchMessage::Compacted { id: 0, compact_revision: 5 }),
        "{messages:?}"
    );
    let WatchMessage::Events { id: 1, revision: 9, events, .. } = &messages[3] else {
        panic!("{messages:?}")
    };
    assert_eq!(events.len(), 5);
    stream.request_progress();
    assert!(stream.pop().is_none(), "a watcher is behind");
    stream.cancel(0);
    stream.cancel(7);
    stream.request_progress();
    assert!(matches!(stream.pop(), Some(WatchMessage::Canceled { id: 0, .. })));
    assert!(matches!(stream.pop(), Some(WatchMessage::Progress { id: -1, revision: 9 })));
    assert!(stream.pop().is_none());
}

/// That the events are still in memory is no reason to tell of what etcd would refuse to tell of.
#[tokio::test]
async fn recent_batches_do_not_hide_a_compaction() {
    let (feed, rows) = (Arc::new(EventFeed::new(1, 1)), Rows::default());
    let hub = Hub::new(feed.clone(), 0);
    let stream = hub.open();
    stream.create(&WatchRequest { key: "k".into(), ..Default::default() });
    for revision in 2..10 {
        let events = rows.write(revision, &[("k".into(), false, 1)]);
        feed.publish(revision as u64, Some(events));
    }
    let mut messages: Vec<WatchMessage> = Vec::new();
    let read = async {
        while messages.len() < 9 {
            stream.ready().await;
            messages.extend(std::iter::from_fn(|| stream.pop()));
        }
        *rows.compacted.lock().unwrap() = 5;
        for start_revision in [4, 5] {
            stream.create(&WatchRequest { key: "k".into(), start_revision, ..Default::default() });
        }
        while messages.len() < 13 {
            stream.ready().await;
            messages.extend(std::iter::from_fn(|| stream.pop()));
        }
    };
    tokio::select! {
        () = hub.run(&rows) => panic!("the feed ended"),
        () = read => {}
    }
    let compacted =
        |it: &WatchMessage| matches!(it, WatchMessage::Compacted { id: 1, compact_revision: 5 });
    assert!(messages.iter().any(compacted), "{messages:?}");
    let told = messages.iter().find_map(|message| match message {
        WatchMessage::Events { id: 2, events, .. } => Some(events.len()),
        _ => None,
    });
    assert_eq!(told, Some(5), "{messages:?}");
}

#[test]
fn what_cannot_be_watched_is_refused_in_etcds_words() {
    let hub = Hub::new(Arc::new(EventFeed::new(3, 1)), 0);
    let stream = hub.open();
    let create = |id, key: &'static str, end: &'static str, start_revision| {
        let (key, range_end) = (key.into(), end.into());
        stream.create(&WatchRequest { id, key, range_end, start_revision, ..Default::default() });
        match stream.pop() {
            Some(WatchMessage::Created { id, revision: 3 }) => Ok(id),
            Some(WatchMessage::Refused { revision: 3, reason }) => Err(reason),
            other => panic!("{other:?}"),
        }
    };
    let duplicate = "mvcc: duplicate watch ID provided on the WatchStream";
    let empty = "mvcc: watcher range is empty";
    assert_eq!(create(0, "a", "", 0), Ok(0));
    assert_eq!(create(1, "a", "", 0), Ok(1));
    assert_eq!(create(0, "a", "", 0), Ok(2), "a chosen id is skipped");
    assert_eq!(create(1, "a", "", 0), Err(duplicate));
    assert_eq!(create(9, "b", "a", 0), Err(empty));
    assert_eq!(create(9, "b", "b", 0), Err(empty));
    assert_eq!(create(9, "", "\0", 0), Ok(9), "an empty key is the smallest");
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    assert_eq!(create(10, "a", "", -1), Err(compacted));
    assert_eq!(create(-7, "a", "", 99), Ok(-7));
}
