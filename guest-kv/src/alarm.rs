//! Alarms (server/etcdserver/api/v3alarm), and what is refused while one is raised (server/etcdserver/apply: capped.go,
//! corrupt.go).
//!
//! The `alarm` table is etcd's bucket: a row's key is a marshalled AlarmMember, its value is empty. The state row has
//! which kinds are raised, so that no other request looks here.

use std::ops::ControlFlow;

use crate::rejection::Rejection;
use crate::request::{ALARM_CORRUPT, ALARM_NO_SPACE, ALARM_NONE, Alarm, AlarmAction, Request};
use crate::row::corrupt;
use crate::state::State;
use crate::tables::{ALARM, Tables, scan_all};
use crate::wire::{self, Content, Fields};

/// Rows fetched at once: a member has a handful of them at most.
const PAGE_ROWS: u32 = 100;

const MEMBER_ID_FIELD: u32 = 1;
const KIND_FIELD: u32 = 2;
/// `alarms` of an AlarmResponse.
const ALARMS_FIELD: u32 = 2;

/// Which kinds are raised, by any member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Raised {
    pub no_space: bool,
    pub corrupt: bool,
}

impl Raised {
    const NO_SPACE: u8 = 1;
    const CORRUPT: u8 = 2;

    /// What the `alarm` table stands for.
    pub fn derive<T: Tables>(tables: &T) -> Raised {
        let mut raised = Raised::default();
        visit(tables, &mut |_, kind| match kind {
            ALARM_NO_SPACE => raised.no_space = true,
            ALARM_CORRUPT => raised.corrupt = true,
            _ => {}
        });
        raised
    }

    pub fn to_byte(self) -> u8 {
        (u8::from(self.no_space) * Self::NO_SPACE) | (u8::from(self.corrupt) * Self::CORRUPT)
    }

    pub fn from_byte(byte: u8) -> Raised {
        Raised { no_space: byte & Self::NO_SPACE != 0, corrupt: byte & Self::CORRUPT != 0 }
    }
}

/// Refuses what must not be applied under the alarms that are raised. Reads are none of its business, and neither are a
/// compaction's steps, which only finish what was begun before.
pub fn check(state: &State, request: &Request<'_>) -> Result<(), Rejection> {
    let writes = match request {
        Request::Put(_) | Request::LeaseGrant(_) => Writes { at_all: true, adds: true },
        Request::Txn(txns) => Writes { at_all: true, adds: txns.has_put() },
        // A lease that is over is revoked, whoever asks for it: its time waits for the alarm to be disarmed.
        Request::DeleteRange(_)
        | Request::Compaction(_)
        | Request::LeaseRevoke(_)
        | Request::LeaseExpiry(_) => Writes { at_all: true, adds: false },
        _ => Writes { at_all: false, adds: false },
    };
    match state.raised {
        Raised { corrupt: true, .. } if writes.at_all => Err(Rejection::corrupt_cluster()),
        Raised { no_space: true, .. } if writes.adds => Err(Rejection::no_space()),
        _ => Ok(()),
    }
}

/// What a request does to the store.
struct Writes {
    at_all: bool,
    /// Whether the store may become larger.
    adds: bool,
}

/// Executes an AlarmRequest. Returns the body of its response and the state after it.
///
/// As in etcd, a raised alarm is answered as if it had been raised now, and one that is not raised is not disarmed.
pub fn execute<T: Tables>(
    tables: &mut T,
    state: State,
    alarm: &Alarm,
) -> Result<(Vec<u8>, State), Rejection> {
    let row = row(alarm);
    let is_raised = |tables: &T| !row.is_empty() && tables.get(ALARM, &row, |_| ()).is_some();
    let mut body = Vec::new();
    match alarm.action {
        AlarmAction::Get => return Ok((list(tables, alarm.kind), state)),
        AlarmAction::Activate if alarm.kind == ALARM_NONE => {}
        AlarmAction::Activate => {
            tables.put(ALARM, &row, &[]);
            wire::put_message(&mut body, ALARMS_FIELD, &row);
        }
        AlarmAction::Deactivate if is_raised(tables) => {
            tables.delete(ALARM, &row);
            wire::put_message(&mut body, ALARMS_FIELD, &row);
        }
        AlarmAction::Deactivate => {}
        AlarmAction::Unknown => return Err(Rejection::unknown_alarm_action()),
    }
    let state = State { raised: Raised::derive(tables), ..state };
    state.write(tables);
    Ok((body, state))
}

/// The body of an AlarmResponse with the alarms of a kind, or with all.
pub fn list<T: Tables>(tables: &T, kind: i32) -> Vec<u8> {
    let mut body = Vec::new();
    visit(tables, &mut |row, of_kind| {
        if kind == ALARM_NONE || kind == of_kind {
            wire::put_message(&mut body, ALARMS_FIELD, row);
        }
    });
    body
}

/// An AlarmMember: a key of the table.
fn row(alarm: &Alarm) -> Vec<u8> {
    let mut row = Vec::new();
    wire::put_int64(&mut row, MEMBER_ID_FIELD, alarm.member_id);
    wire::put_int64(&mut row, KIND_FIELD, i64::from(alarm.kind));
    row
}

/// Whether a key of the table is an AlarmMember.
pub fn is_row(key: &[u8]) -> bool {
    let mut fields = Fields::new(key);
    loop {
        match fields.next() {
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// Shows each row's key and kind.
fn visit<T: Tables>(tables: &T, look: &mut dyn FnMut(&[u8], i32)) {
    let _ = scan_all(tables, ALARM, &[], &[], PAGE_ROWS, &mut |row, _| {
        let mut kind = ALARM_NONE;
        let mut fields = Fields::new(row);
        loop {
            match fields.next() {
                Ok(Some((KIND_FIELD, Content::Varint(number)))) => kind = number as i32,
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => corrupt("a key of the alarm table is no AlarmMember"),
            }
        }
        look(row, kind);
        ControlFlow::Continue(())
    });
}
