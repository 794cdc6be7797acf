//! What is written is read; what is damaged is refused.

use std::io::Cursor;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::meta::Meta;
use crate::{Damage, Database, PAGE_BYTES, ReadError, Source, WriteError, Writer};

type Rows = Vec<(Vec<u8>, Vec<u8>)>;
type Buckets = Vec<(Vec<u8>, Rows)>;

fn numbered(count: u64, value_bytes: usize) -> Rows {
    (1..=count).map(|n| (n.to_be_bytes().to_vec(), vec![n as u8; value_bytes])).collect()
}

fn write<W: std::io::Write>(writer: &mut Writer<W>, buckets: &Buckets) -> Result<(), WriteError> {
    for (name, rows) in buckets {
        writer.bucket(name)?;
        for (key, value) in rows {
            writer.row(key, value)?;
        }
    }
    Ok(())
}

/// Writes in both ways, which must make the same bytes.
fn written(buckets: &Buckets) -> Vec<u8> {
    let mut measuring = Writer::measuring();
    write(&mut measuring, buckets).expect("measured");
    let layout = measuring.finish().expect("a layout");

    let mut streamed = Vec::new();
    let mut streaming = Writer::streaming(&mut streamed, &layout).expect("begun");
    write(&mut streaming, buckets).expect("streamed");
    assert_eq!(streaming.finish().expect("finished"), layout);
    assert_eq!(streamed.len() as u64, layout.bytes());

    let mut seeking = Writer::seeking(Cursor::new(Vec::new())).expect("begun");
    write(&mut seeking, buckets).expect("written");
    let (_, sought) = seeking.finish_seeking().expect("finished");
    assert!(sought.into_inner() == streamed, "both ways make the same file");
    streamed
}

fn read<S: Source>(database: &Database<S>) -> Result<Buckets, ReadError> {
    let mut buckets = Vec::new();
    for name in database.buckets() {
        let mut found = Vec::new();
        let mut rows = database.rows(name)?.expect("a bucket that is listed");
        while let Some((key, value)) = rows.next()? {
            found.push((key.to_vec(), value.to_vec()));
        }
        buckets.push((name.to_vec(), found));
    }
    Ok(buckets)
}

fn named(name: &str, rows: Rows) -> (Vec<u8>, Rows) {
    (name.as_bytes().to_vec(), rows)
}

#[test]
fn what_is_written_is_read() {
    let long_keys: Rows =
        (0..40u8).map(|n| ([&[n + 1], &[7; 9000][..]].concat(), vec![n])).collect();
    for buckets in [
        vec![],
        vec![named("key", vec![])],
        vec![named("alarm", vec![]), named("key", numbered(1, 0)), named("meta", numbered(3, 5))],
        vec![named("key", numbered(200_000, 30)), named("meta", numbered(100, 4000))],
        vec![named("key", numbered(5, 1_600_000)), named("lease", numbered(2, 4096))],
        vec![named("auth", long_keys)],
    ] {
        let file = written(&buckets);
        let database = Database::open(file).expect("a database");
        database.verify().expect("sound");
        assert!(read(&database).expect("rows") == buckets);
    }
}

#[test]
fn sizes_around_a_page_fit() {
    for value_bytes in PAGE_BYTES - 60..PAGE_BYTES + 4 {
        let buckets = vec![named("key", numbered(3, value_bytes))];
        let database = Database::open(written(&buckets)).expect("a database");
        database.verify().expect("sound");
        assert!(read(&database).expect("rows") == buckets, "{value_bytes}");
    }
}

#[test]
fn wrong_rows_are_refused() {
    let mut writer = Writer::measuring();
    assert!(matches!(writer.row(b"a", b""), Err(WriteError::NoBucket)));
    writer.bucket(b"key").expect("a bucket");
    assert!(matches!(writer.row(b"", b""), Err(WriteError::Length { what: "key", .. })));
    assert!(matches!(writer.row(&[1; 32_769], b""), Err(WriteError::Length { what: "key", .. })));
    writer.row(b"b", b"").expect("a row");
    assert!(matches!(writer.row(b"b", b""), Err(WriteError::Order { .. })));
    assert!(matches!(writer.row(b"a", b""), Err(WriteError::Order { .. })));
    assert!(matches!(writer.bucket(b"key"), Err(WriteError::BucketTwice { .. })));
}

#[test]
fn a_second_pass_with_other_rows_is_an_error() {
    let mut measuring = Writer::measuring();
    write(&mut measuring, &vec![named("key", numbered(1000, 10))]).expect("measured");
    let layout = measuring.finish().expect("a layout");
    let mut streaming = Writer::streaming(Vec::new(), &layout).expect("begun");
    write(&mut streaming, &vec![named("key", numbered(2000, 10))]).expect("streamed");
    assert!(matches!(streaming.finish(), Err(WriteError::Changed { .. })));
}

fn damage(file: Vec<u8>) -> (u64, Damage) {
    let found = Database::open(file).and_then(|database| database.verify());
    match found {
        Err(ReadError::Damaged { page, damage }) => (page, damage),
        other => panic!("no damage was found: {other:?}"),
    }
}

/// Pages of the file below: metas 0 and 1, free list 2, leaves from 3 on, a branch, the root.
fn sample() -> Vec<u8> {
    written(&vec![named("key", numbered(1000, 20)), named("meta", numbered(2, 20))])
}

#[test]
fn damage_is_named_with_its_page() {
    let whole = sample();
    let pages = whole.len() / PAGE_BYTES;
    let edit = |page: usize, at: usize, bytes: &[u8]| {
        let mut file = whole.clone();
        let begin = page * PAGE_BYTES + at;
        file[begin..begin + bytes.len()].copy_from_slice(bytes);
        file
    };
    let cut = whole[..whole.len() - 1].to_vec();
    assert!(matches!(damage(cut), (_, Damage::Truncated { .. })));
    assert!(matches!(damage(vec![0; 9000]), (0, Damage::NoMeta { .. })));
    assert!(matches!(damage(Vec::new()), (0, Damage::NoMeta { .. })));
    assert_eq!(damage(edit(3, 0, &[9])), (3, Damage::Id { own: 9 }));
    assert_eq!(damage(edit(3, 8, &[3])).1, Damage::Type { flags: 3, wanted: "a branch or a leaf" });
    assert!(matches!(damage(edit(3, 10, &[255, 255])), (3, Damage::Count { .. })));
    assert!(matches!(damage(edit(3, 12, &[255; 4])), (3, Damage::Outside { .. })));
    assert_eq!(damage(edit(3, 16 + 4, &[255; 4])), (3, Damage::Element { at: 0 }));
    assert_eq!(damage(edit(3, 16 + 8, &[0; 4])), (3, Damage::KeyLength { at: 0, bytes: 0 }));
    assert_eq!(damage(edit(3, 32 + 4, &[255; 4])), (3, Damage::Element { at: 1 }));
    // One element less, and one whose value is a byte shorter.
    assert_eq!(damage(edit(3, 10, &[whole[3 * PAGE_BYTES + 10] - 1])), (3, Damage::Gap { at: 0 }));
    assert_eq!(damage(edit(3, 10, &[0, 0])), (3, Damage::EmptyLeaf));
    assert_eq!(damage(edit(3, 16 + 12, &[19])), (3, Damage::Gap { at: 1 }));
    assert_eq!(damage(edit(2, 8, &[2])).1, Damage::Type { flags: 2, wanted: "a free list" });
    assert_eq!(damage(edit(2, 10, &[1])).1, Damage::Outside { pages: pages as u64 });
    let free: Vec<u8> = [&[1, 0, 0, 0, 0, 0][..], &3u64.to_le_bytes()].concat();
    assert_eq!(damage(edit(2, 10, &free)), (3, Damage::UsedAndFree));
}

/// A branch that names a page above it, and one that names a page twice.
#[test]
fn cycles_end() {
    let whole = sample();
    let branch = (3..whole.len() / PAGE_BYTES)
        .find(|page| whole[page * PAGE_BYTES + 8] == 1)
        .expect("a branch page");
    for child in [branch, 3] {
        let mut file = whole.clone();
        let second = branch * PAGE_BYTES + 32 + 8;
        file[second..second + 8].copy_from_slice(&(child as u64).to_le_bytes());
        let (page, found) = damage(file);
        assert_eq!((page, found), (child as u64, Damage::UsedTwice));
    }
}

/// bbolt writes one meta page, then the other: a crash leaves the one before.
#[test]
fn one_meta_page_is_enough() {
    for (damaged, size) in [(0, 20), (PAGE_BYTES, 20), (0, PAGE_BYTES)] {
        let mut file = sample();
        file[damaged..damaged + size].fill(0xff);
        Database::open(file).expect("a database").verify().expect("sound");
    }
}

#[test]
fn other_page_sizes_are_read() {
    // An empty database of pages of 16 KiB: a free list, and a root leaf without buckets.
    let size = 16_384;
    let mut file = Vec::new();
    for transaction in [0, 1] {
        let meta = Meta { page_bytes: size, root: 3, freelist: 2, pages: 4, transaction };
        file.extend(meta.encode());
    }
    for (id, flags) in [(2u8, 0x10), (3, 0x02)] {
        let mut page = vec![0; size as usize];
        (page[0], page[8]) = (id, flags);
        file.extend(page);
    }
    file[0] = 9;
    file[20] = 9;
    let database = Database::open(file).expect("the second meta page is found");
    database.verify().expect("sound");
    assert_eq!(database.page_bytes(), 16_384);
}

/// Files that the real etcd wrote, and ours.
fn corpus() -> Vec<Vec<u8>> {
    let etcd = include_bytes!("../corpus/etcd-3.7.1.db").to_vec();
    let inline = include_bytes!("../corpus/etcd-3.7.1-auth.db").to_vec();
    let history = include_bytes!("../corpus/etcd-3.7.1-history.db").to_vec();
    let instar = include_bytes!("../corpus/instar-history.db").to_vec();
    vec![etcd, inline, history, instar, sample(), written(&vec![named("key", numbered(3, 9000))])]
}

#[test]
fn etcds_files_are_read() {
    let mut files = corpus();
    for file in files.drain(..4) {
        let database = Database::open(file).expect("a database");
        database.verify().expect("sound");
        let buckets = read(&database).expect("rows");
        let names: Vec<&[u8]> = database.buckets().collect();
        for name in ["alarm", "auth", "cluster", "key", "lease", "members", "meta"] {
            assert!(names.contains(&name.as_bytes()), "{name}");
        }
        // Written again, the rows are the same.
        let again = Database::open(written(&buckets)).expect("a database");
        assert!(read(&again).expect("rows") == buckets);
    }
}

/// Whatever happens to a file, it is read or refused; it never panics, and never yields more than it has.
#[test]
fn mutated_files_are_refused_cleanly() {
    let corpus = corpus();
    let seed = std::env::var("BOLT_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let mut random = StdRng::seed_from_u64(seed);
    let mut refused = 0;
    for round in 0..2000 {
        let mut file = corpus[round % corpus.len()].clone();
        for _ in 0..random.random_range(1..4) {
            mutate(&mut file, &mut random);
        }
        let bytes = file.len();
        let Ok(database) = Database::open(file) else {
            refused += 1;
            continue;
        };
        refused += usize::from(database.verify().is_err());
        if let Ok(buckets) = read(&database) {
            let rows = buckets.iter().map(|(_, rows)| rows.len()).sum::<usize>();
            assert!(rows * 16 <= bytes * 2, "seed {seed}, round {round}: {rows} rows");
        }
    }
    assert!(refused > 500, "only {refused} were refused");
}

/// Damage where it hurts: mostly in heads of pages and of elements.
fn mutate(file: &mut Vec<u8>, random: &mut StdRng) {
    if file.is_empty() {
        return;
    }
    let page = random.random_range(0..file.len().div_ceil(PAGE_BYTES)) * PAGE_BYTES;
    let within = if random.random_bool(0.8) { 128 } else { PAGE_BYTES };
    let near = random.random_range(0..within);
    let at = (page + near).min(file.len() - 1);
    match random.random_range(0..6) {
        0 => file[at] ^= 1 << random.random_range(0..8),
        1 => file[at] = random.random(),
        2 => file.truncate(at),
        3 => {
            let end = (at + random.random_range(1..9)).min(file.len());
            file[at..end].fill(if random.random() { 0xff } else { 0 });
        }
        4 => {
            // One page over another.
            let from = random.random_range(0..file.len().div_ceil(PAGE_BYTES)) * PAGE_BYTES;
            let bytes = PAGE_BYTES.min(file.len() - from).min(file.len() - page);
            file.copy_within(from..from + bytes, page);
        }
        _ => {
            // The number of another page, where numbers of pages stand.
            let id = random.random_range(0..file.len().div_ceil(PAGE_BYTES)) as u64;
            let at = page + [0, 12, 24, 40, 56][random.random_range(0..5)];
            let end = (at + 8).min(file.len());
            if at < end {
                file[at..end].copy_from_slice(&id.to_le_bytes()[..end - at]);
            }
        }
    }
}
