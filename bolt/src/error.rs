//! What can go wrong: with writing, and with what is read.

use std::io;

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("write a database file: {0}")]
    Io(#[from] io::Error),
    /// A row was given before any bucket.
    #[error("a row has no bucket")]
    NoBucket,
    /// Keys must ascend, or a search would not find them.
    #[error("a key in bucket {bucket:?} does not come after the one before it")]
    Order { bucket: String },
    #[error("bucket {bucket:?} is given twice")]
    BucketTwice { bucket: String },
    #[error("a {what} of {bytes} bytes, {least} to {most} can be stored")]
    Length { what: &'static str, bytes: usize, least: usize, most: usize },
    #[error("more than {} buckets", crate::BUCKETS_MAX)]
    Buckets,
    /// The second pass was given other rows than the first.
    #[error(
        "the rows are not those that were measured: {measured} pages planned, {written} written"
    )]
    Changed { measured: u64, written: u64 },
    /// Only for examples and tests that read what they wrote.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Why a file is not read, and where that was found.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("read a database file: {0}")]
    Io(#[from] io::Error),
    #[error("not a usable etcd database file: page {page}: {damage}")]
    Damaged { page: u64, damage: Damage },
}

impl ReadError {
    pub(crate) fn at(page: u64, damage: Damage) -> Self {
        Self::Damaged { page, damage }
    }
}

/// What is wrong with a page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("neither meta page is valid ({first}; {second})")]
    NoMeta { first: &'static str, second: &'static str },
    #[error("the file ends before it: {bytes} bytes, {needed} needed")]
    Truncated { bytes: u64, needed: u64 },
    #[error("it lies outside of the file's {pages} pages")]
    Outside { pages: u64 },
    #[error("it calls itself page {own}")]
    Id { own: u64 },
    #[error("its type is {flags:#x}, {wanted} is expected")]
    Type { flags: u16, wanted: &'static str },
    #[error("it is used twice")]
    UsedTwice,
    #[error("it is neither used nor free")]
    Lost,
    #[error("it is used and free at once")]
    UsedAndFree,
    #[error("it has {bytes} bytes with its overflow, {most} at most")]
    Overflow { bytes: u64, most: u64 },
    #[error("it has {count} elements, which do not fit")]
    Count { count: u64 },
    #[error("a branch page without elements")]
    EmptyBranch,
    #[error("a leaf page without elements, below a branch")]
    EmptyLeaf,
    #[error("element {at} reaches outside of it")]
    Element { at: usize },
    #[error("the content of element {at} does not follow what stands before it")]
    Gap { at: usize },
    #[error("element {at} has a key of {bytes} bytes")]
    KeyLength { at: usize, bytes: usize },
    #[error("the key of element {at} is not in order")]
    Order { at: usize },
    #[error("the tree is deeper than {} pages", crate::DEPTH_MAX)]
    Depth,
    #[error("element {at} is a bucket where a row is expected")]
    Nested { at: usize },
    #[error("element {at} is a row where a bucket is expected")]
    NoBucket { at: usize },
    #[error("element {at} is no bucket's header")]
    BucketHeader { at: usize },
    #[error("more than {} buckets", crate::BUCKETS_MAX)]
    Buckets,
}
