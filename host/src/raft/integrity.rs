//! What a member does about its own state being another than its peers'.
//!
//! A member that finds itself in the minority takes itself out of service: it goes on keeping the log, and applies none
//! of it. It gets a state again by installing a snapshot of a peer, as of an entry that it has not passed over.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use proto::instar::peer as pb;

use super::RequestError;
use super::digests::{self, Digest, Verdict};
use super::network::PeerError;
use super::node::Node;
use super::snapshot_stream;
use super::state_machine::SnapshotData;
use crate::limits;
use crate::metrics::metrics;
use crate::runtime::Outcome;

/// How long a peer may take to answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);

pub fn digest_to_pb(digest: &Digest) -> pb::Digest {
    pb::Digest { index: digest.index, digest: Bytes::copy_from_slice(&digest.digest.to_le_bytes()) }
}

/// None if it is no digest.
pub fn digest_from_pb(digest: pb::Digest) -> Option<Digest> {
    let bytes = digest.digest.as_ref().try_into().ok()?;
    Some(Digest { index: digest.index, digest: u128::from_le_bytes(bytes) })
}

impl Node {
    /// Asks all voters for their digests, and judges this member's.
    pub async fn compare_digests(&self) -> Verdict {
        let membership = self.progress.membership();
        let voters: Vec<u64> = membership.voter_ids().collect();
        let own = self.digests.sample();
        let indices: Vec<u64> = own.iter().map(|digest| digest.index).collect();
        let ask = |peer: u64| {
            let asked = self.peers.digests(peer, &indices);
            async move { tokio::time::timeout(ANSWER_PATIENCE, asked).await }
        };
        let peers = voters.iter().filter(|id| **id != self.own_id);
        let answers = join_all(peers.map(|id| ask(*id))).await;
        let answers: Vec<_> = answers.into_iter().filter_map(|it| it.ok()?.ok()).collect();
        digests::judge(&own, voters.contains(&self.own_id), voters.len(), &answers)
    }

    /// Takes this member out of service. If it leads, it hands the leadership over: it cannot do a leader's errands. To
    /// be called again as long as it is out of service: whoever is to take over may miss its chance, and an election
    /// can bring the leadership back.
    pub async fn quarantine(&self) {
        self.progress.set_quarantined(true);
        if self.raft.is_leader()
            && let Some(successor) = self.successor()
            && let Err(error) = self.raft.trigger().transfer_leader(successor).await
        {
            tracing::warn!(error = %error, "the leadership cannot be handed over");
        }
    }

    /// What the leader's machine answers to a query, on a state as new as the cluster's; none if there is no leader that
    /// answers, or if it is this member.
    pub async fn ask_leader(&self, query: Bytes) -> Option<Bytes> {
        let leader_id = self.progress.leader_id().filter(|id| *id != self.own_id)?;
        match tokio::time::timeout(ANSWER_PATIENCE, self.peers.query(leader_id, query)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::debug!(error = %error, "the leader does not answer");
                None
            }
            Err(_) => None,
        }
    }

    /// Proposes a command for this member itself.
    pub async fn propose(&self, command: Bytes) -> Result<Outcome, RequestError> {
        self.own_shard.propose(command).await
    }

    /// Proposes a command for this member itself, and does not wait for what becomes of it.
    pub fn propose_unattended(&self, command: Bytes) {
        let shard = self.own_shard.clone();
        tokio::spawn(async move {
            if let Err(error) = shard.propose(command).await {
                tracing::debug!(error = %error, "a proposal of this member has no known outcome");
            }
        });
    }

    /// Replaces this member's state by the leader's, and puts it into service again.
    ///
    /// # Errors
    /// There is no leader, its snapshot does not arrive whole, or is too old; to be tried again.
    pub async fn reinstall(&self) -> Result<(), PeerError> {
        let leader_id = self.progress.leader_id().filter(|id| *id != self.own_id);
        let leader_id = leader_id.ok_or(PeerError::NoLeader)?;
        let transfer = Duration::from_millis(limits::SNAPSHOT_TRANSFER_MS);
        let fetching = async {
            let (header, parts) = self.peers.fetch_snapshot(leader_id).await?;
            Ok::<_, PeerError>(
                snapshot_stream::receive(&self.snapshot_directory, header, parts).await?,
            )
        };
        let received = tokio::time::timeout(transfer, fetching)
            .await
            .map_err(|_| PeerError::TimedOut(transfer))??;
        let SnapshotData::File(path) = received.snapshot.snapshot else {
            return Err(PeerError::Snapshot(std::io::Error::other("what was received is no file")));
        };
        Ok(self.apply()?.reinstall(path).await?)
    }

    /// Gives the disk space that the state no longer needs back to the file system, while the member goes on. One at a
    /// time; it is carried through though nobody waits for it any more.
    pub async fn defragment(self: &Arc<Self>) -> Result<(), String> {
        let node = self.clone();
        let work = tokio::spawn(async move {
            let _turn = node.defragmenting.lock().await;
            let _timer = metrics().works.defragment_seconds.start_timer();
            let _inflight = Inflight::begin();
            let work = node.apply()?.begin_defragment().await?;
            let copying = tokio::task::spawn_blocking(move || {
                work.copy().map_err(std::io::Error::other)?;
                Ok::<_, std::io::Error>(work)
            });
            let work = copying.await.map_err(std::io::Error::other)??;
            node.apply()?.finish_defragment(work).await
        });
        match work.await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => Err("this member is stopping".to_owned()),
        }
    }
}

/// Says that a defragmentation is under way, however it ends.
struct Inflight;

impl Inflight {
    fn begin() -> Inflight {
        metrics().works.defragmenting.set(1);
        Inflight
    }
}

impl Drop for Inflight {
    fn drop(&mut self) {
        metrics().works.defragmenting.set(0);
    }
}
