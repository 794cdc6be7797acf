//! Which parts of the file hold the log, and which are free to be written over.
//!
//! A segment that holds nothing needed is free only when the frame that says so is on disk. The file grows by whole
//! segments of zeros and is seldom cut: writing over what is there already costs one flush of the disk, where growing
//! costs the file system's journal as well.

use std::collections::VecDeque;

use super::layout::{Extent, FILE_HEADER_BYTES, SECTOR_BYTES};
use crate::limits;

/// A part of the file that holds frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub extent: Extent,
    /// The highest index of the entries that were ever in it.
    pub last_index: Option<u64>,
}

#[derive(Debug, Clone)]
pub struct Segments {
    /// In the order of their frames; the last one is being written.
    live: VecDeque<Segment>,
    free: Vec<Extent>,
    /// Where the last segment of the file ends.
    end: u64,
    /// Where the next frame goes.
    position: u64,
}

impl Segments {
    /// `position` is the end of the last live segment's frames.
    pub fn new(live: VecDeque<Segment>, free: Vec<Extent>, end: u64, position: u64) -> Self {
        Self { live, free, end: end.max(FILE_HEADER_BYTES), position }
    }

    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether the segment that is being written has room for so much.
    pub fn has_room(&self, frame_bytes: u64) -> bool {
        self.live.back().is_some_and(|segment| self.position + frame_bytes <= segment.extent.end())
    }

    /// The first free part of the file for a segment with so much in it; none if the file has to grow for it.
    pub fn take_free(&mut self, frame_bytes: u64) -> Option<Extent> {
        let needed = SECTOR_BYTES + frame_bytes;
        let fits = self.free.iter().enumerate().filter(|(_, extent)| extent.bytes >= needed);
        let (first, _) = fits.min_by_key(|(_, extent)| extent.offset)?;
        Some(self.free.swap_remove(first))
    }

    /// The part behind the end of the file for a segment with so much in it.
    pub fn behind_end(&self, segment_bytes: u64, frame_bytes: u64) -> Extent {
        let bytes = (SECTOR_BYTES + frame_bytes).next_multiple_of(segment_bytes);
        Extent { offset: self.end, bytes }
    }

    /// The file has grown by this.
    pub fn grew(&mut self, extent: Extent) {
        self.end = extent.end();
    }

    /// From now on this segment is written.
    pub fn begin(&mut self, extent: Extent) {
        self.position = extent.offset + SECTOR_BYTES;
        self.live.push_back(Segment { extent, last_index: None });
    }

    /// A frame was written; `last_index` is the highest of its entries.
    pub fn wrote(&mut self, frame_bytes: u64, last_index: Option<u64>) {
        self.position += frame_bytes;
        if let Some(segment) = self.live.back_mut() {
            segment.last_index = segment.last_index.max(last_index);
        }
    }

    /// Frees what holds only entries up to this index. It must be on disk that they are purged.
    pub fn release(&mut self, purged: Option<u64>) {
        while self.live.len() > 1
            && let Some(first) = self.live.pop_front_if(|first| first.last_index <= purged)
        {
            self.free.push(first.extent);
        }
    }

    /// Where the file should end now, if there is so much free at its end that it should be cut.
    pub fn cut(&mut self) -> Option<u64> {
        let before = self.end;
        while self.free.len() > limits::LOG_FREE_SEGMENTS
            && let Some(last) = self.free.iter().position(|extent| extent.end() == self.end)
        {
            self.end = self.free.swap_remove(last).offset;
        }
        (self.end < before).then_some(self.end)
    }
}
