//! The real etcdctl, against both programs: it must print the same.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tests::case::{Scene, Verdict};
use tests::cluster::{Cluster, Plan, Program, etcd_programs};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Command lines, and what goes to their standard input.
const COMMANDS: [(&str, &str); 60] = [
    ("put greeting hello", ""),
    ("put greeting again --prev-kv", ""),
    ("get greeting", ""),
    ("get greeting -w json", ""),
    ("get greeting -w fields", ""),
    ("get greeting --hex", ""),
    ("get greeting --print-value-only", ""),
    ("get greeting --rev=2", ""),
    ("get greeting --rev=99", ""),
    ("get greeting --consistency=s", ""),
    ("get nothing", ""),
    ("put list/1 a", ""),
    ("put list/2 b", ""),
    ("put list/3 c", ""),
    ("get list/ --prefix", ""),
    ("get list/ --prefix --keys-only", ""),
    ("get list/ --prefix --count-only -w fields", ""),
    ("get list/ --prefix --limit=2 -w json", ""),
    ("get list/ --prefix --order=DESCEND --sort-by=MODIFY", ""),
    ("get list/1 list/3", ""),
    ("get --from-key list/2", ""),
    ("get list/ --prefix --min-mod-rev=5", ""),
    ("get list/ --prefix --stream", ""),
    ("put from-stdin", "a value from standard input"),
    ("get from-stdin", ""),
    ("put list/1 --ignore-value", ""),
    ("put missing --ignore-value", ""),
    ("put leased x --lease=7b", ""),
    (
        "txn",
        "value(\"greeting\") = \"again\"\n\nput greeting once-more\nget greeting\n\nget nothing\n\n",
    ),
    ("txn -w json", "mod(\"greeting\") = \"1\"\n\nput a b\n\ndel list/3\nget list/ --prefix\n\n"),
    ("txn", "version(\"nothing\") = \"0\"\n\nput twice 1\nput twice 2\n\n\n"),
    ("del list/2", ""),
    ("del list/ --prefix --prev-kv", ""),
    ("del nothing", ""),
    ("get greeting --rev=3 -w json", ""),
    ("compaction 5", ""),
    ("compaction 5", ""),
    ("compaction 99", ""),
    ("get greeting --rev=3", ""),
    ("compaction 7 --physical", ""),
    ("endpoint hashkv -w json", ""),
    ("endpoint hashkv --rev=8 -w json", ""),
    ("member list", ""),
    ("member list -w json", ""),
    ("lease revoke 7b", ""),
    ("lease timetolive 7b", ""),
    ("lease timetolive 7b -w json", ""),
    ("lease timetolive 7b -w fields", ""),
    ("lease keep-alive --once 7b", ""),
    ("lease list", ""),
    ("lease list -w json", ""),
    ("lease list -w fields", ""),
    ("lease grant", ""),
    ("lease grant x", ""),
    ("lease grant 9000000001", ""),
    ("lease revoke", ""),
    ("lease timetolive", ""),
    ("lease keep-alive", ""),
    ("put leased x --lease=7b", ""),
    ("put leased --ignore-lease", ""),
];
/// Commands whose output holds times and sizes: only how they end is compared, and that they print.
const LOOSE_COMMANDS: [&str; 6] = [
    "endpoint health",
    "endpoint health -w json",
    "endpoint status",
    "endpoint status -w json",
    "endpoint status -w table",
    "member list -w table",
];

#[derive(PartialEq, Debug)]
struct Printed {
    code: Option<i32>,
    out: String,
    error: String,
}

/// Every command prints the same with both servers, ids and addresses aside.
pub async fn prints_the_same(scene: Scene) -> Result<Verdict> {
    let etcdctl = match etcd_programs() {
        Ok(programs) => programs.etcdctl.clone(),
        Err(reason) => return Ok(Verdict::Skipped(reason)),
    };
    let etcd = Plan::new(Program::Etcd, 1, &scene.directory.join("etcd")).start().await?;
    let subject = Plan::new(scene.subject, 1, &scene.directory.join("subject")).start().await?;
    for (command, input) in COMMANDS {
        let expected = run(&etcdctl, &etcd, command, input).await?;
        let printed = run(&etcdctl, &subject, command, input).await?;
        ensure!(
            expected == printed,
            "etcdctl {command}\n  etcd: {expected:#?}\n  here: {printed:#?}"
        );
    }
    for command in LOOSE_COMMANDS {
        let expected = run(&etcdctl, &etcd, command, "").await?;
        let printed = run(&etcdctl, &subject, command, "").await?;
        let alike = expected.code == printed.code
            && expected.out.lines().count() == printed.out.lines().count()
            && keys_of(&expected.out) == keys_of(&printed.out);
        ensure!(alike, "etcdctl {command}\n  etcd: {expected:#?}\n  here: {printed:#?}");
    }
    Ok(Verdict::Passed)
}

async fn run(etcdctl: &Path, cluster: &Cluster, command: &str, input: &str) -> Result<Printed> {
    let address = &cluster.members[0].address;
    let mut child = Command::new(etcdctl)
        .arg(format!("--endpoints={address}"))
        .args(command.split(' '))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .context("start etcdctl")?;
    let mut stdin = child.stdin.take().context("its standard input")?;
    // It may have ended without reading.
    drop(stdin.write_all(input.as_bytes()).await);
    drop(stdin);
    let output = child.wait_with_output().await.context("etcdctl")?;
    let header = cluster.client(0).status().await?.header.unwrap_or_default();
    let peer = cluster.members[0]
        .flags
        .iter()
        .find_map(|flag| flag.strip_prefix("--listen-peer-urls="))
        .context("the peer address")?;
    let text = |bytes: &[u8]| {
        String::from_utf8_lossy(bytes)
            .replace(address.as_str(), "ADDRESS")
            .replace(peer, "PEER")
            .replace(&header.member_id.to_string(), "MEMBER")
            .replace(&format!("{:x}", header.member_id), "MEMBER")
            .replace(&header.cluster_id.to_string(), "CLUSTER")
            .replace(&format!("{:x}", header.cluster_id), "CLUSTER")
            .replace(&format!("\"raft_term\":{}", header.raft_term), "\"raft_term\":TERM")
            .replace(&format!("\"RaftTerm\" : {}", header.raft_term), "\"RaftTerm\" : TERM")
    };
    let error = text(&output.stderr);
    // Its own log lines begin with the time.
    let error = match error.find("\"msg\"").or_else(|| error.find("\"level\"")) {
        Some(_) => error.lines().last().unwrap_or_default().to_owned(),
        None => error,
    };
    Ok(Printed { code: output.status.code(), out: text(&output.stdout), error })
}

/// Leases, locks and elections by the commands that operators know, and etcd's own load generator, against three members.
pub async fn leases_and_locks(scene: Scene) -> Result<Verdict> {
    let programs = match etcd_programs() {
        Ok(programs) => programs,
        Err(reason) => return Ok(Verdict::Skipped(reason)),
    };
    let cluster = Plan::new(scene.subject, 3, &scene.directory).start().await?;
    let etcdctl = async |command: &str| {
        let printed = run(&programs.etcdctl, &cluster, command, "").await?;
        ensure!(printed.code == Some(0), "etcdctl {command}: {printed:?}");
        Ok(printed.out)
    };
    let granted = etcdctl("lease grant 100").await?;
    let id = granted.split(' ').nth(1).context("an id")?.to_owned();
    ensure!(granted == format!("lease {id} granted with TTL(100s)\n"), "{granted}");
    etcdctl(&format!("put leased x --lease={id}")).await?;
    let left = etcdctl(&format!("lease timetolive {id} --keys")).await?;
    ensure!(left.contains("granted with TTL(100s)"), "{left}");
    ensure!(left.ends_with("attached keys([leased])\n"), "{left}");
    let renewed = etcdctl(&format!("lease keep-alive --once {id}")).await?;
    ensure!(renewed == format!("lease {id} keepalived with TTL(100)\n"), "{renewed}");
    ensure!(etcdctl("lease list").await?.contains(&id), "the list lacks it");
    let revoked = etcdctl(&format!("lease revoke {id}")).await?;
    ensure!(revoked == format!("lease {id} revoked\n"), "{revoked}");
    ensure!(etcdctl("get leased").await?.is_empty(), "its key has outlived it");
    let locked = etcdctl("lock door echo inside").await?;
    ensure!(locked == "inside\n", "{locked}");

    let all: Vec<&str> = cluster.members.iter().map(|member| member.address.as_str()).collect();
    let benchmark = Command::new(&programs.benchmark)
        .arg(format!("--endpoints={}", all.join(",")))
        .args(["--clients=10", "--conns=5", "lease-keepalive", "--total=3000"])
        .output()
        .await
        .context("benchmark")?;
    let out = String::from_utf8_lossy(&benchmark.stdout);
    ensure!(benchmark.status.success() && !out.contains("Error distribution"), "{out}");
    ensure!(out.contains("Requests/sec"), "{out}");
    Ok(Verdict::Passed)
}

/// The names in JSON output, in order.
fn keys_of(out: &str) -> Vec<String> {
    let Ok(value) = serde_json::from_str::<serde_json::Value>(out) else { return Vec::new() };
    let mut keys = Vec::new();
    let mut open = vec![&value];
    while let Some(value) = open.pop() {
        match value {
            serde_json::Value::Object(map) => {
                keys.extend(map.keys().cloned());
                open.extend(map.values());
            }
            serde_json::Value::Array(list) => open.extend(list),
            _ => {}
        }
    }
    keys.sort();
    keys
}
