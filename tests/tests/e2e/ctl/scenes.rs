//! Commands that last, or work on files, played on both sides.

use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bolt::{Database, Writer};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::case::{Scene, Verdict};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use super::runner::{Side, sides};

/// The longest to wait for a line.
const LINE_WITHIN: Duration = Duration::from_secs(15);

macro_rules! both {
    ($scene:expr) => {
        match sides(&$scene.directory).await? {
            Ok(sides) => sides,
            Err(reason) => return Ok(Verdict::Skipped(reason)),
        }
    };
}

fn text(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    let error: Vec<&str> = error
        .lines()
        .filter(|line| !line.starts_with('{') && !line.starts_with("Hint: "))
        .collect();
    let out = String::from_utf8_lossy(&output.stdout);
    format!("{:?}\n{out}\n{}", output.status.code(), error.join("\n"))
}

/// Lines of a command that lasts.
fn printed(child: &mut Child) -> Result<Lines<BufReader<ChildStdout>>> {
    let out = child.stdout.take().context("standard output")?;
    Ok(BufReader::new(out).lines())
}

async fn next_lines(
    lines: &mut Lines<BufReader<ChildStdout>>,
    count: usize,
) -> Result<Vec<String>> {
    let mut read = Vec::new();
    for _ in 0..count {
        let line = tokio::time::timeout(LINE_WITHIN, lines.next_line()).await;
        let line = line.with_context(|| format!("no line after {read:?}"))??;
        read.push(line.with_context(|| format!("it ended after {read:?}"))?);
    }
    Ok(read)
}

async fn interrupt(mut child: Child) -> Result<Option<i32>> {
    let id = i32::try_from(child.id().context("it runs")?)?;
    kill(Pid::from_raw(id), Signal::SIGINT)?;
    let ended = tokio::time::timeout(LINE_WITHIN, child.wait()).await;
    Ok(ended.context("it does not end")??.code())
}

/// etcd notes the version of its storage some seconds after its start, and only then says it with a snapshot.
async fn until_storage_has_a_version(side: &Side) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let status = side.run(&["endpoint", "status", "-w", "json"]).await?;
        if text(&status).contains("\"storageVersion\":\"3.7.0\"") {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{status:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Snapshots of etcd: saved by either, examined by either, written anew by `bolt`, served by etcd's tools.
pub async fn files_are_read_the_same(scene: Scene) -> Result<Verdict> {
    let [etcd, ours] = both!(scene);
    for side in [&etcd, &ours] {
        for n in 0..300 {
            side.run(&["put", &format!("key/{n}"), &"v".repeat(n * 7)]).await?;
        }
        side.run(&["del", "key/7"]).await?;
        side.run(&["compaction", "100"]).await?;
        side.run(&["del", "key/8"]).await?;
    }
    until_storage_has_a_version(&ours).await?;
    let path = scene.directory.join("saved.db");
    let path = path.to_str().context("a path")?;
    let saved = ours.run(&["snapshot", "save", path]).await?;
    let expected = format!("Snapshot saved at {path}\nServer version 3.7.0\n");
    ensure!(saved.stdout == expected.as_bytes(), "{saved:?}");
    let rewritten = scene.directory.join("rewritten.db");
    let rewritten = rewritten.to_str().context("a path")?;
    rewrite(path, rewritten)?;
    let missing = scene.directory.join("missing.db");
    let missing = missing.to_str().context("a path")?;
    for format in ["simple", "json", "fields", "table", "protobuf", "xml"] {
        for command in [
            &["snapshot", "status", path][..],
            &["snapshot", "status", rewritten],
            &["hashkv", path],
            &["hashkv", path, "--rev=200"],
            &["hashkv", rewritten],
            &["hashkv", path, "--rev=50"],
            &["hashkv", path, "--rev=99999"],
            &["snapshot", "status", missing],
            &["hashkv", missing],
            &["snapshot", "status"],
        ] {
            let command = [command, &["-w", format]].concat();
            let expected = text(&etcd.run_on_files(&command).await?);
            let printed = text(&ours.run_on_files(&command).await?);
            ensure!(expected == printed, "etcdutl {command:?}\n{expected}\n---\n{printed}");
        }
    }
    for mistake in [
        &["migrate", "--data-dir", missing, "--target-version=3"][..],
        &["migrate", "--data-dir", missing, "--target-version=3.6.1"],
        &["migrate", "--data-dir", missing, "--target-version=3.4"],
        &["migrate", "--data-dir", missing, "--target-version=x.y"],
    ] {
        let expected = text(&etcd.run_on_files(mistake).await?);
        let printed = text(&ours.run_on_files(mistake).await?);
        ensure!(expected == printed, "etcdutl {mistake:?}\n{expected}\n---\n{printed}");
    }
    let restored = scene.directory.join("restored");
    let restored = restored.to_str().context("a path")?;
    let restore = ["snapshot", "restore", "--skip-hash-check", rewritten, "--data-dir", restored];
    let restored = etcd.run_on_files(&restore).await?;
    ensure!(restored.status.success(), "{restored:?}");
    Ok(Verdict::Passed)
}

fn rewrite(from: &str, to: &str) -> Result<()> {
    let database = Database::open(std::fs::File::open(from)?)?;
    let mut writer = Writer::seeking(std::io::BufWriter::new(std::fs::File::create(to)?))?;
    for name in database.buckets() {
        writer.bucket(name)?;
        let mut rows = database.rows(name)?.context("a bucket that is listed")?;
        while let Some((key, value)) = rows.next()? {
            writer.row(key, value)?;
        }
    }
    writer.finish_seeking()?;
    Ok(())
}

async fn watched(side: &Side, flags: &[&str], lines: usize) -> Result<Vec<String>> {
    let mut watch = side.start(&[&["watch"], flags].concat())?;
    let mut out = printed(&mut watch)?;
    let read = next_lines(&mut out, lines).await;
    watch.kill().await?;
    read
}

/// Watches from an earlier revision, so that what they print is settled before they begin.
pub async fn watches_print_the_same(scene: Scene) -> Result<Verdict> {
    let sides = both!(scene);
    let mut seen = Vec::new();
    for side in &sides {
        for (key, value) in [("w/1", "a"), ("w/2", "b"), ("w/1", "c")] {
            side.run(&["put", key, value]).await?;
        }
        side.run(&["del", "w/2"]).await?;
        let script = "echo $ETCD_WATCH_REVISION $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY \
                      $ETCD_WATCH_VALUE";
        let runs = ["w/1", "--rev=2", "--", "sh", "-c", script];
        let mut read = vec![
            watched(side, &["w/1", "--rev=2"], 6).await?,
            watched(side, &["w/", "--prefix", "--rev=2"], 12).await?,
            watched(side, &["w/", "--prefix", "--rev=2", "--prev-kv"], 16).await?,
            watched(side, &["w/1", "w/3", "--rev=3", "-w", "json"], 1).await?,
            watched(side, &["w/1", "--rev=2", "-w", "fields"], 18).await?,
            watched(side, &["w/1", "--rev=4", "--hex"], 3).await?,
            watched(side, &runs, 8).await?,
        ];
        read.push(interactive(side).await?);
        side.run(&["compaction", "4"]).await?;
        let compacted = side.run(&["watch", "w/1", "--rev=2"]).await?;
        read.push(text(&compacted).lines().map(str::to_owned).collect());
        seen.push(read);
    }
    ensure!(seen[0] == seen[1], "etcd: {:#?}\nours: {:#?}", seen[0], seen[1]);
    Ok(Verdict::Passed)
}

async fn interactive(side: &Side) -> Result<Vec<String>> {
    let mut watch = side.start(&["watch", "--interactive"])?;
    let mut stdin = watch.stdin.take().context("standard input")?;
    let mut out = printed(&mut watch)?;
    stdin.write_all(b"watch w/1 --rev=2\n").await?;
    let mut read = next_lines(&mut out, 6).await?;
    stdin.write_all(b"progress\n").await?;
    read.extend(next_lines(&mut out, 1).await?);
    drop(stdin);
    let ended = tokio::time::timeout(LINE_WITHIN, watch.wait()).await;
    read.push(format!("{:?}", ended.context("it does not end")??.code()));
    Ok(read)
}

/// A lock is held by one, waited for by another, whichever program they are; and the same with a leader.
pub async fn locks_and_elections(scene: Scene) -> Result<Verdict> {
    let [etcd, ours] = both!(scene);
    // Both talk to one server.
    let here = |words: &[&str]| {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        ours.command_at(etcd.address(), &words).spawn().context("start etcdctl")
    };
    for command in [&["lock", "name"][..], &["elect", "name", "proposal"]] {
        for etcd_first in [true, false] {
            let (mut first, mut second) = match etcd_first {
                true => (etcd.start(command)?, None),
                false => (here(command)?, Some(())),
            };
            let mut first_out = printed(&mut first)?;
            let held = next_lines(&mut first_out, 2).await?;
            let mut other = match second.take() {
                None => here(command)?,
                Some(()) => etcd.start(command)?,
            };
            let mut other_out = printed(&mut other)?;
            let queued = etcd.run(&["get", "name/", "--prefix", "--keys-only"]).await?;
            ensure!(held[0].starts_with("name/"), "{held:?}");
            ensure!(!queued.stdout.is_empty(), "the queue is empty");
            ensure!(interrupt(first).await? == Some(0), "{command:?} does not end well");
            let then = next_lines(&mut other_out, 2).await?;
            ensure!(then[0] != held[0] && then[1] == held[1], "{held:?}, then {then:?}");
            ensure!(interrupt(other).await? == Some(0), "{command:?} does not end well");
        }
    }
    let mut leader = here(&["elect", "observed", "first"])?;
    let mut leader_out = printed(&mut leader)?;
    next_lines(&mut leader_out, 2).await?;
    let mut told = Vec::new();
    for mut observer in
        [etcd.start(&["elect", "observed", "-l"])?, here(&["elect", "observed", "-l"])?]
    {
        let mut out = printed(&mut observer)?;
        told.push(next_lines(&mut out, 2).await?);
        ensure!(interrupt(observer).await? == Some(0), "an observer does not end well");
    }
    ensure!(told[0] == told[1], "{told:?}");
    interrupt(leader).await?;
    Ok(Verdict::Passed)
}

/// Keys and their changes arrive at the destination, with and without another prefix.
pub async fn a_mirror_follows(scene: Scene) -> Result<Verdict> {
    let [etcd, ours] = both!(scene);
    let (from, to) = (&etcd, &ours);
    for n in 0..50 {
        from.run(&["put", &format!("m/{n}"), "base"]).await?;
    }
    let target = to.address();
    let words = ["make-mirror", "--prefix=m/", "--dest-prefix=copy/", target];
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let mut mirror =
        ours.command_at(from.address(), &words).spawn().context("start make-mirror")?;
    expect_count(to, "copy/", 50).await?;
    from.run(&["put", "m/new", "later"]).await?;
    from.run(&["del", "m/1"]).await?;
    from.run(&["del", "m/2"]).await?;
    expect_count(to, "copy/", 49).await?;
    let got = to.run(&["get", "copy/new", "--print-value-only"]).await?;
    ensure!(got.stdout == b"later\n", "{got:?}");
    mirror.kill().await?;
    Ok(Verdict::Passed)
}

async fn expect_count(side: &Side, prefix: &str, count: usize) -> Result<()> {
    let expected = format!("\"Count\" : {count}\n");
    let words = ["get", prefix, "--prefix", "--count-only", "-w", "fields"];
    let waiting = async {
        loop {
            let got = side.run(&words).await?;
            if String::from_utf8_lossy(&got.stdout).ends_with(&expected) {
                return Ok(());
            }
        }
    };
    tokio::time::timeout(LINE_WITHIN, waiting).await.context("the mirror does not follow")?
}
