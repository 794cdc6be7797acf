//! The state machine as openraft sees it: a way to the apply thread.
//!
//! openraft's snapshot is a view of the state, not a file: taking one only makes the state durable, so that the log may
//! be purged. A file is written when a member needs it, by the connection that sends it (`network`).

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};

use super::apply::ApplyThread;
use super::membership::AppliedMembership;
use super::progress::Progress;
use super::types::{LeaderId, LogId, StoredMembership, TypeConfig};
use crate::limits;
use crate::storage::{Mark, View, Views};

type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// What a snapshot is made of.
#[derive(Debug, Clone)]
pub enum SnapshotData {
    /// Of this member.
    View(Arc<View>),
    /// Received from the leader, and verified. The apply thread removes the file once it is installed.
    File(PathBuf),
}

/// The bridge from openraft to the apply thread.
pub struct StateMachine {
    apply: ApplyThread,
    views: Views,
    progress: Arc<Progress>,
}

impl StateMachine {
    pub fn new(apply: ApplyThread, views: Views, progress: Arc<Progress>) -> Self {
        Self { apply, views, progress }
    }
}

/// The log id and the membership of a mark.
pub fn applied_state(mark: &Mark) -> io::Result<(Option<LogId>, StoredMembership)> {
    let applied = mark.applied.map(|applied| LogId {
        leader_id: LeaderId { term: applied.term, node_id: applied.leader_id },
        index: applied.index,
    });
    let membership = AppliedMembership::decode(&mark.membership).map_err(|error| {
        io::Error::new(io::ErrorKind::InvalidData, format!("the stored membership {error}"))
    })?;
    Ok((applied, membership.stored))
}

/// A view as openraft's snapshot; none of a state that nothing was applied to.
pub fn snapshot_of(view: Arc<View>) -> io::Result<Option<Snapshot>> {
    let (last_log_id, last_membership) = applied_state(view.mark())?;
    let meta = SnapshotMeta { last_log_id, last_membership };
    Ok(last_log_id.is_some().then_some(Snapshot { meta, snapshot: SnapshotData::View(view) }))
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        applied_state(self.views.latest().mark())
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut batches = entries.ready_chunks(limits::APPLY_BATCH_ENTRIES);
        while let Some(batch) = batches.next().await {
            let mut entries = Vec::with_capacity(batch.len());
            let mut responders = Vec::new();
            for item in batch {
                let (entry, responder) = item?;
                entries.push(entry);
                responders.extend(responder);
            }
            self.apply.apply(entries).await?;
            for responder in responders {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder { apply: self.apply.clone() }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> io::Result<()> {
        let SnapshotData::File(path) = snapshot else {
            return Err(io::Error::other("a member's own view is no snapshot to install"));
        };
        self.apply.install(path).await?;
        if let Some(last) = meta.last_log_id {
            self.progress.set_committed(last.index);
        }
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        snapshot_of(self.views.latest())
    }
}

/// Makes the state durable; see the module's description.
pub struct SnapshotBuilder {
    apply: ApplyThread,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let view = self.apply.make_durable().await?;
        snapshot_of(view)?.ok_or_else(|| io::Error::other("nothing was applied yet"))
    }
}
