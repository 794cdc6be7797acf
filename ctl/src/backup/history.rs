//! The rows of the bucket `key`, one after the other: each by itself, and what one says of another.
//!
//! A key may hang on a lease that is gone, as long as a later row of it says otherwise: a revoked lease takes its keys
//! along with it. So keys are kept from the row that names such a lease to the row that ends it.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use prost::Message;
use proto::mvccpb::KeyValue;

use super::error::Fault;
use super::revision::Revision;

/// What is known of the history so far.
pub struct History<'a> {
    /// The numbers of the leases that there are, ascending.
    leases: &'a [u64],
    last: Option<Revision>,
    /// Keys, by their hashes, whose last row names a lease that is not there; and that row.
    loose: HashMap<u64, Loose>,
    hashing: RandomState,
}

/// A row that names a lease that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loose {
    pub main: i64,
    pub sub: i64,
    pub lease: i64,
    pub page: u64,
}

impl<'a> History<'a> {
    pub fn new(leases: &'a [u64]) -> Self {
        Self { leases, last: None, loose: HashMap::new(), hashing: RandomState::new() }
    }

    /// Checks the next row, which stands on `page`.
    pub fn check(&mut self, key: &[u8], value: &[u8], page: u64) -> Result<(), Fault> {
        let at = Revision::decode(key).ok_or(Fault::Unreadable("its key is no revision"))?;
        if let Some(last) = self.last.replace(at)
            && (last.main, last.sub) == (at.main, at.sub)
        {
            let other = if last.is_tombstone { "deletion" } else { "put" };
            return Err(Fault::RevisionTwice { other });
        }
        // A restored backup whose revision was raised has such a row, in etcd as well.
        if value.is_empty() && !at.is_tombstone {
            return Ok(());
        }
        let pair =
            KeyValue::decode(value).map_err(|_| Fault::Unreadable("its value is no key-value"))?;
        check_numbers(at, &pair)?;
        let hash = self.hashing.hash_one(&pair.key);
        let is_there = |lease: i64| self.leases.binary_search(&lease.cast_unsigned()).is_ok();
        if pair.lease != 0 && !is_there(pair.lease) {
            let Revision { main, sub, .. } = at;
            self.loose.insert(hash, Loose { main, sub, lease: pair.lease, page });
        } else if !self.loose.is_empty() {
            self.loose.remove(&hash);
        }
        Ok(())
    }

    /// After the last row: the first live key on a lease that is not there.
    pub fn finish(self) -> Option<Loose> {
        self.loose.into_values().min_by_key(|loose| (loose.main, loose.sub))
    }
}

fn check_numbers(at: Revision, pair: &KeyValue) -> Result<(), Fault> {
    let KeyValue { create_revision, mod_revision, version, .. } = *pair;
    if pair.key.is_empty() {
        return Err(Fault::NoKey);
    }
    if at.is_tombstone {
        let numbers = (create_revision, mod_revision, version, pair.lease);
        return match numbers == (0, 0, 0, 0) && pair.value.is_empty() {
            true => Ok(()),
            false => Err(Fault::Tombstone),
        };
    }
    if mod_revision != at.main {
        return Err(Fault::ModRevision { mod_revision });
    }
    if !(1..=mod_revision).contains(&create_revision) {
        return Err(Fault::CreateRevision { create_revision, mod_revision });
    }
    // Each version is a revision later: a transaction does not write a key twice.
    let most = mod_revision - create_revision + 1;
    match (1..=most).contains(&version) {
        true => Ok(()),
        false => Err(Fault::Version { version, most }),
    }
}
