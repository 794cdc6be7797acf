//! What can go wrong with the files.

use std::path::PathBuf;

use thiserror::Error;

/// A failure of the storage. None of them is an answer to a client: the member stops over it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StorageError {
    /// Reading or writing failed, or has failed before: check the disk and its free space, then start again.
    #[error("{file}: {reason}")]
    Io { file: String, reason: String },
    /// The file is not what it should be: restore the member from its peers.
    #[error("{file} is damaged or not Instar's: {reason}")]
    Corrupt { file: String, reason: String },
    /// Something reached for a table that is not declared.
    #[error("there is no table {0}")]
    NoTable(u32),
}

impl StorageError {
    pub(super) fn io(file: &str, error: impl std::fmt::Display) -> Self {
        Self::Io { file: file.to_owned(), reason: error.to_string() }
    }

    pub fn corrupt(file: &str, reason: impl std::fmt::Display) -> Self {
        Self::Corrupt { file: file.to_owned(), reason: reason.to_string() }
    }

    pub(super) fn path(path: &std::path::Path, error: impl std::fmt::Display) -> Self {
        Self::io(&PathBuf::from(path).display().to_string(), error)
    }
}
