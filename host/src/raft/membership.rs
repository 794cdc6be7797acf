//! Changes of the membership, one at a time, and only on the leader.

use std::collections::BTreeMap;
use std::sync::Arc;

use openraft::ChangeMembers;
use tokio::sync::Mutex;

use super::progress::Progress;
use super::types::{Member, MemberAttributes, Raft};

/// The one way to change the membership.
pub struct MembershipKeeper {
    raft: Raft,
    progress: Arc<Progress>,
    one_at_a_time: Mutex<()>,
}

impl MembershipKeeper {
    pub fn new(raft: Raft, progress: Arc<Progress>) -> Self {
        Self { raft, progress, one_at_a_time: Mutex::new(()) }
    }

    /// Writes what a member says of itself into the membership. Its peer URLs stay: a member cannot move this way.
    ///
    /// False if this member does not lead, or the change did not come through; the member tries again.
    pub async fn set_attributes(&self, id: u64, published: Member) -> bool {
        let _turn = self.one_at_a_time.lock().await;
        if !self.raft.is_leader() {
            return false;
        }
        let membership = self.progress.membership();
        let Some(known) = membership.get_node(&id) else { return false };
        let member = Member::new(MemberAttributes {
            peer_urls: known.attributes().peer_urls.clone(),
            ..published.attributes().clone()
        });
        if *known == member {
            return true;
        }
        let change = ChangeMembers::SetNodes(BTreeMap::from([(id, member)]));
        match self.raft.change_membership(change, true).await {
            Ok(_) => true,
            Err(error) => {
                tracing::debug!(error = %error, member = format!("{id:x}"), "cannot publish a member yet");
                false
            }
        }
    }
}
