//! What modules have done on this member since it started: what it cost, and the lines that they logged last.
//!
//! - It is this member's own, and no part of the state: another member, or this one after a restart, knows something else.
//! - Whoever runs a module waits for no reader. A reader that is slower than a module loses the oldest lines, and is told
//!   how many.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::limits::MODULE_LOG_LINES;
use crate::metrics::metrics;

/// What of a module was run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Export {
    Call,
    Admit,
    React,
}

impl Export {
    /// Its name in the contract.
    pub fn name(self) -> &'static str {
        match self {
            Export::Call => "call",
            Export::Admit => "admit",
            Export::React => "react",
        }
    }
}

/// What the runs of one export have come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    pub runs: u64,
    /// Those of them that the module failed in.
    pub failures: u64,
    pub fuel: u64,
    pub time: Duration,
}

/// A line that a module logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub level: &'static str,
    pub text: String,
    /// The entry that it was logged in.
    pub index: u64,
}

/// Lines that follow one another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub lines: Vec<Line>,
    /// Where to read on.
    pub next: u64,
    /// How many before these were given up.
    pub dropped: u64,
}

/// One run.
pub(super) struct Run {
    pub export: Export,
    pub index: u64,
    pub failed: bool,
    pub fuel: u64,
    pub time: Duration,
    pub lines: Vec<(&'static str, String)>,
}

#[derive(Default)]
struct Record {
    works: BTreeMap<Export, Work>,
    lines: VecDeque<Line>,
    /// The number of the first line that is kept.
    first: u64,
}

/// What is known of all modules, by name. As many as there are slots for: only modules that were activated run.
pub struct Journal {
    records: Mutex<BTreeMap<String, Record>>,
    grown: watch::Sender<()>,
}

impl Default for Journal {
    fn default() -> Self {
        Self { records: Mutex::default(), grown: watch::Sender::new(()) }
    }
}

impl Journal {
    pub(super) fn record(&self, module: &str, run: Run) {
        let counters = &metrics().modules;
        let labels = [module, run.export.name()];
        counters.runs.with_label_values(&labels).inc();
        counters.failures.with_label_values(&labels).inc_by(run.failed.into());
        counters.fuel.with_label_values(&labels).inc_by(run.fuel);
        counters.seconds.with_label_values(&labels).inc_by(run.time.as_secs_f64());
        let has_grown = !run.lines.is_empty();
        {
            let mut records = self.lock();
            if !records.contains_key(module) {
                records.insert(module.to_owned(), Record::default());
            }
            if let Some(record) = records.get_mut(module) {
                record.add(run);
            }
        }
        if has_grown {
            self.grown.send_replace(());
        }
    }

    /// What each export of each module has cost.
    pub fn works(&self) -> Vec<(String, Export, Work)> {
        let records = self.lock();
        let of = |(name, record): (&String, &Record)| {
            let name = name.clone();
            let works = record.works.clone();
            works.into_iter().map(move |(export, work)| (name.clone(), export, work))
        };
        records.iter().flat_map(of).collect()
    }

    /// The number of the line that so many lines of a module come behind.
    pub fn tail(&self, module: &str, lines: u64) -> u64 {
        let records = self.lock();
        records
            .get(module)
            .map_or(0, |record| record.first + (record.lines.len() as u64).saturating_sub(lines))
    }

    /// The lines from number `from` on, `most` at most; none of a module that has not run.
    pub fn lines(&self, module: &str, from: u64, most: usize) -> Page {
        let records = self.lock();
        let Some(record) = records.get(module) else {
            return Page { lines: Vec::new(), next: from, dropped: 0 };
        };
        let begin = from.max(record.first);
        let skipped = usize::try_from(begin - record.first).unwrap_or(usize::MAX);
        let lines: Vec<Line> = record.lines.iter().skip(skipped).take(most).cloned().collect();
        Page { next: begin + lines.len() as u64, dropped: begin - from, lines }
    }

    /// Changes whenever there are more lines, of whichever module.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.grown.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    fn add(&mut self, run: Run) {
        let work = self.works.entry(run.export).or_default();
        work.runs += 1;
        work.failures += u64::from(run.failed);
        work.fuel += run.fuel;
        work.time += run.time;
        for (level, text) in run.lines {
            if self.lines.len() == MODULE_LOG_LINES {
                self.lines.pop_front();
                self.first += 1;
            }
            self.lines.push_back(Line { level, text, index: run.index });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(index: u64, lines: usize) -> Run {
        let lines = (0..lines).map(|line| ("info", format!("{index}.{line}"))).collect();
        let time = Duration::from_micros(7);
        Run { export: Export::Call, index, failed: index.is_multiple_of(2), fuel: 10, time, lines }
    }

    #[test]
    fn a_slow_reader_is_told_what_it_lost() {
        let journal = Journal::default();
        for index in 0..=MODULE_LOG_LINES as u64 {
            journal.record("m", run(index, 2));
        }
        let page = journal.lines("m", 1, 3);
        let texts: Vec<&str> = page.lines.iter().map(|line| line.text.as_str()).collect();
        let first = 2 * (MODULE_LOG_LINES as u64 + 1) - MODULE_LOG_LINES as u64;
        assert_eq!(texts, ["501.0", "501.1", "502.0"]);
        assert_eq!((page.dropped, page.next), (first - 1, first + 3));
        assert_eq!(journal.lines("m", page.next, 1).dropped, 0);
        let last = journal.tail("m", 1);
        assert_eq!(journal.lines("m", last, 9).lines.len(), 1);
        assert_eq!(journal.lines("m", last + 1, 9).lines, []);
        assert_eq!(journal.lines("unknown", 0, 9).next, 0);
    }

    #[test]
    fn runs_add_up() {
        let journal = Journal::default();
        (1..=4).for_each(|index| journal.record("m", run(index, 0)));
        let time = Duration::from_micros(28);
        let work = Work { runs: 4, failures: 2, fuel: 40, time };
        assert_eq!(journal.works(), [("m".to_owned(), Export::Call, work)]);
    }

    #[test]
    fn lines_are_told_and_silence_is_not() {
        let journal = Journal::default();
        let mut grown = journal.subscribe();
        journal.record("m", run(1, 0));
        assert!(!grown.has_changed().unwrap());
        journal.record("m", run(2, 1));
        assert!(grown.has_changed().unwrap());
        grown.mark_unchanged();
        assert!(!grown.has_changed().unwrap());
    }
}
