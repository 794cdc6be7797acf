//! Opens a database file, finds its buckets, and checks it as a whole.

use crate::error::{Damage, ReadError};
use crate::freelist;
use crate::meta::{META_BYTES, Meta, NO_FREELIST, PAGE_BYTES_LEAST, PAGE_BYTES_MOST};
use crate::page::{BUCKET_HEADER_BYTES, HEADER_BYTES, Header, Kind, u64_at};
use crate::rows::{Root, Rows, Step};
use crate::source::Source;
use crate::{BUCKETS_MAX, PAGE_RUN_BYTES_MAX};

/// Why a place has no meta page.
const TOO_SHORT: &str = "the file is too short";

/// A database file that can be read. Only the meta pages have been checked so far.
#[derive(Debug)]
pub struct Database<S> {
    source: S,
    meta: Meta,
    buckets: Vec<(Vec<u8>, Root)>,
}

impl<S: Source> Database<S> {
    /// Reads the meta pages and the tree of buckets.
    pub fn open(source: S) -> Result<Self, ReadError> {
        let meta = find_meta(&source)?;
        let mut database = Self { source, meta, buckets: Vec::new() };
        database.check_length()?;
        database.buckets = database.read_buckets(&mut Used::default())?;
        Ok(database)
    }

    /// The size of the pages, in bytes.
    pub fn page_bytes(&self) -> u64 {
        u64::from(self.meta.page_bytes)
    }

    /// The size of the database, without what may follow it, in bytes.
    pub fn bytes(&self) -> u64 {
        self.meta.pages * self.page_bytes()
    }

    /// The names of the buckets, ascending.
    pub fn buckets(&self) -> impl Iterator<Item = &[u8]> {
        self.buckets.iter().map(|(name, _)| name.as_slice())
    }

    /// The rows of a bucket; `None` if there is no such bucket.
    pub fn rows(&self, bucket: &[u8]) -> Result<Option<Rows<'_, S>>, ReadError> {
        let found = self.buckets.iter().find(|(name, _)| name == bucket);
        found.map(|(_, root)| Rows::new(self, root.clone(), Used::default())).transpose()
    }

    /// Reads every page: all trees and the free list are sound, and each page is either used or free.
    pub fn verify(&self) -> Result<(), ReadError> {
        let mut used = Used::default();
        used.take(0, 2)?;
        self.read_buckets(&mut used)?;
        for (_, root) in &self.buckets {
            let mut rows = Rows::new(self, root.clone(), std::mem::take(&mut used))?;
            while rows.next()?.is_some() {}
            used = rows.into_used();
        }
        self.check_free(&mut used)
    }

    fn check_length(&self) -> Result<(), ReadError> {
        let bytes = self.source.bytes()?;
        let needed = self.meta.pages.saturating_mul(self.page_bytes());
        match bytes < needed {
            true => {
                Err(ReadError::at(bytes / self.page_bytes(), Damage::Truncated { bytes, needed }))
            }
            false => Ok(()),
        }
    }

    fn read_buckets(&self, used: &mut Used) -> Result<Vec<(Vec<u8>, Root)>, ReadError> {
        let mut rows = Rows::new(self, Root::Page(self.meta.root), std::mem::take(used))?;
        let mut buckets = Vec::new();
        while let Some(Step { page, at, element }) = rows.step()? {
            if !element.is_bucket {
                return Err(ReadError::at(page, Damage::NoBucket { at }));
            }
            if buckets.len() == BUCKETS_MAX {
                return Err(ReadError::at(page, Damage::Buckets));
            }
            let value = element.value;
            let root = match value.len() >= BUCKET_HEADER_BYTES {
                false => return Err(ReadError::at(page, Damage::BucketHeader { at })),
                true => u64_at(value, 0),
            };
            let root = match root {
                0 => Root::Inline { page, bytes: value[BUCKET_HEADER_BYTES..].to_vec() },
                root => Root::Page(root),
            };
            buckets.push((element.key.to_vec(), root));
        }
        *used = rows.into_used();
        Ok(buckets)
    }

    fn check_free(&self, used: &mut Used) -> Result<(), ReadError> {
        let list = self.meta.freelist;
        // Without a stored list, what is not used is free.
        if list == NO_FREELIST {
            return Ok(());
        }
        let mut page = Vec::new();
        let header = self.read_page(list, "a free list", &mut page)?;
        if header.kind != Kind::Freelist {
            let flags = crate::page::u16_at(&page, 8);
            return Err(ReadError::at(list, Damage::Type { flags, wanted: "a free list" }));
        }
        used.take(list, u64::from(header.overflow) + 1)?;
        let free =
            freelist::entries(&header, &page).map_err(|damage| ReadError::at(list, damage))?;
        for id in free {
            if id < 2 || id >= self.meta.pages {
                return Err(ReadError::at(id, Damage::Outside { pages: self.meta.pages }));
            }
            used.take(id, 1).map_err(|_| ReadError::at(id, Damage::UsedAndFree))?;
        }
        match (0..self.meta.pages).find(|&id| !used.has(id)) {
            Some(id) => Err(ReadError::at(id, Damage::Lost)),
            None => Ok(()),
        }
    }

    /// Reads a page and its overflow. `wanted` is what an error calls it.
    pub(crate) fn read_page(
        &self,
        id: u64,
        wanted: &'static str,
        page: &mut Vec<u8>,
    ) -> Result<Header, ReadError> {
        let (size, pages) = (self.page_bytes(), self.meta.pages);
        if id < 2 || id >= pages {
            return Err(ReadError::at(id, Damage::Outside { pages }));
        }
        let mut head = [0; HEADER_BYTES];
        self.source.read_at(&mut head, id * size)?;
        let damaged = |damage| ReadError::at(id, damage);
        let header = Header::decode(&head, wanted).map_err(damaged)?;
        if header.id != id {
            return Err(damaged(Damage::Id { own: header.id }));
        }
        let run = u64::from(header.overflow) + 1;
        if run > pages - id {
            return Err(damaged(Damage::Outside { pages }));
        }
        let bytes = run * size;
        if bytes > PAGE_RUN_BYTES_MAX {
            return Err(damaged(Damage::Overflow { bytes, most: PAGE_RUN_BYTES_MAX }));
        }
        page.clear();
        // At most what the bound allows, and no more than the file has.
        page.resize(bytes as usize, 0);
        self.source.read_at(page, id * size)?;
        Ok(header)
    }
}

/// The valid meta page with the higher transaction. The second one's place depends on the page size, which
/// only a meta page tells: where the first is damaged, every size is tried.
fn find_meta(source: &impl Source) -> Result<Meta, ReadError> {
    let first = meta_at(source, 0)?;
    let sizes = match &first {
        Ok(meta) => meta.page_bytes..=meta.page_bytes,
        Err(_) => PAGE_BYTES_LEAST..=PAGE_BYTES_MOST,
    };
    let mut second = Err(TOO_SHORT);
    let mut size = *sizes.start();
    while size <= *sizes.end() && second.is_err() {
        let found = meta_at(source, u64::from(size))?;
        second = found.and_then(|meta| match meta.page_bytes == size {
            true => Ok(meta),
            false => Err("another page size"),
        });
        size *= 2;
    }
    let meta = match (first, second) {
        (Ok(first), Ok(second)) if second.transaction > first.transaction => second,
        (Ok(meta), _) | (Err(_), Ok(meta)) => meta,
        (Err(first), Err(second)) => {
            return Err(ReadError::at(0, Damage::NoMeta { first, second }));
        }
    };
    Ok(meta)
}

fn meta_at(source: &impl Source, offset: u64) -> Result<Result<Meta, &'static str>, ReadError> {
    let mut page = [0; HEADER_BYTES + META_BYTES];
    if source.bytes()? < offset + page.len() as u64 {
        return Ok(Err(TOO_SHORT));
    }
    source.read_at(&mut page, offset)?;
    Ok(Meta::decode(&page[HEADER_BYTES..]))
}

/// Pages that a walk has come by: none is there twice, so no walk is longer than the file.
#[derive(Debug, Default)]
pub(crate) struct Used {
    bits: Vec<u64>,
}

impl Used {
    pub fn has(&self, id: u64) -> bool {
        let word = self.bits.get((id / 64) as usize).copied().unwrap_or_default();
        word >> (id % 64) & 1 == 1
    }

    /// Marks `pages` pages from `id` on, which are known to be inside of the file.
    pub fn take(&mut self, id: u64, pages: u64) -> Result<(), ReadError> {
        for id in id..id + pages {
            if self.has(id) {
                return Err(ReadError::at(id, Damage::UsedTwice));
            }
            let word = (id / 64) as usize;
            if self.bits.len() <= word {
                self.bits.resize(word + 1, 0);
            }
            self.bits[word] |= 1 << (id % 64);
        }
        Ok(())
    }
}
