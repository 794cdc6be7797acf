//! What a frame says: a batch, as a row of records.

use bytes::{Buf, BufMut};

/// One record: its kind (1 byte), the length of the rest (4 bytes), the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record<'a> {
    /// The first record of a segment: the index that the next entry has. Vote, committed id and purged index follow it,
    /// so that nothing is lost with the segments before.
    Start {
        next_index: u64,
    },
    Truncate {
        from: u64,
    },
    Entry {
        index: u64,
        row: &'a [u8],
    },
    Purge {
        through: u64,
        id: &'a [u8],
    },
    Vote(&'a [u8]),
    Committed(&'a [u8]),
}

const START: u8 = 1;
const TRUNCATE: u8 = 2;
const ENTRY: u8 = 3;
const PURGE: u8 = 4;
const VOTE: u8 = 5;
const COMMITTED: u8 = 6;
/// Of a record, before what is in it.
const HEAD_BYTES: usize = 5;

impl Record<'_> {
    /// Kind, number and bytes.
    fn parts(&self) -> (u8, Option<u64>, &[u8]) {
        match *self {
            Record::Start { next_index } => (START, Some(next_index), &[]),
            Record::Truncate { from } => (TRUNCATE, Some(from), &[]),
            Record::Entry { index, row } => (ENTRY, Some(index), row),
            Record::Purge { through, id } => (PURGE, Some(through), id),
            Record::Vote(row) => (VOTE, None, row),
            Record::Committed(row) => (COMMITTED, None, row),
        }
    }

    /// What it takes in a frame.
    pub fn bytes(&self) -> usize {
        let (_, number, bytes) = self.parts();
        HEAD_BYTES + number.map_or(0, |_| 8) + bytes.len()
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        let (kind, number, bytes) = self.parts();
        out.put_u8(kind);
        out.put_u32_le((number.map_or(0, |_| 8) + bytes.len()) as u32);
        if let Some(number) = number {
            out.put_u64_le(number);
        }
        out.put_slice(bytes);
    }
}

/// Reads the records of a frame.
pub struct Records<'a> {
    payload: &'a [u8],
    at: usize,
}

impl<'a> Records<'a> {
    pub fn of(payload: &'a [u8]) -> Self {
        Self { payload, at: 0 }
    }

    fn read(&mut self) -> Option<(usize, Record<'a>)> {
        let mut head = self.payload.get(self.at..self.at + HEAD_BYTES)?;
        let (kind, length) = (head.get_u8(), head.get_u32_le() as usize);
        let start = self.at + HEAD_BYTES;
        let body = self.payload.get(start..start.checked_add(length)?)?;
        self.at = start + length;
        let numbered = |body: &'a [u8]| {
            let (number, rest) = body.split_first_chunk::<8>()?;
            Some((u64::from_le_bytes(*number), rest))
        };
        let record = match kind {
            START => Record::Start { next_index: numbered(body)?.0 },
            TRUNCATE => Record::Truncate { from: numbered(body)?.0 },
            ENTRY => numbered(body).map(|(index, row)| Record::Entry { index, row })?,
            PURGE => numbered(body).map(|(through, id)| Record::Purge { through, id })?,
            VOTE => Record::Vote(body),
            COMMITTED => Record::Committed(body),
            _ => return None,
        };
        let (_, _, ending) = record.parts();
        Some((self.at - ending.len(), record))
    }
}

impl<'a> Iterator for Records<'a> {
    /// A record, and where in the payload its bytes begin: the row, the id. None stands for what is no record.
    type Item = Option<(usize, Record<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.payload.len() {
            return None;
        }
        let read = self.read();
        if read.is_none() {
            self.at = self.payload.len();
        }
        Some(read)
    }
}
