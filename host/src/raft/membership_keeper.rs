//! Changes of the membership, one at a time, and only on the leader.
//!
//! A change goes through openraft's joint consensus. What a leader leaves half done when it dies, the next one
//! finishes: a joint configuration is made uniform, and members that are to vote get their vote.
//!
//! A voter that is added does not vote before it has caught up and told what data it votes with. Until then it is a
//! learner to raft, so that adding it costs neither availability nor safety.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, Instant, Precondition, RaftMetrics};
use thiserror::Error;
use tokio::sync::Mutex;

use super::RequestError;
use super::membership::{
    ChangePolicy, ChangeRefused, MemberRecord, MembershipChange, Situation, records,
};
use super::progress::Progress;
use super::types::{Member, MemberAttributes, Raft, StoredMembership, TypeConfig};
use crate::limits;

/// How often a leader looks whether a change is to be finished, and how soon again while it is at one.
const ERRAND_INTERVAL: Duration = Duration::from_millis(50);
/// How long a leader that is to be removed waits for another one to take over.
const TRANSFER_PATIENCE: Duration = Duration::from_millis(1_000);

/// A change that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// All of them, after the change.
    pub members: Vec<MemberRecord>,
    pub log_index: u64,
}

/// Why a change was not made, or not for certain.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChangeError {
    #[error(transparent)]
    Refused(#[from] ChangeRefused),
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// What became of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    Changed(Changed),
    Refused(ChangeRefused),
    /// Nothing was proposed: this member does not lead, or another change is under way.
    NotNow,
    /// It may have been made.
    Unknown,
}

/// The one way to change the membership.
pub struct MembershipKeeper {
    own_id: u64,
    raft: Raft,
    progress: Arc<Progress>,
    policy: ChangePolicy,
    /// Without a word for this long, a member counts as being down.
    contact: Duration,
    one_at_a_time: Mutex<()>,
}

type Changes = ChangeMembers<u64, Member>;
type Metrics = RaftMetrics<TypeConfig>;

impl MembershipKeeper {
    pub fn new(
        own_id: u64,
        raft: Raft,
        progress: Arc<Progress>,
        policy: ChangePolicy,
        contact: Duration,
    ) -> Self {
        let one_at_a_time = Mutex::default();
        Self { own_id, raft, progress, policy, contact, one_at_a_time }
    }

    /// Tries to make a change. To be limited in time: without a quorum it waits for one.
    pub async fn change(&self, change: &MembershipChange) -> Attempt {
        let _turn = self.one_at_a_time.lock().await;
        let metrics = self.raft.metrics().borrow_watched().clone();
        let Some(settled) = self.settled(&metrics) else { return Attempt::NotNow };
        if let Err(refused) = self.check(change, &settled, &metrics) {
            return Attempt::Refused(refused);
        }
        if *change == (MembershipChange::Remove { id: self.own_id }) && self.hand_over().await {
            return Attempt::NotNow;
        }
        let Some(changes) = changes_of(change, &settled) else {
            return Attempt::Refused(ChangeRefused::MemberNotFound);
        };
        let attempt = self.propose(changes, &settled).await;
        if let Attempt::Changed(changed) = &attempt {
            tracing::info!(change = ?change, index = changed.log_index, "changed the membership");
            if let MembershipChange::Promote { id } = change {
                crate::metrics::metrics().operations.learners_promoted.inc();
                self.give_vote(*id).await;
            }
        }
        attempt
    }

    /// Writes what a member says of itself into the membership. Its peer URLs stay, and so does what it is to be: a
    /// member cannot move or promote itself this way.
    ///
    /// False if this member does not lead, or the change did not come through; the member tries again.
    pub async fn set_attributes(&self, id: u64, published: Member) -> bool {
        let _turn = self.one_at_a_time.lock().await;
        let metrics = self.raft.metrics().borrow_watched().clone();
        let Some(settled) = self.settled(&metrics) else { return false };
        let Some(known) = settled.get_node(&id) else { return false };
        let member = Member::new(MemberAttributes {
            peer_urls: known.attributes().peer_urls.clone(),
            is_learner: known.attributes().is_learner,
            ..published.attributes().clone()
        });
        if *known == member {
            return true;
        }
        let changes = ChangeMembers::SetNodes(BTreeMap::from([(id, member)]));
        matches!(self.propose(changes, &settled).await, Attempt::Changed(_))
    }

    /// Finishes what is half done, for as long as the member lives. It runs on the raft runtime.
    pub async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(ERRAND_INTERVAL);
        loop {
            ticks.tick().await;
            if self.progress.is_leader()
                && let Ok(_turn) = self.one_at_a_time.try_lock()
            {
                self.run_errand().await;
            }
        }
    }

    async fn run_errand(&self) {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.clone();
        if membership.membership().get_joint_config().len() > 1 {
            if is_committed(&metrics) {
                tracing::info!("finishing a change of the membership that another leader began");
                let nothing_more = ChangeMembers::AddVoterIds(BTreeSet::new());
                self.propose(nothing_more, &membership).await;
            }
            return;
        }
        let ready = |(id, member): (&u64, &Member)| {
            let attributes = member.attributes();
            let waits = !attributes.is_learner && !membership.voter_ids().any(|voter| voter == *id);
            let is_known = !attributes.data_incarnation.is_empty();
            (waits && is_known && has_caught_up(&metrics, *id)).then_some(*id)
        };
        if let Some(id) = membership.nodes().find_map(ready) {
            self.give_vote(id).await;
        }
    }

    /// Makes a member a voter that is to be one and has caught up; otherwise it is tried again later.
    async fn give_vote(&self, id: u64) {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let Some(settled) = self.settled(&metrics) else { return };
        let votes = settled.voter_ids().any(|voter| voter == id);
        if votes || settled.get_node(&id).is_none() || !has_caught_up(&metrics, id) {
            return;
        }
        let changes = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
        if let Attempt::Changed(_) = self.propose(changes, &settled).await {
            tracing::info!(member = format!("{id:x}"), "the member has caught up, and votes");
        }
    }

    /// The membership if this member leads, and no change of it is under way.
    fn settled(&self, metrics: &Metrics) -> Option<Arc<StoredMembership>> {
        let membership = metrics.membership_config.clone();
        let is_uniform = membership.membership().get_joint_config().len() == 1;
        let applied = self.progress.applied_index();
        let is_applied = membership.log_id().is_some_and(|log_id| log_id.index <= applied);
        let settled = self.raft.is_leader() && is_uniform && is_applied && is_committed(metrics);
        settled.then_some(membership)
    }

    fn check(
        &self,
        change: &MembershipChange,
        membership: &StoredMembership,
        metrics: &Metrics,
    ) -> Result<(), ChangeRefused> {
        let applied = self.progress.applied_membership();
        let situation = Situation {
            own_id: self.own_id,
            members: &records(membership.membership()),
            removed: &applied.removed,
            in_touch: self.in_touch(metrics),
            last_index: metrics.last_log_index.unwrap_or(0),
            matched_index: match change {
                MembershipChange::Promote { id } => matched_index(metrics, *id),
                _ => 0,
            },
        };
        situation.check(change, &self.policy).inspect_err(|refused| {
            tracing::warn!(change = ?change, reason = %refused, "the membership is not changed");
        })
    }

    fn in_touch(&self, metrics: &Metrics) -> BTreeSet<u64> {
        let Some(heard) = &metrics.heartbeat else { return BTreeSet::new() };
        let lately = |instant: &openraft::type_config::alias::InstantOf<TypeConfig>| {
            instant.elapsed() <= self.contact
        };
        let heard = heard.iter().filter(|(_, at)| at.is_some_and(|at| lately(&at)));
        heard.map(|(id, _)| *id).collect()
    }

    /// Before a leader removes itself, another member that has all of the log takes over. False if nobody did.
    async fn hand_over(&self) -> bool {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let in_touch = self.in_touch(&metrics);
        let able =
            |id: &u64| *id != self.own_id && in_touch.contains(id) && has_caught_up(&metrics, *id);
        let Some(successor) = metrics.membership_config.voter_ids().find(able) else {
            return false;
        };
        self.transfer(successor, TRANSFER_PATIENCE).await
    }

    /// Hands the leadership to another member. False if it did not take over in time.
    pub async fn transfer(&self, to: u64, patience: Duration) -> bool {
        tracing::info!(to = format!("{to:x}"), "handing the leadership over");
        if self.raft.trigger().transfer_leader(to).await.is_err() {
            return false;
        }
        let mut metrics = self.raft.server_metrics();
        let own_id = self.own_id;
        let gone = async {
            while metrics.borrow_watched().current_leader.is_none_or(|leader| leader == own_id) {
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(patience, gone).await.is_ok()
    }

    /// Whether a member could take the leadership over.
    pub fn is_in_touch(&self, id: u64) -> bool {
        let metrics = self.raft.metrics().borrow_watched().clone();
        self.in_touch(&metrics).contains(&id)
    }

    /// Brings changes into the log, if the membership still is the one that they were checked against.
    async fn propose(&self, changes: Changes, on: &StoredMembership) -> Attempt {
        let takes_two_steps = matches!(changes, ChangeMembers::RemoveVoters(_));
        let unchanged = Precondition::LastMembershipLogId { last_membership_log_id: *on.log_id() };
        match self.raft.change_membership_if(changes, false, [unchanged]).await {
            Ok(written) => {
                let membership = written.membership.as_ref();
                let members = membership.map(records).unwrap_or_default();
                Attempt::Changed(Changed { members, log_index: written.log_id.index })
            }
            Err(error) => {
                tracing::debug!(error = %error, "the membership was not changed");
                match error {
                    RaftError::APIError(ClientWriteError::ChangeMembershipError(_)) => {
                        Attempt::NotNow
                    }
                    RaftError::APIError(ClientWriteError::ForwardToLeader(_))
                        if !takes_two_steps =>
                    {
                        Attempt::NotNow
                    }
                    // A joint configuration may be left behind; see the errand.
                    _ => Attempt::Unknown,
                }
            }
        }
    }
}

fn is_committed(metrics: &Metrics) -> bool {
    metrics.committed_membership_config.log_id() == metrics.membership_config.log_id()
}

fn matched_index(metrics: &Metrics, id: u64) -> u64 {
    let matched = metrics.replication.as_ref().and_then(|all| all.get(&id)).copied().flatten();
    matched.map_or(0, |log_id| log_id.index)
}

fn has_caught_up(metrics: &Metrics, id: u64) -> bool {
    let last = metrics.last_log_index.unwrap_or(0);
    matched_index(metrics, id) + limits::VOTER_LAG_ENTRIES >= last && matched_index(metrics, id) > 0
}

/// What a change is to openraft. None if the member in question is not there.
fn changes_of(change: &MembershipChange, membership: &StoredMembership) -> Option<Changes> {
    let with = |id: &u64, edit: &dyn Fn(&mut MemberAttributes)| {
        let mut attributes = membership.get_node(id)?.attributes().clone();
        edit(&mut attributes);
        Some(ChangeMembers::SetNodes(BTreeMap::from([(*id, Member::new(attributes))])))
    };
    match change {
        MembershipChange::Add { id, peer_urls, is_learner } => {
            let attributes = MemberAttributes {
                peer_urls: peer_urls.clone(),
                is_learner: *is_learner,
                ..MemberAttributes::default()
            };
            Some(ChangeMembers::AddNodes(BTreeMap::from([(*id, Member::new(attributes))])))
        }
        MembershipChange::Promote { id } => with(id, &|member| member.is_learner = false),
        MembershipChange::Update { id, peer_urls } => {
            with(id, &|member| member.peer_urls.clone_from(peer_urls))
        }
        MembershipChange::Remove { id } => {
            let only = BTreeSet::from([*id]);
            let votes = membership.voter_ids().any(|voter| voter == *id);
            Some(match votes {
                true => ChangeMembers::RemoveVoters(only),
                false => ChangeMembers::RemoveNodes(only),
            })
        }
    }
}
