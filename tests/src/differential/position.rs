//! Revisions relative to a server's latest or compacted revision.
//!
//! A request that has not been sent holds them as numbers around two bases that no server reaches.

use std::collections::BTreeSet;

use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::TargetUnion;
use proto::etcdserverpb::request_op::Request;

use super::Call;

/// A revision of `LATEST + n` means n after (or before, if negative) the latest revision.
pub const LATEST: i64 = 1 << 40;
/// The same around the revision of the last compaction.
pub const COMPACTED: i64 = 1 << 41;
/// How far from its base a relative revision may be.
const REACH: i64 = 1 << 20;

/// What relative revisions are relative to.
#[derive(Clone, Default, Debug)]
pub struct Known {
    pub latest: i64,
    pub compacted: i64,
    /// The revisions of all compactions.
    pub compactions: BTreeSet<i64>,
}

impl Known {
    fn absolute(&self, revision: &mut i64) {
        for (base, known) in [(LATEST, self.latest), (COMPACTED, self.compacted)] {
            let offset = revision.wrapping_sub(base);
            if (-REACH..=REACH).contains(&offset) {
                *revision = known + offset;
                return;
            }
        }
    }

    /// The request with its revisions made absolute.
    pub fn resolve(&self, call: &Call) -> Call {
        let mut call = call.clone();
        match &mut call {
            Call::Range(range) | Call::RangeStream(range) => self.range(range),
            Call::Txn(txn) => self.txn(txn),
            Call::Compact(compact) => {
                self.absolute(&mut compact.revision);
                // Revision 0 would get a remembered hash, see below, and 0 is how one asks for the latest.
                compact.revision -= i64::from(compact.revision == 0);
            }
            Call::HashKv(hash) => {
                self.absolute(&mut hash.revision);
                // etcd remembers the hashes that it took during its last ten compactions, until it ends,
                // and answers with them even where the revision is compacted.
                if self.compactions.contains(&hash.revision) {
                    hash.revision = 0;
                }
            }
            _ => {}
        }
        call
    }

    fn range(&self, range: &mut pb::RangeRequest) {
        self.absolute(&mut range.revision);
        self.absolute(&mut range.min_mod_revision);
        self.absolute(&mut range.max_mod_revision);
        self.absolute(&mut range.min_create_revision);
        self.absolute(&mut range.max_create_revision);
    }

    fn txn(&self, txn: &mut pb::TxnRequest) {
        for compare in &mut txn.compare {
            match &mut compare.target_union {
                Some(
                    TargetUnion::CreateRevision(revision) | TargetUnion::ModRevision(revision),
                ) => {
                    self.absolute(revision);
                }
                _ => {}
            }
        }
        for op in txn.success.iter_mut().chain(&mut txn.failure) {
            match &mut op.request {
                Some(Request::RequestRange(range)) => self.range(range),
                Some(Request::RequestTxn(txn)) => self.txn(txn),
                _ => {}
            }
        }
    }

    /// Takes over what an answer tells.
    pub fn learn(&mut self, sent: &Call, revision: Option<i64>) {
        let Some(revision) = revision else { return };
        self.latest = self.latest.max(revision);
        if let Call::Compact(compact) = sent {
            self.compacted = compact.revision;
            self.compactions.insert(compact.revision);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_revisions_become_absolute_and_others_stay() {
        let known = Known { latest: 70, compacted: 30, ..Default::default() };
        let resolved = |revision| {
            let call = Call::HashKv(pb::HashKvRequest { revision });
            let Call::HashKv(hash) = known.resolve(&call) else { panic!("another kind") };
            hash.revision
        };
        assert_eq!(resolved(LATEST - 5), 65);
        assert_eq!(resolved(COMPACTED + 1), 31);
        for absolute in [0, -1, 12, i64::MAX, i64::MIN] {
            assert_eq!(resolved(absolute), absolute);
        }
    }
}
