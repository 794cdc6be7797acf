//! Revisions, and the keys of the `key` table that stand for them.
//!
//! A revision key is what etcd writes (server/storage/mvcc/revision.go): main as 8 bytes big-endian, `_`, sub as 8
//! bytes big-endian; a tombstone has a `t` behind it. Byte order is revision order.

/// Length of the key of a live row.
pub const KEY_LENGTH: usize = 17;
/// Length of the key of a tombstone.
pub const TOMBSTONE_KEY_LENGTH: usize = 18;

const TOMBSTONE_MARK: u8 = b't';

/// One change: the transaction's number, and the change's place within it. Neither is negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision {
    pub main: i64,
    pub sub: i64,
}

impl Revision {
    pub fn key(self) -> [u8; KEY_LENGTH] {
        let mut key = [b'_'; KEY_LENGTH];
        key[..8].copy_from_slice(&self.main.to_be_bytes());
        key[9..].copy_from_slice(&self.sub.to_be_bytes());
        key
    }

    pub fn tombstone_key(self) -> [u8; TOMBSTONE_KEY_LENGTH] {
        let mut key = [TOMBSTONE_MARK; TOMBSTONE_KEY_LENGTH];
        key[..KEY_LENGTH].copy_from_slice(&self.key());
        key
    }

    /// Reads a key of the `key` table: the revision, and whether it is a tombstone. None if it is no such key.
    pub fn parse(key: &[u8]) -> Option<(Revision, bool)> {
        let tombstone = match key.len() {
            KEY_LENGTH => false,
            TOMBSTONE_KEY_LENGTH if key[KEY_LENGTH] == TOMBSTONE_MARK => true,
            _ => return None,
        };
        let revision = Revision { main: number(key, 0)?, sub: number(key, 9)? };
        (key[8] == b'_' && revision.main >= 0 && revision.sub >= 0).then_some((revision, tombstone))
    }
}

/// The big-endian number at a place of a row; none if the row ends before.
pub fn number(bytes: &[u8], at: usize) -> Option<i64> {
    let number = bytes.get(at..at + 8)?;
    Some(i64::from_be_bytes(number.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_etcd() {
        let revision = Revision { main: 258, sub: 3 };
        assert_eq!(&revision.key(), b"\0\0\0\0\0\0\x01\x02_\0\0\0\0\0\0\0\x03");
        assert_eq!(&revision.tombstone_key(), b"\0\0\0\0\0\0\x01\x02_\0\0\0\0\0\0\0\x03t");
        assert_eq!(Revision::parse(&revision.key()), Some((revision, false)));
        assert_eq!(Revision::parse(&revision.tombstone_key()), Some((revision, true)));
    }

    #[test]
    fn other_keys_are_refused() {
        let good = Revision { main: 1, sub: 0 }.tombstone_key();
        let mut cases = vec![vec![], good[..16].to_vec(), [&good[..], b"t"].concat()];
        for (place, byte) in [(0, 0x80), (8, b'-'), (9, 0x80), (17, b'x')] {
            let mut bad = good;
            bad[place] = byte;
            cases.push(bad.to_vec());
        }
        for case in cases {
            assert_eq!(Revision::parse(&case), None, "{case:?}");
        }
    }
}
