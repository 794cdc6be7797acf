//! Three replicas of one log that are disturbed at random: they die, fall behind, and are sent snapshots.

use std::path::Path;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::log::Log;
use super::{Replica, machines};
use crate::runtime::Machines;

pub const MEMBERS: u64 = 3;

pub struct Members {
    pub random: StdRng,
    pub log: Log,
    pub replicas: [Replica; 3],
    pub kills: u64,
    pub snapshots: u64,
}

/// What the members of a run compile with, from one run to the next.
pub fn compilers(cache: &Path) -> [Arc<Machines>; 3] {
    [(); 3].map(|()| machines(cache))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Does so many runs, and says how many members were killed, and sent snapshots, in all of them. `INSTAR_SEED` repeats
/// one, `INSTAR_CAMPAIGN` makes so many times as many.
pub fn campaign(runs: u64, run: impl Fn(u64) -> (u64, u64)) {
    let seed = number("INSTAR_SEED").unwrap_or_else(|| rand::rng().random());
    let runs = runs * number("INSTAR_CAMPAIGN").unwrap_or(1).max(1);
    let (mut kills, mut snapshots) = (0, 0);
    for number in 0..runs {
        let seed = seed.wrapping_add(number);
        // With the last of these, the run that failed is the first of a campaign.
        println!("INSTAR_SEED={seed}");
        let (killed, sent) = run(seed);
        kills += killed;
        snapshots += sent;
    }
    println!("{runs} runs, {kills} members killed, {snapshots} snapshots");
    assert!(kills > runs && snapshots > runs / 4, "nothing much happened");
}

impl Members {
    pub fn new(seed: u64, machines: &[Arc<Machines>; 3]) -> Self {
        let mut ids = 1..=MEMBERS;
        let replica = |machines: &Arc<Machines>| {
            Replica::new(ids.next().expect("three of them"), machines.clone())
        };
        Self {
            random: StdRng::seed_from_u64(seed),
            log: Log::new(),
            replicas: machines.each_ref().map(replica),
            kills: 0,
            snapshots: 0,
        }
    }

    /// A member dies before it has applied an entry, right after, or after that was brought to disk.
    pub fn kill_at(&mut self, index: u64) {
        let before = self.random.random_bool(0.3);
        let is_durable = self.random.random_bool(0.4);
        let replica = &mut self.replicas[self.random.random_range(0..MEMBERS as usize)];
        replica.apply_to(&self.log, index - u64::from(before));
        if is_durable {
            replica.persist();
        }
        replica.crash();
        self.kills += 1;
    }

    /// Members go on, each at its own pace; now and then one is left behind, or dies.
    pub fn disturb(&mut self) {
        for at in 0..self.replicas.len() {
            let last = self.log.last_index();
            match self.random.random_range(0..100) {
                0..40 => {
                    let from = self.replicas[at].applied_index();
                    let index = self.random.random_range(from.min(last)..=last);
                    self.replicas[at].apply_to(&self.log, index);
                }
                40..44 => self.replicas[at].persist(),
                44..46 => {
                    self.replicas[at].crash();
                    self.kills += 1;
                }
                46..48 => self.send_snapshot(at),
                _ => {}
            }
        }
    }

    fn send_snapshot(&mut self, to: usize) {
        let from = (to + 1) % self.replicas.len();
        if self.replicas[from].applied_index() > self.replicas[to].applied_index() {
            let [first, second, third] = &mut self.replicas;
            let (to, from) = match to {
                0 => (first, second),
                1 => (second, third),
                _ => (third, first),
            };
            to.install(from);
            self.snapshots += 1;
        }
    }

    /// All apply the rest.
    pub fn catch_up(&mut self) {
        let last = self.log.last_index();
        for replica in &mut self.replicas {
            while replica.applied_index() < last {
                let index = replica.applied_index() + self.random.random_range(1..20);
                replica.apply_to(&self.log, index);
            }
        }
    }
}
