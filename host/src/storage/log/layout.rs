//! Where things are in the file of the log: its header, and the heads of segments and frames.
//!
//! Everything begins at a sector, so that writing what is new never touches a sector of what is acknowledged. Checksums
//! are seeded with the file's salt: what a client stores is never mistaken for a head.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What a disk writes as a whole or not at all.
pub const SECTOR_BYTES: u64 = 512;
/// The header, and room for what later versions put beside it.
pub const FILE_HEADER_BYTES: u64 = 4096;
pub const FRAME_HEAD_BYTES: usize = 32;

pub const FILE_MAGIC: &[u8; 8] = b"INSTARLG";
const VERSION: u32 = 1;
const SEGMENT_MAGIC: &[u8; 8] = b"segment ";

/// What is true of the whole file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHeader {
    /// Every segment is a multiple of this.
    pub segment_bytes: u64,
    pub salt: u64,
}

impl FileHeader {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = FILE_MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&((self.segment_bytes / SECTOR_BYTES) as u32).to_le_bytes());
        bytes.extend_from_slice(&self.salt.to_le_bytes());
        bytes.extend_from_slice(&xxh3_64_with_seed(&bytes, 0).to_le_bytes());
        bytes.resize(FILE_HEADER_BYTES as usize, 0);
        bytes
    }

    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        if !bytes.starts_with(FILE_MAGIC) {
            return Err("it does not begin as a log does");
        }
        let (Some(version_and_sectors), Some(salt), Some(checksum), FILE_HEADER_BYTES) =
            (number(bytes, 8), number(bytes, 16), number(bytes, 24), bytes.len() as u64)
        else {
            return Err("its header is cut short");
        };
        if checksum != xxh3_64_with_seed(&bytes[..24], 0) {
            return Err("the checksum of its header is wrong");
        }
        if version_and_sectors as u32 != VERSION {
            return Err("it is of a version that this program does not know");
        }
        match (version_and_sectors >> 32) * SECTOR_BYTES {
            0 => Err("its segments have no length"),
            segment_bytes => Ok(Self { segment_bytes, salt }),
        }
    }

    /// The head of a segment: its own place, so that it counts nowhere else, and its length.
    pub fn encode_segment(&self, extent: Extent) -> [u8; SECTOR_BYTES as usize] {
        let mut sector = [0; SECTOR_BYTES as usize];
        sector[..8].copy_from_slice(SEGMENT_MAGIC);
        sector[8..16].copy_from_slice(&extent.offset.to_le_bytes());
        sector[16..24].copy_from_slice(&extent.bytes.to_le_bytes());
        // Another seed than that of a frame's head, so that neither is taken for the other.
        let checksum = xxh3_64_with_seed(&sector[..24], !self.salt);
        sector[24..32].copy_from_slice(&checksum.to_le_bytes());
        sector
    }

    /// The segment whose head this is; none if it is no head, or that of another place.
    pub fn decode_segment(&self, sector: &[u8], offset: u64) -> Option<Extent> {
        let checksum = xxh3_64_with_seed(sector.get(..24)?, !self.salt);
        let bytes = number(sector, 16)?;
        let whole = sector.starts_with(SEGMENT_MAGIC)
            && number(sector, 8)? == offset
            && number(sector, 24)? == checksum
            && bytes > 0
            && bytes % self.segment_bytes == 0;
        whole.then_some(Extent { offset, bytes })
    }

    pub fn encode_frame(&self, sequence: u64, payload: &[u8]) -> [u8; FRAME_HEAD_BYTES] {
        let mut head = [0; FRAME_HEAD_BYTES];
        head[..8].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        head[8..16].copy_from_slice(&sequence.to_le_bytes());
        let of_payload = xxh3_64_with_seed(payload, self.salt);
        head[16..24].copy_from_slice(&of_payload.to_le_bytes());
        let of_head = xxh3_64_with_seed(&head[..24], self.salt);
        head[24..].copy_from_slice(&of_head.to_le_bytes());
        head
    }

    /// The head of a frame, which says nothing yet about the rest of it.
    pub fn decode_frame(&self, head: &[u8]) -> Option<FrameHead> {
        let checksum = xxh3_64_with_seed(head.get(..24)?, self.salt);
        (number(head, 24)? == checksum).then_some(FrameHead {
            payload_bytes: usize::try_from(number(head, 0)?).ok()?,
            sequence: number(head, 8)?,
            checksum: number(head, 16)?,
        })
    }

    /// The frame that begins these bytes, if all of it is there and undamaged.
    pub fn whole_frame<'a>(&self, bytes: &'a [u8]) -> Option<(FrameHead, &'a [u8])> {
        let head = self.decode_frame(bytes)?;
        let payload = bytes.get(FRAME_HEAD_BYTES..)?.get(..head.payload_bytes)?;
        (xxh3_64_with_seed(payload, self.salt) == head.checksum).then_some((head, payload))
    }
}

/// A part of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub offset: u64,
    pub bytes: u64,
}

impl Extent {
    pub fn end(&self) -> u64 {
        self.offset + self.bytes
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHead {
    pub payload_bytes: usize,
    /// One more than that of the frame before.
    pub sequence: u64,
    checksum: u64,
}

impl FrameHead {
    /// What the frame takes of the file.
    pub fn frame_bytes(&self) -> u64 {
        frame_bytes(self.payload_bytes)
    }
}

/// What a frame with so much in it takes of the file.
pub fn frame_bytes(payload_bytes: usize) -> u64 {
    ((FRAME_HEAD_BYTES + payload_bytes) as u64).next_multiple_of(SECTOR_BYTES)
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + 8)?.try_into().ok()?;
    Some(u64::from_le_bytes(bytes))
}
