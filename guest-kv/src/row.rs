//! The values of the `key` table: mvccpb.KeyValue, byte for byte as Go marshals it.

use crate::wire::{self, Content, Fields};

/// mvccpb.KeyValue. The row of a tombstone has nothing but a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyValue<'a> {
    pub key: &'a [u8],
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    pub value: &'a [u8],
    pub lease: i64,
}

impl<'a> KeyValue<'a> {
    /// Reads a row; none if it is no KeyValue.
    pub fn parse(row: &'a [u8]) -> Option<Self> {
        let mut kv = KeyValue::default();
        let mut fields = Fields::new(row);
        while let Some((number, content)) = fields.next().ok()? {
            match (number, content) {
                (1, Content::Bytes(key)) => kv.key = key,
                (2, Content::Varint(revision)) => kv.create_revision = revision as i64,
                (3, Content::Varint(revision)) => kv.mod_revision = revision as i64,
                (4, Content::Varint(version)) => kv.version = version as i64,
                (5, Content::Bytes(value)) => kv.value = value,
                (6, Content::Varint(lease)) => kv.lease = lease as i64,
                _ => return None,
            }
        }
        Some(kv)
    }

    /// Reads a row that the machine wrote itself.
    pub fn expect(row: &'a [u8]) -> Self {
        Self::parse(row).unwrap_or_else(|| corrupt("a row of the key table is no KeyValue"))
    }

    pub fn encode(&self) -> Vec<u8> {
        // Two lengths and four numbers beside the bytes.
        let mut row = Vec::with_capacity(self.key.len() + self.value.len() + 56);
        wire::put_bytes(&mut row, 1, self.key);
        wire::put_int64(&mut row, 2, self.create_revision);
        wire::put_int64(&mut row, 3, self.mod_revision);
        wire::put_int64(&mut row, 4, self.version);
        wire::put_bytes(&mut row, 5, self.value);
        wire::put_int64(&mut row, 6, self.lease);
        row
    }
}

/// Ends the call: the tables hold what the machine never wrote, and any answer would be a guess.
pub fn corrupt(what: &str) -> ! {
    panic!("the machine's state is corrupt: {what}")
}
