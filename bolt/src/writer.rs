//! Writes a database file in one pass.

use std::collections::BTreeMap;
use std::io::{self, Seek, SeekFrom, Write};

use crate::error::WriteError;
use crate::freelist;
use crate::meta::Meta;
use crate::page::{BUCKET_FLAG, BUCKET_HEADER_BYTES};
use crate::tree::{Pages, Tree};
use crate::{BUCKET_NAME_BYTES_MAX, BUCKETS_MAX, KEY_BYTES_MAX, PAGE_BYTES, VALUE_BYTES_MAX, meta};

/// The first page after the meta pages; the free list's.
const FIRST_PAGE: u64 = 2;
/// The transactions of the two meta pages. Both describe the same file.
const TRANSACTIONS: [u64; 2] = [0, 1];

/// Where things are in a file, known when all of it has been written or measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    root: u64,
    pages: u64,
}

impl Layout {
    /// The size of the file.
    pub fn bytes(&self) -> u64 {
        self.pages * PAGE_BYTES as u64
    }

    fn metas(&self) -> impl Iterator<Item = Vec<u8>> {
        let Self { root, pages } = *self;
        TRANSACTIONS
            .into_iter()
            .map(move |transaction| {
                let page_bytes = PAGE_BYTES as u32;
                meta::Meta { page_bytes, root, freelist: FIRST_PAGE, pages, transaction }
            })
            .map(|meta: Meta| meta.encode())
    }
}

/// Takes rows and writes pages; see the crate's documentation.
pub struct Writer<W> {
    pages: Pages<W>,
    /// What the first pass found, where there was one.
    planned: Option<Layout>,
    /// The bucket that rows go to, its tree so far and its last key.
    open: Option<Open>,
    /// The root pages of those that are complete, by their names.
    roots: BTreeMap<Vec<u8>, u64>,
}

struct Open {
    name: Vec<u8>,
    tree: Tree,
    last: Vec<u8>,
}

impl Writer<io::Sink> {
    /// A writer that writes nothing: its `finish` tells the layout.
    pub fn measuring() -> Self {
        let mut pages = Pages::new(io::sink(), FIRST_PAGE);
        // Nothing fails that is thrown away.
        drop(freelist::write_empty(&mut pages));
        Self { pages, planned: None, open: None, roots: BTreeMap::new() }
    }
}

impl<W: Write> Writer<W> {
    /// Writes rows that have been measured to a sink that only goes forward.
    pub fn streaming(mut sink: W, layout: &Layout) -> Result<Self, WriteError> {
        for meta in layout.metas() {
            sink.write_all(&meta)?;
        }
        Self::after_metas(sink, Some(*layout))
    }

    fn after_metas(sink: W, planned: Option<Layout>) -> Result<Self, WriteError> {
        let mut pages = Pages::new(sink, FIRST_PAGE);
        freelist::write_empty(&mut pages)?;
        Ok(Self { pages, planned, open: None, roots: BTreeMap::new() })
    }

    /// Begins a bucket: the rows that follow are its own. Buckets may come in any order.
    pub fn bucket(&mut self, name: &[u8]) -> Result<(), WriteError> {
        self.close_bucket()?;
        check_length("bucket's name", name.len(), 1, BUCKET_NAME_BYTES_MAX)?;
        if self.roots.contains_key(name) {
            return Err(WriteError::BucketTwice { bucket: text(name) });
        }
        if self.roots.len() == BUCKETS_MAX {
            return Err(WriteError::Buckets);
        }
        self.open = Some(Open { name: name.to_vec(), tree: Tree::default(), last: Vec::new() });
        Ok(())
    }

    /// Adds a row to the bucket; its key comes after those before it.
    pub fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        let open = self.open.as_mut().ok_or(WriteError::NoBucket)?;
        check_length("key", key.len(), 1, KEY_BYTES_MAX)?;
        check_length("value", value.len(), 0, VALUE_BYTES_MAX)?;
        if key <= open.last.as_slice() {
            return Err(WriteError::Order { bucket: text(&open.name) });
        }
        open.last.clear();
        open.last.extend_from_slice(key);
        open.tree.push((key, value), 0, &mut self.pages)
    }

    fn close_bucket(&mut self) -> Result<(), WriteError> {
        if let Some(open) = self.open.take() {
            let root = open.tree.finish(&mut self.pages)?;
            self.roots.insert(open.name, root);
        }
        Ok(())
    }

    /// Writes what is left. A streaming writer checks that it has written what was measured.
    pub fn finish(mut self) -> Result<Layout, WriteError> {
        self.write_roots()
    }

    fn write_roots(&mut self) -> Result<Layout, WriteError> {
        self.close_bucket()?;
        let mut tree = Tree::default();
        for (name, root) in &self.roots {
            let mut header = [0; BUCKET_HEADER_BYTES];
            header[..8].copy_from_slice(&root.to_le_bytes());
            tree.push((name, &header), BUCKET_FLAG, &mut self.pages)?;
        }
        let root = tree.finish(&mut self.pages)?;
        let layout = Layout { root, pages: self.pages.next() };
        self.pages.sink().flush()?;
        match self.planned {
            Some(planned) if planned != layout => {
                Err(WriteError::Changed { measured: planned.pages, written: layout.pages })
            }
            _ => Ok(layout),
        }
    }
}

impl<W: Write + Seek> Writer<W> {
    /// Writes to a sink that can go back; its first byte is the file's.
    pub fn seeking(mut sink: W) -> Result<Self, WriteError> {
        // What is not finished is no database: no magic number.
        sink.write_all(&[0; 2 * PAGE_BYTES])?;
        Self::after_metas(sink, None)
    }

    /// Writes what is left, and the meta pages; the sink stands at its end again.
    pub fn finish_seeking(mut self) -> Result<(Layout, W), WriteError> {
        let layout = self.write_roots()?;
        let mut sink = self.pages.into_sink();
        sink.seek(SeekFrom::Start(0))?;
        for meta in layout.metas() {
            sink.write_all(&meta)?;
        }
        sink.seek(SeekFrom::Start(layout.bytes()))?;
        sink.flush()?;
        Ok((layout, sink))
    }
}

fn check_length(
    what: &'static str,
    bytes: usize,
    least: usize,
    most: usize,
) -> Result<(), WriteError> {
    match (least..=most).contains(&bytes) {
        true => Ok(()),
        false => Err(WriteError::Length { what, bytes, least, most }),
    }
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
