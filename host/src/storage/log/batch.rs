//! What is written at once, and what the log keeps beside entries.

use bytes::Bytes;

use super::record::Record;

/// What one frame does, in the order of the fields.
#[derive(Debug, Clone, Default)]
pub struct LogBatch {
    /// Drop the entries from this index on.
    pub truncate_from: Option<u64>,
    /// Without a gap, to each other and to what is there.
    pub entries: Vec<(u64, Bytes)>,
    /// Drop the entries through this index, and remember its id.
    pub purge_through: Option<(u64, Bytes)>,
    pub vote: Option<Bytes>,
    pub committed: Option<Bytes>,
}

/// The last of each kind that was written.
#[derive(Debug, Clone, Default)]
pub struct Meta {
    pub vote: Option<Bytes>,
    pub committed: Option<Bytes>,
    pub purged: Option<(u64, Bytes)>,
}

impl LogBatch {
    pub(super) fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let truncate = self.truncate_from.map(|from| Record::Truncate { from });
        let entries = self.entries.iter();
        let entries = entries.map(|(index, row)| Record::Entry { index: *index, row });
        let rest = records(&self.purge_through, &self.vote, &self.committed);
        truncate.into_iter().chain(entries).chain(rest)
    }
}

impl Meta {
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        records(&self.purged, &self.vote, &self.committed)
    }

    pub fn note(&mut self, record: &Record<'_>) {
        match *record {
            Record::Vote(row) => self.vote = Some(Bytes::copy_from_slice(row)),
            Record::Committed(row) => self.committed = Some(Bytes::copy_from_slice(row)),
            Record::Purge { through, id } => {
                self.purged = Some((through, Bytes::copy_from_slice(id)));
            }
            Record::Start { .. } | Record::Truncate { .. } | Record::Entry { .. } => {}
        }
    }

    pub fn purged_index(&self) -> Option<u64> {
        self.purged.as_ref().map(|(index, _)| *index)
    }
}

fn records<'a>(
    purged: &'a Option<(u64, Bytes)>,
    vote: &'a Option<Bytes>,
    committed: &'a Option<Bytes>,
) -> impl Iterator<Item = Record<'a>> {
    let purged = purged.as_ref().map(|(through, id)| Record::Purge { through: *through, id });
    let vote = vote.as_deref().map(Record::Vote);
    let committed = committed.as_deref().map(Record::Committed);
    [purged, vote, committed].into_iter().flatten()
}
