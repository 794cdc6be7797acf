//! The power goes, at every moment at which it makes a difference, and the files are opened again.
//!
//! Random work is done on a simulated disk. At each sync, before it takes effect, and between the works, images of
//! what could be left are opened: everything acknowledged must be in them, and nothing half done. Some of them lose
//! power once more while they are opened, and some are written on.
//!
//! `INSTAR_SEED` repeats a run, `INSTAR_IMAGES` makes it longer or shorter.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::disk::{Content, Disk, Faults};
use super::power_loss_log::LogWork;
use super::power_loss_state::StateWork;
use super::seed;

const IMAGES: u64 = 20_000;
/// Images of one moment.
const IMAGES_AT_SYNC: usize = 6;
const IMAGES_BETWEEN: usize = 2;
const STEPS: usize = 40;

/// What must be found after a power cut.
pub trait Expectation: Clone + Send + 'static {
    /// Opens the file and compares; with `write_on` it also writes, and looks whether that lasts.
    fn check(&self, disk: &Disk, write_on: bool) -> Result<(), String>;
}

/// Random work on one file.
pub trait Work {
    type Expected: Expectation;
    /// Makes the file, as a data directory does: whole and synced.
    fn start(disk: &Disk, expected: Arc<Mutex<Option<Self::Expected>>>) -> Self;
    /// Does something, and keeps what is expected up to date, before it and after it.
    fn step(&mut self, random: &mut StdRng);
}

#[derive(Default)]
struct Campaign {
    images: AtomicU64,
    second_cuts: AtomicU64,
    failures: Mutex<Vec<String>>,
    /// What a failure must say for the campaign to be over; by default any is enough.
    looks_for: &'static str,
}

impl Campaign {
    fn is_over(&self) -> bool {
        self.failures.lock().unwrap().iter().any(|failure| failure.contains(self.looks_for))
    }

    fn check(&self, image: Vec<u8>, expected: &impl Expectation, random: &mut StdRng) {
        self.images.fetch_add(1, Ordering::Relaxed);
        let disk = Disk::holding(image);
        let again = Arc::new(Mutex::new(Vec::new()));
        if random.random_bool(0.25) {
            let (again, mut random) = (again.clone(), StdRng::seed_from_u64(random.random()));
            disk.on_sync(Some(Box::new(move |content| {
                let mut images = again.lock().unwrap();
                if images.len() < 3 {
                    images.push(content.image(&mut random));
                }
            })));
        }
        let write_on = random.random_bool(0.1) && again.lock().unwrap().is_empty();
        let first = self.verdict(expected, &disk, write_on, "");
        if first && !write_on {
            for image in std::mem::take(&mut *again.lock().unwrap()) {
                self.second_cuts.fetch_add(1, Ordering::Relaxed);
                self.verdict(expected, &Disk::holding(image), false, " after a second power cut");
            }
        }
    }

    fn verdict(
        &self,
        expected: &impl Expectation,
        disk: &Disk,
        write_on: bool,
        when: &str,
    ) -> bool {
        let result = catch_unwind(AssertUnwindSafe(|| expected.check(disk, write_on)));
        let result = result.unwrap_or_else(|_| Err("a panic".to_owned()));
        if let Err(reason) = &result {
            self.failures.lock().unwrap().push(format!("{reason}{when}"));
        }
        result.is_ok()
    }

    /// One file, from its making on.
    fn run<W: Work>(self: &Arc<Self>, seed: u64, faults: Faults) {
        let mut random = StdRng::seed_from_u64(seed);
        let disk = Disk::default();
        let expected = Arc::new(Mutex::new(None));
        let mut work = W::start(&disk, expected.clone());
        let at_sync = {
            let (campaign, expected) = (self.clone(), expected.clone());
            let mut random = StdRng::seed_from_u64(random.random());
            move |content: &Content| campaign.cut(content, &expected, &mut random, IMAGES_AT_SYNC)
        };
        disk.set_faults(faults);
        disk.on_sync(Some(Box::new(at_sync)));
        for _ in 0..random.random_range(1..STEPS) {
            work.step(&mut random);
            if self.is_over() {
                break;
            }
            disk.with_content(|content| {
                self.cut(content, &expected, &mut random, IMAGES_BETWEEN);
            });
        }
        // What closing the file writes may be lost, too.
        drop(work);
    }

    fn cut(
        &self,
        content: &Content,
        expected: &Mutex<Option<impl Expectation>>,
        random: &mut StdRng,
        images: usize,
    ) {
        let expected = expected.lock().unwrap().clone();
        let Some(expected) = expected else { return };
        let images = if content.has_unsynced() { images } else { 1 };
        for _ in 0..images {
            if !self.is_over() {
                self.check(content.image(random), &expected, random);
            }
        }
    }

    /// Runs files until there have been enough images, on all cores, and gives the seed of the first that failed.
    fn run_all(self: &Arc<Self>, seed: u64, images: u64, faults: Faults) -> Option<u64> {
        let next = Arc::new(AtomicU64::new(0));
        let failed = Arc::new(Mutex::new(None));
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let work = || {
            let (campaign, next, failed) = (self.clone(), next.clone(), failed.clone());
            move || {
                while campaign.images.load(Ordering::Relaxed) < images {
                    let seed = seed.wrapping_add(next.fetch_add(1, Ordering::Relaxed));
                    if seed % 2 == 0 {
                        campaign.run::<LogWork>(seed, faults);
                    } else {
                        campaign.run::<StateWork>(seed, faults);
                    }
                    if campaign.is_over() {
                        failed.lock().unwrap().get_or_insert(seed);
                        return;
                    }
                }
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| std::thread::spawn(work())).collect();
        for thread in threads {
            thread.join().expect("the work itself does not fail");
        }
        *failed.lock().unwrap()
    }
}

#[test]
fn no_power_cut_loses_what_was_acknowledged() {
    let images = std::env::var("INSTAR_IMAGES").ok().and_then(|images| images.parse().ok());
    let campaign = Arc::new(Campaign::default());
    let failed = campaign.run_all(seed(), images.unwrap_or(IMAGES), Faults::default());
    println!(
        "{} images, {} second power cuts",
        campaign.images.load(Ordering::Relaxed),
        campaign.second_cuts.load(Ordering::Relaxed)
    );
    let failures = campaign.failures.lock().unwrap();
    assert!(failures.is_empty(), "INSTAR_SEED={failed:?}: {failures:#?}");
}

/// Shows that the test above can fail: a disk that only says that it has synced loses what was acknowledged. Most of its
/// files do not open at all; a loss that nothing but the expectation notices is what is looked for.
#[test]
fn a_disk_that_lies_about_syncing_is_found_out() {
    let seed = seed();
    let faults = Faults { sync_lies: true, ..Faults::default() };
    for (name, offset) in [("log", 0), ("state", 1)] {
        let campaign = Arc::new(Campaign { looks_for: "lost", ..Campaign::default() });
        for number in 0..100 {
            let seed = (seed & !1).wrapping_add(2 * number + offset);
            match name {
                "log" => campaign.run::<LogWork>(seed, faults),
                _ => campaign.run::<StateWork>(seed, faults),
            }
            if campaign.is_over() {
                break;
            }
        }
        let failures = campaign.failures.lock().unwrap().len();
        println!("{name}: {failures} failures up to the first loss");
        assert!(campaign.is_over(), "no loss of the {name} was noticed");
    }
}
