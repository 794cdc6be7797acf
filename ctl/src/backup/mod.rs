//! A database file of etcd's that is to become a cluster: read, and believed in nothing.
//!
//! `bolt` checks the pages, all of them before the first row is looked at. Here the rows are checked: what the machine
//! could not read (`guest_kv::check_row`), and what no etcd would have written. A refusal names the bucket, the row and
//! its page. What is refused has left nothing: rows are handed over one by one, and whoever takes them gives up with the
//! first error.
//!
//! Nothing here knows a data directory or a command line, and nothing is kept of the rows but the numbers of the leases
//! and the keys that hang on leases which are gone.

mod error;
mod file;
mod history;
mod revision;
mod rows;
#[cfg(test)]
mod tests;

pub use error::BackupError;
pub use file::{Authentication, Backup};
pub use revision::Revision;

/// A failure of whoever takes the rows.
pub type Boxed = Box<dyn std::error::Error + Send + Sync>;
