//! Builds one B+ tree from rows in ascending order, bottom up.
//!
//! A leaf page is full when the next row does not fit; then it is written, and its first key goes into the
//! branch above it, and so on. One page of each level is held.

use std::io::Write;

use crate::PAGE_BYTES;
use crate::error::WriteError;
use crate::page::{ELEMENT_BYTES, HEADER_BYTES, Header, Kind, encode_branch, encode_leaf};

/// Fewer elements make no branch worth having; those with long keys overflow instead.
const BRANCH_ELEMENTS_LEAST: usize = 2;

/// Where finished pages go: they are numbered as they come.
pub struct Pages<W> {
    sink: W,
    next: u64,
}

impl<W: Write> Pages<W> {
    pub fn new(sink: W, next: u64) -> Self {
        Self { sink, next }
    }

    /// The number of the page that comes next.
    pub fn next(&self) -> u64 {
        self.next
    }

    pub fn sink(&mut self) -> &mut W {
        &mut self.sink
    }

    pub fn into_sink(self) -> W {
        self.sink
    }

    /// Writes a page, and as many after it as its content needs; returns its number.
    pub fn write(&mut self, kind: Kind, count: u16, parts: &[&[u8]]) -> Result<u64, WriteError> {
        let content: usize = parts.iter().map(|part| part.len()).sum();
        let pages = (HEADER_BYTES + content).div_ceil(PAGE_BYTES);
        let id = self.next;
        // A row is shorter than 2^30 bytes, and a page that is longer than one holds at most two.
        let header = Header { id, kind, count, overflow: pages as u32 - 1 };
        self.sink.write_all(&header.encode())?;
        for part in parts {
            self.sink.write_all(part)?;
        }
        let padding = pages * PAGE_BYTES - HEADER_BYTES - content;
        self.sink.write_all(&[0; PAGE_BYTES][..padding])?;
        self.next += pages as u64;
        Ok(id)
    }
}

/// What a page is filled with: lengths and flags of its elements, their keys and values.
#[derive(Default)]
struct Content {
    elements: Vec<Element>,
    bytes: Vec<u8>,
}

struct Element {
    key_bytes: u32,
    value_bytes: u32,
    /// Of a leaf.
    flags: u32,
    /// Of a branch.
    child: u64,
}

impl Content {
    fn holds(&self, more: usize) -> bool {
        let elements = (self.elements.len() + 1) * ELEMENT_BYTES;
        HEADER_BYTES + elements + self.bytes.len() + more <= PAGE_BYTES
    }

    fn push(&mut self, key: &[u8], value: &[u8], flags: u32, child: u64) {
        // Lengths were checked against their bounds, which fit.
        let (key_bytes, value_bytes) = (key.len() as u32, value.len() as u32);
        self.elements.push(Element { key_bytes, value_bytes, flags, child });
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
    }

    fn first_key(&self) -> Vec<u8> {
        let bytes = self.elements.first().map_or(0, |element| element.key_bytes as usize);
        self.bytes[..bytes].to_vec()
    }

    /// Writes the page and forgets what was in it.
    fn write<W: Write>(&mut self, kind: Kind, pages: &mut Pages<W>) -> Result<u64, WriteError> {
        let count = self.elements.len();
        let mut heads = Vec::with_capacity(count * ELEMENT_BYTES);
        let mut position = (count * ELEMENT_BYTES) as u32;
        for element in &self.elements {
            heads.extend(match kind {
                Kind::Branch => encode_branch(position, element.key_bytes, element.child),
                _ => encode_leaf(element.flags, position, element.key_bytes, element.value_bytes),
            });
            // The next head is nearer to its content by its own length.
            position += element.key_bytes + element.value_bytes;
            position -= ELEMENT_BYTES as u32;
        }
        let id = pages.write(kind, count as u16, &[&heads, &self.bytes])?;
        self.elements.clear();
        self.bytes.clear();
        Ok(id)
    }
}

/// A tree that grows.
#[derive(Default)]
pub struct Tree {
    leaf: Content,
    /// From the level above the leaves upwards.
    branches: Vec<Content>,
}

impl Tree {
    pub fn push<W: Write>(
        &mut self,
        (key, value): (&[u8], &[u8]),
        flags: u32,
        pages: &mut Pages<W>,
    ) -> Result<(), WriteError> {
        if !self.leaf.elements.is_empty() && !self.leaf.holds(key.len() + value.len()) {
            let first = self.leaf.first_key();
            let id = self.leaf.write(Kind::Leaf, pages)?;
            self.push_branch(0, &first, id, pages)?;
        }
        self.leaf.push(key, value, flags, 0);
        Ok(())
    }

    fn push_branch<W: Write>(
        &mut self,
        level: usize,
        key: &[u8],
        child: u64,
        pages: &mut Pages<W>,
    ) -> Result<(), WriteError> {
        let (mut level, mut key, mut child) = (level, key.to_vec(), child);
        loop {
            if self.branches.len() == level {
                self.branches.push(Content::default());
            }
            let branch = &mut self.branches[level];
            if branch.elements.len() < BRANCH_ELEMENTS_LEAST || branch.holds(key.len()) {
                branch.push(&key, &[], 0, child);
                return Ok(());
            }
            let first = branch.first_key();
            let id = branch.write(Kind::Branch, pages)?;
            branch.push(&key, &[], 0, child);
            (level, key, child) = (level + 1, first, id);
        }
    }

    /// Writes what is left and returns the root page. A tree without rows is one empty leaf.
    pub fn finish<W: Write>(mut self, pages: &mut Pages<W>) -> Result<u64, WriteError> {
        let mut first = self.leaf.first_key();
        let mut id = self.leaf.write(Kind::Leaf, pages)?;
        let mut level = 0;
        while level < self.branches.len() {
            self.push_branch(level, &first, id, pages)?;
            let branch = &mut self.branches[level];
            first = branch.first_key();
            id = branch.write(Kind::Branch, pages)?;
            level += 1;
        }
        Ok(id)
    }
}
