//! The built-in state machine: etcd's MVCC store, as a plain library and, compiled to Wasm, as a component.
//!
//! The functions here are the exports of the contract (`wit/machine.wit`), over any tables that implement
//! `tables::Tables`. A component is these functions with the host's tables behind them (`component`); tests and a
//! native host bring their own.
//!
//! ```text
//! command -> request -> admission -> alarm -> { write, txn, compaction, lease } -> index + rows -> outcome
//! query   -> request -> admission -> { range, stream, txn, hash, lease } -> answer
//! ```
//!
//! Invariants:
//! - The `key` table holds, byte for byte, what etcd's `key` bucket would hold after the same history.
//! - Nothing outlives a call: all state is in the tables, and what is derived is a function of what is durable.
//! - What is refused has written nothing: every check comes before the first write.
//! - No input panics. A panic means that the tables hold what the machine never wrote.
//! - Nothing here depends on time, randomness, addresses or the order of a hash map.

mod admission;
mod alarm;
mod also;
mod backup;
mod check;
mod compaction;
mod counters;
mod hash;
mod index;
mod lease;
mod lease_request;
mod listing;
mod range;
mod rebuild;
mod rejection;
mod request;
mod revision;
mod row;
mod state;
mod stream;
pub mod tables;
mod txn;
mod watch;
mod wire;
mod write;

#[cfg(target_arch = "wasm32")]
extern crate self as guest_kv;
#[cfg(target_arch = "wasm32")]
pub mod component;
#[cfg(any(test, feature = "model"))]
pub mod memory;
#[cfg(feature = "model")]
pub mod model;

use also::Also;

pub use admission::{Admission, Route};
pub use backup::check_row;
pub use check::check;
pub use rebuild::rebuild;
pub use rejection::Rejection;
use request::{AlarmAction, DeleteRange, Put, Request};
use state::State;
use tables::{Answer, DESCRIPTIONS, Table, TableDescription, Tables};
use write::{Writer, check_put};

/// Of the durable rows: 2 has counts of keys by directory.
pub const SCHEMA_VERSION: u32 = if counters::ENABLED { 2 } else { 1 };
const VERSION: &str = if counters::ENABLED { "1.1.0" } else { "1.0.0" };

/// What the machine says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Description {
    pub name: &'static str,
    pub version: &'static str,
    pub schema_version: u32,
    pub tables: &'static [TableDescription],
}

/// One committed command.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    pub index: u64,
    pub time_ms: u64,
    /// An encoded `instar.kv.Request`.
    pub command: &'a [u8],
}

/// Names a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub table: Table,
    pub key: Vec<u8>,
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The body of etcd's response message, without the header.
    pub response: Result<Vec<u8>, Rejection>,
    /// The store's revision after the command.
    pub revision: u64,
    /// The rows of the `key` table that the command wrote, in order, and those of `lease` that it wrote or removed.
    pub events: Vec<Row>,
    /// Whether a compaction has rows to remove.
    pub task_pending: bool,
}

/// What comes with the body of a query's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// The revision for the answer's header.
    pub revision: u64,
    /// The request for the next message of a stream; none after the last.
    pub next: Option<Vec<u8>>,
}

/// Where a long piece of work stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    More(Vec<u8>),
    Done,
}

/// The operator's limits on one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// The most operations in one list of a transaction.
    pub operations: u32,
}

/// The machine's name, version and tables.
pub fn describe() -> Description {
    Description {
        name: "kv",
        version: VERSION,
        schema_version: SCHEMA_VERSION,
        tables: DESCRIPTIONS,
    }
}

/// Says how a request is to be served, or refuses what needs no state to be refused.
pub fn admit(request: &[u8], limits: RequestLimits) -> Result<Admission, Rejection> {
    let request = Request::parse(request).map_err(|_| Rejection::malformed())?;
    admission::check(&request, limits.operations)?;
    Ok(admission::admission(&request))
}

/// Applies one committed command.
pub fn apply<T: Tables>(tables: &mut T, entry: Entry<'_>) -> Outcome {
    let state = State::read(tables);
    let (response, state, events) = match run(tables, state, entry) {
        Ok(applied) => (Ok(applied.body), applied.state, applied.events),
        Err(rejection) => (Err(rejection), state, Vec::new()),
    };
    Outcome {
        response,
        revision: state.header_revision(),
        events,
        task_pending: state.compaction_pending,
    }
}

/// Answers a request that does not write: the body is appended to `answer`.
///
/// - A CompactionStep is answered with an `instar.kv.CompactionProgress`, whichever compaction it names.
/// - For the messages of a RangeStream see `stream`.
pub fn query<T: Tables>(
    tables: &T,
    answer: &mut impl Answer,
    request: &[u8],
) -> Result<Answered, Rejection> {
    let request = Request::parse(request).map_err(|_| Rejection::malformed())?;
    admission::check(&request, u32::MAX)?;
    let view = State::read(tables);
    let mut answered = Answered { revision: view.header_revision(), next: None };
    match &request {
        Request::Range(range) => {
            range::range(tables, answer, &view, range, range::Purpose::Response)?.append_to(answer);
        }
        Request::RangeStream(step) => {
            let (revision, next) = stream::step(tables, answer, &view, step)?;
            answered = Answered { revision: revision as u64, next };
        }
        Request::Txn(txns) if txn::is_read_only(txns) => {
            answer.append(&txn::read(tables, &view, txns)?);
        }
        Request::CompactionStep(_) => answer.append(&compaction::progress(tables)),
        Request::HashKv(revision) => answer.append(&hash::hash_kv(tables, &view, *revision)?),
        Request::Hash => answer.append(&hash::hash(tables)),
        Request::LeaseTimeToLive(ask) => answer.append(&lease::time_to_live(tables, ask)?),
        Request::LeaseLeases => answer.append(&lease::list(tables)),
        Request::Alarm(alarm) if alarm.action == AlarmAction::Get => {
            answer.append(&alarm::list(tables, alarm.kind));
        }
        Request::WatchStep(step) => watch::page(tables, answer, &view, step),
        Request::Put(_)
        | Request::DeleteRange(_)
        | Request::Txn(_)
        | Request::Compaction(_)
        | Request::LeaseGrant(_)
        | Request::LeaseRevoke(_)
        | Request::LeaseCheckpoint(_)
        | Request::LeaseExpiry(_)
        | Request::Alarm(_)
        | Request::Unknown => return Err(Rejection::not_a_query()),
    }
    Ok(answered)
}

/// The command that the leader is to propose next, if a compaction is under way.
pub fn next_task<T: Tables>(tables: &T) -> Option<Vec<u8>> {
    compaction::next_task(State::read(tables))
}

/// One step of turning rows of an older schema into today's. Where it stands is in the tables.
pub fn migrate<T: Tables>(tables: &mut T, from_schema: u32) -> Result<Progress, String> {
    match from_schema {
        known if known == SCHEMA_VERSION => Ok(Progress::Done),
        1 => Ok(counters::migrate(tables)),
        _ => Err(format!(
            "the rows have schema {from_schema}, and this machine knows none above {SCHEMA_VERSION}"
        )),
    }
}

/// What a command that was not refused has done.
struct Applied {
    body: Vec<u8>,
    state: State,
    events: Vec<Row>,
}

fn run<T: Tables>(tables: &mut T, state: State, entry: Entry<'_>) -> Result<Applied, Rejection> {
    let request = Request::parse(entry.command).map_err(|_| Rejection::malformed())?;
    // The operator's limit is none of the machine's: members may differ in it.
    admission::check(&request, u32::MAX)?;
    alarm::check(&state, &request)?;
    let also = Also::parse(entry.command).map_err(|_| Rejection::malformed())?;
    also.check(tables)?;
    match &request {
        Request::Put(put) => apply_put(tables, state, put, &also),
        Request::DeleteRange(delete) => Ok(apply_delete_range(tables, state, delete, &also)),
        Request::Txn(txns) => {
            let mut writer = Writer::new(tables, state);
            let body = txn::execute(&mut writer, txns)?;
            also.write(&mut writer);
            Ok(Applied::new(body, writer))
        }
        Request::Compaction(revision) => {
            let state = compaction::begin(tables, state, *revision)?;
            Ok(Applied { body: Vec::new(), state, events: Vec::new() })
        }
        Request::CompactionStep(step) => {
            let state = compaction::step(tables, state, step);
            Ok(Applied { body: compaction::progress(tables), state, events: Vec::new() })
        }
        Request::LeaseGrant(grant) => lease::grant(tables, state, entry.index, grant),
        Request::LeaseRevoke(id) => {
            let revoked = lease::revoke(tables, state, *id)?;
            Ok(also.follow(tables, state, revoked))
        }
        Request::LeaseCheckpoint(checkpoints) => Ok(lease::checkpoint(tables, state, checkpoints)),
        Request::LeaseExpiry(expiry) => {
            let expired = lease::expire(tables, state, expiry);
            Ok(also.follow(tables, state, expired))
        }
        Request::Alarm(alarm) => {
            let (body, state) = alarm::execute(tables, state, alarm)?;
            Ok(Applied { body, state, events: Vec::new() })
        }
        Request::Range(_)
        | Request::RangeStream(_)
        | Request::HashKv(_)
        | Request::Hash
        | Request::WatchStep(_)
        | Request::LeaseTimeToLive(_)
        | Request::LeaseLeases
        | Request::Unknown => Err(Rejection::not_a_command()),
    }
}

fn apply_put<T: Tables>(
    tables: &mut T,
    state: State,
    put: &Put<'_>,
    also: &Also<'_>,
) -> Result<Applied, Rejection> {
    if put.lease != 0 || put.ignore_value || put.ignore_lease {
        check_put(tables, put)?;
    }
    let mut writer = Writer::new(tables, state);
    let mut body = Vec::new();
    writer.put(put, &mut body);
    also.write(&mut writer);
    Ok(Applied::new(body, writer))
}

fn apply_delete_range<T: Tables>(
    tables: &mut T,
    state: State,
    delete: &DeleteRange<'_>,
    also: &Also<'_>,
) -> Applied {
    let mut writer = Writer::new(tables, state);
    let mut body = Vec::new();
    writer.delete_range(delete, &mut body);
    also.write(&mut writer);
    Applied::new(body, writer)
}

impl Applied {
    fn new<T: Tables>(body: Vec<u8>, writer: Writer<'_, T>) -> Self {
        let (state, events) = writer.finish();
        Applied { body, state, events }
    }
}
