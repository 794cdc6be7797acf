//! The checks, beside what etcd does in the same situation.

use std::collections::BTreeMap;

use super::*;

const OWN: u64 = 1;

fn record(id: u64, name: &str, is_learner: bool) -> MemberRecord {
    MemberRecord {
        id,
        name: name.to_owned(),
        peer_urls: vec![format!("http://peer:{id}")],
        client_urls: Vec::new(),
        is_learner,
    }
}

fn voters(count: u64) -> Vec<MemberRecord> {
    (1..=count).map(|id| record(id, "started", false)).collect()
}

fn add(id: u64, is_learner: bool) -> MembershipChange {
    MembershipChange::Add { id, peer_urls: vec![format!("http://peer:{id}")], is_learner }
}

fn checked(
    members: &[MemberRecord],
    in_touch: &[u64],
    change: &MembershipChange,
) -> Result<(), ChangeRefused> {
    let situation = Situation {
        own_id: OWN,
        members,
        removed: &BTreeSet::from([66]),
        in_touch: in_touch.iter().copied().collect(),
        last_index: 100,
        matched_index: 95,
    };
    situation.check(change, &ChangePolicy { strict: true, max_learners: 1 })
}

#[test]
fn a_cluster_grows_one_started_member_at_a_time() {
    assert_eq!(checked(&voters(1), &[], &add(2, false)), Ok(()));
    let mut two = voters(2);
    two[1].name.clear();
    assert_eq!(checked(&two, &[], &add(3, false)), Err(ChangeRefused::NotEnoughStarted));
    assert_eq!(checked(&voters(2), &[2], &add(3, false)), Ok(()));
    assert_eq!(checked(&voters(3), &[2, 3], &add(4, false)), Ok(()));
}

#[test]
fn an_addition_that_endangers_the_quorum_is_refused() {
    assert_eq!(checked(&voters(3), &[2], &add(4, false)), Err(ChangeRefused::Unhealthy));
    assert_eq!(checked(&voters(3), &[2], &add(4, true)), Err(ChangeRefused::Unhealthy));
    assert_eq!(checked(&voters(5), &[2, 3, 4], &add(6, false)), Ok(()));
    assert_eq!(checked(&voters(5), &[2, 3], &add(6, false)), Err(ChangeRefused::Unhealthy));
}

#[test]
fn without_strict_checks_only_the_change_itself_counts() {
    let policy = ChangePolicy { strict: false, max_learners: 1 };
    let removed = BTreeSet::new();
    let situation = Situation {
        own_id: OWN,
        members: &voters(3),
        removed: &removed,
        in_touch: BTreeSet::new(),
        last_index: 0,
        matched_index: 0,
    };
    assert_eq!(situation.check(&add(4, false), &policy), Ok(()));
    assert_eq!(situation.check(&MembershipChange::Remove { id: 2 }, &policy), Ok(()));
    let alone = Situation { members: &voters(1), ..situation };
    let last = alone.check(&MembershipChange::Remove { id: 1 }, &policy);
    assert_eq!(last, Err(ChangeRefused::NotEnoughStarted));
}

#[test]
fn ids_and_urls_are_unique_and_a_removed_id_does_not_come_back() {
    let all = [2, 3];
    assert_eq!(checked(&voters(3), &all, &add(2, false)), Err(ChangeRefused::MemberExists));
    assert_eq!(checked(&voters(3), &all, &add(66, false)), Err(ChangeRefused::MemberNotFound));
    let taken = MembershipChange::Add {
        id: 9,
        peer_urls: vec!["http://new:1".into(), "http://peer:3".into()],
        is_learner: false,
    };
    assert_eq!(checked(&voters(3), &all, &taken), Err(ChangeRefused::PeerUrlExists));
    let moved = |id, url: &str| MembershipChange::Update { id, peer_urls: vec![url.to_owned()] };
    assert_eq!(checked(&voters(3), &all, &moved(2, "http://peer:2")), Ok(()));
    let refused = checked(&voters(3), &all, &moved(2, "http://peer:3"));
    assert_eq!(refused, Err(ChangeRefused::PeerUrlExists));
    let refused = checked(&voters(3), &all, &moved(9, "http://new:1"));
    assert_eq!(refused, Err(ChangeRefused::MemberNotFound));
}

#[test]
fn learners_are_limited_and_promoted_when_in_sync() {
    let mut members = voters(3);
    assert_eq!(checked(&members, &[2, 3], &add(4, true)), Ok(()));
    members.push(record(4, "started", true));
    assert_eq!(checked(&members, &[2, 3], &add(5, true)), Err(ChangeRefused::TooManyLearners));

    let promote = |id| MembershipChange::Promote { id };
    assert_eq!(checked(&members, &[2, 3], &promote(4)), Ok(()));
    assert_eq!(checked(&members, &[2, 3], &promote(2)), Err(ChangeRefused::NotALearner));
    assert_eq!(checked(&members, &[2, 3], &promote(9)), Err(ChangeRefused::MemberNotFound));
    let removed = BTreeSet::new();
    let late = Situation {
        own_id: OWN,
        members: &members,
        removed: &removed,
        in_touch: BTreeSet::from([2, 3]),
        last_index: 100,
        matched_index: 89,
    };
    let policy = ChangePolicy { strict: true, max_learners: 1 };
    assert_eq!(late.check(&promote(4), &policy), Err(ChangeRefused::LearnerNotReady));
}

#[test]
fn a_removal_leaves_a_quorum_that_works() {
    let remove = |id| MembershipChange::Remove { id };
    assert_eq!(checked(&voters(1), &[], &remove(1)), Err(ChangeRefused::NotEnoughStarted));
    assert_eq!(checked(&voters(3), &[2, 3], &remove(2)), Ok(()));
    assert_eq!(checked(&voters(3), &[2, 3], &remove(OWN)), Ok(()));
    assert_eq!(checked(&voters(3), &[2], &remove(3)), Ok(()), "it is down");
    assert_eq!(checked(&voters(3), &[2], &remove(2)), Err(ChangeRefused::Unhealthy));
    assert_eq!(checked(&voters(3), &[2, 3], &remove(9)), Err(ChangeRefused::MemberNotFound));
    let mut half = voters(2);
    half[1].name.clear();
    assert_eq!(checked(&half, &[], &remove(OWN)), Err(ChangeRefused::NotEnoughStarted));
    half.push(record(3, "", true));
    assert_eq!(checked(&half, &[], &remove(3)), Ok(()), "a learner has no vote");
}

fn stored(ids: &[u64]) -> StoredMembership {
    let members: BTreeMap<u64, Member> = ids.iter().map(|id| (*id, Member::default())).collect();
    let voters = ids.iter().copied().collect();
    StoredMembership::new(None, Membership::new(vec![voters], members).unwrap())
}

/// etcd forgot removed members when it migrated its membership between stores (3.5's "zombie members"): here the set
/// is part of the one membership there is, in the transaction of the state.
#[test]
fn whoever_disappears_is_remembered_on_disk() {
    let mut membership = AppliedMembership::default();
    membership.advance(stored(&[1, 2, 3]));
    assert!(membership.removed.is_empty());
    membership.advance(stored(&[1, 3]));
    membership.advance(stored(&[1, 3, 4]));
    membership.advance(stored(&[1, 4]));
    assert_eq!(membership.removed, BTreeSet::from([2, 3]));
    assert_eq!(AppliedMembership::decode(&membership.encode()).unwrap(), membership);
    assert_eq!(AppliedMembership::decode(&Bytes::new()).unwrap(), AppliedMembership::default());
}
