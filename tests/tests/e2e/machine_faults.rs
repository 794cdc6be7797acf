//! Machines that are none, and machines that turn against their cluster: refused with a sentence, or rolled back by the
//! entry that they fail on, on all members alike, with its client none the wiser.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use host::runtime::BUILT_IN;
use proto::instar::v1 as pb;
use tests::case::{Scene, Verdict};
use tests::cluster::Plan;

use super::machines::{machines_of, put};

const MIB: usize = 1 << 20;

/// What a component is refused with before any of it is in the log.
fn refused_at_once() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let import = |from: &str, to: &str| hostile::replaced(BUILT_IN, from.as_bytes(), to.as_bytes());
    let mut damaged = BUILT_IN.to_vec();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 64].fill(0xff);
    vec![
        ("an empty file", Vec::new(), "no component"),
        ("garbage", b"no component, but a text".to_vec(), "no component"),
        ("a truncated file", BUILT_IN[..BUILT_IN.len() / 2].to_vec(), "no component"),
        ("a damaged file", damaged, "no component"),
        ("a core module", b"\0asm\x01\0\0\0".to_vec(), "no component"),
        (
            "a component without exports",
            b"\0asm\x0d\0\x01\0".to_vec(),
            "does not export `describe`",
        ),
        ("100 MB", vec![0; 100 * MIB], "more than the 16777216 bytes"),
        (
            "another import",
            import("instar:machine/log@1.0.0", "wasi:cli/stderr-io@1.0.0"),
            "imports `wasi:cli/stderr-io@1.0.0`",
        ),
        (
            "a contract to come",
            import("instar:machine/log@1.0.0", "instar:machine/log@9.0.0"),
            "instar:machine@9.0.0",
        ),
        ("an endless description", hostile::kv("describe-loop"), "limit on computing"),
        ("a text for terminals", hostile::kv("describe-text"), "its version is"),
    ]
}

/// What members find out once they have the component.
fn refused_when_prepared() -> [(&'static str, Vec<u8>, &'static str); 2] {
    [
        ("another name", hostile::kv("describe-name"), "impostor"),
        ("other tables", hostile::kv("describe-tables"), "lacks table"),
    ]
}

/// What passes all checks, and is found out when it serves.
const TRAITORS: [&str; 8] = [
    "trap",
    "recursion",
    "rejection",
    "revision",
    "event-foreign",
    "write-hosts",
    "write-empty-key",
    "utf-8",
];

pub async fn refused(scene: Scene) -> Result<Verdict> {
    if !scene.is_instar() {
        return Ok(Verdict::Skipped("etcd has no machine to replace".to_owned()));
    }
    let cluster = Plan::new(scene.subject, 3, &scene.directory).start().await?;
    let mut client = machines_of(&cluster, 0).await?;
    let before = client.list(pb::ListRequest {}).await?.into_inner();
    for (what, component, part) in refused_at_once() {
        let status = put(&mut client, &component.into()).await.err();
        let status = status.with_context(|| format!("{what} was taken"))?;
        ensure!(status.message().contains(part), "{what}: {status}");
        cluster.client(1).put("faults/still", what).await?;
    }
    let after = client.list(pb::ListRequest {}).await?.into_inner();
    ensure!(after == before, "something of what was refused is in the state: {after:?}");
    for (what, component, part) in refused_when_prepared() {
        let digest = put(&mut client, &component.into()).await?.digest;
        let prepared = client.prepare(pb::PrepareRequest { digest: digest.clone() }).await;
        let status = prepared.err().with_context(|| format!("{what} was prepared"))?;
        ensure!(status.message().contains(part), "{what}: {status}");
        let request = pb::ActivateRequest { digest, ..Default::default() };
        let status = client.activate(request).await.err();
        let status = status.with_context(|| format!("{what} was activated"))?;
        // It names the first voter: one that cannot run it, or one that has not said so yet.
        ensure!(status.message().contains("this machine"), "{what}: {status}");
    }
    cluster.wait_equal().await?;
    Ok(Verdict::Passed)
}

pub async fn rolled_back(scene: Scene) -> Result<Verdict> {
    if !scene.is_instar() {
        return Ok(Verdict::Skipped("etcd has no machine to replace".to_owned()));
    }
    let cluster = Plan::new(scene.subject, 3, &scene.directory).start().await?;
    for (number, mode) in TRAITORS.iter().enumerate() {
        let mut client = machines_of(&cluster, number % 3).await?;
        let response = put(&mut client, &Bytes::from(hostile::kv(mode))).await?;
        let (digest, before) = (response.digest, response.machines.context("machines")?.active);
        client.prepare(pb::PrepareRequest { digest: digest.clone() }).await?;
        let request =
            pb::ActivateRequest { digest: digest.clone(), expected_active: before.clone() };
        let active = client.activate(request).await?.into_inner().active;
        ensure!(active == digest, "{mode}: it is not active");
        cluster.client(1).put("faults/honest", mode).await.context("an honest put")?;
        cluster.client(2).put("faults/provoke", mode).await.context("the provocation")?;
        for at in 0..3 {
            let value = cluster.client(at).get("faults/provoke").await?;
            let value = value.kvs.into_iter().next().map(|kv| kv.value);
            ensure!(value.as_deref() == Some(mode.as_bytes()), "{mode}: {at} has {value:?}");
            let listed = machines_of(&cluster, at).await?.list(pb::ListRequest {}).await?;
            let listed = listed.into_inner();
            ensure!(listed.active == before, "{mode}: member {at} still runs it");
            ensure!(!listed.on_probation && listed.previous.is_empty(), "{mode}: {listed:?}");
        }
    }
    let revision = cluster.wait_equal().await?;
    scene.note(format!("{} machines rolled back, equal at {revision}", TRAITORS.len()));
    Ok(Verdict::Passed)
}
