//! The state digests of recent entries: what members compare to find out that one of them has gone another way.
//!
//! A digest is chained over all entries before it, so two members that once differed differ at every later index, and a
//! few recent ones are enough.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::limits;

/// The state's digest behind the entry with an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    pub index: u64,
    pub digest: u128,
}

/// A ring of the latest digests, in the order of their indices. The apply thread writes it, anyone reads it.
#[derive(Debug, Default)]
pub struct Digests(Mutex<VecDeque<Digest>>);

impl Digests {
    pub fn record(&self, batch: impl IntoIterator<Item = Digest>) {
        let mut ring = self.lock();
        for digest in batch {
            if ring.len() == limits::DIGESTS_KEPT {
                ring.pop_front();
            }
            ring.push_back(digest);
        }
    }

    /// Forgets everything but one digest: the state was replaced.
    pub fn restart_from(&self, digest: Digest) {
        let mut ring = self.lock();
        ring.clear();
        ring.push_back(digest);
    }

    /// The digests that are kept of these indices.
    pub fn find(&self, indices: &[u64]) -> Vec<Digest> {
        let ring = self.lock();
        let found = |index: &u64| {
            let at = ring.binary_search_by_key(index, |digest| digest.index).ok()?;
            ring.get(at).copied()
        };
        indices.iter().take(limits::DIGESTS_COMPARED).filter_map(found).collect()
    }

    /// Some digests from all over the ring, the latest first: a member that is a little behind has some of them, too.
    pub fn sample(&self) -> Vec<Digest> {
        let ring = self.lock();
        let step = ring.len().div_ceil(limits::DIGESTS_COMPARED).max(1);
        ring.iter().rev().step_by(step).copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Digest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a comparison has found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A quorum has this member's digest.
    Agrees,
    /// A quorum has another one, at this index.
    Differs { index: u64 },
    /// All voters have answered, and no digest has a quorum.
    Split { index: u64 },
    /// Too few members have answered, or nothing that can be compared.
    Unknown,
}

/// Judges this member's digests, the latest first, by what its peers answered. `voters` are all of them, `own_vote` says
/// whether this member is one; learners do not count, but judge themselves by those who do.
pub fn judge(own: &[Digest], own_vote: bool, voters: usize, answers: &[Vec<Digest>]) -> Verdict {
    let quorum = voters / 2 + 1;
    for Digest { index, digest } in own {
        let at_index =
            |answer: &Vec<Digest>| answer.iter().find(|found| found.index == *index).copied();
        let others: Vec<u128> = answers.iter().filter_map(at_index).map(|it| it.digest).collect();
        let votes = |for_digest: u128| {
            let own_vote = own_vote && for_digest == *digest;
            others.iter().filter(|other| **other == for_digest).count() + usize::from(own_vote)
        };
        if votes(*digest) >= quorum {
            return Verdict::Agrees;
        }
        if others.iter().any(|other| votes(*other) >= quorum) {
            return Verdict::Differs { index: *index };
        }
        if others.len() + usize::from(own_vote) == voters {
            return Verdict::Split { index: *index };
        }
    }
    Verdict::Unknown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(pairs: &[(u64, u128)]) -> Vec<Digest> {
        pairs.iter().map(|(index, digest)| Digest { index: *index, digest: *digest }).collect()
    }

    #[test]
    fn the_ring_keeps_the_latest() {
        let ring = Digests::default();
        let last = limits::DIGESTS_KEPT as u64 + 10;
        ring.record((1..=last).map(|index| Digest { index, digest: u128::from(index) }));
        assert_eq!(ring.find(&[10, 11, last, last + 1]), digests(&[(11, 11), (last, last.into())]));
        let sample = ring.sample();
        assert_eq!(sample[0].index, last);
        assert!(sample.len() <= limits::DIGESTS_COMPARED);
        assert!(sample[sample.len() - 1].index < last / 4);
        ring.restart_from(Digest { index: 3, digest: 4 });
        assert_eq!(ring.sample(), digests(&[(3, 4)]));
    }

    #[test]
    fn the_minority_is_wrong() {
        let own = digests(&[(9, 90), (8, 80)]);
        let same = digests(&[(9, 90)]);
        let other = digests(&[(9, 91)]);
        let third = digests(&[(9, 92)]);
        let behind = digests(&[(8, 80)]);
        let nothing = Vec::new();
        let of_three = |answers: &[&Vec<Digest>]| {
            let answers: Vec<_> = answers.iter().map(|answer| answer.to_vec()).collect();
            judge(&own, true, 3, &answers)
        };
        assert_eq!(of_three(&[&same, &other]), Verdict::Agrees);
        assert_eq!(of_three(&[&same]), Verdict::Agrees);
        assert_eq!(of_three(&[&behind]), Verdict::Agrees);
        assert_eq!(of_three(&[&other, &other]), Verdict::Differs { index: 9 });
        assert_eq!(of_three(&[&other, &third]), Verdict::Split { index: 9 });
        assert_eq!(of_three(&[&other]), Verdict::Unknown);
        assert_eq!(of_three(&[&other, &nothing]), Verdict::Unknown);
        assert_eq!(of_three(&[]), Verdict::Unknown);
        // One of one is a quorum; a learner has no vote.
        assert_eq!(judge(&own, true, 1, &[]), Verdict::Agrees);
        assert_eq!(
            judge(&own, false, 1, std::slice::from_ref(&other)),
            Verdict::Differs { index: 9 }
        );
        assert_eq!(judge(&own, false, 3, &[same.clone(), other]), Verdict::Unknown);
        assert_eq!(judge(&[], true, 3, &[same]), Verdict::Unknown);
    }
}
