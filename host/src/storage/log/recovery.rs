//! Reading the file of the log when it is opened.
//!
//! A power cut can leave the last frame torn: it was never acknowledged, and is dropped. Anything else that is not
//! whole is damage, and refused: a frame that is followed by a newer one, an entry that is missing and was not purged.

use std::collections::VecDeque;

use redb::StorageBackend;

use super::batch::Meta;
use super::index::{Index, Row};
use super::layout::{Extent, FILE_HEADER_BYTES, FRAME_HEAD_BYTES, FileHeader, SECTOR_BYTES};
use super::record::{Record, Records};
use super::segments::{Segment, Segments};
use super::{corrupt, failed};
use crate::storage::StorageError;

/// What the file held.
pub struct Recovered {
    pub header: FileHeader,
    pub segments: Segments,
    pub index: Index,
    pub meta: Meta,
    /// Of the last frame; 0 if there is none.
    pub sequence: u64,
}

/// A segment with at least one whole frame.
#[derive(Debug, Clone, Copy)]
struct Found {
    extent: Extent,
    first_sequence: u64,
    last_sequence: u64,
    /// Behind its last whole frame.
    end: u64,
}

pub fn recover(file: &dyn StorageBackend) -> Result<Recovered, StorageError> {
    let length = file.len().map_err(failed)?;
    let header = read(file, 0, FILE_HEADER_BYTES.min(length))?;
    let header = FileHeader::decode(&header).map_err(corrupt)?;
    let (extents, end) = segments_of(file, &header, length)?;
    let mut found = Vec::new();
    for extent in &extents {
        found.extend(look_into(file, &header, *extent)?);
    }
    let chain = chain_of(found);
    let sequence = chain.last().map_or(0, |last| last.last_sequence);

    let mut replay = Replay::default();
    for segment in &chain {
        replay.segment(file, &header, segment)?;
    }
    if let Some(index) = replay.index.missing() {
        return Err(corrupt(format!("entry {index} is missing")));
    }
    refuse_newer_frames(file, &header, &extents, &chain, (end, length))?;
    let is_live = |extent: &Extent| chain.iter().any(|found| found.extent == *extent);
    let free = extents.into_iter().filter(|extent| !is_live(extent)).collect();
    let position = chain.last().map_or(0, |last| last.end);
    let mut segments = Segments::new(replay.live, free, end, position);
    segments.release(replay.meta.purged_index());
    Ok(Recovered { header, segments, index: replay.index, meta: replay.meta, sequence })
}

fn read(file: &dyn StorageBackend, offset: u64, bytes: u64) -> Result<Vec<u8>, StorageError> {
    let mut buffer = vec![0; bytes as usize];
    file.read(offset, &mut buffer).map_err(failed)?;
    Ok(buffer)
}

/// The segments that the file is made of, and where the last one ends. What is behind it was never used.
fn segments_of(
    file: &dyn StorageBackend,
    header: &FileHeader,
    length: u64,
) -> Result<(Vec<Extent>, u64), StorageError> {
    let mut extents = Vec::new();
    let mut offset = FILE_HEADER_BYTES;
    while offset + SECTOR_BYTES <= length {
        let sector = read(file, offset, SECTOR_BYTES)?;
        let Some(extent) = header.decode_segment(&sector, offset) else { break };
        if extent.bytes > length - offset {
            return Err(corrupt(format!("its segment at byte {offset} is cut short")));
        }
        offset = extent.end();
        extents.push(extent);
    }
    Ok((extents, offset))
}

/// Follows a segment's frames as far as they are whole and in sequence; none if not even the first one is.
fn look_into(
    file: &dyn StorageBackend,
    header: &FileHeader,
    extent: Extent,
) -> Result<Option<Found>, StorageError> {
    let bytes = read(file, extent.offset, extent.bytes)?;
    let mut at = SECTOR_BYTES;
    let mut found: Option<Found> = None;
    while let Some((head, _)) = bytes.get(at as usize..).and_then(|rest| header.whole_frame(rest)) {
        if found.is_some_and(|found| head.sequence != found.last_sequence + 1) {
            break;
        }
        at += head.frame_bytes();
        let first_sequence = found.map_or(head.sequence, |found| found.first_sequence);
        let end = extent.offset + at;
        found = Some(Found { extent, first_sequence, last_sequence: head.sequence, end });
    }
    Ok(found)
}

/// The newest segments that follow each other without a gap. Older ones hold nothing that is needed, or the replay
/// misses it.
fn chain_of(mut found: Vec<Found>) -> Vec<Found> {
    found.sort_by_key(|segment| segment.first_sequence);
    let follows = |pair: &[Found]| pair[0].last_sequence + 1 == pair[1].first_sequence;
    let begin = found.windows(2).rposition(|pair| !follows(pair)).map_or(0, |before| before + 1);
    found.split_off(begin)
}

/// Says the records of all segments again.
#[derive(Default)]
struct Replay {
    live: VecDeque<Segment>,
    index: Index,
    meta: Meta,
}

impl Replay {
    fn segment(
        &mut self,
        file: &dyn StorageBackend,
        header: &FileHeader,
        found: &Found,
    ) -> Result<(), StorageError> {
        let bytes = read(file, found.extent.offset, found.end - found.extent.offset)?;
        let is_first = self.live.is_empty();
        self.live.push_back(Segment { extent: found.extent, last_index: None });
        let mut at = SECTOR_BYTES as usize;
        while let Some((head, payload)) = bytes.get(at..).and_then(|rest| header.whole_frame(rest))
        {
            let offset = found.extent.offset + (at + FRAME_HEAD_BYTES) as u64;
            for record in Records::of(payload) {
                let (row_at, record) = record.ok_or_else(|| {
                    corrupt(format!("its frame {} makes no sense", head.sequence))
                })?;
                self.record(&record, offset + row_at as u64, is_first && head.sequence > 1)?;
            }
            at += head.frame_bytes() as usize;
        }
        Ok(())
    }

    fn record(
        &mut self,
        record: &Record<'_>,
        offset: u64,
        has_predecessors: bool,
    ) -> Result<(), StorageError> {
        match *record {
            Record::Start { next_index } if has_predecessors => {
                self.index = Index::starting_at(next_index);
            }
            Record::Start { .. } => {}
            Record::Truncate { from } => self.index.truncate(from),
            Record::Entry { index, row } => {
                self.index.append(index, Row::new(offset, row)).map_err(corrupt)?;
                if let Some(segment) = self.live.back_mut() {
                    segment.last_index = segment.last_index.max(Some(index));
                }
            }
            Record::Purge { through, .. } => self.index.purge(through),
            Record::Vote(_) | Record::Committed(_) => {}
        }
        self.meta.note(record);
        Ok(())
    }
}

/// A frame is written when those before it are on disk: one that is newer than what follows the chain shows that a
/// whole one has been lost.
fn refuse_newer_frames(
    file: &dyn StorageBackend,
    header: &FileHeader,
    extents: &[Extent],
    chain: &[Found],
    (end, length): (u64, u64),
) -> Result<(), StorageError> {
    let last = chain.last();
    let torn = last.map_or(0, |last| last.last_sequence) + 1;
    let rest_of_last = last.map(|last| (last.end, last.extent.end()));
    let unused =
        extents.iter().filter(|extent| !chain.iter().any(|found| found.extent == **extent));
    let unused = unused.map(|extent| (extent.offset, extent.end()));
    for (from, to) in rest_of_last.into_iter().chain(unused).chain([(end, length)]) {
        let bytes = read(file, from, to - from)?;
        for (number, sector) in bytes.chunks(SECTOR_BYTES as usize).enumerate() {
            if let Some(head) = header.decode_frame(sector)
                && head.sequence > torn
            {
                let at = from + number as u64 * SECTOR_BYTES;
                let newer = head.sequence;
                return Err(corrupt(format!(
                    "frame {torn} is damaged or lost, but frame {newer} is there, at byte {at}"
                )));
            }
        }
    }
    Ok(())
}
