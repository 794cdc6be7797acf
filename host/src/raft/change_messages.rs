//! A change of the membership, and what became of it, as members tell each other.

use proto::instar::log::Member as MemberMessage;
use proto::instar::peer as pb;
use proto::instar::peer::change_membership_request::Change;
use proto::instar::peer::change_membership_response::Outcome;

use super::membership::{ChangeRefused, MemberRecord, MembershipChange};
use super::membership_keeper::{Attempt, Changed};

pub fn change_to_pb(change: &MembershipChange) -> Change {
    match change.clone() {
        MembershipChange::Add { id, peer_urls, is_learner } => {
            Change::Add(MemberMessage { id, peer_urls, is_learner, ..MemberMessage::default() })
        }
        MembershipChange::Promote { id } => Change::PromoteMemberId(id),
        MembershipChange::Remove { id } => Change::RemoveMemberId(id),
        MembershipChange::Update { id, peer_urls } => {
            Change::Update(MemberMessage { id, peer_urls, ..MemberMessage::default() })
        }
    }
}

pub fn change_from_pb(change: Change) -> MembershipChange {
    match change {
        Change::Add(MemberMessage { id, peer_urls, is_learner, .. }) => {
            MembershipChange::Add { id, peer_urls, is_learner }
        }
        Change::PromoteMemberId(id) => MembershipChange::Promote { id },
        Change::RemoveMemberId(id) => MembershipChange::Remove { id },
        Change::Update(MemberMessage { id, peer_urls, .. }) => {
            MembershipChange::Update { id, peer_urls }
        }
    }
}

const REFUSALS: [(Outcome, ChangeRefused); 8] = [
    (Outcome::MemberExists, ChangeRefused::MemberExists),
    (Outcome::MemberNotFound, ChangeRefused::MemberNotFound),
    (Outcome::PeerUrlExists, ChangeRefused::PeerUrlExists),
    (Outcome::NotALearner, ChangeRefused::NotALearner),
    (Outcome::LearnerNotReady, ChangeRefused::LearnerNotReady),
    (Outcome::TooManyLearners, ChangeRefused::TooManyLearners),
    (Outcome::NotEnoughStarted, ChangeRefused::NotEnoughStarted),
    (Outcome::Unhealthy, ChangeRefused::Unhealthy),
];

pub fn attempt_to_pb(attempt: Attempt) -> pb::ChangeMembershipResponse {
    let answer = |outcome: Outcome| pb::ChangeMembershipResponse {
        outcome: outcome.into(),
        ..pb::ChangeMembershipResponse::default()
    };
    match attempt {
        Attempt::NotNow => answer(Outcome::NotNow),
        Attempt::Unknown => answer(Outcome::Unknown),
        Attempt::Refused(refused) => {
            let named = REFUSALS.iter().find(|(_, each)| *each == refused);
            answer(named.map_or(Outcome::NotNow, |(outcome, _)| *outcome))
        }
        Attempt::Changed(Changed { members, log_index }) => pb::ChangeMembershipResponse {
            members: members.into_iter().map(record_to_pb).collect(),
            log_index,
            ..answer(Outcome::Changed)
        },
    }
}

pub fn attempt_from_pb(response: pb::ChangeMembershipResponse) -> Attempt {
    match response.outcome() {
        Outcome::NotNow => Attempt::NotNow,
        Outcome::Unknown => Attempt::Unknown,
        Outcome::Changed => Attempt::Changed(Changed {
            members: response.members.into_iter().map(record_from_pb).collect(),
            log_index: response.log_index,
        }),
        refusal => {
            let named = REFUSALS.iter().find(|(outcome, _)| *outcome == refusal);
            named.map_or(Attempt::Unknown, |(_, refused)| Attempt::Refused(*refused))
        }
    }
}

fn record_to_pb(record: MemberRecord) -> MemberMessage {
    let MemberRecord { id, name, peer_urls, client_urls, is_learner } = record;
    MemberMessage { id, name, peer_urls, client_urls, is_learner, ..MemberMessage::default() }
}

fn record_from_pb(member: MemberMessage) -> MemberRecord {
    let MemberMessage { id, name, peer_urls, client_urls, is_learner, .. } = member;
    MemberRecord { id, name, peer_urls, client_urls, is_learner }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_and_outcomes_survive_the_way() {
        let peer_urls = vec!["http://a:1".to_owned(), "http://b:2".to_owned()];
        let changes = [
            MembershipChange::Add { id: 7, peer_urls: peer_urls.clone(), is_learner: true },
            MembershipChange::Promote { id: 7 },
            MembershipChange::Remove { id: 8 },
            MembershipChange::Update { id: 9, peer_urls: peer_urls.clone() },
        ];
        for change in changes {
            assert_eq!(change_from_pb(change_to_pb(&change)), change);
        }
        let record = MemberRecord {
            id: 7,
            name: "a".into(),
            peer_urls,
            client_urls: vec!["http://c:3".into()],
            is_learner: true,
        };
        let changed = Attempt::Changed(Changed { members: vec![record], log_index: 12 });
        let refused = REFUSALS.iter().map(|(_, refused)| Attempt::Refused(*refused));
        for attempt in refused.chain([Attempt::NotNow, Attempt::Unknown, changed]) {
            assert_eq!(attempt_from_pb(attempt_to_pb(attempt.clone())), attempt);
        }
    }
}
