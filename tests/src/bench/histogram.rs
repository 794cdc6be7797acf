//! Latencies in buckets that are 1/64 of a power of two wide: a percentile is at most 1.6 % too high.

/// Buckets in each power of two, and the values below which every nanosecond has its own.
const STEPS: u64 = 64;
const STEPS_LOG2: u32 = STEPS.ilog2();
/// 2^42 ns is 73 minutes, more than any run takes; what is longer is counted in the last bucket.
const POWERS: u32 = 42;
const BUCKETS: usize = ((POWERS - STEPS_LOG2 + 1) as usize) * STEPS as usize;

/// A histogram of durations in nanoseconds with an exact count and sum.
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    sum_ns: u128,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], count: 0, sum_ns: 0 }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&mut self, ns: u64) {
        self.buckets[bucket(ns)] += 1;
        self.count += 1;
        self.sum_ns += u128::from(ns);
    }

    /// Adds what `other` counted.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
        self.sum_ns += other.sum_ns;
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The arithmetic mean in nanoseconds; 0 when nothing was counted.
    pub fn mean_ns(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum_ns as f64 / self.count as f64 }
    }

    /// The duration in nanoseconds that `share` (0 to 1) of those counted do not exceed; 0 when
    /// nothing was counted.
    pub fn percentile_ns(&self, share: f64) -> u64 {
        let wanted = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, counted) in self.buckets.iter().enumerate() {
            seen += counted;
            if seen >= wanted {
                return highest(index);
            }
        }
        0
    }
}

/// The bucket a duration falls into.
fn bucket(ns: u64) -> usize {
    let shift = (ns | 1).ilog2().saturating_sub(STEPS_LOG2);
    let index = u64::from(shift) * STEPS + (ns >> shift);
    (index as usize).min(BUCKETS - 1)
}

/// The largest duration that falls into a bucket.
fn highest(index: usize) -> u64 {
    let index = index as u64;
    if index < 2 * STEPS {
        return index;
    }
    let shift = index / STEPS - 1;
    ((index - shift * STEPS + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_falls_into_the_bucket_that_ends_above_it() {
        let mut previous = 0;
        for power in 0..POWERS {
            for step in 0..STEPS {
                let ns = (1_u64 << power) + ((1_u64 << power) * step) / STEPS;
                let index = bucket(ns);
                assert!(index >= previous, "{ns} is in an earlier bucket than a shorter one");
                previous = index;
                let end = highest(index);
                assert!(end >= ns, "{ns} is above its bucket's end {end}");
                assert!((end - ns) as f64 <= ns as f64 / 60.0, "{ns} is reported as {end}");
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_and_mean_of_a_known_series() {
        let mut histogram = Histogram::default();
        let mut other = Histogram::default();
        for us in 1..=1_000_u64 {
            let target = if us % 2 == 0 { &mut histogram } else { &mut other };
            target.record(us * 1_000);
        }
        histogram.merge(&other);
        assert_eq!(histogram.count(), 1_000);
        assert!((histogram.mean_ns() - 500_500.0).abs() < 1.0);
        for (share, exact) in [(0.5, 500_000.0), (0.99, 990_000.0), (1.0, 1_000_000.0)] {
            let found = histogram.percentile_ns(share) as f64;
            assert!((exact..exact * 1.02).contains(&found), "{share}: {found}");
        }
        assert_eq!(Histogram::default().percentile_ns(0.99), 0);
    }
}
