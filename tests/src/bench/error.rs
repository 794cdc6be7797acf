//! Everything that can end the benchmark or one of its runs.

use std::path::PathBuf;

use crate::etcd::EtcdError;

/// Why the benchmark, or one run of it, could not go on.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The command line says something the benchmark does not know.
    #[error("{0}; run `bench --help` for the options")]
    Usage(String),
    /// etcd could not be built or found; without it only `--program instar` runs.
    #[error("etcd is not available: {0}")]
    Etcd(#[from] EtcdError),
    /// The program to measure is not there.
    #[error("there is no {label} at {}; build it first (`cargo build --release`)", .path.display())]
    NoBinary { label: String, path: PathBuf },
    /// The data directory is in memory.
    #[error("{} is on {kind}, where fsync means nothing; name a disk with --data-dir", .path.display())]
    NoDisk { path: PathBuf, kind: String },
    /// An operation on a file or socket of the benchmark's own failed.
    #[error("cannot {what}: {source}")]
    Io { what: String, source: std::io::Error },
    /// A member ended or never answered; `log` is the end of what it wrote.
    #[error("{label} {what}; its log ends with:\n{log}")]
    Member { label: String, what: String, log: String },
    /// A connection broke, or an answer was not what the request asks for.
    #[error("{0}")]
    Load(String),
}

impl BenchError {
    /// Wraps an I/O error with what was being done, as in "cannot {what}".
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
