//! Why a file is not restored, and where in it that was found.

use super::Boxed;

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A page; the error names it.
    #[error(transparent)]
    Pages(#[from] bolt::ReadError),
    #[error("no etcd server's database: it has no bucket {bucket:?}")]
    NoBucket { bucket: &'static str },
    #[error("page {page}: row {row} of bucket {bucket:?} cannot be restored: {fault}")]
    Row { bucket: &'static str, row: String, page: u64, fault: Fault },
    #[error("--bump-revision is too high")]
    Bump,
    /// Whoever takes the rows failed.
    #[error(transparent)]
    Taker(Boxed),
}

/// What is wrong with a row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The machine could not read it.
    #[error("{0}")]
    Unreadable(&'static str),
    #[error("its revision is there already, as a {other}")]
    RevisionTwice { other: &'static str },
    #[error("it has no key")]
    NoKey,
    #[error("a deletion has nothing but a key")]
    Tombstone,
    #[error("its mod_revision is {mod_revision}")]
    ModRevision { mod_revision: i64 },
    #[error("its create_revision is {create_revision}, 1 to {mod_revision} are possible")]
    CreateRevision { create_revision: i64, mod_revision: i64 },
    #[error("its version is {version}, 1 to {most} are possible")]
    Version { version: i64, most: i64 },
    #[error("the key hangs on lease {lease:x}, which is not there")]
    NoLease { lease: i64 },
    #[error("its TTL is {ttl_s} s, of which {remaining_s} s are left")]
    Ttl { ttl_s: i64, remaining_s: i64 },
    #[error("it is no alarm of a kind")]
    AlarmKind,
    #[error("it has a value of {bytes} bytes, {wanted} are expected")]
    Length { bytes: usize, wanted: usize },
    #[error("its value is not JSON as {0} is written")]
    Json(&'static str),
    #[error("its key is no member's ID")]
    MemberId,
    #[error("its key and its value name different members")]
    OtherMember,
    #[error("more was compacted than was to be: {finished} of {scheduled}")]
    Compaction { finished: i64, scheduled: i64 },
}
