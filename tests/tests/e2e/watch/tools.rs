//! etcd's own programs: `etcdctl watch` prints the same with both servers, `benchmark` runs to its end.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::etcdserverpb as pb;
use tests::case::{Scene, Verdict};
use tests::cluster::{Cluster, Plan, Program, etcd_programs};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

/// Watches of what `write` does. What they print ends with a line that has `END`.
const WATCHES: [&str; 8] = [
    "watch --rev=2 --prefix k",
    "watch --rev=2 --prefix k --prev-kv",
    "watch --rev=4 k1",
    "watch --rev=2 k1 k3",
    "watch --rev=2 --prefix k -w json",
    "watch --rev=2 --prefix k --prev-kv -w fields",
    "watch --rev=2 --prefix k --hex",
    "watch --rev=2 k9",
];
const BENCHMARKS: [&str; 15] = [
    "watch --streams 10 --watch-per-stream 20 --put-total 500",
    "watch --streams 5 --watch-per-stream 100 --watched-key-total 50 --key-space-size 50 --put-total 500",
    "watch-latency --streams 4 --watchers-per-stream 5 --put-total 200 --put-rate 200 --prevkv",
    "watch-get --watchers 500 --events 8",
    "lease-keepalive --total 500",
    "put --total 500 --key-space-size 100 --val-size 64",
    "put --total 500 --sequential-keys --key-space-size 500 --check-hashkv",
    "put --total 500 --compact-interval 100ms --compact-index-delta 50",
    "txn-put --total 200 --txn-ops 5 --key-space-size 100",
    "txn-mixed --total 300 --rw-ratio 0.5 --key-space-size 100 --limit 20",
    "txn-mixed --total 300 --rw-ratio 3 --key-space-size 100 --limit 20 --consistency s",
    "stm --total 300 --keys 10 --keys-per-txn 3",
    "stm --total 100 --keys 2 --stm-locker lock-client",
    "stm --total 100 --keys 2 --stm-locker lock-rpc",
    "range foo --total 300",
];
const TOOL_WITHIN: Duration = Duration::from_secs(60);

pub async fn etcds_tools_work(scene: Scene) -> Result<Verdict> {
    let programs = match etcd_programs() {
        Ok(programs) => programs,
        Err(reason) => return Ok(Verdict::Skipped(reason)),
    };
    let etcd = Plan::new(Program::Etcd, 1, &scene.directory.join("etcd")).start().await?;
    let subject = Plan::new(scene.subject, 1, &scene.directory.join("subject")).start().await?;
    for cluster in [&etcd, &subject] {
        write(cluster).await?;
    }
    for arguments in WATCHES {
        let expected = watch(&programs.etcdctl, &etcd, arguments).await?;
        let printed = watch(&programs.etcdctl, &subject, arguments).await?;
        ensure!(expected == printed, "etcdctl {arguments}\n  etcd: {expected}\n  here: {printed}");
    }
    drop((etcd, subject));
    let cluster = Plan::new(scene.subject, 3, &scene.directory.join("three")).start().await?;
    let addresses: Vec<&str> = cluster.members.iter().map(|it| it.address.as_str()).collect();
    for arguments in BENCHMARKS {
        let run = Command::new(&programs.benchmark)
            .arg(format!("--endpoints={}", addresses.join(",")))
            .args(["--conns=3", "--clients=10"])
            .args(arguments.split(' '))
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(TOOL_WITHIN, run).await.context(arguments)??;
        let text = String::from_utf8_lossy(&output.stdout);
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "benchmark {arguments}: {text}{error}");
        ensure!(!text.contains("Error distribution"), "benchmark {arguments}: {text}");
    }
    Ok(Verdict::Passed)
}

async fn write(cluster: &Cluster) -> Result<()> {
    let client = cluster.client(0);
    for round in 0..3 {
        for key in ["k1", "k2", "k3"] {
            client.put(key, &format!("{key} {round}")).await?;
        }
        let delete = pb::DeleteRangeRequest { key: "k2".into(), ..Default::default() };
        client.kv.clone().delete_range(delete).await?;
    }
    client.put("k1", "END").await?;
    client.put("k9", "END").await?;
    Ok(())
}

/// What etcdctl prints until the end of what was written, ids aside.
async fn watch(etcdctl: &Path, cluster: &Cluster, arguments: &str) -> Result<String> {
    let mut child = Command::new(etcdctl)
        .arg(format!("--endpoints={}", cluster.members[0].address))
        .args(arguments.split(' '))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("start etcdctl")?;
    let mut lines = BufReader::new(child.stdout.take().context("its output")?).lines();
    let mut printed = Vec::new();
    let read = async {
        // In hexadecimal, and in base 64, the end looks different.
        let is_end =
            |line: &str| ["END", r"\x45\x4e\x44", "RU5E"].iter().any(|end| line.contains(end));
        while let Some(line) = lines.next_line().await? {
            let done = is_end(&line);
            printed.push(line);
            if done {
                return Ok(());
            }
        }
        anyhow::bail!("etcdctl ended: {printed:?}")
    };
    let read = tokio::time::timeout(TOOL_WITHIN, read).await;
    read.with_context(|| format!("{arguments}: no end"))??;
    let header = cluster.client(0).status().await?.header.unwrap_or_default();
    let text = printed.join("\n");
    Ok(text
        .replace(&header.member_id.to_string(), "MEMBER")
        .replace(&header.cluster_id.to_string(), "CLUSTER")
        .replace(&format!("\"raft_term\":{}", header.raft_term), "\"raft_term\":TERM")
        .replace(&format!("\"RaftTerm\" : {}", header.raft_term), "\"RaftTerm\" : TERM"))
}
