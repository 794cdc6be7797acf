//! What the apply thread tells those who watch: the events of each applied batch, once, after its view is published.
//!
//! There is one subscriber a client runtime, and one hand-off a batch and subscriber. While nobody watches, a batch
//! costs one atomic store. A subscriber finds out by itself that it missed batches (they count by revisions), and reads
//! what they held from the storage: so nothing here has to wait, and a queue that is too long just loses its events.
//!
//! Invariant: whoever reads a `revision` here finds it in the latest view, and every subscriber that was active before
//! the batch was published is sent it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};
use proto::mvccpb::KeyValue;
use tokio::sync::mpsc;

use crate::limits;
use crate::runtime::Outcome;
use crate::storage::{Overlay, TableId, Tables};

/// The table whose rows are events; what else the machine names is for others.
pub(super) const KEYS: &str = "key";
/// The revision of a store that was never written to, as etcd counts.
const FIRST_REVISION: u64 = 1;
/// The length of a revision key; one byte more is a tombstone's.
const REVISION_KEY_BYTES: usize = 17;

/// One change of one key, encoded for all who get it.
#[derive(Debug)]
pub struct WatchEvent {
    pub revision: i64,
    pub key: Bytes,
    pub is_delete: bool,
    /// Whether the key was not there before.
    pub is_create: bool,
    /// An `mvccpb.Event` without the previous value.
    pub encoded: Bytes,
    /// The key's value before, an `mvccpb.KeyValue`: looked up by the first who needs it.
    pub previous: OnceLock<Option<Bytes>>,
}

impl WatchEvent {
    /// Reads a row of the `key` table. None if it is no such row, which the machine never writes.
    pub fn from_row(row_key: &[u8], row: Bytes) -> Option<WatchEvent> {
        let revision = i64::from_be_bytes(*row_key.first_chunk()?);
        let is_delete = row_key.len() > REVISION_KEY_BYTES;
        let mut kv = KeyValue::decode(row.clone()).ok()?;
        let mut encoded = BytesMut::with_capacity(row.len() + 24);
        let row = match is_delete {
            true => {
                kv.mod_revision = revision;
                // Event.type: DELETE
                encoded.put_slice(&[0x08, 0x01]);
                Bytes::from(kv.encode_to_vec())
            }
            false => row,
        };
        // Event.kv
        put_field(&mut encoded, 0x12, &row);
        Some(WatchEvent {
            revision,
            is_create: !is_delete && kv.create_revision == kv.mod_revision,
            is_delete,
            key: kv.key,
            encoded: encoded.freeze(),
            previous: OnceLock::new(),
        })
    }

    pub fn bytes(&self) -> usize {
        self.key.len() + self.encoded.len()
    }
}

/// A length-delimited field with a tag of one byte.
pub fn put_field(out: &mut BytesMut, tag: u8, content: &[u8]) {
    out.reserve(1 + encoded_len_varint(content.len() as u64) + content.len());
    out.put_u8(tag);
    encode_varint(content.len() as u64, out);
    out.put_slice(content);
}

/// The events of what was applied at once.
#[derive(Debug)]
pub struct EventBatch {
    /// The revision before it.
    pub before: i64,
    /// The revision after it.
    pub revision: i64,
    /// In the order of their revisions. None if they have to be read from the storage.
    pub events: Option<Vec<Arc<WatchEvent>>>,
    pub bytes: usize,
}

/// Receives the batches of one subscriber.
pub type Batches = mpsc::UnboundedReceiver<Arc<EventBatch>>;

#[derive(Debug)]
struct Subscriber {
    is_active: AtomicBool,
    queued_bytes: AtomicUsize,
    sender: mpsc::UnboundedSender<Arc<EventBatch>>,
    receiver: Mutex<Option<Batches>>,
}

#[derive(Debug)]
pub struct EventFeed {
    revision: AtomicU64,
    subscribers: Vec<Subscriber>,
}

impl EventFeed {
    pub fn new(revision: u64, subscribers: usize) -> EventFeed {
        let subscriber = |_| {
            let (sender, receiver) = mpsc::unbounded_channel();
            Subscriber {
                is_active: AtomicBool::new(false),
                queued_bytes: AtomicUsize::new(0),
                sender,
                receiver: Mutex::new(Some(receiver)),
            }
        };
        EventFeed {
            revision: AtomicU64::new(revision.max(FIRST_REVISION)),
            subscribers: (0..subscribers).map(subscriber).collect(),
        }
    }

    /// Of the latest view.
    pub fn revision(&self) -> i64 {
        self.revision.load(Ordering::SeqCst) as i64
    }

    /// The queue of a subscriber. None after the first call.
    pub fn subscribe(&self, number: usize) -> Option<Batches> {
        let subscriber = self.subscribers.get(number)?;
        subscriber.receiver.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Says whether a subscriber wants batches. After `true`, the revision that is read next is the one from which on
    /// it is sent all.
    pub fn set_active(&self, number: usize, is_active: bool) {
        if let Some(subscriber) = self.subscribers.get(number) {
            subscriber.is_active.store(is_active, Ordering::SeqCst);
        }
    }

    /// A subscriber has taken a batch out of its queue.
    pub fn taken(&self, number: usize, batch: &EventBatch) {
        if let Some(subscriber) = self.subscribers.get(number) {
            subscriber.queued_bytes.fetch_sub(batch.bytes, Ordering::Relaxed);
        }
    }

    fn is_watched(&self) -> bool {
        self.subscribers.iter().any(|subscriber| subscriber.is_active.load(Ordering::SeqCst))
    }

    /// The events of outcomes whose writes are in `overlay`; to be published once their view is. None: nobody asks.
    pub(super) fn collect(
        &self,
        overlay: &Overlay,
        keys: Option<TableId>,
        outcomes: &[Outcome],
    ) -> Option<Vec<Arc<WatchEvent>>> {
        if !self.is_watched() {
            return None;
        }
        // Without such a table, it is the storage that can say why.
        let keys = keys?;
        let mut events = Vec::new();
        let rows = outcomes.iter().flat_map(|outcome| &outcome.events);
        for row in rows.filter(|row| row.table == keys) {
            let mut event = None;
            let found = overlay.get(row.table, &row.key, &mut |value| {
                event = WatchEvent::from_row(&row.key, Bytes::copy_from_slice(value));
            });
            // What is not as it should be is left to the storage, which can say why.
            found.ok()?;
            events.push(Arc::new(event?));
        }
        Some(events)
    }

    /// Tells of a batch; its view is the latest.
    pub fn publish(&self, revision: u64, events: Option<Vec<Arc<WatchEvent>>>) {
        let revision = revision.max(FIRST_REVISION);
        let before = self.revision.swap(revision, Ordering::SeqCst);
        if before == revision || !self.is_watched() {
            return;
        }
        let bytes = events.iter().flatten().map(|event| event.bytes()).sum();
        let (before, revision) = (before as i64, revision as i64);
        let batch = Arc::new(EventBatch { before, revision, events, bytes });
        for subscriber in &self.subscribers {
            if !subscriber.is_active.load(Ordering::SeqCst) {
                continue;
            }
            let queued = subscriber.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
            let sent = match queued + bytes > limits::WATCH_FEED_BYTES && queued > 0 {
                false => batch.clone(),
                true => {
                    subscriber.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
                    Arc::new(EventBatch { before, revision, events: None, bytes: 0 })
                }
            };
            // A runtime that has ended has no watchers left.
            drop(subscriber.sender.send(sent));
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::mvccpb::{Event, event::EventType};

    use super::*;
    use crate::runtime::RowRef;
    use crate::storage::{State, TableKind, TableSpec, files};

    const KEY: TableId = 1;
    const LEASE: TableId = 2;

    #[test]
    fn events_are_encoded_as_prost_would() {
        let mut row_key = [0; 18];
        row_key[7] = 9;
        row_key[8] = b'_';
        row_key[17] = b't';
        let kv = KeyValue {
            key: "k".into(),
            create_revision: 9,
            mod_revision: 9,
            version: 1,
            value: vec![7; 200].into(),
            lease: 3,
        };
        let put = WatchEvent::from_row(&row_key[..17], kv.encode_to_vec().into()).unwrap();
        assert_eq!((put.revision, put.is_create, put.is_delete), (9, true, false));
        let event = Event { kv: Some(kv), ..Default::default() };
        assert_eq!(put.encoded, event.encode_to_vec());

        let kv = KeyValue { key: "k".into(), ..Default::default() };
        let delete = WatchEvent::from_row(&row_key, kv.encode_to_vec().into()).unwrap();
        assert_eq!((delete.revision, delete.is_create, delete.is_delete), (9, false, true));
        let kv = KeyValue { mod_revision: 9, ..kv };
        let event = Event { r#type: EventType::Delete.into(), kv: Some(kv), prev_kv: None };
        assert_eq!(delete.encoded, event.encode_to_vec());
        assert!(WatchEvent::from_row(b"short", Bytes::new()).is_none());
    }

    #[test]
    fn who_does_not_watch_is_sent_nothing_and_can_tell() {
        let feed = EventFeed::new(0, 2);
        let (mut first, mut second) = (feed.subscribe(0).unwrap(), feed.subscribe(1).unwrap());
        assert!(feed.subscribe(0).is_none());
        feed.publish(2, None);
        feed.set_active(1, true);
        assert_eq!(feed.revision(), 2);
        feed.publish(2, Some(Vec::new()));
        feed.publish(4, Some(Vec::new()));
        assert!(first.try_recv().is_err());
        let batch = second.try_recv().unwrap();
        assert_eq!((batch.before, batch.revision, batch.events.is_some()), (2, 4, true));
        assert!(second.try_recv().is_err());
    }

    /// A lease that runs out takes its keys with it, at a revision each, and is an event of another table.
    #[test]
    fn an_entry_has_the_events_of_its_keys_alone() {
        let spec = |id, name: &str| TableSpec { id, name: name.into(), kind: TableKind::Durable };
        let tables = [spec(KEY, KEYS), spec(LEASE, "lease")];
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path(), &files(), &tables).unwrap();
        let view = state.view();
        let keys = view.table_named(KEYS);
        assert_eq!(keys, Some(KEY));

        let mut overlay = Overlay::new(view);
        let mut events = Vec::new();
        // What reads like an event is none if it is a lease.
        for (table, revision, key) in [(LEASE, 7, "lease"), (KEY, 8, "a"), (KEY, 9, "b")] {
            let mut row_key = i64::to_be_bytes(revision).to_vec();
            row_key.extend_from_slice(b"_00000000");
            let row = KeyValue { key: key.into(), mod_revision: revision, ..Default::default() };
            overlay.put(table, &row_key, &row.encode_to_vec()).unwrap();
            events.push(RowRef { table, key: row_key.into() });
        }
        // A lease that is gone has no row.
        events.push(RowRef { table: LEASE, key: Bytes::from_static(b"\0\0\0\0\0\0\0\x05") });
        let response = Ok(Bytes::new());
        let outcomes = [Outcome {
            response,
            revision: 9,
            events,
            task_pending: false,
            is_fault: false,
            digest: 0,
        }];

        let feed = EventFeed::new(7, 1);
        assert!(feed.collect(&overlay, keys, &outcomes).is_none());
        feed.set_active(0, true);
        let events = feed.collect(&overlay, keys, &outcomes).unwrap();
        let told: Vec<_> = events.iter().map(|event| (event.revision, &event.key[..])).collect();
        assert_eq!(told, [(8, &b"a"[..]), (9, b"b")]);

        let mut batches = feed.subscribe(0).unwrap();
        feed.publish(9, Some(events));
        let batch = batches.try_recv().unwrap();
        assert_eq!((batch.before, batch.revision), (7, 9));
        assert_eq!(batch.events.as_ref().map(Vec::len), Some(2));
    }
}
