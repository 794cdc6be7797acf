//! The overlay against a naive model of it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::{INDEX, OTHER, ROWS, mark, rows_of, seed, specs};
use crate::storage::{Overlay, State, StorageError, TableId, TableKind, TableSpec, Tables, files};

type Model = BTreeMap<(TableId, Vec<u8>), Vec<u8>>;

const TABLES: [TableId; 3] = [ROWS, INDEX, OTHER];

fn key(random: &mut StdRng) -> Vec<u8> {
    let length = random.random_range(0..4);
    (0..length).map(|_| random.random_range(b'a'..b'd')).collect()
}

fn within(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    key >= start && (end.is_empty() || key < end)
}

/// One random look at the tables, by every way of reading.
fn compare(tables: &impl Tables, model: &Model, random: &mut StdRng) {
    let table = *TABLES.choose(random).unwrap();
    let (start, end) = (key(random), key(random));
    let mut expected: Vec<_> = model
        .iter()
        .filter(|((of, key), _)| *of == table && within(key, &start, &end))
        .map(|((_, key), value)| (key.clone(), value.clone()))
        .collect();
    assert_eq!(tables.count(table, &start, &end).unwrap(), expected.len() as u64);

    let reverse = random.random();
    if reverse {
        expected.reverse();
    }
    let most = random.random_range(1..20);
    expected.truncate(most);
    let mut found = Vec::new();
    tables
        .scan(table, &start, &end, reverse, &mut |key, value| {
            found.push((key.to_vec(), value.to_vec()));
            if found.len() == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    assert_eq!(found, expected, "{start:?} to {end:?}, reverse: {reverse}");

    let mut value = None;
    let there = tables.get(table, &start, &mut |bytes| value = Some(bytes.to_vec())).unwrap();
    assert_eq!(value.as_ref(), model.get(&(table, start.clone())));
    assert_eq!(there, value.is_some());
    compare_many(tables, model, table, random);
}

fn compare_many(tables: &impl Tables, model: &Model, table: TableId, random: &mut StdRng) {
    let length = random.random_range(1..4);
    let keys: Vec<_> = model
        .keys()
        .filter(|(of, key)| *of == table && key.len() == length && random.random_bool(0.7))
        .map(|(_, key)| key.clone())
        .collect();
    let mut keys = keys;
    if random.random_bool(0.3) {
        keys.reverse();
    }
    let missing = random.random_bool(0.2);
    if missing {
        keys.insert(random.random_range(0..=keys.len()), vec![b'z'; length]);
    }
    let mut found = Vec::new();
    let visit = &mut |value: &[u8]| found.push(value.to_vec());
    let all = tables.get_many(table, &keys.concat(), length, visit).unwrap();
    assert_eq!(all, !missing);
    let expected = keys.iter().map_while(|key| model.get(&(table, key.clone())));
    assert!(found.iter().eq(expected));
}

/// One write to both; gives what was written, for the digest.
fn write(overlay: &mut Overlay, model: &mut Model, random: &mut StdRng) {
    let table = *TABLES.choose(random).unwrap();
    let key = key(random);
    match random.random_range(0..8) {
        0 => {
            let end = self::key(random);
            let before = model.len();
            model.retain(|(of, row), _| *of != table || !within(row, &key, &end));
            let removed = overlay.delete_range(table, &key, &end).unwrap();
            assert_eq!(removed, (before - model.len()) as u64);
        }
        1 | 2 => {
            overlay.delete(table, &key).unwrap();
            model.remove(&(table, key));
        }
        _ => {
            let value = vec![random.random(); random.random_range(0..5)];
            overlay.put(table, &key, &value).unwrap();
            assert!(overlay.wrote(table, &key));
            model.insert((table, key), value);
        }
    }
}

#[test]
fn it_is_what_its_model_is() {
    let mut random = StdRng::seed_from_u64(seed());
    let directory = tempfile::tempdir().unwrap();
    let mut state = State::open(directory.path(), &files(), &specs()).unwrap();
    let mut model = Model::new();
    for batch in 1..200 {
        let mut overlay = state.overlay();
        for _ in 0..random.random_range(0..4) {
            let before = model.clone();
            assert!(overlay.entry_is_empty());
            for _ in 0..random.random_range(0..12) {
                write(&mut overlay, &mut model, &mut random);
                compare(&overlay, &model, &mut random);
            }
            if random.random_bool(0.3) {
                overlay.discard_entry();
                model = before;
            } else {
                overlay.finish_entry();
            }
            compare(&overlay, &model, &mut random);
        }
        let old = state.view();
        let old_rows = TABLES.map(|table| rows_of(&*old, table));
        let view = state.commit(overlay.into_writes(), mark(batch)).unwrap();
        assert_eq!(*view.mark(), mark(batch));
        for _ in 0..5 {
            compare(&*view, &model, &mut random);
        }
        for table in TABLES {
            assert_eq!(view.count(table, b"", b"").unwrap(), rows_of(&*view, table).len() as u64);
        }
        assert_eq!(old_rows, TABLES.map(|table| rows_of(&*old, table)), "a view has changed");
    }
}

#[test]
fn a_row_counts_as_written_by_the_entry_that_put_or_removed_it_last() {
    let directory = tempfile::tempdir().unwrap();
    let state = State::open(directory.path(), &files(), &specs()).unwrap();
    let mut overlay = state.overlay();
    overlay.put(ROWS, b"a", b"1").unwrap();
    overlay.put(ROWS, b"b", b"1").unwrap();
    assert!(overlay.wrote(ROWS, b"a") && !overlay.wrote(OTHER, b"a"));
    overlay.delete(ROWS, b"b").unwrap();
    assert!(overlay.wrote(ROWS, b"b"));
    overlay.finish_entry();
    assert!(!overlay.wrote(ROWS, b"a"));
    overlay.put(ROWS, b"a", b"2").unwrap();
    overlay.discard_entry();
    assert!(!overlay.wrote(ROWS, b"a"));
    let mut value = Vec::new();
    overlay.get(ROWS, b"a", &mut |bytes| value = bytes.to_vec()).unwrap();
    assert_eq!(value, b"1");
}

/// The digest is over the calls: their order, and where one field ends and the next begins.
#[test]
fn the_digest_tells_entries_apart() {
    let directory = tempfile::tempdir().unwrap();
    let state = State::open(directory.path(), &files(), &specs()).unwrap();
    let digest = |write: &dyn Fn(&mut Overlay) -> Result<(), StorageError>| {
        let mut overlay = state.overlay();
        // What came before, kept or not, does not show.
        overlay.put(ROWS, b"before", b"").unwrap();
        overlay.finish_entry();
        overlay.put(ROWS, b"dropped", b"").unwrap();
        overlay.discard_entry();
        write(&mut overlay).unwrap();
        let digest = overlay.finish_entry();
        let mut alone = state.overlay();
        write(&mut alone).unwrap();
        assert_eq!(alone.finish_entry(), digest);
        digest
    };
    let digests = [
        digest(&|_| Ok(())),
        digest(&|overlay| overlay.put(ROWS, b"ab", b"c")),
        digest(&|overlay| overlay.put(ROWS, b"a", b"bc")),
        digest(&|overlay| overlay.put(OTHER, b"a", b"bc")),
        digest(&|overlay| overlay.delete(ROWS, b"ab")),
        digest(&|overlay| overlay.put(ROWS, b"a", b"").and_then(|()| overlay.put(ROWS, b"b", b""))),
        digest(&|overlay| overlay.put(ROWS, b"b", b"").and_then(|()| overlay.put(ROWS, b"a", b""))),
        digest(&|overlay| overlay.put(ROWS, b"a", b"").and_then(|()| overlay.delete(ROWS, b"a"))),
    ];
    for (number, digest) in digests.iter().enumerate() {
        assert!(!digests[..number].contains(digest), "{number}");
    }
}

#[test]
fn a_table_that_is_not_declared_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = State::open(directory.path(), &files(), &specs()).unwrap();
    let mut overlay = state.overlay();
    assert_eq!(overlay.put(3, b"a", b"b"), Err(StorageError::NoTable(3)));
    assert_eq!(overlay.get(3, b"a", &mut |_| ()), Err(StorageError::NoTable(3)));
    assert_eq!(overlay.kind(3), None);
    overlay.discard_entry();
    overlay.put(ROWS, b"durable", b"").unwrap();
    let refused = state.commit_derived(overlay.into_writes()).map(|_| ());
    assert_eq!(refused, Err(StorageError::NoTable(ROWS)));
}

/// Readers see tables that are whole, or the state before.
#[test]
fn half_rebuilt_tables_are_not_shown() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = State::open(directory.path(), &files(), &specs()).unwrap();
    let views = state.views();
    let mut overlay = state.overlay();
    overlay.put(INDEX, b"a", b"").unwrap();
    overlay.put(ROWS, b"a", b"").unwrap();
    state.commit(overlay.into_writes(), mark(1)).unwrap();

    state.clear_derived().unwrap();
    assert_eq!(views.latest().count(INDEX, b"", b"").unwrap(), 1);
    for key in [b"b", b"c"] {
        let mut overlay = state.overlay();
        overlay.put(INDEX, key, b"").unwrap();
        state.commit_derived(overlay.into_writes()).unwrap();
        assert_eq!(rows_of(&*views.latest(), INDEX).len(), 1);
    }
    assert_eq!(state.view().count(INDEX, b"", b"").unwrap(), 2);
    state.finish_rebuild();
    assert_eq!(views.latest().count(INDEX, b"", b"").unwrap(), 2);
    assert_eq!(*views.latest().mark(), mark(1));
}

/// A table that the state below does not have is an empty one, until it is written to.
#[test]
fn a_table_of_its_own() {
    const NEW: TableId = 13;
    let directory = tempfile::tempdir().unwrap();
    let mut state = State::open(directory.path(), &files(), &specs()).unwrap();
    let mut overlay = state.overlay();
    assert_eq!(overlay.get(NEW, b"a", &mut |_| ()), Err(StorageError::NoTable(NEW)));
    let new = TableSpec { id: NEW, name: "new".to_owned(), kind: TableKind::Durable };
    overlay.declare(&[specs(), vec![new]].concat());
    assert_eq!(overlay.kind(NEW), Some(TableKind::Durable));
    assert_eq!(overlay.get(NEW, b"a", &mut |_| ()), Ok(false));
    assert_eq!(overlay.get_many(NEW, b"a", 1, &mut |_| ()), Ok(false));
    assert_eq!((overlay.count(NEW, b"", b""), rows_of(&overlay, NEW)), (Ok(0), vec![]));
    for key in [b"b", b"a", b"c"] {
        overlay.put(NEW, key, b"value").unwrap();
    }
    overlay.delete(NEW, b"c").unwrap();
    let keys: Vec<_> = rows_of(&overlay, NEW).into_iter().map(|(_, key, _)| key).collect();
    assert_eq!((keys, overlay.count(NEW, b"", b"")), (vec![b"a".to_vec(), b"b".to_vec()], Ok(2)));
    assert_eq!((overlay.delete_range(NEW, b"", b""), overlay.rows_written()), (Ok(2), 3));
    overlay.put(NEW, b"a", b"value").unwrap();
    let failed = state.commit(overlay.into_writes(), mark(1));
    assert_eq!(failed.map(drop), Err(StorageError::NoTable(NEW)));
}
