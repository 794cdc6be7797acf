//! How far this member is, for everyone who only wants to look.
//!
//! Written by the apply thread and by the task that follows openraft's metrics; read by anyone, without waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::membership::AppliedMembership;
use super::types::StoredMembership;
use crate::metrics::metrics;

/// Whether this member leads, and since which term it does or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leadership {
    pub term: u64,
    pub leads: bool,
}

/// Why a member is none any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expelled {
    /// By an operator.
    Removed,
    /// Its data directory is not the one that the others know it by.
    LostData,
}

/// Figures of this member. Indices and terms only grow.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    committed_index: AtomicU64,
    term: AtomicU64,
    /// 0: none is known.
    leader_id: AtomicU64,
    is_leader: AtomicBool,
    is_learner: AtomicBool,
    /// Out of service, because its state is not that of its peers.
    is_quarantined: AtomicBool,
    /// When a leader was last heard of, or, on the leader, a quorum; in milliseconds since the start.
    leader_seen_ms: AtomicU64,
    /// The last one in the log, committed or not: the one that raft goes by.
    membership: ArcSwap<StoredMembership>,
    applied_membership: ArcSwap<AppliedMembership>,
    /// Why this member is none any more, once it has learned of it.
    expelled: watch::Sender<Option<Expelled>>,
    applied_index: watch::Sender<u64>,
    /// Why this member cannot go on.
    failure: watch::Sender<Option<String>>,
    task_pending: watch::Sender<bool>,
    leadership: watch::Sender<Leadership>,
}

impl Progress {
    pub fn new(applied_index: u64) -> Self {
        Self {
            started: Instant::now(),
            committed_index: AtomicU64::new(applied_index),
            term: AtomicU64::new(0),
            leader_id: AtomicU64::new(0),
            is_leader: AtomicBool::new(false),
            is_learner: AtomicBool::new(false),
            is_quarantined: AtomicBool::new(false),
            leader_seen_ms: AtomicU64::new(0),
            membership: ArcSwap::from_pointee(StoredMembership::default()),
            applied_membership: ArcSwap::from_pointee(AppliedMembership::default()),
            expelled: watch::Sender::new(None),
            applied_index: watch::Sender::new(applied_index),
            failure: watch::Sender::new(None),
            task_pending: watch::Sender::new(false),
            leadership: watch::Sender::new(Leadership::default()),
        }
    }

    pub fn applied_index(&self) -> u64 {
        *self.applied_index.borrow()
    }

    pub fn committed_index(&self) -> u64 {
        self.committed_index.load(Ordering::Acquire).max(self.applied_index())
    }

    pub fn term(&self) -> u64 {
        self.term.load(Ordering::Acquire)
    }

    pub fn is_leader(&self) -> bool {
        self.is_leader.load(Ordering::Acquire)
    }

    pub fn is_learner(&self) -> bool {
        self.is_learner.load(Ordering::Acquire)
    }

    /// Whether this member has taken itself out of service, because its state is not that of its peers.
    pub fn is_quarantined(&self) -> bool {
        self.is_quarantined.load(Ordering::Acquire)
    }

    /// The leader as far as this member knows; it may have lost its leadership meanwhile.
    pub fn leader_id(&self) -> Option<u64> {
        match self.leader_id.load(Ordering::Acquire) {
            0 => None,
            id => Some(id),
        }
    }

    /// The leader, unless nothing was heard of it (or, on the leader itself, of a quorum) for `patience`. openraft
    /// alone would name the last leader for ever once this member is cut off.
    pub fn leader_id_within(&self, patience: Duration) -> Option<u64> {
        let silent_ms =
            self.elapsed_ms().saturating_sub(self.leader_seen_ms.load(Ordering::Acquire));
        self.leader_id().filter(|_| u128::from(silent_ms) <= patience.as_millis())
    }

    pub fn membership(&self) -> Arc<StoredMembership> {
        self.membership.load_full()
    }

    /// The membership as of the applied index, for whoever has waited for one.
    pub fn applied_membership(&self) -> Arc<AppliedMembership> {
        self.applied_membership.load_full()
    }

    /// Waits until this member has learned that it is no member any more.
    pub async fn wait_expelled(&self) -> Expelled {
        let mut expelled = self.expelled.subscribe();
        // The sender lives as long as `self`.
        let told = expelled.wait_for(Option::is_some).await;
        told.ok().and_then(|told| *told).unwrap_or(Expelled::Removed)
    }

    /// Waits until the entry with this index is applied here.
    pub async fn wait_applied(&self, index: u64) {
        let mut applied = self.applied_index.subscribe();
        // The sender lives as long as `self`.
        drop(applied.wait_for(|applied| *applied >= index).await);
    }

    /// Says that this member cannot go on; the first reason counts.
    pub fn fail(&self, reason: String) {
        self.failure.send_if_modified(|failure| {
            let is_first = failure.is_none();
            failure.get_or_insert(reason);
            is_first
        });
    }

    /// Waits until this member cannot go on, and says why.
    pub async fn wait_failure(&self) -> String {
        match self.failure.subscribe().wait_for(Option::is_some).await {
            Ok(failure) => failure.clone().unwrap_or_default(),
            // The sender lives as long as `self`.
            Err(_) => std::future::pending().await,
        }
    }

    /// Follows whether the machine has upkeep left.
    pub fn subscribe_task_pending(&self) -> watch::Receiver<bool> {
        self.task_pending.subscribe()
    }

    /// Follows whether this member leads.
    pub fn subscribe_leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    pub(super) fn set_applied(&self, index: u64, task_pending: Option<bool>) {
        if let Some(pending) = task_pending {
            self.task_pending
                .send_if_modified(|current| std::mem::replace(current, pending) != pending);
        }
        self.applied_index.send_replace(index);
    }

    pub(super) fn set_committed(&self, index: u64) {
        self.committed_index.fetch_max(index, Ordering::AcqRel);
    }

    pub(super) fn set_leader(&self, term: u64, leader_id: Option<u64>, is_leader: bool) {
        if leader_id.is_some() && leader_id != self.leader_id() {
            metrics().leader_changes.inc();
        }
        self.term.store(term, Ordering::Release);
        self.leader_id.store(leader_id.unwrap_or(0), Ordering::Release);
        self.is_leader.store(is_leader, Ordering::Release);
        let leadership = Leadership { term, leads: is_leader };
        self.leadership
            .send_if_modified(|current| std::mem::replace(current, leadership) != leadership);
    }

    pub(super) fn set_learner(&self, is_learner: bool) {
        self.is_learner.store(is_learner, Ordering::Release);
    }

    pub(super) fn set_quarantined(&self, is_quarantined: bool) {
        self.is_quarantined.store(is_quarantined, Ordering::Release);
    }

    pub(super) fn set_membership(&self, membership: Arc<StoredMembership>) {
        self.membership.store(membership);
    }

    /// To be called before `set_applied` tells of the entry.
    pub(super) fn set_applied_membership(&self, membership: AppliedMembership) {
        self.applied_membership.store(Arc::new(membership));
    }

    pub(super) fn set_expelled(&self, why: Expelled) {
        self.expelled.send_replace(Some(why));
    }

    /// A leader (or, on the leader, a quorum) was heard of, `ago` before now.
    pub(super) fn leader_seen(&self, ago: Duration) {
        let ago_ms = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
        self.leader_seen_ms.fetch_max(self.elapsed_ms().saturating_sub(ago_ms), Ordering::AcqRel);
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
