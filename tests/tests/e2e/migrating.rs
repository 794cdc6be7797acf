//! There and back: a real etcd's store becomes Instar's, by `migrate` and by a backup, and Instar's a real etcd's again.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;
use tests::case::{Scene, Verdict};
use tests::client::Client;
use tests::cluster::{Cluster, Member, POLL_EVERY, Plan, Program, etcd_programs, instarctl};

use super::restoring::{Content, compact, delete, migrate_words, restored, run, run_well, save};

/// Times the campaign's factor; with 20 it is what is promised.
const KEYS: u64 = 5_000;
const KEYS_MOST: u64 = 100_000;
/// Puts in one transaction: etcd's own limit is 128 operations.
const BATCH: u64 = 100;
/// Every tenth key hangs on one of so many leases.
const LEASES: u64 = 50;
const LEASED_EVERY: u64 = 10;
/// Longer than a test takes.
const LEASE_TTL_S: i64 = 6_000;
const REVOKED: [i64; 2] = [3, 4];
const VALUE_BYTES: usize = 100;

fn key(number: u64) -> String {
    format!("key/{number:06}")
}

/// Puts the keys whose number `is_one` takes, in transactions.
async fn put_all(
    client: &Client,
    keys: u64,
    round: u64,
    is_one: impl Fn(u64) -> bool,
) -> Result<()> {
    let numbers: Vec<u64> = (0..keys).filter(|number| is_one(*number)).collect();
    for batch in numbers.chunks(BATCH as usize) {
        let put = |&number: &u64| {
            let (key, value) = (key(number).into(), format!("{round} {number:0VALUE_BYTES$}"));
            let is_leased = number % LEASED_EVERY == 0;
            let lease = if is_leased { (number / LEASED_EVERY % LEASES + 1) as i64 } else { 0 };
            let put = pb::PutRequest { key, value: value.into(), lease, ..Default::default() };
            pb::RequestOp { request: Some(Request::RequestPut(put)) }
        };
        let success = batch.iter().map(put).collect();
        client.txn(pb::TxnRequest { success, ..Default::default() }).await?;
    }
    Ok(())
}

/// Several revisions a key, deletions and keys made anew, leases with many keys and with none, a compaction between.
/// Returns a revision that is not compacted.
async fn write_history(client: &Client, keys: u64) -> Result<i64> {
    for id in 1..=LEASES as i64 + 1 {
        client.grant(id, LEASE_TTL_S).await?;
    }
    put_all(client, keys, 1, |_| true).await?;
    put_all(client, keys, 2, |number| number % 2 == 0).await?;
    delete(client, "key/0003", "key/0005").await?;
    let revision = revision(client).await?;
    put_all(client, keys, 3, |number| number % 3 == 0).await?;
    compact(client, revision - 3).await?;
    for id in REVOKED {
        client.revoke(id).await?;
    }
    // Not in a transaction: a key's version goes on over many revisions.
    for number in 0..200 {
        client.put(&key(number % 20 + 1), &format!("{number}")).await?;
    }
    delete(client, "key/0010", "key/0011").await?;
    Ok(revision)
}

async fn revision(client: &Client) -> Result<i64> {
    Ok(client.get("any").await?.header.context("a header")?.revision)
}

/// Tells how long the steps take.
struct Steps<'a> {
    scene: &'a Scene,
    began: Instant,
}

impl Steps<'_> {
    fn done(&mut self, what: &str) {
        self.scene.note(format!("{what}: {:.1} s", self.began.elapsed().as_secs_f64()));
        self.began = Instant::now();
    }
}

/// A store of many keys goes from etcd to Instar in both ways, and from there to etcd again: everywhere it is the same.
pub async fn there_and_back(scene: Scene) -> Result<Verdict> {
    if let Err(reason) = etcd_programs() {
        return Ok(Verdict::Skipped(reason));
    }
    if !scene.is_instar() {
        return Ok(Verdict::Skipped("it makes data directories of Instar".to_owned()));
    }
    let keys = (KEYS * scene.campaign).min(KEYS_MOST);
    let mut steps = Steps { scene: &scene, began: Instant::now() };
    let etcd = Plan::new(Program::Etcd, 1, &scene.directory.join("etcd")).start().await?;
    let old = etcd.client(0);
    let past = write_history(&old, keys).await?;
    steps.done(&format!("{keys} keys are written"));

    let migrated = migrate(&etcd, &scene.directory.join("migrated")).await?;
    steps.done("etcd is migrated to Instar");
    let expected = Content::of(&old, past).await?;
    let is_leased = |lease: &&(i64, i64, Vec<Vec<u8>>)| !lease.2.is_empty();
    let leased = expected.leases.iter().filter(is_leased).count();
    ensure!(expected.leases.len() == LEASES as usize - 1, "{} leases", expected.leases.len());
    ensure!(leased >= LEASES as usize - REVOKED.len(), "only {leased} leases have keys");
    ensure!(expected.keys.len() as u64 > keys / 2, "{} keys", expected.keys.len());
    Content::of(&migrated.client(0), past).await?.must_equal(&expected).context("migrated")?;
    steps.done("both are the same");

    let backup = scene.directory.join("etcd.db");
    save(&etcd, &backup).await?;
    let there = restored(Program::Instar, 1, &scene.directory.join("there"), &backup, &[]).await?;
    Content::of(&there.client(0), past).await?.must_equal(&expected).context("restored")?;
    steps.done("a backup of etcd is Instar");

    let backup = scene.directory.join("instar.db");
    let endpoint = format!("--endpoints={}", migrated.members[0].address);
    let words = [endpoint, "snapshot".into(), "save".into(), backup.display().to_string()];
    run_well(&instarctl()?, &words).await?;
    let back = restored(Program::Etcd, 1, &scene.directory.join("back"), &backup, &[]).await?;
    Content::of(&back.client(0), past).await?.must_equal(&expected).context("back in etcd")?;
    steps.done("a backup of Instar is etcd");
    go_on([&old, &migrated.client(0), &there.client(0), &back.client(0)], past).await?;
    Ok(Verdict::Passed)
}

/// Migrates to a cluster of one; while its server is not there yet, the old one is written to.
async fn migrate(old: &Cluster, directory: &Path) -> Result<Cluster> {
    let mut new = Plan::new(Program::Instar, 1, directory).prepare()?;
    let (program, words) = (instarctl()?, migrate_words(old, &new, true));
    let migrating = tokio::spawn(async move { run(&program, &words).await });
    let is_made = |member: &Member| member.data_directory.join("member").exists();
    while !is_made(&new.members[0]) {
        ensure!(!migrating.is_finished(), "{:?}", migrating.await??);
        tokio::time::sleep(POLL_EVERY).await;
    }
    for number in 0..100 {
        old.client(0).put(&format!("later/{number}"), "value").await?;
    }
    new.start_all().await?;
    let output = migrating.await??;
    ensure!(output.status.success(), "{output:?}");
    Ok(new)
}

/// What is done to all of them has the same effect: none of them lacks what the content does not show.
async fn go_on(clients: [&Client; 4], past: i64) -> Result<()> {
    let mut contents = Vec::new();
    for client in clients {
        client.revoke(1).await?;
        client.put_leased(&key(1), 2).await?;
        client.put("new", "value").await?;
        compact(client, revision(client).await? - 2).await?;
        client.put("new", "value").await?;
        contents.push(Content::of(client, 0).await?);
    }
    ensure!(contents[0].revision > past, "nothing was written");
    for (at, content) in contents.iter().enumerate() {
        content.must_equal(&contents[0]).with_context(|| format!("cluster {at} goes on"))?;
    }
    Ok(())
}
