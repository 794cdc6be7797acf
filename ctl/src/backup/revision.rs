//! The keys of the bucket `key`.

/// A key of the bucket `key`: `main`, `_`, `sub`, and `t` for a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Revision {
    pub main: i64,
    pub sub: i64,
    pub is_tombstone: bool,
}

impl Revision {
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let is_tombstone = match bytes.get(17..)? {
            b"" => false,
            b"t" => true,
            _ => return None,
        };
        let number = |at: usize| {
            let bytes = bytes.get(at..at + 8)?;
            i64::try_from(u64::from_be_bytes(bytes.try_into().ok()?)).ok()
        };
        (bytes[8] == b'_').then_some(())?;
        Some(Self { main: number(0)?, sub: number(9)?, is_tombstone })
    }

    /// The key of a revision's first change, which is none of a deletion.
    pub fn first_of(main: i64) -> Vec<u8> {
        [&main.to_be_bytes()[..], b"_", &[0; 8]].concat()
    }
}
