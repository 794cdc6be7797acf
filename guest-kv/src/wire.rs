//! Protobuf's wire format: reading without copying, writing into one buffer.
//!
//! Requests are read by hand rather than with prost for three reasons: every put passes here, and a borrowed read
//! allocates nothing; nested transactions are bounded by our own depth (prost stops at half of what etcd takes); and
//! Go's leniency is kept, which skips a field of an unexpected wire type where prost refuses the message.
//!
//! Nothing here recurses, and no input panics.

/// The bytes are no protobuf message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// How deep unknown groups may nest: the limit of Go's implementation.
const GROUP_DEPTH_MAX: usize = 10_000;

/// The content of one field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// A fixed-width number or a group: etcd's requests have none, so it is some unknown field.
    Other,
}

impl<'a> Content<'a> {
    /// Assigns an `int64` field; a field of another wire type counts as unknown.
    pub fn int64(self, field: &mut i64) {
        if let Content::Varint(value) = self {
            *field = value as i64;
        }
    }

    /// Assigns an enum (open, as in proto3: any number is kept).
    pub fn enumeration(self, field: &mut i32) {
        if let Content::Varint(value) = self {
            *field = value as i32;
        }
    }

    pub fn boolean(self, field: &mut bool) {
        if let Content::Varint(value) = self {
            *field = value != 0;
        }
    }

    pub fn bytes(self, field: &mut &'a [u8]) {
        if let Content::Bytes(value) = self {
            *field = value;
        }
    }
}

/// Iterates over the fields of a message.
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub fn new(message: &'a [u8]) -> Self {
        Fields { rest: message }
    }

    /// The next field's number and content; none at the end of the message.
    #[inline]
    pub fn next(&mut self) -> Result<Option<(u32, Content<'a>)>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (number, wire_type) = self.tag()?;
        let content = match wire_type {
            0 => Content::Varint(self.varint()?),
            2 => Content::Bytes(self.length_delimited()?),
            3 => {
                self.skip_group(number)?;
                Content::Other
            }
            other => {
                self.skip_fixed(other)?;
                Content::Other
            }
        };
        Ok(Some((number, content)))
    }

    fn tag(&mut self) -> Result<(u32, u32), Malformed> {
        const NUMBER_MAX: u64 = (1 << 29) - 1;
        let tag = self.varint()?;
        let number = tag >> 3;
        if number == 0 || number > NUMBER_MAX {
            return Err(Malformed);
        }
        Ok((number as u32, (tag & 7) as u32))
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Malformed> {
        match self.rest {
            [first, rest @ ..] if *first < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*first))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for (position, byte) in self.rest.iter().take(10).enumerate() {
            // The tenth byte has room for one bit.
            if position == 9 && *byte > 1 {
                return Err(Malformed);
            }
            value |= u64::from(byte & 0x7f) << (7 * position);
            if *byte < 0x80 {
                self.rest = &self.rest[position + 1..];
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn length_delimited(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn skip_fixed(&mut self, wire_type: u32) -> Result<(), Malformed> {
        let width = match wire_type {
            1 => 8,
            5 => 4,
            _ => return Err(Malformed),
        };
        self.rest = self.rest.get(width..).ok_or(Malformed)?;
        Ok(())
    }

    fn skip_group(&mut self, number: u32) -> Result<(), Malformed> {
        let mut open = vec![number];
        while let Some(innermost) = open.last().copied() {
            let (number, wire_type) = self.tag()?;
            match wire_type {
                0 => drop(self.varint()?),
                2 => drop(self.length_delimited()?),
                3 if open.len() < GROUP_DEPTH_MAX => open.push(number),
                4 if number == innermost => drop(open.pop()),
                other => self.skip_fixed(other)?,
            }
        }
        Ok(())
    }
}

/// How many bytes a varint takes.
pub fn varint_length(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a number; zero, the default, is not written.
pub fn put_int64(out: &mut Vec<u8>, field: u32, value: i64) {
    if value != 0 {
        put_varint(out, u64::from(field) << 3);
        put_varint(out, value as u64);
    }
}

/// Appends a flag; false, the default, is not written.
pub fn put_bool(out: &mut Vec<u8>, field: u32, value: bool) {
    put_int64(out, field, i64::from(value));
}

/// Appends a `bytes` field; an empty one is not written.
pub fn put_bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    if !value.is_empty() {
        put_message(out, field, value);
    }
}

/// Appends a message, or one element of a repeated field: written even if it is empty.
pub fn put_message(out: &mut Vec<u8>, field: u32, message: &[u8]) {
    put_varint(out, u64::from(field) << 3 | 2);
    put_varint(out, message.len() as u64);
    out.extend_from_slice(message);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<(u32, Content<'_>)>, Malformed> {
        let mut fields = Fields::new(bytes);
        let mut all = Vec::new();
        while let Some(field) = fields.next()? {
            all.push(field);
        }
        Ok(all)
    }

    #[test]
    fn numbers_of_every_length_survive() {
        for shift in 0..64 {
            for value in [1u64 << shift, (1 << shift) - 1, u64::MAX >> shift] {
                let mut out = Vec::new();
                put_varint(&mut out, 8);
                put_varint(&mut out, value);
                assert_eq!(out.len(), 1 + varint_length(value));
                assert_eq!(read(&out), Ok(vec![(1, Content::Varint(value))]));
            }
        }
    }

    #[test]
    fn unknown_fields_are_skipped() {
        // A group 1 that holds a varint, a fixed32 and a group 2; then a fixed64; then field 3.
        let mut bytes = vec![0x0b, 0x10, 0x05, 0x1d, 1, 2, 3, 4, 0x13, 0x14, 0x0c];
        bytes.extend([0x09, 1, 2, 3, 4, 5, 6, 7, 8, 0x1a, 1, b'x']);
        let expected = [(1, Content::Other), (1, Content::Other), (3, Content::Bytes(b"x"))];
        assert_eq!(read(&bytes), Ok(expected.to_vec()));
    }

    #[test]
    fn malformed_bytes_are_refused() {
        let cases: [&[u8]; 10] = [
            &[0x08],                                                       // no value
            &[0x0a, 2, b'x'],                                              // too short
            &[0x00, 0],                                                    // field number 0
            &[0x0c],                                                       // end of no group
            &[0x0b, 0x14],                                                 // end of another group
            &[0x0b],                                                       // group without an end
            &[0x0e],                                                       // wire type 6
            &[0x0d, 1, 2, 3],                                              // short fixed32
            &[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2],       // 65 bits
            &[0x0a, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1, b'x'], // a length beyond memory
        ];
        for case in cases {
            assert_eq!(read(case), Err(Malformed), "{case:?}");
        }
    }
}
