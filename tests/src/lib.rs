//! End-to-end tests against real processes, and the benchmark.

pub mod bench;
pub mod etcd;
