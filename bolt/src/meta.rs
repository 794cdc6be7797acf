//! Meta pages: where the tree of buckets begins, how many pages there are, and a checksum over that.

use crate::page::{HEADER_BYTES, Header, Kind, u32_at, u64_at};

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
/// The bytes of a meta page that mean something, without the page's header.
pub const META_BYTES: usize = 64;
/// Where the checksum stands, and with it what it covers.
const CHECKSUM_AT: usize = 56;
/// What stands for the free list's page where none is stored.
pub const NO_FREELIST: u64 = u64::MAX;
pub const PAGE_BYTES_LEAST: u32 = 1024;
pub const PAGE_BYTES_MOST: u32 = 65_536;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    pub page_bytes: u32,
    /// The root page of the tree of buckets.
    pub root: u64,
    pub freelist: u64,
    /// How many pages the file has; the first that was never used.
    pub pages: u64,
    pub transaction: u64,
}

impl Meta {
    /// A meta page as it stands in a file; its transaction decides at which of the two places.
    pub fn encode(&self) -> Vec<u8> {
        let mut page = vec![0; self.page_bytes as usize];
        let header = Header { id: self.transaction % 2, kind: Kind::Meta, count: 0, overflow: 0 };
        page[..HEADER_BYTES].copy_from_slice(&header.encode());
        let meta = &mut page[HEADER_BYTES..HEADER_BYTES + META_BYTES];
        meta[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        meta[4..8].copy_from_slice(&VERSION.to_le_bytes());
        meta[8..12].copy_from_slice(&self.page_bytes.to_le_bytes());
        // 12..16 are flags, 24..32 the root's sequence: neither is used.
        meta[16..24].copy_from_slice(&self.root.to_le_bytes());
        meta[32..40].copy_from_slice(&self.freelist.to_le_bytes());
        meta[40..48].copy_from_slice(&self.pages.to_le_bytes());
        meta[48..56].copy_from_slice(&self.transaction.to_le_bytes());
        let checksum = fnv1a(&meta[..CHECKSUM_AT]);
        meta[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    /// Reads what follows a page's header; says what is wrong with it.
    pub fn decode(meta: &[u8]) -> Result<Self, &'static str> {
        if meta.len() < META_BYTES {
            return Err("too short");
        }
        if u32_at(meta, 0) != MAGIC {
            return Err("no magic number");
        }
        if u32_at(meta, 4) != VERSION {
            return Err("unknown version");
        }
        if u64_at(meta, CHECKSUM_AT) != fnv1a(&meta[..CHECKSUM_AT]) {
            return Err("wrong checksum");
        }
        let page_bytes = u32_at(meta, 8);
        let sizes = PAGE_BYTES_LEAST..=PAGE_BYTES_MOST;
        if !page_bytes.is_power_of_two() || !sizes.contains(&page_bytes) {
            return Err("impossible page size");
        }
        Ok(Self {
            page_bytes,
            root: u64_at(meta, 16),
            freelist: u64_at(meta, 32),
            pages: u64_at(meta, 40),
            transaction: u64_at(meta, 48),
        })
    }
}

/// FNV-1a, 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_fnv_1a() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_changed_bit_is_found() {
        let meta = Meta { page_bytes: 4096, root: 3, freelist: 2, pages: 4, transaction: 9 };
        let page = meta.encode();
        assert_eq!(Meta::decode(&page[HEADER_BYTES..]), Ok(meta));
        for bit in 0..META_BYTES * 8 {
            let mut damaged = page.clone();
            damaged[HEADER_BYTES + bit / 8] ^= 1 << (bit % 8);
            assert!(Meta::decode(&damaged[HEADER_BYTES..]).is_err(), "bit {bit}");
        }
    }
}
