//! The KV machine linked natively, behind the same interface as a component: to measure what the sandbox costs.
//!
//! Never for serving: a panic of the machine ends the process, nothing bounds what it computes, and whatever component
//! is loaded, it is the linked machine that runs. Writes, outcomes and digests are those of the component.

use std::{
    cell::RefCell,
    ops::ControlFlow,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use guest_kv::tables::Table;
use sha2::{Digest, Sha256};

use super::{
    Admission, Answer, Applied, ApplyError, Commit, Cost, Description, Entry, Journal,
    LocalFailure, Migrated, Module, Outcome, QueryError, Rehearsal, Rejection, Route, RuntimeError,
    Spent, UpkeepError, fuel::Budgets, imports::put_varint, outcome,
};
use crate::storage::{Overlay, StorageError, TableId, TableKind, TableSpec, Tables, View};

/// As [`super::machine::Runtime`].
pub struct Runtime;

impl Runtime {
    pub fn new(_cache_dir: Option<PathBuf>) -> Result<Self, RuntimeError> {
        Ok(Runtime)
    }

    pub fn with_budgets(
        cache_dir: Option<PathBuf>,
        _budgets: Budgets,
    ) -> Result<Self, RuntimeError> {
        Self::new(cache_dir)
    }

    /// Modules are what the sandbox is for.
    pub fn load_module(
        &self,
        _component: &[u8],
        _journal: &Arc<Journal>,
    ) -> Result<Module, RuntimeError> {
        let reason = "this server was built to run the machine natively, and runs no modules";
        Err(RuntimeError::Invalid(reason.to_owned()))
    }

    pub fn load(&self, component: &[u8]) -> Result<Machine, RuntimeError> {
        let own = guest_kv::describe();
        let tables = own.tables.iter().map(|table| TableSpec {
            id: table.table,
            name: table.name.to_owned(),
            kind: match table.kind {
                guest_kv::tables::TableKind::Durable => TableKind::Durable,
                guest_kv::tables::TableKind::Derived => TableKind::Derived,
            },
        });
        let description = Description {
            name: own.name.to_owned(),
            version: own.version.to_owned(),
            schema_version: own.schema_version,
            tables: tables.collect(),
        };
        let digest = Sha256::digest(component).into();
        Ok(Machine { description: Arc::new(description), digest })
    }
}

/// As [`super::machine::Machine`].
#[derive(Clone)]
pub struct Machine {
    description: Arc<Description>,
    digest: [u8; 32],
}

impl Machine {
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    pub fn description(&self) -> &Description {
        &self.description
    }

    /// What the linked machine writes is its own affair.
    pub fn with_locked(&self, _tables: Vec<TableId>) -> Self {
        self.clone()
    }

    pub fn reader(&self) -> Reader {
        Reader(())
    }

    /// There are no instances here.
    pub fn make_spare(&self) {}

    pub fn apply(
        &self,
        overlay: Overlay,
        revision: u64,
        entries: &[Entry],
    ) -> Result<Applied, ApplyError> {
        self.apply_while(overlay, revision, entries, || true)
    }

    pub fn apply_while(
        &self,
        mut overlay: Overlay,
        mut revision: u64,
        entries: &[Entry],
        go_on: impl Fn() -> bool,
    ) -> Result<Applied, ApplyError> {
        let started = Instant::now();
        let mut outcomes = Vec::with_capacity(entries.len());
        for entry in entries.iter().take_while(|_| go_on()) {
            let outcome = self
                .apply_entry(&mut overlay, revision, entry)
                .map_err(|failure| ApplyError { index: entry.index, failure })?;
            revision = outcome.revision;
            outcomes.push(outcome);
        }
        let cost = Cost { fuel: 0, time: started.elapsed() };
        Ok(Applied { overlay, outcomes, spent: Spent::default(), cost })
    }

    fn apply_entry(
        &self,
        overlay: &mut Overlay,
        before: u64,
        entry: &Entry,
    ) -> Result<Outcome, LocalFailure> {
        let mut rows = Rows::new(Source::Overlay(overlay));
        let Entry { index, time_ms, command } = entry;
        let entry = guest_kv::Entry { index: *index, time_ms: *time_ms, command };
        let returned = guest_kv::apply(&mut rows, entry);
        rows.finish()?;
        let claim = outcome::Claim {
            response: returned.response.map_err(Rejection::from),
            revision: returned.revision,
            events: returned.events.into_iter().map(|row| (row.table, row.key)).collect(),
            task_pending: returned.task_pending,
        };
        let kind = |table| self.description.kind(table);
        Ok(outcome::accept(claim, overlay, before, kind).unwrap_or_else(|fault| {
            overlay.discard_entry();
            outcome::failed(&fault, overlay, before)
        }))
    }

    pub fn rebuild(&self, mut view: Arc<View>, commit: &mut Commit<'_>) -> Result<(), UpkeepError> {
        let mut cursor = Vec::new();
        loop {
            let mut overlay = Overlay::new(view);
            let mut rows = Rows::new(Source::Overlay(&mut overlay));
            let progress = guest_kv::rebuild(&mut rows, &cursor);
            rows.finish()?;
            overlay.finish_entry();
            view = commit(overlay).map_err(LocalFailure::Storage)?;
            match progress {
                guest_kv::Progress::Done => return Ok(()),
                guest_kv::Progress::More(next) => cursor = next,
            }
        }
    }

    pub fn migrate(
        &self,
        from_schema: u32,
        mut view: Arc<View>,
        commit: &mut Commit<'_>,
    ) -> Result<(), UpkeepError> {
        loop {
            let (mut overlay, migrated) = self.migrate_step(from_schema, &[], &view)?;
            overlay.finish_entry();
            view = commit(overlay).map_err(LocalFailure::Storage)?;
            if migrated.map_err(UpkeepError::Refused)? == Migrated::Done {
                return Ok(());
            }
        }
    }

    /// Of the linked machine nothing is to be found out.
    pub fn rehearse(
        &self,
        _from_schema: u32,
        _view: Arc<View>,
        _patience: Duration,
    ) -> Result<Rehearsal, UpkeepError> {
        Ok(Rehearsal { is_whole: true, ..Rehearsal::default() })
    }

    pub fn migrate_step(
        &self,
        from_schema: u32,
        _cursor: &[u8],
        view: &Arc<View>,
    ) -> Result<(Overlay, Result<Migrated, String>), LocalFailure> {
        let mut overlay = Overlay::new(view.clone());
        let mut rows = Rows::new(Source::Overlay(&mut overlay));
        let migrated = guest_kv::migrate(&mut rows, from_schema).map(|progress| match progress {
            guest_kv::Progress::Done => Migrated::Done,
            guest_kv::Progress::More(next) => Migrated::More(next.into()),
        });
        rows.finish()?;
        Ok((overlay, migrated))
    }

    pub fn check(&self, view: &Arc<View>) -> Result<(), UpkeepError> {
        let mut cursor = Vec::new();
        loop {
            let rows = Rows::new(Source::View(view));
            let progress = guest_kv::check(&rows, &cursor);
            rows.finish()?;
            match progress.map_err(UpkeepError::Refused)? {
                guest_kv::Progress::Done => return Ok(()),
                guest_kv::Progress::More(next) => cursor = next,
            }
        }
    }
}

/// As [`super::reader::Reader`].
pub struct Reader(());

impl Reader {
    pub fn admit(&mut self, request: &[u8], max_txn_ops: u32) -> Result<Admission, QueryError> {
        let limits = guest_kv::RequestLimits { operations: max_txn_ops };
        let admission = guest_kv::admit(request, limits).map_err(rejected)?;
        let route = match admission.route {
            guest_kv::Route::Write => Route::Write,
            guest_kv::Route::Read => Route::Read,
            guest_kv::Route::LocalRead => Route::LocalRead,
        };
        Ok(Admission { route, heavy: admission.heavy })
    }

    pub fn query(&mut self, view: &Arc<View>, request: &[u8]) -> Result<Answer, QueryError> {
        let rows = Rows::new(Source::View(view));
        let mut body = Body { rows: &rows, bytes: Vec::new() };
        let answered = guest_kv::query(&rows, &mut body, request);
        let body = Bytes::from(body.bytes);
        rows.finish()?;
        let guest_kv::Answered { revision, next } = answered.map_err(rejected)?;
        Ok(Answer { revision, body, next: next.map(Bytes::from) })
    }

    pub fn query_within(
        &mut self,
        view: &Arc<View>,
        request: &[u8],
        _fuel: u64,
    ) -> Result<(Answer, u64), QueryError> {
        Ok((self.query(view, request)?, 0))
    }

    pub fn next_task(&mut self, view: &Arc<View>) -> Result<Option<Bytes>, QueryError> {
        let rows = Rows::new(Source::View(view));
        let task = guest_kv::next_task(&rows);
        rows.finish()?;
        Ok(task.map(Bytes::from))
    }
}

fn rejected(rejection: guest_kv::Rejection) -> QueryError {
    QueryError::Rejected(rejection.into())
}

impl From<guest_kv::Rejection> for Rejection {
    fn from(rejection: guest_kv::Rejection) -> Self {
        Rejection { code: rejection.code, message: rejection.message }
    }
}

enum Source<'a> {
    View(&'a View),
    Overlay(&'a mut Overlay),
}

/// The machine's tables. It knows no errors: the first one is kept here, and what the call gives is of no use then.
struct Rows<'a> {
    source: Source<'a>,
    error: RefCell<Option<StorageError>>,
}

impl<'a> Rows<'a> {
    fn new(source: Source<'a>) -> Self {
        Rows { source, error: RefCell::new(None) }
    }

    fn finish(self) -> Result<(), LocalFailure> {
        self.error.into_inner().map_or(Ok(()), |error| Err(LocalFailure::Storage(error)))
    }

    fn tables(&self) -> &dyn Tables {
        match &self.source {
            Source::View(view) => *view,
            Source::Overlay(overlay) => *overlay,
        }
    }

    fn keep<T: Default>(&self, result: Result<T, StorageError>) -> T {
        result.unwrap_or_else(|error| {
            self.error.borrow_mut().get_or_insert(error);
            T::default()
        })
    }
}

impl guest_kv::tables::Tables for Rows<'_> {
    fn get<R>(&self, table: Table, key: &[u8], read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let (mut read, mut result) = (Some(read), None);
        let found = self.tables().get(table, key, &mut |value| {
            result = read.take().map(|read| read(value));
        });
        self.keep(found);
        result
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        limit: u32,
        visit: &mut guest_kv::tables::Visit<'_>,
    ) -> Option<Vec<u8>> {
        let (mut rows, mut next) = (0, None);
        let scanned = self.tables().scan(table, start, end, false, &mut |key, value| {
            if rows == limit.max(1) {
                next = Some(key.to_vec());
                return ControlFlow::Break(());
            }
            rows += 1;
            visit(key, value)
        });
        self.keep(scanned);
        next
    }

    fn last<R>(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        read: impl FnOnce(&[u8], &[u8]) -> R,
    ) -> Option<R> {
        let (mut read, mut result) = (Some(read), None);
        let scanned = self.tables().scan(table, start, end, true, &mut |key, value| {
            result = read.take().map(|read| read(key, value));
            ControlFlow::Break(())
        });
        self.keep(scanned);
        result
    }

    fn count(&self, table: Table, start: &[u8], end: &[u8]) -> u64 {
        self.keep(self.tables().count(table, start, end))
    }

    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) {
        if let Source::Overlay(overlay) = &mut self.source {
            let written = overlay.put(table, key, value);
            self.keep(written);
        }
    }

    fn delete(&mut self, table: Table, key: &[u8]) {
        if let Source::Overlay(overlay) = &mut self.source {
            let deleted = overlay.delete(table, key);
            self.keep(deleted);
        }
    }
}

/// The body of an answer.
struct Body<'a> {
    rows: &'a Rows<'a>,
    bytes: Vec<u8>,
}

impl guest_kv::tables::Answer for Body<'_> {
    fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn append_rows(&mut self, table: Table, keys: &[u8], key_length: u32, field: u32) {
        let tables = self.rows.tables();
        let found = tables.get_many(table, keys, key_length as usize, &mut |value| {
            put_varint(&mut self.bytes, u64::from(field) << 3 | 2);
            put_varint(&mut self.bytes, value.len() as u64);
            self.bytes.extend_from_slice(value);
        });
        self.rows.keep(found);
    }

    fn length(&self) -> u64 {
        self.bytes.len() as u64
    }
}
