//! `instarctl machine prepare --shadow`: a machine runs beside the active one, and a report says what it does differently.

use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde_json::Value;
use tests::case::{Scene, Verdict};
use tests::cluster::{Cluster, Plan, instarctl};
use tokio::process::Command;
use tokio::task::JoinHandle;

use super::machines::{Answers, machines_of, put, twin, write};

const WRITERS: usize = 6;

fn skipped() -> Result<Verdict> {
    Ok(Verdict::Skipped("etcd has no machine to rehearse".to_owned()))
}

/// Clients that write to all members until told.
struct Load {
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Result<u64>>>,
}

impl Load {
    fn start(cluster: &Cluster) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let writer = |writer| {
            let client = cluster.client(writer % cluster.members.len());
            tokio::spawn(write(client, writer, stop.clone(), Answers::default()))
        };
        let writers = (0..WRITERS).map(writer).collect();
        Self { stop, writers }
    }

    /// Ends it. No request may have failed.
    async fn end(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut writes = 0;
        for writer in self.writers {
            writes += writer.await??;
        }
        Ok(writes)
    }
}

/// `instarctl machine prepare` at one member.
fn rehearsal(cluster: &Cluster, at: usize, digest: &[u8], time: &str) -> Result<Command> {
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut command = Command::new(instarctl()?);
    command
        .args(["--endpoints", &cluster.members[at].address, "-w", "json"])
        .args(["machine", "prepare", &format!("sha256:{hex}"), "--shadow", time])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    Ok(command)
}

fn report(output: &Output) -> Result<Value> {
    let error = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).with_context(|| format!("no report: {error}"))
}

/// A machine that does the same is found to do the same, on any member, and the load does not notice.
pub async fn an_equal_machine(scene: Scene) -> Result<Verdict> {
    if !scene.is_instar() {
        return skipped();
    }
    let cluster = Plan::new(scene.subject, 3, &scene.directory).start().await?;
    let digest = put(&mut machines_of(&cluster, 0).await?, &twin()).await?.digest;
    let load = Load::start(&cluster);
    let (leader, mut compared) = (cluster.leader().await?, 0);
    for at in [leader, (leader + 1) % 3] {
        let output = rehearsal(&cluster, at, &digest, "2s")?.output().await?;
        let report = report(&output)?;
        ensure!(output.status.success(), "a twin was refused: {output:?}");
        ensure!(report["entries"].as_u64() > Some(100), "hardly anything was compared: {report}");
        ensure!(report["differing_entries"] == 0, "entries of a twin differ: {report}");
        ensure!(report["differing_batches"] == 0, "rows of a twin differ: {report}");
        for side in ["active", "shadow"] {
            ensure!(report[side]["fuel"].as_u64() > Some(0), "{side} took no fuel: {report}");
            ensure!(report[side]["time_us"].as_u64() > Some(0), "{side} took no time: {report}");
        }
        ensure!(report["active"]["fuel"] == report["shadow"]["fuel"], "twins differ: {report}");
        compared += report["entries"].as_u64().unwrap_or_default();
    }
    let writes = load.end().await?;
    cluster.wait_equal().await?;
    scene.note(format!("{writes} writes, {compared} entries compared, no difference"));
    Ok(Verdict::Passed)
}

/// A machine that answers one request differently is found out by the entry, with both answers.
pub async fn another_machine(scene: Scene) -> Result<Verdict> {
    if !scene.is_instar() {
        return skipped();
    }
    let cluster = Plan::new(scene.subject, 3, &scene.directory).start().await?;
    let mut client = machines_of(&cluster, 0).await?;
    let before = put(&mut client, &twin()).await?.machines.context("machines")?.active;
    let digest = put(&mut client, &Bytes::from(hostile::kv("answer"))).await?.digest;
    let trap = put(&mut client, &Bytes::from(hostile::kv("trap"))).await?.digest;
    for (digest, side) in [(&digest, "answered"), (&trap, "failed on this request")] {
        let load = Load::start(&cluster);
        let rehearsing = rehearsal(&cluster, 1, digest, "2s")?.spawn()?;
        // One of these comes in its time, whenever that begins.
        let mut provocations = 0;
        let mut ended = std::pin::pin!(rehearsing.wait_with_output());
        let output = loop {
            tokio::select! {
                output = &mut ended => break output?,
                () = tokio::time::sleep(std::time::Duration::from_millis(50)) => {}
            }
            provocations += 1;
            cluster.client(0).put("machines/provoke", &provocations.to_string()).await?;
        };
        load.end().await?;
        let report = report(&output)?;
        ensure!(output.status.code() == Some(1), "it is not refused: {:?}", output.status);
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(error.contains("does not do what the active machine does"), "{error}");
        let differing = report["differing_entries"].as_u64().unwrap_or_default();
        ensure!((1..=provocations).contains(&differing), "{provocations} of {report}");
        let entries = report["entries"].as_u64().unwrap_or_default();
        ensure!(entries > differing, "only provocations were compared: {report}");
        let first = &report["differences"][0];
        ensure!(first["part"] == "response", "another part: {first}");
        ensure!(first["command"].as_str().is_some_and(|it| it.contains("provoke")), "{first}");
        ensure!(first["active"].as_str().is_some_and(|it| it.starts_with("answered")), "{first}");
        ensure!(first["shadow"].as_str().is_some_and(|it| it.contains(side)), "{first}");
    }
    let listed = client.list(proto::instar::v1::ListRequest {}).await?.into_inner();
    ensure!(listed.active == before, "a rehearsal has switched the machine");
    cluster.wait_equal().await?;
    Ok(Verdict::Passed)
}

/// A rehearsal ends with the call that asked for it, and there is one at a time.
pub async fn who_goes_away(scene: Scene) -> Result<Verdict> {
    if !scene.is_instar() {
        return skipped();
    }
    let cluster = Plan::new(scene.subject, 1, &scene.directory).start().await?;
    let mut client = machines_of(&cluster, 0).await?;
    let response = put(&mut client, &twin()).await?;
    let (digest, active) = (response.digest, response.machines.context("machines")?.active);
    let output = rehearsal(&cluster, 0, &active, "1s")?.output().await?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(error.contains("is active already"), "the active one is rehearsed: {error}");

    let request = proto::instar::v1::ShadowRequest { digest: digest.clone(), duration_ms: 600_000 };
    client.prepare(proto::instar::v1::PrepareRequest { digest: digest.clone() }).await?;
    let mut reports = client.shadow(request.clone()).await?.into_inner();
    reports.message().await?.context("a report")?;
    let output = rehearsal(&cluster, 0, &digest, "1s")?.output().await?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(error.contains("another machine is being rehearsed"), "two at a time: {error}");

    drop(reports);
    let member = &cluster.members[0];
    let again = member.wait_answer(async || {
        machines_of(&cluster, 0).await.map_err(status)?.shadow(request.clone()).await
    });
    let mut reports = again.await?.into_inner();

    // A switch ends it, and the last report says so.
    let request = proto::instar::v1::ActivateRequest { digest, ..Default::default() };
    client.activate(request).await?;
    let last = loop {
        let report = reports.message().await?.context("the last report")?;
        if report.finished {
            break report;
        }
    };
    ensure!(last.aborted.contains("another machine became active"), "{last:?}");
    Ok(Verdict::Passed)
}

fn status(error: anyhow::Error) -> tonic::Status {
    tonic::Status::unavailable(error.to_string())
}
