//! The free list: the pages that hold nothing. What is written has none; what is read is checked.

use std::io::Write;

use crate::error::{Damage, WriteError};
use crate::page::{HEADER_BYTES, Header, Kind, u64_at};
use crate::tree::Pages;

/// In place of a count that does not fit: then the count is the list's first entry.
const COUNT_FOLLOWS: u16 = u16::MAX;
const ENTRY_BYTES: usize = 8;

pub fn write_empty<W: Write>(pages: &mut Pages<W>) -> Result<u64, WriteError> {
    pages.write(Kind::Freelist, 0, &[])
}

/// The entries of a page that was read with its overflow.
pub fn entries<'a>(
    header: &Header,
    page: &'a [u8],
) -> Result<impl Iterator<Item = u64> + 'a, Damage> {
    let content = &page[HEADER_BYTES..];
    let (content, count) = match header.count {
        COUNT_FOLLOWS if content.len() >= ENTRY_BYTES => {
            (&content[ENTRY_BYTES..], u64_at(content, 0))
        }
        count => (content, u64::from(count)),
    };
    let bytes = usize::try_from(count).ok().and_then(|count| count.checked_mul(ENTRY_BYTES));
    let entries = bytes.and_then(|bytes| content.get(..bytes)).ok_or(Damage::Count { count })?;
    Ok(entries.chunks_exact(ENTRY_BYTES).map(|entry| u64_at(entry, 0)))
}
