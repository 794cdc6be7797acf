//! The component: the contract's exports over the host's tables. Nothing here decides anything.

#![allow(unsafe_code, reason = "the generated export glue")]

use crate::tables::{Answer, Table, Tables, Visit};

pub mod bindings {
    #![allow(clippy::all, missing_debug_implementations, reason = "generated code")]
    wit_bindgen::generate!({
        path: "../wit",
        world: "machine",
        pub_export_macro: true,
        runtime_path: "guest_kv::component::runtime",
        default_bindings_module: "guest_kv::component::bindings",
    });
}

/// What the generated glue calls, under the path that it looks for.
pub mod runtime {
    pub use wit_bindgen::rt::*;
}

use bindings as wit;
use bindings::instar::machine::{answer, log, tables};

/// The host's tables. There is one state behind all calls, so there is nothing to hold.
struct HostTables;

impl Tables for HostTables {
    fn get<R>(&self, table: Table, key: &[u8], read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        tables::get(table, key).map(|value| read(&value))
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        limit: u32,
        visit: &mut Visit<'_>,
    ) -> Option<Vec<u8>> {
        let page = tables::scan(table, start, end, limit.max(1), false);
        let mut last: &[u8] = &[];
        for (key, value) in (Rows { rest: &page.rows }) {
            last = key;
            if visit(key, value).is_break() {
                return None;
            }
        }
        page.more.then(|| [last, &[0]].concat())
    }

    fn last<R>(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        read: impl FnOnce(&[u8], &[u8]) -> R,
    ) -> Option<R> {
        let page = tables::scan(table, start, end, 1, true);
        let row = Rows { rest: &page.rows }.next();
        row.map(|(key, value)| read(key, value))
    }

    fn count(&self, table: Table, start: &[u8], end: &[u8]) -> u64 {
        tables::count(table, start, end)
    }

    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) {
        tables::put(table, key, value);
    }

    fn delete(&mut self, table: Table, key: &[u8]) {
        tables::delete(table, key);
    }
}

/// The rows of a page.
struct Rows<'a> {
    rest: &'a [u8],
}

impl<'a> Rows<'a> {
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.rest.split_first_chunk()?;
        let (bytes, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        self.rest = rest;
        Some(bytes)
    }
}

impl<'a> Iterator for Rows<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        Some((self.bytes()?, self.bytes()?))
    }
}

/// The host's answer.
struct HostAnswer;

impl Answer for HostAnswer {
    fn append(&mut self, bytes: &[u8]) {
        answer::append(bytes);
    }

    fn append_rows(&mut self, table: Table, keys: &[u8], key_length: u32, field: u32) {
        answer::append_rows(table, keys, key_length, field);
    }

    fn length(&self) -> u64 {
        answer::length()
    }
}

/// The contract's exports.
#[derive(Debug)]
pub struct Machine;

/// Makes a panic's message reach the operators: the trap itself does not carry it.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        log::write(log::Level::Error, &panic.to_string());
    }));
}

impl wit::Guest for Machine {
    fn describe() -> wit::Description {
        let description = crate::describe();
        let tables = description.tables.iter().map(|table| wit::TableDescription {
            table: table.table,
            name: table.name.to_owned(),
            kind: match table.kind {
                crate::tables::TableKind::Durable => wit::TableKind::Durable,
                crate::tables::TableKind::Derived => wit::TableKind::Derived,
            },
        });
        wit::Description {
            name: description.name.to_owned(),
            version: description.version.to_owned(),
            schema_version: description.schema_version,
            tables: tables.collect(),
        }
    }

    fn admit(
        request: Vec<u8>,
        limits: wit::RequestLimits,
    ) -> Result<wit::Admission, wit::Rejection> {
        report_panics();
        let limits = crate::RequestLimits { operations: limits.operations };
        let admission = crate::admit(&request, limits).map_err(rejection)?;
        Ok(wit::Admission {
            route: match admission.route {
                crate::Route::Write => wit::Route::Write,
                crate::Route::Read => wit::Route::Read,
                crate::Route::LocalRead => wit::Route::LocalRead,
            },
            heavy: admission.heavy,
        })
    }

    fn apply(entry: wit::Entry) -> wit::Outcome {
        report_panics();
        let wit::Entry { index, time_ms, command } = entry;
        let entry = crate::Entry { index, time_ms, command: &command };
        let outcome = crate::apply(&mut HostTables, entry);
        let event = |row: crate::Row| wit::Row { table: row.table, key: row.key };
        wit::Outcome {
            response: outcome.response.map_err(rejection),
            revision: outcome.revision,
            events: outcome.events.into_iter().map(event).collect(),
            task_pending: outcome.task_pending,
        }
    }

    fn query(request: Vec<u8>) -> Result<wit::Answered, wit::Rejection> {
        report_panics();
        let answered = crate::query(&HostTables, &mut HostAnswer, &request).map_err(rejection)?;
        Ok(wit::Answered { revision: answered.revision, next: answered.next })
    }

    fn next_task() -> Option<Vec<u8>> {
        report_panics();
        crate::next_task(&HostTables)
    }

    fn rebuild(cursor: Vec<u8>) -> wit::Progress {
        report_panics();
        progress(crate::rebuild(&mut HostTables, &cursor))
    }

    fn migrate(from_schema: u32, _cursor: Vec<u8>) -> Result<wit::Progress, String> {
        report_panics();
        crate::migrate(&mut HostTables, from_schema).map(progress)
    }

    fn check(cursor: Vec<u8>) -> Result<wit::Progress, String> {
        report_panics();
        crate::check(&HostTables, &cursor).map(progress)
    }
}

fn rejection(rejection: crate::Rejection) -> wit::Rejection {
    wit::Rejection { code: rejection.code, message: rejection.message }
}

fn progress(progress: crate::Progress) -> wit::Progress {
    match progress {
        crate::Progress::More(cursor) => wit::Progress::More(cursor),
        crate::Progress::Done => wit::Progress::Done,
    }
}

#[cfg(feature = "component")]
mod export {
    #![allow(clippy::all, reason = "generated code")]
    use super::{Machine, bindings};
    bindings::export!(Machine with_types_in bindings);
}
