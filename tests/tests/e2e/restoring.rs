//! Backups of the real etcd, restored into a new cluster: the same keys, revisions, leases and hashes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use proto::etcdserverpb as pb;
use proto::mvccpb::KeyValue;
use tests::case::{Scene, Verdict};
use tests::client::{Client, everything};
use tests::cluster::{Cluster, Member, Plan, Program, etcd_programs, instarctl};
use tokio::process::Command;

/// Longer than a test takes.
const LEASE_TTL_S: i64 = 600;
const LEASES: [i64; 3] = [7, 8, i64::MAX];

/// A database of etcd's with authentication switched on, two users and one role.
const AUTHENTICATED: &[u8] = include_bytes!("../../../bolt/corpus/etcd-3.7.1-auth.db");

/// Several revisions a key, deletions, a compaction between them, leases with keys and without.
async fn write_history(client: &Client) -> Result<()> {
    for id in LEASES {
        client.grant(id, LEASE_TTL_S).await?;
    }
    for number in 0..1_200 {
        client.put(&format!("key/{:03}", number % 400), &format!("value {number}")).await?;
        match number {
            300 => client.put_leased("leased/a", LEASES[0]).await.map(drop)?,
            600 => delete(client, "key/", "key/05").await?,
            800 => client.put_leased("leased/b", LEASES[0]).await.map(drop)?,
            900 => compact(client, 700).await?,
            1_000 => delete(client, "key/2", "key/3").await?,
            _ => {}
        }
    }
    client.put_leased("key/000", LEASES[2]).await?;
    Ok(())
}

pub(super) async fn delete(client: &Client, from: &str, to: &str) -> Result<()> {
    let (key, range_end) = (from.to_owned().into(), to.to_owned().into());
    let request = pb::DeleteRangeRequest { key, range_end, prev_kv: false };
    client.kv.clone().delete_range(request).await?;
    Ok(())
}

pub(super) async fn compact(client: &Client, revision: i64) -> Result<()> {
    let request = pb::CompactionRequest { revision, physical: true };
    client.kv.clone().compact(request).await?;
    Ok(())
}

/// What a backup has to keep.
#[derive(Debug, PartialEq)]
pub(super) struct Content {
    pub(super) revision: i64,
    pub(super) keys: Vec<KeyValue>,
    /// As of an earlier revision.
    past: Vec<KeyValue>,
    hash: u32,
    compact_revision: i64,
    pub(super) leases: Vec<(i64, i64, Vec<Vec<u8>>)>,
    refused: String,
}

impl Content {
    pub(super) fn must_equal(&self, expected: &Self) -> Result<()> {
        ensure!(self.keys == expected.keys, "the keys differ");
        ensure!(self.past == expected.past, "the keys at an earlier revision differ");
        let differs = self.leases.iter().zip(&expected.leases).find(|(found, kept)| found != kept);
        ensure!(differs.is_none(), "a lease with its keys, and what it should be: {differs:?}");
        let rest = |of: &Self| {
            let hash = (of.revision, of.hash, of.compact_revision);
            (hash, of.leases.len(), of.refused.clone())
        };
        ensure!(rest(self) == rest(expected), "{:?} instead of {:?}", rest(self), rest(expected));
        Ok(())
    }

    /// `past` is a revision that is not compacted.
    pub(super) async fn of(client: &Client, past: i64) -> Result<Self> {
        let now = client.range(everything()).await?;
        let then = client.range(pb::RangeRequest { revision: past, ..everything() }).await?;
        let compacted = client.range(pb::RangeRequest { revision: 5, ..everything() }).await;
        let hash = client.hash_kv(0).await?;
        let mut leases = Vec::new();
        for id in client.leases().await? {
            let lease = client.time_to_live(id).await?;
            let mut keys: Vec<_> = lease.keys.iter().map(|key| key.to_vec()).collect();
            // etcd tells them in no order.
            keys.sort();
            leases.push((id, lease.granted_ttl, keys));
        }
        Ok(Self {
            revision: now.header.unwrap_or_default().revision,
            keys: now.kvs,
            past: then.kvs,
            hash: hash.hash,
            compact_revision: hash.compact_revision,
            leases,
            refused: compacted.err().map(|status| status.message().to_owned()).unwrap_or_default(),
        })
    }
}

pub(super) async fn run(program: &Path, arguments: &[String]) -> Result<std::process::Output> {
    let output = Command::new(program).args(arguments).output().await;
    output.with_context(|| format!("run {}", program.display()))
}

pub(super) async fn run_well(program: &Path, arguments: &[String]) -> Result<()> {
    let output = run(program, arguments).await?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} {arguments:?}: {error}", program.display());
    Ok(())
}

/// The program that makes data directories for the one that serves them.
fn restorer(program: Program) -> Result<PathBuf> {
    match program {
        Program::Instar => instarctl(),
        Program::Etcd => Ok(etcd_programs().map_err(anyhow::Error::msg)?.etcdutl.clone()),
    }
}

pub(super) async fn save(client: &Cluster, path: &Path) -> Result<()> {
    let programs = etcd_programs().map_err(anyhow::Error::msg)?;
    let endpoints = format!("--endpoints={}", client.members[0].address);
    let path = path.display().to_string();
    run_well(&programs.etcdctl, &[endpoints, "snapshot".into(), "save".into(), path]).await
}

/// The command that restores a member, with the flags that the member is started with.
fn restore_arguments(member: &Member, backup: &Path, more: &[&str]) -> Vec<String> {
    let kept = ["--name=", "--data-dir=", "--initial-cluster=", "--initial-advertise-peer-urls="];
    let flags = member.flags.iter().filter(|flag| kept.iter().any(|name| flag.starts_with(name)));
    let words = ["snapshot", "restore", &backup.display().to_string()].map(str::to_owned);
    let more = more.iter().map(|word| (*word).to_owned());
    words.into_iter().chain(flags.cloned()).chain(more).collect()
}

/// A cluster that begins with a backup.
pub(super) async fn restored(
    program: Program,
    members: usize,
    directory: &Path,
    backup: &Path,
    more: &[&str],
) -> Result<Cluster> {
    let mut cluster = Plan::new(program, members, directory).prepare()?;
    for member in &mut cluster.members {
        run_well(&restorer(program)?, &restore_arguments(member, backup, more)).await?;
        // A data directory says by itself which cluster it belongs to.
        member.flags.retain(|flag| !flag.starts_with("--initial-cluster="));
    }
    cluster.start_all().await?;
    Ok(cluster)
}

/// An etcd with a history and its backup.
async fn etcd_with_backup(scene: &Scene) -> Result<(Cluster, PathBuf)> {
    let etcd = Plan::new(Program::Etcd, 1, &scene.directory.join("etcd")).start().await?;
    write_history(&etcd.client(0)).await?;
    let backup = scene.directory.join("backup.db");
    save(&etcd, &backup).await?;
    Ok((etcd, backup))
}

/// A backup of etcd becomes a cluster of three, which serves the same and grows.
pub async fn etcds_backup_becomes_a_cluster(scene: Scene) -> Result<Verdict> {
    if let Err(reason) = etcd_programs() {
        return Ok(Verdict::Skipped(reason));
    }
    let (etcd, backup) = etcd_with_backup(&scene).await?;
    let past = 1_100;
    let expected = Content::of(&etcd.client(0), past).await?;
    ensure!(expected.leases.len() == LEASES.len() && expected.keys.len() > 200, "no history");
    let there = scene.directory.join("there");
    let mut cluster = restored(scene.subject, 3, &there, &backup, &[]).await?;
    for at in 0..3 {
        let found = Content::of(&cluster.client(at), past).await?;
        found.must_equal(&expected).with_context(|| format!("member {at}"))?;
    }
    let client = cluster.client(0);
    let put = client.put("key/000", "after").await?;
    let revision = put.header.unwrap_or_default().revision;
    ensure!(revision == expected.revision + 1, "the next revision is {revision}");
    client.revoke(LEASES[0]).await?;
    ensure!(client.get("leased/a").await?.kvs.is_empty(), "a revoked lease keeps its keys");
    // The data is all that a member needs to come back.
    for member in &mut cluster.members {
        member.kill();
    }
    cluster.start_all().await?;
    // Of the rows, no log entry tells: whoever joins has to be sent the state.
    cluster.grow(0, false).await?;
    let revision = cluster.wait_equal().await?;
    ensure!(revision == expected.revision + 2, "the revision is {revision}");
    Ok(Verdict::Passed)
}

/// With `--bump-revision` revisions never go back; all that were before are compacted.
pub async fn a_bumped_revision_is_etcds(scene: Scene) -> Result<Verdict> {
    if let Err(reason) = etcd_programs() {
        return Ok(Verdict::Skipped(reason));
    }
    let (_etcd, backup) = etcd_with_backup(&scene).await?;
    let bump = ["--bump-revision=1000000", "--mark-compacted"];
    let (etcd, subject) = (scene.directory.join("etcd2"), scene.directory.join("subject"));
    let (etcd, subject) = tokio::try_join!(
        restored(Program::Etcd, 1, &etcd, &backup, &bump),
        restored(scene.subject, 1, &subject, &backup, &bump)
    )?;
    let mut contents = Vec::new();
    for cluster in [&etcd, &subject] {
        let client = cluster.client(0);
        let put = client.put("next", "1").await?;
        let revision = put.header.unwrap_or_default().revision;
        ensure!(revision > 1_000_000, "the revision is {revision}");
        // What is due to be removed is gone when a compaction has been waited for.
        compact(&client, revision).await?;
        // At the revision of a compaction etcd has a hash from before.
        client.put("next", "2").await?;
        contents.push(Content::of(&client, 0).await?);
    }
    contents[1].must_equal(&contents[0])?;
    Ok(Verdict::Passed)
}

/// What is no whole backup is refused, and leaves no data directory that a server would take.
pub async fn a_damaged_backup_is_refused(scene: Scene) -> Result<Verdict> {
    if let Err(reason) = etcd_programs() {
        return Ok(Verdict::Skipped(reason));
    }
    if !scene.is_instar() {
        return Ok(Verdict::Skipped("etcd notices less".to_owned()));
    }
    let (_etcd, backup) = etcd_with_backup(&scene).await?;
    let whole = fs::read(&backup)?;
    let member = &Plan::new(scene.subject, 1, &scene.directory).prepare()?.members[0];
    let file = scene.directory.join("damaged.db");
    let with_byte = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        bytes
    };
    let pages = whole.len() - 32;
    // The root of the buckets, as the first meta page names it: one page that is in use.
    let root = usize::from(whole[32]);
    let (no_root, its_type) = (with_byte(root * 4096 + 8), format!("page {root}: its type is"));
    let cases: [(&str, Vec<u8>, &[&str], &str); 9] = [
        ("a bit", with_byte(pages / 2), &[], "expected sha256"),
        ("a page's type", no_root.clone(), &[], &its_type),
        ("without its hash", no_root, &["--skip-hash-check"], &its_type),
        (
            "users",
            AUTHENTICATED.to_vec(),
            &["--skip-hash-check"],
            "authentication on (users: 2, roles: 1)",
        ),
        ("no hash", whole[..pages].to_vec(), &[], "snapshot missing hash"),
        ("cut", whole[..pages / 2].to_vec(), &["--skip-hash-check"], "not a usable etcd database"),
        ("empty", Vec::new(), &["--skip-hash-check"], "not a usable etcd database"),
        ("no bump", whole.clone(), &["--mark-compacted"], "--mark-compacted required"),
        (
            "too far",
            whole.clone(),
            &["--mark-compacted", "--bump-revision=9223372036854775807"],
            "--bump-revision is too high",
        ),
    ];
    for (name, bytes, flags, reason) in cases {
        fs::write(&file, bytes)?;
        let output = run(&instarctl()?, &restore_arguments(member, &file, flags)).await?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && error.contains(reason), "{name}: {error}");
        ensure!(!member.data_directory.join("member").exists(), "{name} left a member");
    }
    let flags = ["--skip-hash-check", "--drop-auth", "--data-dir=", "--name=open"];
    let flags = flags.map(|flag| match flag {
        "--data-dir=" => format!("--data-dir={}", scene.directory.join("open").display()),
        flag => flag.to_owned(),
    });
    fs::write(&file, AUTHENTICATED)?;
    let words = ["snapshot".to_owned(), "restore".to_owned(), file.display().to_string()];
    let described = "--initial-cluster=open=http://localhost:2380".to_owned();
    let words: Vec<String> = words.into_iter().chain(flags).chain([described]).collect();
    let output = run(&instarctl()?, &words).await?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && told.contains("users and roles dropped"), "{told}");
    // After all of that the directory is still good for a restoration, but not for two.
    let arguments = restore_arguments(member, &backup, &[]);
    run_well(&instarctl()?, &arguments).await?;
    let again = run(&instarctl()?, &arguments).await?;
    let error = String::from_utf8_lossy(&again.stderr);
    ensure!(error.contains("not empty or could not be read"), "{error}");
    Ok(Verdict::Passed)
}

/// The words that migrate a cluster to another, whose data directories are made first or there already.
pub(super) fn migrate_words(old: &Cluster, new: &Cluster, makes: bool) -> Vec<String> {
    let endpoints = format!("--endpoints={}", old.members[0].address);
    let words = ["migrate".to_owned(), new.members[0].address.clone(), endpoints];
    let directory = new.members[0].data_directory.with_file_name("{name}");
    let described = new.members[0].flags.iter().filter(|it| it.starts_with("--initial-cluster="));
    let more = described.cloned().chain([format!("--data-dir={}", directory.display())]);
    words.into_iter().chain(more.filter(|_| makes)).collect()
}

/// A running etcd becomes a cluster of three while clients write to it; then both are the same.
pub async fn a_migration_under_load(scene: Scene) -> Result<Verdict> {
    if let Err(reason) = etcd_programs() {
        return Ok(Verdict::Skipped(reason));
    }
    if !scene.is_instar() {
        return Ok(Verdict::Skipped("it makes data directories of Instar".to_owned()));
    }
    let etcd = Plan::new(Program::Etcd, 1, &scene.directory.join("etcd")).start().await?;
    let old = etcd.client(0);
    write_history(&old).await?;
    let mut cluster = Plan::new(scene.subject, 3, &scene.directory.join("there")).prepare()?;
    let (first, again) =
        (migrate_words(&etcd, &cluster, true), migrate_words(&etcd, &cluster, false));
    let program = instarctl()?;
    let migrating = tokio::spawn(async move { run(&program, &first).await });
    let made = |member: &Member| member.data_directory.join("member").exists();
    while !cluster.members.iter().all(made) {
        ensure!(!migrating.is_finished(), "{:?}", migrating.await??);
        tokio::time::sleep(tests::cluster::POLL_EVERY).await;
    }
    // What is written from now on is in no snapshot.
    old.grant(9, LEASE_TTL_S).await?;
    old.put_leased("later/a", 9).await?;
    old.revoke(LEASES[0]).await?;
    old.revoke(LEASES[1]).await?;
    delete(&old, "key/1", "key/11").await?;
    compact(&old, 1_150).await?;
    cluster.start_all().await?;
    let output = migrating.await??;
    ensure!(output.status.success(), "{output:?}");
    for round in 0..20 {
        old.put(&format!("key/{round:03}"), "last").await?;
    }
    run_well(&instarctl()?, &again).await?;
    cluster.wait_equal().await?;
    let expected = Content::of(&old, 1_180).await?;
    Content::of(&cluster.client(2), 1_180).await?.must_equal(&expected)?;
    look_at_a_stopped_member(&mut cluster).await?;
    // Whoever writes to both is told.
    cluster.client(0).put("own", "1").await?;
    old.put("other", "1").await?;
    let refused = run(&instarctl()?, &again).await?;
    let error = String::from_utf8_lossy(&refused.stderr);
    ensure!(!refused.status.success() && error.contains("the new cluster is no copy"), "{error}");
    Ok(Verdict::Passed)
}

/// The files of a member that was told to stop are defragmented, and have the hash that it served.
async fn look_at_a_stopped_member(cluster: &mut Cluster) -> Result<()> {
    let program = instarctl()?;
    let client = cluster.client(2);
    let served = client.hash_kv(0).await?;
    let data = cluster.members[2].data_directory.display().to_string();
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let refused = run(&program, &words(&["hashkv", &data])).await?;
    ensure!(String::from_utf8_lossy(&refused.stderr).contains("in use by another"), "{refused:?}");
    let endpoint = format!("--endpoints={}", cluster.members[2].address);
    let doctor = run(&program, &words(&["doctor", &endpoint, "--data-dir=/nowhere"])).await?;
    let told = String::from_utf8_lossy(&doctor.stdout);
    ensure!(told.contains("serves: version 3.7.1") && told.contains("MEND  disk"), "{doctor:?}");
    cluster.members[2].terminate().await?;
    let expected = format!("{}, {}", served.hash, served.hash_revision);
    for command in [&["hashkv", &data][..], &["defrag", "--data-dir", &data], &["hashkv", &data]] {
        let output = run(&program, &words(command)).await?;
        ensure!(output.status.success(), "{output:?}");
        let out = String::from_utf8_lossy(&output.stdout);
        let is_right = if command[0] == "defrag" {
            out.contains("Finished")
        } else {
            out.starts_with(&expected)
        };
        ensure!(is_right, "{command:?}: {out} where {expected} was served");
    }
    cluster.members[2].start().await?;
    cluster.wait_equal().await?;
    Ok(())
}
