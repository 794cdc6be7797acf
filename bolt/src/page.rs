//! The bytes of a page: its header, and the elements of branch and leaf pages. No pointer is followed here.

use crate::KEY_BYTES_MAX;
use crate::error::Damage;

pub const HEADER_BYTES: usize = 16;
/// An element of a branch or of a leaf page, without its key and value. Both happen to be equally long.
pub const ELEMENT_BYTES: usize = 16;
/// A bucket's header, the value of its row in the tree of buckets: root page and sequence. A small bucket
/// is *inline*: its root is 0 and its only page follows.
pub const BUCKET_HEADER_BYTES: usize = 16;
/// The flag of a leaf element that is a bucket.
pub const BUCKET_FLAG: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Branch,
    Leaf,
    Meta,
    Freelist,
}

impl Kind {
    fn flags(self) -> u16 {
        match self {
            Self::Branch => 0x01,
            Self::Leaf => 0x02,
            Self::Meta => 0x04,
            Self::Freelist => 0x10,
        }
    }

    fn from_flags(flags: u16) -> Option<Self> {
        let all = [Self::Branch, Self::Leaf, Self::Meta, Self::Freelist];
        all.into_iter().find(|kind| kind.flags() == flags)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub id: u64,
    pub kind: Kind,
    pub count: u16,
    /// How many pages after this one belong to it.
    pub overflow: u32,
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.kind.flags().to_le_bytes());
        bytes[10..12].copy_from_slice(&self.count.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.overflow.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8], wanted: &'static str) -> Result<Self, Damage> {
        if bytes.len() < HEADER_BYTES {
            return Err(Damage::Truncated {
                bytes: bytes.len() as u64,
                needed: HEADER_BYTES as u64,
            });
        }
        let flags = u16_at(bytes, 8);
        let kind = Kind::from_flags(flags).ok_or(Damage::Type { flags, wanted })?;
        Ok(Self {
            id: u64_at(bytes, 0),
            kind,
            count: u16_at(bytes, 10),
            overflow: u32_at(bytes, 12),
        })
    }
}

/// An element of a leaf page: a row, or a bucket.
#[derive(Clone, Copy, Debug)]
pub struct LeafElement<'a> {
    pub is_bucket: bool,
    pub key: &'a [u8],
    pub value: &'a [u8],
}

/// Writes a leaf element's head; `position` is where its key begins, from the head's own first byte.
pub fn encode_leaf(flags: u32, position: u32, key_bytes: u32, value_bytes: u32) -> [u8; 16] {
    let mut bytes = [0; ELEMENT_BYTES];
    bytes[0..4].copy_from_slice(&flags.to_le_bytes());
    bytes[4..8].copy_from_slice(&position.to_le_bytes());
    bytes[8..12].copy_from_slice(&key_bytes.to_le_bytes());
    bytes[12..16].copy_from_slice(&value_bytes.to_le_bytes());
    bytes
}

/// Writes a branch element's head.
pub fn encode_branch(position: u32, key_bytes: u32, child: u64) -> [u8; 16] {
    let mut bytes = [0; ELEMENT_BYTES];
    bytes[0..4].copy_from_slice(&position.to_le_bytes());
    bytes[4..8].copy_from_slice(&key_bytes.to_le_bytes());
    bytes[8..16].copy_from_slice(&child.to_le_bytes());
    bytes
}

/// Element `at` of a leaf page, whose heads are known to fit.
pub fn leaf_element(page: &[u8], at: usize) -> Result<LeafElement<'_>, Damage> {
    let head = HEADER_BYTES + at * ELEMENT_BYTES;
    let (position, key_bytes) = (u32_at(page, head + 4), u32_at(page, head + 8));
    let value_bytes = u32_at(page, head + 12);
    let key = content(page, head, position, 0, key_bytes).ok_or(Damage::Element { at })?;
    check_key(key, at)?;
    let value = content(page, head, position, key_bytes, value_bytes);
    let value = value.ok_or(Damage::Element { at })?;
    Ok(LeafElement { is_bucket: u32_at(page, head) & BUCKET_FLAG != 0, key, value })
}

/// Element `at` of a branch page, whose heads are known to fit: the least key of a page, and the page.
pub fn branch_element(page: &[u8], at: usize) -> Result<(&[u8], u64), Damage> {
    let head = HEADER_BYTES + at * ELEMENT_BYTES;
    let (position, key_bytes) = (u32_at(page, head), u32_at(page, head + 4));
    let key = content(page, head, position, 0, key_bytes).ok_or(Damage::Element { at })?;
    check_key(key, at)?;
    Ok((key, u64_at(page, head + 8)))
}

/// Keys and values stand one behind the other, from the end of the heads on: so a length, a place or a number of
/// elements that was changed is found, for pages have no checksum.
pub fn check_contiguous(page: &[u8], kind: Kind, count: usize) -> Result<(), Damage> {
    let mut end = HEADER_BYTES + count * ELEMENT_BYTES;
    for at in 0..count {
        let head = HEADER_BYTES + at * ELEMENT_BYTES;
        let (position, bytes) = match kind {
            Kind::Branch => (u32_at(page, head), branch_element(page, at)?.0.len()),
            _ => {
                let LeafElement { key, value, .. } = leaf_element(page, at)?;
                (u32_at(page, head + 4), key.len() + value.len())
            }
        };
        if head + position as usize != end {
            return Err(Damage::Gap { at });
        }
        end += bytes;
    }
    Ok(())
}

fn check_key(key: &[u8], at: usize) -> Result<(), Damage> {
    match key.len() {
        1..=KEY_BYTES_MAX => Ok(()),
        bytes => Err(Damage::KeyLength { at, bytes }),
    }
}

fn content(page: &[u8], head: usize, position: u32, skip: u32, bytes: u32) -> Option<&[u8]> {
    // Inside of the heads there is no content.
    if (position as usize) < ELEMENT_BYTES {
        return None;
    }
    let begin = head.checked_add(position as usize)?.checked_add(skip as usize)?;
    page.get(begin..begin.checked_add(bytes as usize)?)
}

pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
