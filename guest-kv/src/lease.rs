//! Leases, as far as they are state: which there are, how long they were granted for, and which keys hang on them
//! (server/lease/lessor.go). How much of their time is left is the leader's to know: nothing here sees a clock.
//!
//! - `lease` holds what etcd's bucket holds: id (8 bytes big-endian) -> leasepb.Lease.
//! - `lease_grant` holds, under the same key, the index (8 bytes big-endian) of the entry that granted the lease. It
//!   tells a lease from an earlier one of the same id; a lease without a row was granted elsewhere, and counts as 0.
//! - `attached` (derived) has a row for each live key with a lease: id, then the user key, and no value.
//!
//! A key's lease is also in its entry of the index, so that a put or deletion that has nothing to do with leases
//! reads and writes nothing here.

use std::ops::ControlFlow;

use crate::lease_request::{LeaseExpiry, LeaseGrant, LeaseTimeToLive};
use crate::rejection::Rejection;
use crate::row::corrupt;
use crate::state::State;
use crate::tables::{ATTACHED, LEASE, LEASE_GRANT, Tables, scan_all};
use crate::wire::{self, Content, Fields};
use crate::write::Writer;
use crate::{Applied, Row};

/// Keys that are collected before they are deleted or answered, and leases that are listed at once.
const PAGE_ROWS: u32 = 1000;
/// Keys after which an expiry leaves the rest of its leases to the next: some milliseconds of work.
const EXPIRY_KEYS: u64 = 1000;

/// Of LeaseGrantResponse, LeaseTimeToLiveResponse and LeaseStatus.
const ID_FIELD: u32 = 2;
const GRANT_TTL_FIELD: u32 = 3;
const GRANTED_TTL_FIELD: u32 = 4;
const KEYS_FIELD: u32 = 5;
const LEASES_FIELD: u32 = 2;
const STATUS_ID_FIELD: u32 = 1;
const HANDLED_FIELD: u32 = 1;

/// leasepb.Lease.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Lease {
    id: i64,
    /// As granted, in seconds.
    ttl: i64,
    /// At the last checkpoint, in seconds; 0 if there was none since the lease was granted or renewed.
    remaining_ttl: i64,
}

impl Lease {
    fn parse(row: &[u8]) -> Option<Self> {
        let mut lease = Lease::default();
        let mut fields = Fields::new(row);
        while let Some((number, content)) = fields.next().ok()? {
            match (number, content) {
                (1, Content::Varint(id)) => lease.id = id as i64,
                (2, Content::Varint(ttl)) => lease.ttl = ttl as i64,
                (3, Content::Varint(ttl)) => lease.remaining_ttl = ttl as i64,
                _ => return None,
            }
        }
        Some(lease)
    }

    fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(33);
        wire::put_int64(&mut row, 1, self.id);
        wire::put_int64(&mut row, 2, self.ttl);
        wire::put_int64(&mut row, 3, self.remaining_ttl);
        row
    }

    fn read<T: Tables>(tables: &T, id: i64) -> Option<Self> {
        tables.get(LEASE, &row_key(id), |row| {
            Lease::parse(row).unwrap_or_else(|| corrupt("a row of the lease table is no Lease"))
        })
    }
}

fn row_key(id: i64) -> [u8; 8] {
    id.to_be_bytes()
}

pub fn exists<T: Tables>(tables: &T, id: i64) -> bool {
    tables.get(LEASE, &row_key(id), |_| ()).is_some()
}

/// Grants a lease, or refuses it in etcd's order.
pub fn grant<T: Tables>(
    tables: &mut T,
    state: State,
    index: u64,
    grant: &LeaseGrant,
) -> Result<Applied, Rejection> {
    // Whoever lets clients choose no id draws one before.
    if grant.id == 0 {
        return Err(Rejection::lease_not_found());
    }
    if exists(tables, grant.id) {
        return Err(Rejection::lease_exists());
    }
    let lease = Lease { id: grant.id, ttl: grant.ttl, remaining_ttl: 0 };
    let key = row_key(lease.id);
    tables.put(LEASE, &key, &lease.encode());
    tables.put(LEASE_GRANT, &key, &index.to_be_bytes());
    let mut body = Vec::new();
    wire::put_int64(&mut body, ID_FIELD, lease.id);
    wire::put_int64(&mut body, GRANT_TTL_FIELD, lease.ttl);
    Ok(Applied { body, state, events: vec![Row { table: LEASE, key: key.to_vec() }] })
}

/// Revokes a lease: it and its keys are gone, all in one revision.
pub fn revoke<T: Tables>(tables: &mut T, state: State, id: i64) -> Result<Applied, Rejection> {
    if !exists(tables, id) {
        return Err(Rejection::lease_not_found());
    }
    let mut writer = Writer::new(tables, state);
    remove(&mut writer, id);
    Ok(Applied::new(Vec::new(), writer))
}

/// Revokes leases whose time is over, each in a revision of its own, until they had too many keys for one entry.
pub fn expire<T: Tables>(tables: &mut T, mut state: State, expiry: &LeaseExpiry) -> Applied {
    let mut events = Vec::new();
    let (mut handled, mut keys) = (0, 0);
    for (id, granted_index) in &expiry.leases {
        if keys >= EXPIRY_KEYS {
            break;
        }
        handled += 1;
        if !exists(tables, *id) || grant_index(tables, *id) != *granted_index {
            continue;
        }
        let mut writer = Writer::new(tables, state);
        keys += remove(&mut writer, *id);
        let (after, told) = writer.finish();
        state = after;
        events.extend(told);
    }
    let mut body = Vec::new();
    wire::put_int64(&mut body, HANDLED_FIELD, handled);
    Applied { body, state, events }
}

/// Notes how much is left of leases. One that is not there is passed over.
pub fn checkpoint<T: Tables>(tables: &mut T, state: State, checkpoints: &[(i64, i64)]) -> Applied {
    let mut events = Vec::new();
    for (id, remaining_ttl) in checkpoints {
        let Some(lease) = Lease::read(tables, *id) else { continue };
        let key = row_key(*id);
        tables.put(LEASE, &key, &Lease { remaining_ttl: *remaining_ttl, ..lease }.encode());
        events.push(Row { table: LEASE, key: key.to_vec() });
    }
    Applied { body: Vec::new(), state, events }
}

/// What is known here of a lease: the body of a LeaseTimeToLiveResponse without the time that is left.
pub fn time_to_live<T: Tables>(tables: &T, ask: &LeaseTimeToLive) -> Result<Vec<u8>, Rejection> {
    let lease = Lease::read(tables, ask.id).ok_or_else(Rejection::lease_not_found)?;
    let mut body = Vec::new();
    wire::put_int64(&mut body, ID_FIELD, lease.id);
    wire::put_int64(&mut body, GRANTED_TTL_FIELD, lease.ttl);
    if ask.keys {
        let (start, end) = span(lease.id);
        let _ = scan_all(tables, ATTACHED, &start, &end, PAGE_ROWS, &mut |row, _| {
            wire::put_message(&mut body, KEYS_FIELD, &row[8..]);
            ControlFlow::Continue(())
        });
    }
    Ok(body)
}

/// The body of a LeaseLeasesResponse, in the order of ids.
pub fn list<T: Tables>(tables: &T) -> Vec<u8> {
    let mut body = Vec::new();
    let _ = scan_all(tables, LEASE, &[], &[], PAGE_ROWS, &mut |key, _| {
        let mut status = Vec::new();
        let id = key.try_into().map(i64::from_be_bytes);
        wire::put_int64(&mut status, STATUS_ID_FIELD, id.unwrap_or_default());
        wire::put_message(&mut body, LEASES_FIELD, &status);
        ControlFlow::Continue(())
    });
    body
}

/// Notes that a key hangs on another lease than before; 0 is none.
pub fn reattach<T: Tables>(tables: &mut T, key: &[u8], before: i64, after: i64) {
    if before == after {
        return;
    }
    if before != 0 {
        tables.delete(ATTACHED, &attachment(before, key));
    }
    if after != 0 {
        tables.put(ATTACHED, &attachment(after, key), &[]);
    }
}

pub fn is_attached<T: Tables>(tables: &T, id: i64, key: &[u8]) -> bool {
    tables.get(ATTACHED, &attachment(id, key), |_| ()).is_some()
}

/// A row key of `attached`: the lease and the user key; none if it is no such key.
pub fn parse_attachment(row_key: &[u8]) -> Option<(i64, &[u8])> {
    let (id, key) = row_key.split_first_chunk()?;
    (!key.is_empty()).then_some((i64::from_be_bytes(*id), key))
}

/// Whether a row of `lease` is what etcd would have written.
pub fn check_row(key: &[u8], row: &[u8]) -> Result<(), String> {
    match Lease::parse(row) {
        Some(lease) if lease.id != 0 && row_key(lease.id) == key && lease.encode() == row => Ok(()),
        _ => Err(format!("the lease table has the malformed row {key:?}")),
    }
}

/// Whether a row of `lease` can be read, and stands under its id.
pub fn is_row(key: &[u8], row: &[u8]) -> bool {
    Lease::parse(row).is_some_and(|lease| lease.id != 0 && row_key(lease.id) == key)
}

/// Removes a lease with its keys, in their order. Returns how many keys it had.
fn remove<T: Tables>(writer: &mut Writer<'_, T>, id: i64) -> u64 {
    let mut removed = 0;
    let (start, end) = span(id);
    loop {
        let mut keys = Vec::new();
        writer.tables().scan(ATTACHED, &start, &end, PAGE_ROWS, &mut |row, _| {
            keys.push(row[8..].to_vec());
            ControlFlow::Continue(())
        });
        if keys.is_empty() {
            break;
        }
        for key in &keys {
            writer.delete_key(key);
        }
        removed += keys.len() as u64;
    }
    let key = row_key(id);
    writer.tables_mut().delete(LEASE, &key);
    writer.tables_mut().delete(LEASE_GRANT, &key);
    writer.note_lease(&key);
    removed
}

fn grant_index<T: Tables>(tables: &T, id: i64) -> u64 {
    let index = tables.get(LEASE_GRANT, &row_key(id), |row| row.try_into().map(u64::from_be_bytes));
    match index {
        None => 0,
        Some(Ok(index)) => index,
        Some(Err(_)) => corrupt("a row of the lease_grant table has another length"),
    }
}

fn attachment(id: i64, key: &[u8]) -> Vec<u8> {
    [&row_key(id), key].concat()
}

/// The rows of `attached` of one lease: the first, and what is behind the last.
fn span(id: i64) -> (Vec<u8>, Vec<u8>) {
    let end = (id as u64).checked_add(1).map(u64::to_be_bytes);
    (row_key(id).to_vec(), end.map_or_else(Vec::new, |end| end.to_vec()))
}
