//! Which watchers a key concerns.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;

use super::intervals::{End, Intervals};
use super::watcher::WatcherKey;

/// Watchers by what they watch. Single keys, which most watch, are found by a look into a map, ranges by a search.
#[derive(Debug, Default)]
pub struct Interest {
    keys: HashMap<Bytes, BTreeSet<WatcherKey>>,
    ranges: Intervals<WatcherKey>,
}

impl Interest {
    /// `end` is none for a single key.
    pub fn insert(&mut self, key: &Bytes, end: Option<&End>, watcher: WatcherKey) {
        match end {
            Some(end) => self.ranges.insert(key, end, watcher),
            None => {
                self.keys.entry(key.clone()).or_default().insert(watcher);
            }
        }
    }

    pub fn remove(&mut self, key: &Bytes, end: Option<&End>, watcher: WatcherKey) {
        match end {
            Some(end) => {
                self.ranges.remove(key, end, watcher);
            }
            None => {
                if let Some(watchers) = self.keys.get_mut(key) {
                    watchers.remove(&watcher);
                    if watchers.is_empty() {
                        self.keys.remove(key);
                    }
                }
            }
        }
    }

    pub fn visit(&self, key: &[u8], visit: &mut impl FnMut(WatcherKey)) {
        if let Some(watchers) = self.keys.get(key) {
            watchers.iter().copied().for_each(&mut *visit);
        }
        self.ranges.containing(key, visit);
    }
}
