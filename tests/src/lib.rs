//! End-to-end tests against real processes, and the benchmark.
//!
//! `case` runs the cases of `tests/e2e`, each in a scratch directory of its own. `cluster` starts real
//! programs (Instar, or etcd as `etcd` builds it), `client` talks to them. `differential` sends one
//! stream of requests to both and compares the answers; `check` judges histories of concurrent
//! clients that `load` recorded; `tidy` reads the sources. Nothing here is used by the product.

pub mod bench;
pub mod case;
pub mod check;
pub mod client;
pub mod cluster;
pub mod differential;
pub mod etcd;
pub mod load;
#[cfg(test)]
mod tidy;
pub mod watching;
