//! Watches over this member's state being that of its peers.
//!
//! Members compare their digests all the time (`raft::Node::compare_digests`). One that finds itself in the minority
//! takes itself out of service at once, and raises the alarm CORRUPT with its own id; the alarm makes the cluster take
//! no writes, as in etcd. To disarm it is the operator's command: the member then replaces its state by the leader's,
//! and serves again.

use std::sync::Arc;
use std::time::Duration;

use super::machine_requests;
use crate::api::{Alarm, AlarmKind};
use crate::raft::{Node, Verdict};

/// How often digests are compared, and the alarm is looked for.
const INTERVAL: Duration = Duration::from_secs(1);
/// The same while the alarm that this member has proposed is not there yet.
const RAISING_INTERVAL: Duration = Duration::from_millis(20);

/// How far a member in quarantine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The cluster may not know yet.
    ToBeRaised,
    /// The alarm was seen.
    Raised,
    /// It was disarmed.
    Disarmed,
}

impl Stage {
    fn seen(self, alarm_is_raised: bool) -> Stage {
        match (self, alarm_is_raised) {
            (Stage::ToBeRaised, false) => Stage::ToBeRaised,
            (Stage::ToBeRaised | Stage::Raised, true) => Stage::Raised,
            (Stage::Raised | Stage::Disarmed, false) => Stage::Disarmed,
            // Raised anew, by whomever: the state is to be replaced all the same.
            (Stage::Disarmed, true) => Stage::Disarmed,
        }
    }
}

/// Runs on raft's runtime as long as that lives.
pub async fn watch(node: Arc<Node>) {
    let mut stage = Stage::ToBeRaised;
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if node.progress.is_quarantined() {
            node.quarantine().await;
            stage = attend(&node, stage).await;
        } else {
            stage = Stage::ToBeRaised;
            look(&node).await;
        }
    }
}

async fn look(node: &Node) {
    match node.compare_digests().await {
        Verdict::Differs { index } => {
            tracing::error!(
                index,
                "this member's state differs from that of its peers; it is out of service until the alarm CORRUPT is \
                 disarmed, and then takes over its leader's state"
            );
            node.quarantine().await;
        }
        Verdict::Split { index } if !knows_of(node, 0).await => {
            tracing::error!(index, "the members' states differ, and no majority has the same");
            node.propose_unattended(machine_requests::raise_corrupt(0));
        }
        Verdict::Split { .. } | Verdict::Agrees | Verdict::Unknown => {}
    }
}

/// Whether the leader knows of a member's state being corrupt. True where nobody can say.
async fn knows_of(node: &Node, member_id: u64) -> bool {
    let alarms = node.ask_leader(machine_requests::list_alarms()).await;
    alarms.is_none_or(|body| {
        machine_requests::alarms(&body).contains(&Alarm { member_id, kind: AlarmKind::Corrupt })
    })
}

/// Where the member is, now that the leader was asked; as before if it did not answer.
async fn ask(node: &Node, stage: Stage) -> Stage {
    let Some(body) = node.ask_leader(machine_requests::list_alarms()).await else { return stage };
    let own = Alarm { member_id: node.member_id(), kind: AlarmKind::Corrupt };
    stage.seen(machine_requests::alarms(&body).contains(&own))
}

async fn attend(node: &Node, before: Stage) -> Stage {
    let mut stage = ask(node, before).await;
    if stage == Stage::ToBeRaised {
        node.propose_unattended(machine_requests::raise_corrupt(node.member_id()));
        let raising = async {
            while stage == Stage::ToBeRaised {
                tokio::time::sleep(RAISING_INTERVAL).await;
                stage = ask(node, stage).await;
            }
        };
        // If it is not there by then, it is proposed again.
        drop(tokio::time::timeout(INTERVAL, raising).await);
    }
    match stage {
        Stage::ToBeRaised => {}
        Stage::Raised if before == Stage::ToBeRaised => {
            tracing::warn!(
                member = format!("{:x}", node.member_id()),
                "the alarm CORRUPT is raised for this member; once it is disarmed, its state is replaced"
            );
        }
        Stage::Raised => {}
        Stage::Disarmed => {
            tracing::info!("the alarm was disarmed; taking over the leader's state");
            if let Err(error) = node.reinstall().await {
                tracing::warn!(error = %error, "the leader's state cannot be taken over yet");
            }
        }
    }
    stage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_disarmed_alarm_is_a_command() {
        let stages =
            |seen: &[bool]| seen.iter().fold(Stage::ToBeRaised, |s, raised| s.seen(*raised));
        assert_eq!(stages(&[false, false]), Stage::ToBeRaised);
        assert_eq!(stages(&[false, true, true]), Stage::Raised);
        assert_eq!(stages(&[true, false]), Stage::Disarmed);
        assert_eq!(stages(&[true, false, true]), Stage::Disarmed);
    }
}
