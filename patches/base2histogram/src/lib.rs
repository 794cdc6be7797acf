//! Stands in for the crate `base2histogram` (0.2.3), with what openraft asks of it and no more.
//!
//! openraft counts the sizes of its batches with that crate, whose first histogram computes the bucket boundaries of
//! sixteen resolutions: 30 MB a process that are never looked at again. Here a histogram is one counter for each power
//! of two. Nothing in Instar reads them (openraft's feature `runtime-stats` is off), so only `record` ever runs; the
//! rest is right all the same, and coarse. To be removed when the crate computes one resolution at a time.

use std::fmt;
use std::marker::PhantomData;

const BUCKETS: usize = u64::BITS as usize + 1;

/// How often values of each magnitude were recorded. Bucket 0 counts zeros, bucket `n` values of `n` bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: [u64; BUCKETS],
    kind: PhantomData<T>,
}

impl<T> Histogram<T> {
    pub fn new() -> Self {
        Self { counts: [0; BUCKETS], kind: PhantomData }
    }

    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    pub fn record_n(&mut self, value: u64, times: u64) {
        let bucket = (u64::BITS - value.leading_zeros()) as usize;
        self.counts[bucket] = self.counts[bucket].saturating_add(times);
    }

    /// The smallest value of the bucket that `per_mille` of the values do not exceed; 0 if there are none.
    fn percentile(&self, samples: u64, per_mille: u64) -> u64 {
        let wanted = (u128::from(samples) * u128::from(per_mille)).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= wanted {
                return if bucket == 0 { 0 } else { 1 << (bucket - 1) };
            }
        }
        0
    }

    pub fn percentile_stats(&self) -> PercentileStats {
        let samples = self.counts.iter().fold(0, |sum: u64, count| sum.saturating_add(*count));
        let percentile = |per_mille| self.percentile(samples, per_mille);
        PercentileStats {
            samples,
            p0_1: percentile(1),
            p1: percentile(10),
            p5: percentile(50),
            p10: percentile(100),
            p50: percentile(500),
            p90: percentile(900),
            p99: percentile(990),
            p99_9: percentile(999),
        }
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Percentiles of what a histogram has recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} samples, median {}, p99 {}", self.samples, self.p50, self.p99)
    }
}

/// Histograms under each other; a line each.
#[derive(Debug, Default)]
pub struct AsciiChart {
    lines: Vec<String>,
}

impl AsciiChart {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn add(mut self, name: &str, histogram: Histogram) -> Self {
        self.lines.push(format!("{name}: {}", histogram.percentile_stats()));
        self
    }

    pub fn detailed(&self) -> &Self {
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_bucket() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats().p99_9, 0);
        (0..900).for_each(|_| histogram.record(5));
        (0..100).for_each(|_| histogram.record(u64::MAX));
        histogram.record(0);
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p50, stats.p99_9), (1001, 4, 1 << 63));
    }
}
