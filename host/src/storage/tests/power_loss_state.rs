//! Random work on a state, and what must be left of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rand::Rng;
use rand::rngs::StdRng;
use xxhash_rust::xxh3::Xxh3;

use super::disk::Disk;
use super::power_loss::{Expectation, Work};
use super::{INDEX, OTHER, ROWS, durable_rows, mark, specs};
use crate::storage::{State, TableId, View};

/// Rows by table and key.
type Model = BTreeMap<(TableId, Vec<u8>), Vec<u8>>;

/// The state after each commit, the empty one first, as sums of its rows.
#[derive(Clone)]
pub struct StateExpected {
    commits: Arc<Mutex<Vec<u128>>>,
    /// The commit that the last `persist` brought to disk.
    persisted: usize,
}

fn sum<'a>(rows: impl Iterator<Item = (TableId, &'a [u8], &'a [u8])>) -> u128 {
    let mut sum = Xxh3::new();
    for (table, key, value) in rows {
        for number in [table as usize, key.len(), value.len()] {
            sum.update(&number.to_le_bytes());
        }
        sum.update(key);
        sum.update(value);
    }
    sum.digest128()
}

fn sum_of_model(model: &Model) -> u128 {
    sum(model.iter().map(|((table, key), value)| (*table, key.as_slice(), value.as_slice())))
}

fn sum_of_view(view: &View) -> u128 {
    let rows = durable_rows(view);
    sum(rows.iter().map(|(table, key, value)| (*table, key.as_slice(), value.as_slice())))
}

fn open(disk: &Disk) -> Result<State, String> {
    let opened = State::open(Path::new(""), &disk.backends(), &specs());
    opened.map_err(|error| format!("it does not open: {error}"))
}

impl Expectation for StateExpected {
    fn check(&self, disk: &Disk, write_on: bool) -> Result<(), String> {
        let mut state = open(disk)?;
        let view = state.view();
        let found = view.mark().applied.map_or(0, |applied| applied.index as usize);
        let commits = self.commits.lock().unwrap().clone();
        if found < self.persisted {
            return Err(format!("commit {} is lost, this is {found}", self.persisted));
        }
        let expected = commits.get(found).ok_or("it is at a commit that has not been")?;
        if found > 0 && *view.mark() != mark(found as u64) {
            return Err(format!("its mark is not that of commit {found}"));
        }
        if sum_of_view(&view) != *expected {
            return Err(format!("rows of commit {found} are lost, or there are others"));
        }
        let bytes = durable_rows(&*view).into_iter().map(|(_, key, value)| key.len() + value.len());
        if bytes.sum::<usize>() as u64 != state.totals.bytes {
            return Err("it says another size of its rows".to_owned());
        }
        if !write_on {
            return Ok(());
        }
        let mut overlay = state.overlay();
        overlay.put(ROWS, b"after", b"the power cut").map_err(|error| error.to_string())?;
        let failed = |error: crate::storage::StorageError| error.to_string();
        let after = state.commit(overlay.into_writes(), mark(1_000_000)).map_err(failed)?;
        state.persist().map_err(failed)?;
        let image = disk.current();
        let reopened = open(&Disk::holding(image))?;
        if sum_of_view(&reopened.view()) != sum_of_view(&after) {
            return Err("what was written after the power cut is lost".to_owned());
        }
        Ok(())
    }
}

pub struct StateWork {
    state: State,
    model: Model,
    expected: Arc<Mutex<Option<StateExpected>>>,
    commits: Arc<Mutex<Vec<u128>>>,
}

impl Work for StateWork {
    type Expected = StateExpected;

    fn start(disk: &Disk, expected: Arc<Mutex<Option<StateExpected>>>) -> Self {
        let state = open(disk).expect("a new state");
        let model = Model::new();
        let commits = Arc::new(Mutex::new(vec![sum_of_model(&model)]));
        *expected.lock().unwrap() = Some(StateExpected { commits: commits.clone(), persisted: 0 });
        Self { state, model, expected, commits }
    }

    fn step(&mut self, random: &mut StdRng) {
        for _ in 0..random.random_range(0..6) {
            self.commit(random);
        }
        if random.random_bool(0.5) {
            let last = self.commits.lock().unwrap().len() - 1;
            let applied = self.state.persist().expect("the disk works");
            assert_eq!(applied.map_or(0, |applied| applied.index), last as u64);
            let commits = self.commits.clone();
            *self.expected.lock().unwrap() = Some(StateExpected { commits, persisted: last });
        }
    }
}

impl StateWork {
    fn commit(&mut self, random: &mut StdRng) {
        let mut overlay = self.state.overlay();
        for _ in 0..random.random_range(0..30) {
            let table = if random.random_bool(0.8) { ROWS } else { OTHER };
            let key = vec![b'k'; random.random_range(0..3)];
            let key = [key, random.random_range(0..300u16).to_be_bytes().to_vec()].concat();
            match random.random_range(0..20) {
                0 => {
                    let end = [key.clone(), vec![random.random()]].concat();
                    overlay.delete_range(table, &key, &end).expect("a table");
                    self.model.retain(|(of, row), _| {
                        *of != table || row.as_slice() < &key[..] || row.as_slice() >= &end[..]
                    });
                }
                1..=4 => {
                    overlay.delete(table, &key).expect("a table");
                    self.model.remove(&(table, key));
                }
                _ => {
                    let long = random.random_bool(0.02);
                    let length = random.random_range(0..if long { 40_000 } else { 500 });
                    let mut value = vec![0; length];
                    random.fill(value.as_mut_slice());
                    overlay.put(table, &key, &value).expect("a table");
                    overlay.put(INDEX, &key, b"derived").expect("a table");
                    self.model.insert((table, key), value);
                }
            }
            overlay.finish_entry();
        }
        let index = {
            let mut commits = self.commits.lock().unwrap();
            commits.push(sum_of_model(&self.model));
            commits.len() as u64 - 1
        };
        let view = self.state.commit(overlay.into_writes(), mark(index)).expect("the disk works");
        assert_eq!(view.mark().applied.map(|applied| applied.index), Some(index));
    }
}
