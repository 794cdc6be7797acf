//! Walks a tree in the order of its keys, one page of each level in memory.
//!
//! Every page is checked as it is entered: its number and type, that no walk came by before, that its
//! elements fit, and that its keys ascend and stay between those that the branch above promised.

use crate::DEPTH_MAX;
use crate::error::{Damage, ReadError};
use crate::page::{
    ELEMENT_BYTES, HEADER_BYTES, Header, Kind, LeafElement, branch_element, check_contiguous,
    leaf_element, u16_at,
};
use crate::reader::{Database, Used};
use crate::source::Source;

const WANTED: &str = "a branch or a leaf";

/// Where a tree begins: at a page, or inside of the leaf that names the bucket.
#[derive(Clone, Debug)]
pub(crate) enum Root {
    Page(u64),
    Inline { page: u64, bytes: Vec<u8> },
}

/// The rows of one bucket.
pub struct Rows<'a, S> {
    database: &'a Database<S>,
    used: Used,
    /// The branch pages above the leaf, from the root down.
    branches: Vec<Place>,
    leaf: Place,
    /// The key of the last row.
    last: Vec<u8>,
}

/// A page, and the element that comes next in it.
#[derive(Default)]
struct Place {
    /// The page's number; an inline page's is that of the page around it.
    id: u64,
    bytes: Vec<u8>,
    count: usize,
    next: usize,
    /// What all keys are below, if anything.
    below: Option<Vec<u8>>,
}

/// An element of a leaf, and where it stands.
pub(crate) struct Step<'a> {
    pub page: u64,
    pub at: usize,
    pub element: LeafElement<'a>,
}

impl<'a, S: Source> Rows<'a, S> {
    pub(crate) fn new(
        database: &'a Database<S>,
        root: Root,
        used: Used,
    ) -> Result<Self, ReadError> {
        let leaf = Place::default();
        let mut rows = Self { database, used, branches: Vec::new(), leaf, last: Vec::new() };
        match root {
            Root::Page(id) => rows.enter(id, None, None)?,
            Root::Inline { page, bytes } => rows.enter_inline(page, bytes)?,
        }
        Ok(rows)
    }

    /// The next row, key and value.
    #[allow(
        clippy::should_implement_trait,
        reason = "a row is borrowed from its page, which an Iterator's item cannot be"
    )]
    pub fn next(&mut self) -> Result<Option<(&[u8], &[u8])>, ReadError> {
        Ok(self.next_on_page()?.map(|(_, key, value)| (key, value)))
    }

    /// The next row behind the number of its page: for whoever has to say where a row is that makes no sense.
    pub fn next_on_page(&mut self) -> Result<Option<(u64, &[u8], &[u8])>, ReadError> {
        match self.step()? {
            None => Ok(None),
            Some(step) if step.element.is_bucket => {
                Err(ReadError::at(step.page, Damage::Nested { at: step.at }))
            }
            Some(step) => Ok(Some((step.page, step.element.key, step.element.value))),
        }
    }

    pub(crate) fn into_used(self) -> Used {
        self.used
    }

    pub(crate) fn step(&mut self) -> Result<Option<Step<'_>>, ReadError> {
        while self.leaf.next == self.leaf.count {
            if !self.next_page()? {
                return Ok(None);
            }
        }
        let at = self.leaf.next;
        self.leaf.next += 1;
        let page = self.leaf.id;
        let damaged = |damage| ReadError::at(page, damage);
        let element = leaf_element(&self.leaf.bytes, at).map_err(damaged)?;
        let within = self.leaf.below.as_ref().is_none_or(|below| element.key < below.as_slice());
        if element.key <= self.last.as_slice() || !within {
            return Err(damaged(Damage::Order { at }));
        }
        self.last.clear();
        self.last.extend_from_slice(element.key);
        Ok(Some(Step { page, at, element }))
    }

    /// Goes up to the first branch that has more, and into its next page.
    fn next_page(&mut self) -> Result<bool, ReadError> {
        while let Some(branch) = self.branches.last_mut() {
            if branch.next == branch.count {
                self.branches.pop();
                continue;
            }
            let at = branch.next;
            branch.next += 1;
            let id = branch.id;
            let damaged = |damage| ReadError::at(id, damage);
            let (least, child) = branch_element(&branch.bytes, at).map_err(damaged)?;
            let below = match branch.next < branch.count {
                true => Some(branch_element(&branch.bytes, at + 1).map_err(damaged)?.0.to_vec()),
                false => branch.below.clone(),
            };
            let ascends = below.as_ref().is_none_or(|below| least < below.as_slice());
            if least <= self.last.as_slice() || !ascends {
                return Err(damaged(Damage::Order { at }));
            }
            let least = least.to_vec();
            self.enter(child, Some(&least), below)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Reads a page, whose keys are promised to be `least` or more and less than `below`.
    fn enter(
        &mut self,
        id: u64,
        least: Option<&[u8]>,
        below: Option<Vec<u8>>,
    ) -> Result<(), ReadError> {
        // A leaf's memory serves the next one.
        let mut bytes = std::mem::take(&mut self.leaf.bytes);
        let header = self.database.read_page(id, WANTED, &mut bytes)?;
        self.used.take(id, u64::from(header.overflow) + 1)?;
        let damaged = |damage| ReadError::at(id, damage);
        let place =
            Place { id, count: count(&header, &bytes).map_err(damaged)?, bytes, next: 0, below };
        let first = match (header.kind, place.count) {
            (Kind::Branch, 0) => return Err(damaged(Damage::EmptyBranch)),
            (Kind::Branch, _) => Some(branch_element(&place.bytes, 0).map_err(damaged)?.0),
            // Only the root of a tree without rows is empty.
            (Kind::Leaf, 0) if least.is_some() => return Err(damaged(Damage::EmptyLeaf)),
            (Kind::Leaf, 0) => None,
            (Kind::Leaf, _) => Some(leaf_element(&place.bytes, 0).map_err(damaged)?.key),
            _ => return Err(damaged(wrong_type(&place.bytes))),
        };
        if first.is_some_and(|first| least.is_some_and(|least| first < least)) {
            return Err(damaged(Damage::Order { at: 0 }));
        }
        check_contiguous(&place.bytes, header.kind, place.count).map_err(damaged)?;
        if header.kind == Kind::Leaf {
            self.leaf = place;
            return Ok(());
        }
        if self.branches.len() == DEPTH_MAX {
            return Err(damaged(Damage::Depth));
        }
        self.branches.push(place);
        self.leaf = Place::default();
        Ok(())
    }

    fn enter_inline(&mut self, id: u64, bytes: Vec<u8>) -> Result<(), ReadError> {
        let damaged = |damage| ReadError::at(id, damage);
        let header = Header::decode(&bytes, "an inline leaf").map_err(damaged)?;
        if header.kind != Kind::Leaf {
            return Err(damaged(wrong_type(&bytes)));
        }
        let count = count(&header, &bytes).map_err(damaged)?;
        check_contiguous(&bytes, Kind::Leaf, count).map_err(damaged)?;
        self.leaf = Place { id, bytes, count, next: 0, below: None };
        Ok(())
    }
}

fn wrong_type(page: &[u8]) -> Damage {
    Damage::Type { flags: u16_at(page, 8), wanted: WANTED }
}

/// How many elements a page has, if their heads fit.
fn count(header: &Header, page: &[u8]) -> Result<usize, Damage> {
    let count = usize::from(header.count);
    match HEADER_BYTES + count * ELEMENT_BYTES <= page.len() {
        true => Ok(count),
        false => Err(Damage::Count { count: count as u64 }),
    }
}
