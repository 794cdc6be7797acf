//! etcd's database files: the format of bbolt, as far as etcd uses it.
//!
//! A file is a row of pages. Pages 0 and 1 are *meta pages* (the one with the higher transaction wins),
//! one is the *free list*, the others are the *branch* and *leaf* pages of B+ trees: one tree of buckets,
//! and one tree of rows for each bucket. A page too small for what it holds *overflows* into those that
//! follow it. Buckets do not nest: etcd has top-level ones only.
//!
//! # Writing
//!
//! [`Writer`] takes rows bucket by bucket, in ascending order of their keys, and writes pages in one pass.
//! It holds one page for each level of the tree, and never looks back, but for the meta pages: they stand
//! first and name what comes last. There are two ways to have them right:
//!
//! - into a file: [`Writer::seeking`], then [`Writer::finish_seeking`] goes back and writes them;
//! - into a stream: [`Writer::measuring`] takes the same rows once and tells the [`Layout`] (and with it
//!   the size of the file, which a stream's `remaining_bytes` wants), [`Writer::streaming`] takes it.
//!   Rows that differ in between are an error at the end, never a wrong file.
//!
//! ```
//! # fn main() -> Result<(), bolt::WriteError> {
//! let mut writer = bolt::Writer::measuring();
//! writer.bucket(b"key")?;
//! writer.row(b"name", b"value")?;
//! let layout = writer.finish()?;
//!
//! let mut stream = Vec::new();
//! let mut writer = bolt::Writer::streaming(&mut stream, &layout)?;
//! writer.bucket(b"key")?;
//! writer.row(b"name", b"value")?;
//! writer.finish()?;
//! assert_eq!(stream.len() as u64, layout.bytes());
//!
//! let database = bolt::Database::open(stream)?;
//! let mut rows = database.rows(b"key")?.expect("the bucket");
//! assert_eq!(rows.next()?, Some((&b"name"[..], &b"value"[..])));
//! # Ok(())
//! # }
//! ```
//!
//! # Reading
//!
//! [`Database::open`] takes anything that can be read at an offset ([`Source`]: a file, or bytes).
//! [`Database::rows`] walks a bucket in order, [`Database::verify`] a whole file with its free list. Nothing
//! in a file is believed before it has been checked: a damaged one is a [`ReadError`] that names the page
//! and the reason, never a panic, an endless walk or an allocation out of proportion. What follows the last
//! page (the SHA-256 that `snapshot save` appends) is not looked at.

mod error;
mod freelist;
mod meta;
mod page;
mod reader;
mod rows;
mod source;
#[cfg(test)]
mod tests;
mod tree;
mod writer;

pub use error::{Damage, ReadError, WriteError};
pub use reader::Database;
pub use rows::Rows;
pub use source::Source;
pub use writer::{Layout, Writer};

/// The size of pages that are written, in bytes: what etcd uses on almost every machine. Other sizes are
/// read as well.
pub const PAGE_BYTES: usize = 4096;
/// The longest key, in bytes; bbolt's own limit.
pub const KEY_BYTES_MAX: usize = 32_768;
/// The longest value, in bytes; far above what etcd accepts in a request.
pub const VALUE_BYTES_MAX: usize = 512 << 20;
/// How many buckets a file may have, and how long their names may be: etcd has a dozen, all short.
pub const BUCKETS_MAX: usize = 1024;
pub const BUCKET_NAME_BYTES_MAX: usize = 256;
/// The most memory that one page and its overflow are read into, in bytes.
const PAGE_RUN_BYTES_MAX: u64 = VALUE_BYTES_MAX as u64 + (1 << 20);
/// How deep a tree may be: 2^64 rows in pages of two fit.
const DEPTH_MAX: usize = 64;
