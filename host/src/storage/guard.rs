//! The wall around redb.
//!
//! redb is tested against damaged files, but what it takes for granted about them it asserts, when it opens them and
//! when it first reads a page. Behind this wall an assertion is an error, and the operator gets one sentence.
//!
//! One thing cannot be caught: where redb's own clean-up fails as well, the language ends the process. The sentence is
//! said before that.

use std::cell::Cell;
use std::ops::Deref;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use redb::Database;

use super::StorageError;

/// Does something with a file. What redb panics over is a damaged file.
pub(super) fn guarded<T>(
    file: &str,
    work: impl FnOnce() -> Result<T, StorageError>,
) -> Result<T, StorageError> {
    without_report(work)
        .unwrap_or_else(|_| Err(StorageError::corrupt(file, "its content contradicts itself")))
}

thread_local! {
    /// Whether a panic of this thread is expected, and becomes an error.
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
    /// Whether an expected panic is on its way to becoming one.
    static UNWINDING: Cell<bool> = const { Cell::new(false) };
}

/// What a process ends with that a second panic would abort.
const EXIT_CODE: i32 = 1;

/// Runs `work`, and catches its panic without the usual report: the operator gets one sentence instead.
pub(super) fn without_report<T>(work: impl FnOnce() -> T) -> std::thread::Result<T> {
    static QUIET_WHERE_EXPECTED: Once = Once::new();
    QUIET_WHERE_EXPECTED.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !EXPECTED.get() {
                report(info);
            } else if UNWINDING.replace(true) {
                eprintln!(
                    "error: a database file is damaged: its content contradicts itself; move the data directory away \
                     and restore this member from its peers"
                );
                std::process::exit(EXIT_CODE);
            }
        }));
    });
    let outer = EXPECTED.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    EXPECTED.set(outer);
    UNWINDING.set(false);
    result
}

/// A database that can be closed whatever state it is in.
pub(super) struct Guarded(Option<Database>);

impl Guarded {
    pub(super) fn new(database: Database) -> Self {
        Self(Some(database))
    }
}

impl Deref for Guarded {
    type Target = Database;

    fn deref(&self) -> &Database {
        // It is taken out by `drop` alone.
        self.0.as_ref().unwrap_or_else(|| unreachable!("a database that was closed"))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let database = self.0.take();
        if without_report(|| drop(database)).is_err() {
            tracing::warn!("a damaged database could not be closed in order");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_sentence() {
        let damaged = guarded("state.redb", || -> Result<(), _> { panic!("a page is no page") });
        let sentence = "state.redb is damaged or not Instar's: its content contradicts itself";
        assert_eq!(damaged.map_err(|error| error.to_string()), Err(sentence.to_owned()));
        // A guard within a guard leaves the outer one in force.
        let nested = guarded("outer", || {
            let inner = guarded("inner", || -> Result<(), _> { panic!("quietly") });
            assert!(inner.is_err() && EXPECTED.get());
            Ok(())
        });
        assert_eq!(nested, Ok(()));
        assert!(!EXPECTED.get());
    }
}
