//! A host in memory, for tests of modules: the same rules as the real one's, on maps.
//!
//! It holds one thread's tests at a time: the functions of `kv` and `store` go to the host that is running a call on
//! their thread.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::error::Rejection;
use crate::kv::KeyValue;
use crate::module::{Event, Module, Moment, Operation};

/// As in the real host's limits: keys, and rows, that one call may write; and what one read gives.
const WRITES: usize = 1_000;
const WRITE_BYTES: usize = 4 << 20;
const READ_ROWS: usize = 1_000;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;
type Changes<V> = BTreeMap<Vec<u8>, Option<V>>;

/// A cluster of one, as a module sees it.
#[derive(Debug, Clone)]
pub struct Host {
    grants: Vec<Vec<u8>>,
    keys: BTreeMap<Vec<u8>, KeyValue>,
    rows: Rows,
    index: u64,
    revision: u64,
    time_ms: u64,
    log: Vec<String>,
}

/// What a running call sees and has written.
struct Running {
    host: Host,
    may_write: bool,
    keys: Changes<(Vec<u8>, i64)>,
    rows: Changes<Vec<u8>>,
    bytes: usize,
}

thread_local! {
    static RUNNING: RefCell<Option<Running>> = const { RefCell::new(None) };
}

impl Host {
    /// A host that grants a module these prefixes.
    pub fn granting<const N: usize>(prefixes: [&str; N]) -> Self {
        Host {
            grants: prefixes.iter().map(|prefix| prefix.as_bytes().to_vec()).collect(),
            keys: BTreeMap::new(),
            rows: Rows::new(),
            index: 0,
            revision: 1,
            time_ms: 1_000_000,
            log: Vec::new(),
        }
    }

    /// Lets replicated time pass.
    pub fn pass_ms(&mut self, time_ms: u64) {
        self.time_ms += time_ms;
    }

    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn value(&self, key: &str) -> Option<&[u8]> {
        self.keys.get(key.as_bytes()).map(|kv| kv.value.as_slice())
    }

    /// All keys with their values, in order.
    pub fn contents(&self) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.keys.values().map(|kv| (text(&kv.key), text(&kv.value))).collect()
    }

    /// What the module has logged.
    pub fn log(&self) -> &[String] {
        &self.log
    }

    /// A client calls a procedure. Afterwards everything is as before if it is refused.
    ///
    /// # Errors
    ///
    /// The module's refusal.
    pub fn call<M: Module>(
        &mut self,
        procedure: &str,
        argument: &str,
    ) -> Result<Vec<u8>, Rejection> {
        let moment = self.next();
        let (answer, ran) = self.run(true, || M::call(procedure, argument.as_bytes(), moment));
        if answer.is_ok() {
            self.write(ran.keys, ran.rows);
        }
        answer
    }

    /// A client puts a key, past the module's `admit` and `react`.
    ///
    /// # Errors
    ///
    /// The module's refusal.
    pub fn put<M: Module>(&mut self, key: &str, value: &str) -> Result<(), Rejection> {
        let (key, value) = (key.as_bytes().to_vec(), value.as_bytes().to_vec());
        self.request::<M>(vec![Operation::Put { key, value, lease: 0 }])
    }

    /// A client deletes a key.
    ///
    /// # Errors
    ///
    /// As [`Self::put`].
    pub fn delete<M: Module>(&mut self, key: &str) -> Result<(), Rejection> {
        self.request::<M>(vec![Operation::Delete { key: key.as_bytes().to_vec(), range_end: None }])
    }

    /// A client's transaction: all of these in one revision.
    ///
    /// # Errors
    ///
    /// As [`Self::put`].
    pub fn request<M: Module>(&mut self, operations: Vec<Operation>) -> Result<(), Rejection> {
        let moment = self.next();
        let mut shown = operations.clone();
        shown.retain(|operation| self.is_granted(operation));
        if M::SERVES.admit && !shown.is_empty() {
            self.run(false, || M::admit(&shown, moment)).0?;
        }
        let changes = self.changes(operations);
        let mut events = self.events(&changes, moment.revision + 1);
        events.retain(|event| self.covers(&event.key));
        let mut all = changes;
        let mut rows = Changes::new();
        if M::SERVES.react && !events.is_empty() {
            let ((), ran) = self.run(true, || M::react(&events, moment));
            for (key, change) in ran.keys {
                assert!(!all.contains_key(&key), "it wrote a key that the entry itself writes");
                all.insert(key, change);
            }
            rows = ran.rows;
        }
        self.write(all, rows);
        Ok(())
    }

    fn next(&mut self) -> Moment {
        self.index += 1;
        Moment { index: self.index, time_ms: self.time_ms, revision: self.revision }
    }

    fn covers(&self, key: &[u8]) -> bool {
        self.grants.iter().any(|prefix| key.starts_with(prefix))
    }

    fn is_granted(&self, operation: &Operation) -> bool {
        match operation {
            Operation::Put { key, .. } | Operation::Delete { key, range_end: None } => {
                self.covers(key)
            }
            Operation::Delete { key, range_end: Some(end) } => self.grants.iter().any(|prefix| {
                let is_behind = key > prefix && !key.starts_with(prefix);
                !is_behind && (end.is_empty() || (end > prefix && end > key))
            }),
        }
    }

    fn changes(&self, operations: Vec<Operation>) -> Changes<(Vec<u8>, i64)> {
        let mut changes = Changes::new();
        for operation in operations {
            match operation {
                Operation::Put { key, value, lease } => {
                    changes.insert(key, Some((value, lease)));
                }
                Operation::Delete { key, range_end } => {
                    let is_meant = |other: &&Vec<u8>| match &range_end {
                        None => **other == key,
                        Some(end) => **other >= key && (end.is_empty() || *other < end),
                    };
                    let keys = self.keys.keys().filter(is_meant);
                    changes.extend(keys.map(|key| (key.clone(), None)));
                }
            }
        }
        changes
    }

    fn events(&self, changes: &Changes<(Vec<u8>, i64)>, revision: u64) -> Vec<Event> {
        let event = |(key, change): (&Vec<u8>, &Option<(Vec<u8>, i64)>)| {
            let previous = self.keys.get(key).cloned();
            let current = change.as_ref().map(|(value, lease)| KeyValue {
                key: key.clone(),
                value: value.clone(),
                create_revision: previous.as_ref().map_or(revision, |kv| kv.create_revision),
                mod_revision: revision,
                version: previous.as_ref().map_or(1, |kv| kv.version + 1),
                lease: *lease,
            });
            Event { key: key.clone(), current, previous }
        };
        changes.iter().map(event).collect()
    }

    fn run<R>(&mut self, may_write: bool, call: impl FnOnce() -> R) -> (R, Running) {
        let running = Running {
            host: self.clone(),
            may_write,
            keys: Changes::new(),
            rows: Changes::new(),
            bytes: 0,
        };
        RUNNING.with_borrow_mut(|slot| *slot = Some(running));
        let answer = call();
        let ran = RUNNING.with_borrow_mut(Option::take).expect("nobody else takes it");
        self.log = ran.host.log.clone();
        (answer, ran)
    }

    fn write(&mut self, keys: Changes<(Vec<u8>, i64)>, rows: Changes<Vec<u8>>) {
        let changes: Changes<_> = keys
            .into_iter()
            .filter(|(key, change)| change.is_some() || self.keys.contains_key(key))
            .collect();
        if !changes.is_empty() {
            self.revision += 1;
        }
        for event in self.events(&changes, self.revision) {
            match event.current {
                Some(kv) => self.keys.insert(event.key, kv),
                None => self.keys.remove(&event.key),
            };
        }
        for (key, row) in rows {
            match row {
                Some(row) => self.rows.insert(key, row),
                None => self.rows.remove(&key),
            };
        }
    }
}

/// Where the functions of `kv`, `store` and `log` lead.
pub(crate) mod current {
    use super::{READ_ROWS, RUNNING, Running, WRITE_BYTES, WRITES};
    use crate::kv::{KeyValue, Refusal, behind};
    use crate::log::Level;
    use crate::store;

    fn running<R>(call: impl FnOnce(&mut Running) -> R) -> R {
        RUNNING.with_borrow_mut(|running| {
            call(running.as_mut().expect("a module runs in a host: see `testing::Host`"))
        })
    }

    pub fn get(key: &[u8]) -> Result<Option<KeyValue>, Refusal> {
        running(|it| {
            it.check(key)?;
            Ok(match it.keys.get(key) {
                Some(change) => change.clone().map(|(value, lease)| own(key, value, lease)),
                None => it.host.keys.get(key).cloned(),
            })
        })
    }

    pub fn range(start: &[u8], end: &[u8], limit: u32) -> Result<Vec<KeyValue>, Refusal> {
        running(|it| {
            let inside = |prefix: &Vec<u8>| {
                let behind = behind(prefix);
                start.starts_with(prefix)
                    && (behind.is_empty() || (!end.is_empty() && end <= &*behind))
            };
            if !it.host.grants.iter().any(inside) {
                return Err(Refusal::NotGranted);
            }
            let mut keys = it.host.keys.clone();
            for (key, change) in &it.keys {
                match change {
                    Some((value, lease)) => {
                        keys.insert(key.clone(), own(key, value.clone(), *lease))
                    }
                    None => keys.remove(key),
                };
            }
            let is_asked = |kv: &KeyValue| &*kv.key >= start && (end.is_empty() || &*kv.key < end);
            let found = keys.into_values().filter(is_asked);
            Ok(found.take(READ_ROWS.min(limit as usize)).collect())
        })
    }

    pub fn put(key: &[u8], value: &[u8], lease: i64) -> Result<(), Refusal> {
        write(key, Some((value.to_vec(), lease)))
    }

    pub fn delete(key: &[u8]) -> Result<(), Refusal> {
        write(key, None)
    }

    fn write(key: &[u8], change: Option<(Vec<u8>, i64)>) -> Result<(), Refusal> {
        running(|it| {
            it.check(key)?;
            if !it.may_write {
                return Err(Refusal::ReadOnly);
            }
            let bytes = key.len() + change.as_ref().map_or(0, |(value, _)| value.len());
            let keys = it.keys.len() + usize::from(!it.keys.contains_key(key));
            if !it.has_room(keys, bytes) {
                return Err(Refusal::TooMuch);
            }
            it.keys.insert(key.to_vec(), change);
            Ok(())
        })
    }

    pub fn stored(key: &[u8]) -> Option<Vec<u8>> {
        running(|it| match it.rows.get(key) {
            Some(change) => change.clone(),
            None => it.host.rows.get(key).cloned(),
        })
    }

    pub fn stored_rows(start: &[u8], end: &[u8], limit: u32) -> Vec<(Vec<u8>, Vec<u8>)> {
        running(|it| {
            let mut rows = it.host.rows.clone();
            for (key, change) in &it.rows {
                match change {
                    Some(row) => rows.insert(key.clone(), row.clone()),
                    None => rows.remove(key),
                };
            }
            let is_asked =
                |(key, _): &(Vec<u8>, Vec<u8>)| &**key >= start && (end.is_empty() || &**key < end);
            rows.into_iter().filter(is_asked).take(READ_ROWS.min(limit as usize)).collect()
        })
    }

    pub fn store(key: &[u8], value: Option<&[u8]>) -> Result<(), store::Refusal> {
        running(|it| {
            if !it.may_write {
                return Err(store::Refusal::ReadOnly);
            }
            let rows = it.rows.len() + usize::from(!it.rows.contains_key(key));
            if !it.has_room(rows, key.len() + value.map_or(0, <[u8]>::len)) {
                return Err(store::Refusal::TooMuch);
            }
            it.rows.insert(key.to_vec(), value.map(<[u8]>::to_vec));
            Ok(())
        })
    }

    pub fn log(level: Level, message: &str) {
        running(|it| it.host.log.push(format!("{level:?}: {message}")));
    }

    fn own(key: &[u8], value: Vec<u8>, lease: i64) -> KeyValue {
        KeyValue { key: key.to_vec(), value, lease, ..KeyValue::default() }
    }

    impl Running {
        fn check(&self, key: &[u8]) -> Result<(), Refusal> {
            match (key.is_empty(), self.host.covers(key)) {
                (true, _) => Err(Refusal::NoKey),
                (false, true) => Ok(()),
                (false, false) => Err(Refusal::NotGranted),
            }
        }

        fn has_room(&mut self, count: usize, bytes: usize) -> bool {
            let fits = count <= WRITES && self.bytes + bytes <= WRITE_BYTES;
            if fits {
                self.bytes += bytes;
            }
            fits
        }
    }
}
