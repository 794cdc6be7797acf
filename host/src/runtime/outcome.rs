//! Checks what a machine returns for an entry against what the entry did, and digests it.

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::{Fault, Outcome, Rejection, RowRef};
use crate::{
    limits::{ENTRY_EVENTS, REJECTION_MESSAGE_BYTES, RESPONSE_BYTES},
    storage::{Overlay, TableId, TableKind},
};

/// gRPC's `INTERNAL`.
const INTERNAL: u32 = 13;
/// gRPC's codes besides `OK`.
const CODES: std::ops::RangeInclusive<u32> = 1..=16;

/// What a machine returned for an entry, before anyone has looked at it.
pub(super) struct Claim {
    pub response: Result<Vec<u8>, Rejection>,
    pub revision: u64,
    pub events: Vec<(TableId, Vec<u8>)>,
    pub task_pending: bool,
}

/// Checks a claim and finishes the entry in the overlay. On a fault the entry's writes are still there to be discarded.
///
/// `before` is the state's revision before the entry; `kind` says what a declared table is.
pub(super) fn accept(
    claim: Claim,
    overlay: &mut Overlay,
    before: u64,
    kind: impl Fn(TableId) -> Result<TableKind, Fault>,
) -> Result<Outcome, Fault> {
    if claim.revision < before {
        return Err(Fault::new("it set the revision back"));
    }
    match &claim.response {
        Ok(body) if body.len() > RESPONSE_BYTES => {
            return Err(Fault::new(format!("its response is longer than {RESPONSE_BYTES} bytes")));
        }
        Ok(_) => {}
        Err(rejection) => {
            check_rejection(rejection)?;
            if !overlay.entry_is_empty() || !claim.events.is_empty() {
                return Err(Fault::new("it rejected an entry and wrote all the same"));
            }
        }
    }
    if claim.events.len() > ENTRY_EVENTS {
        return Err(Fault::new(format!("it named more than {ENTRY_EVENTS} events")));
    }
    for (table, key) in &claim.events {
        if kind(*table)? != TableKind::Durable || !overlay.wrote(*table, key) {
            return Err(Fault::new("it named an event for a row that it did not write"));
        }
    }
    let events = claim.events.into_iter();
    let outcome = Outcome {
        response: claim.response.map(Bytes::from),
        revision: claim.revision,
        events: events.map(|(table, key)| RowRef { table, key: key.into() }).collect(),
        task_pending: claim.task_pending,
        digest: 0,
        is_fault: false,
    };
    Ok(finish(outcome, overlay))
}

/// The answer to an entry that the machine failed on: nothing written, nothing told, the revision as it was. The
/// entry's writes must have been discarded.
pub(super) fn failed(fault: &Fault, overlay: &mut Overlay, before: u64) -> Outcome {
    let message = format!("instar: the state machine failed on this request: {fault}");
    let outcome = Outcome {
        response: Err(Rejection { code: INTERNAL, message }),
        revision: before,
        events: Vec::new(),
        task_pending: false,
        digest: 0,
        is_fault: true,
    };
    finish(outcome, overlay)
}

impl Outcome {
    /// Of an entry that is the host's own, and wrote into the overlay what it had to.
    pub fn of_host(
        response: Result<Bytes, Rejection>,
        overlay: &mut Overlay,
        revision: u64,
    ) -> Self {
        let outcome = Outcome {
            response,
            revision,
            events: Vec::new(),
            task_pending: false,
            digest: 0,
            is_fault: false,
        };
        finish(outcome, overlay)
    }
}

/// Checks the form of a refusal.
pub(super) fn check_rejection(rejection: &Rejection) -> Result<(), Fault> {
    if !CODES.contains(&rejection.code) {
        return Err(Fault::new(format!("it rejected with {}, no gRPC code", rejection.code)));
    }
    if rejection.message.len() > REJECTION_MESSAGE_BYTES {
        return Err(Fault::new(format!(
            "its rejection's message is longer than {REJECTION_MESSAGE_BYTES} bytes"
        )));
    }
    Ok(())
}

fn finish(mut outcome: Outcome, overlay: &mut Overlay) -> Outcome {
    let writes = overlay.finish_entry();
    let mut hasher = Xxh3::new();
    hasher.update(&writes.to_le_bytes());
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    match &outcome.response {
        Ok(body) => {
            field(&[]);
            field(body);
        }
        Err(rejection) => {
            field(&rejection.code.to_le_bytes());
            field(rejection.message.as_bytes());
        }
    }
    field(&outcome.revision.to_le_bytes());
    for event in &outcome.events {
        field(&event.table.to_le_bytes());
        field(&event.key);
    }
    outcome.digest = hasher.digest128();
    outcome
}
