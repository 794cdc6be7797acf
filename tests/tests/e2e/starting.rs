//! Starting and ending: what a member says when it cannot start, and that it leaves the disk alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::case::{Scene, Verdict};
use tests::cluster::{Cluster, Member, Plan, free_port};
use tests::load::Ledger;

/// A start that fails must fail within this.
const FAILS_WITHIN: Duration = Duration::from_secs(20);
/// The promise for a graceful end.
const ENDS_WITHIN: Duration = Duration::from_millis(1500);
/// The promise for a start with a warm cache, and what a busy machine is granted.
const WARM_START: Duration = Duration::from_millis(200);
const WARM_START_GRANTED: Duration = Duration::from_millis(800);

/// `--version` begins with the version of etcd that the program stands for.
pub async fn version_is_etcds(scene: Scene) -> Result<Verdict> {
    let output = Command::new(scene.subject.binary()?).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{output:?}");
    ensure!(text.lines().next() == Some("etcd Version: 3.7.1"), "{text}");
    Ok(Verdict::Passed)
}

/// What a failed start printed, all streams together.
fn said(output: &Output) -> String {
    let (out, error) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(error))
}

/// Runs the program with these flags; it has to fail.
fn fails(scene: &Scene, flags: &[String]) -> Result<Output> {
    let mut child = Command::new(scene.subject.binary()?)
        .args(flags)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    let started = Instant::now();
    while child.try_wait()?.is_none() {
        if started.elapsed() > FAILS_WITHIN {
            child.kill()?;
            let output = child.wait_with_output()?;
            anyhow::bail!("it started with {flags:?}: {}", said(&output));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output()?;
    ensure!(!output.status.success(), "it ended without an error with {flags:?}");
    Ok(output)
}

/// One sentence that names what is wrong.
fn is_one_sentence_about(scene: &Scene, output: &Output, word: &str) -> Result<()> {
    let said = said(output);
    ensure!(said.contains(word), "it says nothing of {word:?}: {said}");
    // etcd prints its log, and help.
    if scene.is_instar() {
        let lines = said.lines().filter(|line| !line.trim().is_empty()).count();
        ensure!(lines == 1, "{lines} lines, not one sentence: {said}");
        ensure!(!said.contains("panicked"), "{said}");
    }
    Ok(())
}

/// Flags of a single member in `directory`.
fn flags(directory: &Path) -> Vec<String> {
    let (client, peer) = (free_port(), free_port());
    vec![
        "--name=m0".into(),
        format!("--data-dir={}", directory.join("data").display()),
        format!("--listen-client-urls=http://127.0.0.1:{client}"),
        format!("--advertise-client-urls=http://127.0.0.1:{client}"),
        format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
        format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
        format!("--initial-cluster=m0=http://127.0.0.1:{peer}"),
    ]
}

/// Unknown flags and bad values.
pub async fn mistakes_are_one_sentence(scene: Scene) -> Result<Verdict> {
    let mistakes = [
        ("--no-such-flag=1", "no-such-flag"),
        ("--heartbeat-interval=soon", "heartbeat-interval"),
        ("--quota-backend-bytes=lots", "quota-backend-bytes"),
        ("--snapshot-count=-1", "snapshot-count"),
        ("--initial-cluster-state=perhaps", "initial-cluster-state"),
        ("--initial-cluster=other=http://127.0.0.1:1", "initial-cluster"),
        ("--initial-cluster=nonsense", "initial-cluster"),
        ("--listen-client-urls=nonsense", "listen-client-urls"),
        ("--listen-client-urls=ftp://127.0.0.1:1", "listen-client-urls"),
        ("--election-timeout=20", "election-timeout"),
        ("--log-level=shout", "log-level"),
        ("--max-request-bytes=-5", "max-request-bytes"),
        ("surplus", "surplus"),
    ];
    for (mistake, word) in mistakes {
        let mut flags = flags(&scene.directory);
        flags.push(mistake.into());
        let output = fails(&scene, &flags).with_context(|| mistake.to_owned())?;
        if scene.is_instar() {
            is_one_sentence_about(&scene, &output, word).with_context(|| mistake.to_owned())?;
            let there = contents(&scene.directory)?;
            ensure!(there.is_empty(), "{mistake} left {:?}", there.keys());
        }
    }
    Ok(Verdict::Passed)
}

/// A port that something else listens on.
pub async fn a_port_in_use(scene: Scene) -> Result<Verdict> {
    for at in [2, 4] {
        let flags = flags(&scene.directory);
        let address = flags[at].split("//").nth(1).context("an address")?;
        let taken = TcpListener::bind(address).context("take the port")?;
        let output = fails(&scene, &flags)?;
        let port = address.rsplit(':').next().context("a port")?;
        if scene.is_instar() {
            is_one_sentence_about(&scene, &output, port)?;
            let there = contents(&scene.directory)?;
            ensure!(there.is_empty(), "it left {:?}", there.keys());
        }
        drop(taken);
    }
    Ok(Verdict::Passed)
}

/// A member that ran and was killed, so that its directory is as a crash leaves it.
async fn crashed_member(scene: &Scene) -> Result<Cluster> {
    let mut cluster = Plan::new(scene.subject, 1, &scene.directory).start().await?;
    let client = cluster.client(0);
    for at in 0..20 {
        client.put(&format!("k{at}"), "v").await?;
    }
    cluster.members[0].kill();
    Ok(cluster)
}

/// A data directory that belongs to another member or cluster is refused and stays as it is.
pub async fn data_of_another_member(scene: Scene) -> Result<Verdict> {
    if !scene.is_instar() {
        return Ok(Verdict::Passed);
    }
    let mut cluster = crashed_member(&scene).await?;
    let member = &cluster.members[0];
    let before = contents(&member.data_directory)?;
    let peer = free_port();
    let other_peer = [
        format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
        format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
        format!("--initial-cluster=m0=http://127.0.0.1:{peer}"),
    ];
    for change in [&["--initial-cluster-token=another".to_owned()][..], &other_peer] {
        let flags: Vec<String> = member.flags.iter().chain(change).cloned().collect();
        let output = fails(&scene, &flags)?;
        is_one_sentence_about(&scene, &output, "cluster").with_context(|| change.join(" "))?;
        let after = contents(&member.data_directory)?;
        ensure!(after == before, "{change:?} changed {:?}", changed(&before, &after));
    }
    cluster.members[0].start().await.context("the right member afterwards")?;
    Ok(Verdict::Passed)
}

/// Every file of a member, half of it or nonsense in its place: refused with its name and left alone, or
/// not needed (a cache, a lock), but never data lost without a word.
pub async fn foreign_and_half_written_files(scene: Scene) -> Result<Verdict> {
    if !scene.is_instar() {
        return Ok(Verdict::Passed);
    }
    let mut cluster = crashed_member(&scene).await?;
    let original = cluster.members[0].data_directory.clone();
    let saved = contents(&original)?;
    let mut wrong = Vec::new();
    for (file, bytes) in &saved {
        let Some(bytes) = bytes.as_ref().filter(|bytes| !bytes.is_empty()) else { continue };
        for (what, damaged) in [
            ("half of it", bytes[..bytes.len() / 2].to_vec()),
            ("nothing in it", Vec::new()),
            ("nonsense in it", vec![b'?'; bytes.len()]),
        ] {
            restore(&original, &saved)?;
            fs::write(original.join(file), &damaged)?;
            let about = format!("{} with {what}", file.display());
            match start_damaged(&mut cluster.members[0], file).await {
                Ok(how) => scene.note(format!("{about}: {how}")),
                Err(error) => wrong.push(format!("{about}: {error:#}")),
            }
            cluster.members[0].kill();
        }
    }
    restore(&original, &saved)?;
    cluster.members[0].start().await.context("the original files afterwards")?;
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(Verdict::Passed)
}

/// Starts a member one of whose files is damaged; how it went, if it went as it should.
async fn start_damaged(member: &mut Member, file: &Path) -> Result<&'static str> {
    let directory = member.data_directory.clone();
    let before = contents(&directory)?;
    member.spawn()?;
    if member.wait_ready().await.is_ok() {
        let client = member.client();
        let read = member.wait_answer(async || client.get("k19").await).await?;
        ensure!(read.kvs.len() == 1, "it serves, and has lost what was acknowledged");
        return Ok("serves, nothing is lost");
    }
    let log = member.log();
    let status = member.ended()?;
    ensure!(!log.contains("panicked"), "it panicked: {log}");
    ensure!(status.is_some_and(|status| !status.success()), "it ended with {status:?}");
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let last = log.lines().last().unwrap_or_default();
    ensure!(last.contains(&name), "it does not name the file: {last}");
    let after = contents(&directory)?;
    ensure!(after == before, "it is refused, but {:?} changed", changed(&before, &after));
    Ok("refused")
}

/// A data directory that holds somebody else's files where Instar's would be; `lost+found` and the like
/// beside them are nobody's business.
pub async fn a_foreign_directory(scene: Scene) -> Result<Verdict> {
    if !scene.is_instar() {
        return Ok(Verdict::Passed);
    }
    for place in ["data/member/letter.txt", "data/member/snap/db", "data/member", "data"] {
        let directory = scene.directory.join(place.replace('/', "-"));
        let path = directory.join(place);
        fs::create_dir_all(path.parent().context("a directory")?)?;
        fs::write(&path, "dear reader")?;
        let before = contents(&directory)?;
        let output = fails(&scene, &flags(&directory)).with_context(|| place.to_owned())?;
        is_one_sentence_about(&scene, &output, "data").with_context(|| place.to_owned())?;
        let after = contents(&directory)?;
        ensure!(after == before, "{place}: it changed {:?}", changed(&before, &after));
    }
    Ok(Verdict::Passed)
}

/// Every path below a directory, and what is in the files.
type Contents = BTreeMap<PathBuf, Option<Vec<u8>>>;

fn contents(directory: &Path) -> Result<Contents> {
    let mut found = Contents::new();
    let mut open = vec![directory.to_owned()];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at)? {
            let path = entry?.path();
            let name = path.strip_prefix(directory)?.to_owned();
            if path.is_dir() {
                found.insert(name, None);
                open.push(path);
            } else {
                found.insert(name, Some(fs::read(&path)?));
            }
        }
    }
    Ok(found)
}

fn restore(directory: &Path, saved: &Contents) -> Result<()> {
    fs::remove_dir_all(directory)?;
    fs::create_dir_all(directory)?;
    for (path, content) in saved {
        match content {
            None => fs::create_dir_all(directory.join(path))?,
            Some(bytes) => fs::write(directory.join(path), bytes)?,
        }
    }
    Ok(())
}

fn changed(before: &Contents, after: &Contents) -> Vec<PathBuf> {
    let all: BTreeSet<&PathBuf> = before.keys().chain(after.keys()).collect();
    all.into_iter().filter(|path| before.get(*path) != after.get(*path)).cloned().collect()
}

/// The line that everybody who starts etcd waits for is a JSON object as etcd writes it.
pub async fn the_ready_line(scene: Scene) -> Result<Verdict> {
    let cluster = Plan::new(scene.subject, 1, &scene.directory).start().await?;
    let log = cluster.members[0].log();
    for line in log.lines() {
        let value: serde_json::Value =
            serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
        for field in ["level", "ts", "caller", "msg"] {
            ensure!(value[field].is_string(), "no {field} in {line}");
        }
        let level = value["level"].as_str().unwrap_or_default();
        // etcd itself sometimes has one, about its storage version.
        let quiet = ["info", "warn", "debug"].contains(&level) || !scene.is_instar();
        ensure!(quiet, "an error in normal use: {line}");
    }
    ensure!(log.contains("\"msg\":\"ready to serve client requests\""), "{log}");
    Ok(Verdict::Passed)
}

/// SIGTERM ends every member in time; the leader hands over first, so that clients hardly notice.
pub async fn sigterm_hands_leadership_over(scene: Scene) -> Result<Verdict> {
    /// Longer than the test waits for the next leader: it must not be an election that finds it.
    const ELECTION_MS: u64 = 5_000;
    let plan = Plan::new(scene.subject, 3, &scene.directory).flag("election-timeout", ELECTION_MS);
    let mut cluster = plan.start().await?;
    let leader = cluster.leader().await?;
    let addresses: Vec<String> = cluster.members.iter().map(|m| m.address.clone()).collect();
    let ledger = Ledger::start("sigterm", &addresses, 8);
    ledger.wait_progress(100).await?;
    let exit = cluster.members[leader].terminate().await?;
    let ended = Instant::now();
    let next = (leader + 1) % 3;
    let client = cluster.client(next);
    cluster.members[next].wait_answer(async || client.put("k", "v").await).await?;
    scene.note(format!("ended in {:?}, the next put {:?} later", exit.took, ended.elapsed()));
    ensure!(exit.took < ENDS_WITHIN, "it took {:?}", exit.took);
    let handed_over = ended.elapsed() < Duration::from_millis(ELECTION_MS / 2);
    ensure!(handed_over, "the next put succeeded {:?} later", ended.elapsed());
    cluster.members[leader].start().await?;
    ledger.settle(&cluster.client(leader)).await?;
    cluster.wait_equal().await?;
    for member in &mut cluster.members {
        let exit = member.terminate().await?;
        ensure!(exit.took < ENDS_WITHIN, "{} took {:?}", member.name, exit.took);
    }
    Ok(Verdict::Passed)
}

/// The second start finds the compiled machine.
pub async fn a_warm_cache(scene: Scene) -> Result<Verdict> {
    let mut cluster = Plan::new(scene.subject, 1, &scene.directory).start().await?;
    cluster.client(0).put("k", "v").await?;
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        cluster.members[0].terminate().await?;
        let started = Instant::now();
        cluster.members[0].start().await?;
        fastest = fastest.min(started.elapsed());
    }
    scene.note(format!("ready {fastest:?} after the start (the promise is {WARM_START:?})"));
    ensure!(fastest < WARM_START_GRANTED, "a warm start takes {fastest:?}");
    Ok(Verdict::Passed)
}
