//! Damage to files of etcd's and of ours, by chance but from a seed: each is refused, or read to the rows that it had.
//!
//! Without variables some thousand files are damaged. `INSTAR_CAMPAIGN=n` goes on for n minutes, from a random seed;
//! `INSTAR_SEED` sets the seed.

use std::cell::Cell;
use std::io;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;

const FILES_LEAST: u64 = 4_000;
const CAMPAIGN: Duration = Duration::from_secs(60);
const PAGE: usize = 4096;
const HEAD: usize = 16;
const META: usize = 64;
/// Of a meta page, behind its head.
const ROOT: usize = 16;
const FREELIST: usize = 32;
const BRANCH: u8 = 1;
const LEAF: u8 = 2;

fn corpus() -> Vec<Vec<u8>> {
    vec![
        include_bytes!("../../../../bolt/corpus/etcd-3.7.1.db").to_vec(),
        include_bytes!("../../../../bolt/corpus/etcd-3.7.1-auth.db").to_vec(),
        include_bytes!("../../../../bolt/corpus/etcd-3.7.1-history.db").to_vec(),
        include_bytes!("../../../../bolt/corpus/instar-history.db").to_vec(),
        written(&store()),
    ]
}

/// A file that counts what is read of it: that bounds time and memory, whatever the file says of itself.
struct Counted {
    file: Vec<u8>,
    read: Cell<u64>,
}

impl Source for &Counted {
    fn bytes(&self) -> io::Result<u64> {
        self.file.bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read.set(self.read.get() + buffer.len() as u64);
        self.file.read_at(buffer, offset)
    }
}

fn read(file: Vec<u8>) -> Result<(u64, Taken), String> {
    let file = Counted { file, read: Cell::new(0) };
    let found = restored(&file, 0);
    // The pages once to verify them, once for their rows, and heads twice; leases twice; a handful of meta pages.
    let most = 4 * file.file.len() as u64 + 64 * HEAD as u64 * 1024;
    assert!(file.read.get() <= most, "{} bytes were read of {}", file.read.get(), file.file.len());
    found
}

#[test]
fn damaged_files_are_refused_or_read_as_before() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let campaign = number("INSTAR_CAMPAIGN").map(|factor| CAMPAIGN * factor as u32);
    let seed = number("INSTAR_SEED").unwrap_or_else(|| campaign.map_or(1, |_| rand::random()));
    eprintln!("INSTAR_SEED={seed}");
    let corpus = corpus();
    let whole: Vec<_> = corpus.iter().map(|file| read(file.clone()).expect("sound")).collect();
    let began = Instant::now();
    let (mut files, mut refused) = (0, 0);
    while files < FILES_LEAST || campaign.is_some_and(|campaign| began.elapsed() < campaign) {
        // Each file has a seed of its own, so that one of a campaign is found again at once.
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(files));
        let at = random.random_range(0..corpus.len());
        let mut file = corpus[at].clone();
        let keeps_rows = mutate(&mut file, &mut random);
        let (seed, where_changed) = (seed.wrapping_add(files), changed(&corpus[at], &file));
        match read(file) {
            Err(_) => refused += 1,
            Ok(rows) => assert!(
                !keeps_rows || rows == whole[at],
                "INSTAR_SEED={seed}: other rows of file {at}, changed at {where_changed:x?}"
            ),
        }
        files += 1;
    }
    eprintln!("{refused} of {files} files were refused");
    assert!(refused > files / 2, "only {refused} of {files} were refused");
}

/// The first places that differ: pages, and bytes in them.
fn changed(before: &[u8], after: &[u8]) -> Vec<(usize, usize)> {
    let differ =
        before.iter().zip(after).enumerate().filter(|(_, (before, after))| before != after);
    differ.map(|(at, _)| (at / PAGE, at % PAGE)).take(8).collect()
}

/// Damages a file; says whether it must be refused, or be read to the same rows.
fn mutate(file: &mut Vec<u8>, random: &mut StdRng) -> bool {
    let pages = file.len() / PAGE;
    let (a, b) = (random.random_range(0..pages), random.random_range(0..pages));
    match random.random_range(0..10) {
        0 => file.truncate(random.random_range(0..pages * PAGE)),
        1 => {
            let keeps_rows = has_head(file, b);
            file.copy_within(a * PAGE..(a + 1) * PAGE, b * PAGE);
            return keeps_rows;
        }
        2 => {
            let keeps_rows = has_head(file, a) && has_head(file, b);
            swap(file, a, b);
            return keeps_rows;
        }
        3..=5 if !has_head(file, a) => return false,
        3 => return damage_head(file, a, random),
        4 | 5 => return damage_element(file, a, random),
        6 => return damage_meta(file, random),
        7 => {
            // A page may take the other's place and name: what it holds makes sense there, or does not.
            swap(file, a, b);
            file[a * PAGE..][..8].copy_from_slice(&(a as u64).to_le_bytes());
            file[b * PAGE..][..8].copy_from_slice(&(b as u64).to_le_bytes());
            return false;
        }
        8 => {
            let at = random.random_range(0..file.len());
            file[at] ^= 1 << random.random_range(0..8);
            return false;
        }
        _ => {
            let at = random.random_range(0..file.len());
            let end = file.len().min(at + random.random_range(1..100));
            file[at..end].fill(*[0, 0xff, random.random()].choose(random).expect("one"));
            return false;
        }
    }
    true
}

/// Whether a page is no overflow of another, where nothing but a long value stands.
fn has_head(file: &[u8], page: usize) -> bool {
    page < 2 || file[page * PAGE..][..8] == (page as u64).to_le_bytes()
}

fn swap(file: &mut [u8], a: usize, b: usize) {
    let of_a = file[a * PAGE..(a + 1) * PAGE].to_vec();
    file.copy_within(b * PAGE..(b + 1) * PAGE, a * PAGE);
    file[b * PAGE..(b + 1) * PAGE].copy_from_slice(&of_a);
}

/// A number at its extremes, or near to what it was.
fn overwrite(field: &mut [u8], random: &mut StdRng) {
    let mut bytes = [0; 8];
    bytes[..field.len()].copy_from_slice(field);
    let old = u64::from_le_bytes(bytes);
    let new = match random.random_range(0..7) {
        0 => 0,
        1 => u64::MAX,
        2 => u64::MAX >> 1,
        3 => old.wrapping_add(1),
        4 => old.wrapping_sub(1),
        5 => u64::from(random.random::<u8>()),
        _ => 1 << random.random_range(0..64),
    };
    field.copy_from_slice(&new.to_le_bytes()[..field.len()]);
}

/// Number, type, count and overflow. A tree that is one leaf may as well be empty: then nothing tells.
fn damage_head(file: &mut [u8], page: usize, random: &mut StdRng) -> bool {
    let (at, bytes) = *[(0, 8), (8, 2), (10, 2), (12, 4)].choose(random).expect("one");
    overwrite(&mut file[page * PAGE + at..][..bytes], random);
    file[page * PAGE + 10..][..2] != [0, 0]
}

/// Whether the file says which pages are free. etcd's do not: then pages of an earlier time are as good as today's for
/// whoever is led to them.
fn lists_free(file: &[u8]) -> bool {
    file[HEAD + FREELIST..][..8] != [0xff; 8]
}

/// Where an element's content is, how long it is, and where a branch leads: to itself, or to a page above it.
fn damage_element(file: &mut [u8], page: usize, random: &mut StdRng) -> bool {
    let begin = page * PAGE;
    let (kind, count) = (file[begin + 8], u16::from_le_bytes([file[begin + 10], file[begin + 11]]));
    if count == 0 || !matches!(kind, BRANCH | LEAF) {
        return damage_head(file, page, random);
    }
    let element = random.random_range(0..usize::from(count));
    let head = begin + HEAD + element * HEAD;
    let is_last = element + 1 == usize::from(count);
    let fields: &[(usize, usize)] = match (kind, is_last) {
        (BRANCH, _) => &[(0, 4), (4, 4), (8, 8), (8, 8), (8, 8)],
        // Nothing says where the last value ends but its length.
        (_, true) => &[(4, 4), (8, 4)],
        _ => &[(4, 4), (8, 4), (12, 4)],
    };
    let (at, bytes) = *fields.choose(random).expect("one");
    // Elements whose heads are on the overflow of a page are none: the file may end before.
    let Some(field) = file.get_mut(head + at..head + at + bytes) else { return true };
    match bytes {
        8 if random.random() => field.copy_from_slice(&(page as u64).to_le_bytes()),
        _ => overwrite(field, random),
    }
    bytes != 8 || lists_free(file)
}

/// Both meta pages say the same wrong thing, with a checksum that fits.
fn damage_meta(file: &mut [u8], random: &mut StdRng) -> bool {
    let fields = [(8, 4), (ROOT, 8), (FREELIST, 8), (40, 8), (48, 8)];
    let (at, bytes) = *fields.choose(random).expect("one");
    let keeps_rows = at != ROOT || lists_free(file);
    let mut value = file[HEAD + at..][..bytes].to_vec();
    match bytes == 8 && random.random() {
        true => {
            let page = random.random_range(0..file.len() / PAGE) as u64;
            value.copy_from_slice(&page.to_le_bytes());
        }
        false => overwrite(&mut value, random),
    }
    for page in 0..2 {
        let meta = &mut file[page * PAGE + HEAD..][..META];
        meta[at..at + bytes].copy_from_slice(&value);
        let sum = meta[..56].iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        meta[56..].copy_from_slice(&sum.to_le_bytes());
    }
    keeps_rows
}
