//! Rehearses a machine that is ready, on this member, for as long as an operator asked for and listens.

use std::time::Duration;

use proto::instar::v1 as pb;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::coordinator::Shared;
use super::machine_service::{
    FAILED_PRECONDITION, INVALID_ARGUMENT, LOOK_INTERVAL, broken, digest_of, refuse,
};
use crate::api::RequestError;
use crate::limits;
use crate::raft::{self, Rehearsal, Shard};

/// How often it is told how it stands.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);

/// Begins a rehearsal. It ends when its time is over, or its receiver is dropped.
pub async fn begin(
    shared: &Shared,
    shard: &Shard,
    request: pb::ShadowRequest,
) -> Result<mpsc::Receiver<pb::ShadowReport>, RequestError> {
    let digest = digest_of(&request.digest)?;
    let duration = Duration::from_millis(request.duration_ms);
    if duration.is_zero() || duration > limits::SHADOW_DURATION {
        let most_s = limits::SHADOW_DURATION.as_secs();
        let message = format!("a machine is rehearsed for 1 ms to {most_s} s");
        return Err(refuse(INVALID_ARGUMENT, message));
    }
    shard.read_index().await?;
    let name = raft::machine_name(&digest);
    if shared.machines.active().digest() == digest {
        let message = format!("{name} is active already: there is nothing to compare it with");
        return Err(refuse(FAILED_PRECONDITION, message));
    }
    let view = shared.views.latest();
    let is_there = raft::blobs(&*view).map_err(broken)?.contains_key(&digest);
    let machine = shared.machines.compiled(&digest).filter(|_| is_there).ok_or_else(|| {
        let message = format!("{name} is not ready on this member: put and prepare it first");
        refuse(FAILED_PRECONDITION, message)
    })?;
    let rehearsal = shared.node.shadows.begin(machine, &view);
    let rehearsal = rehearsal.map_err(|error| refuse(FAILED_PRECONDITION, error))?;
    let (sender, reports) = mpsc::channel(limits::SHADOW_REPORTS);
    tokio::spawn(rehearse(rehearsal, duration, sender));
    Ok(reports)
}

async fn rehearse(
    rehearsal: Rehearsal,
    duration: Duration,
    reports: mpsc::Sender<pb::ShadowReport>,
) {
    let deadline = Instant::now() + duration;
    while !rehearsal.is_done() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        tokio::select! {
            () = reports.closed() => return,
            () = sleep(left.min(REPORT_INTERVAL)) => {}
        }
        // A client that reads slowly is told less often.
        drop(reports.try_send(pb::ShadowReport { differences: Vec::new(), ..rehearsal.report() }));
    }
    rehearsal.close();
    let drained = Instant::now() + limits::SHADOW_DRAIN;
    while !rehearsal.is_done() && Instant::now() < drained {
        tokio::select! {
            () = reports.closed() => return,
            () = sleep(LOOK_INTERVAL) => {}
        }
    }
    let mut report = rehearsal.report();
    report.finished = true;
    if !rehearsal.is_done() {
        let seconds = limits::SHADOW_DRAIN.as_secs();
        report.aborted = format!(
            "the machine is still at work {seconds} s after the last entry that it was shown"
        );
    }
    // Nobody waits for it any more if this fails.
    drop(reports.send(report).await);
}
