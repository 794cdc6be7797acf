//! Starts a program as a cluster of processes in a fresh directory on disk, and ends it again.
//!
//! Every program gets the same flags, which are etcd's. The processes end with the value: killed, because
//! nothing that is measured comes after.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use prost::Message;
use proto::etcdserverpb::{StatusRequest, StatusResponse};
use tempfile::TempDir;

use super::error::BenchError;
use super::grpc;
use super::message::{Keyed, framed};

/// How long members may take to elect a leader and answer.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Pause between two attempts to reach a member.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// How much of a log an error message shows.
const LOG_LINES_SHOWN: usize = 8;
const LOG_LINE_CHARACTERS_SHOWN: usize = 300;
/// Above the quota of either program's default, so that a million keys fit: 8 GiB.
const QUOTA_BYTES: u64 = 8 << 30;

/// What kind of program a subject is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Program {
    Instar,
    Etcd,
    /// This benchmark's own server that does no work.
    Floor,
}

/// A program to be measured.
#[derive(Clone, Debug)]
pub struct Subject {
    pub program: Program,
    /// Its name in the tables.
    pub label: String,
    pub binary: PathBuf,
}

/// Running members, the leader known.
pub struct Cluster {
    // Fields are dropped in this order: processes end before their directory goes.
    members: Vec<Process>,
    leader: SocketAddr,
    _directory: TempDir,
}

struct Process {
    child: Child,
    client: SocketAddr,
    log: PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error here means that the process has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Cluster {
    /// Starts `members` processes with fresh data below `directory` and waits until all of them answer.
    pub fn start(subject: &Subject, members: usize, directory: &Path) -> Result<Self, BenchError> {
        if !subject.binary.exists() {
            let (label, path) = (subject.label.clone(), subject.binary.clone());
            return Err(BenchError::NoBinary { label, path });
        }
        fs::create_dir_all(directory).map_err(BenchError::io("create the data directory"))?;
        let data = tempfile::Builder::new().prefix("data-").tempdir_in(directory);
        let data = data.map_err(BenchError::io("create a data directory"))?;
        let ports = free_ports(members * 2)?;
        let (clients, peers) = ports.split_at(members);
        let mut processes = Vec::new();
        for (at, &client) in clients.iter().enumerate() {
            let command = match subject.program {
                Program::Floor => floor_command(subject, client),
                Program::Instar | Program::Etcd => command(subject, data.path(), at, client, peers),
            };
            processes.push(spawn(command, client, data.path().join(format!("{at}.log")))?);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(BenchError::io("start a runtime"))?;
        let leader = runtime.block_on(wait_ready(&subject.label, &mut processes))?;
        Ok(Self { members: processes, leader, _directory: data })
    }

    /// The processes' ids.
    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().map(|member| member.child.id()).collect()
    }

    /// Every member's client address.
    pub fn members(&self) -> Vec<SocketAddr> {
        self.members.iter().map(|member| member.client).collect()
    }

    /// The client address of the member that led when the cluster was ready.
    pub fn leader(&self) -> SocketAddr {
        self.leader
    }

    /// The end of each member's log, for an error message.
    pub fn log_ends(&self) -> String {
        let ends = self.members.iter().map(|member| end_of(&member.log));
        ends.collect::<Vec<_>>().join("\n--\n")
    }
}

/// Ports that were free a moment ago.
fn free_ports(count: usize) -> Result<Vec<SocketAddr>, BenchError> {
    let mut listeners = Vec::new();
    for _ in 0..count {
        let listener = TcpListener::bind("127.0.0.1:0");
        listeners.push(listener.map_err(BenchError::io("find a free port"))?);
    }
    let addresses = listeners.iter().map(TcpListener::local_addr);
    addresses.collect::<Result<_, _>>().map_err(BenchError::io("find a free port"))
}

fn floor_command(subject: &Subject, client: SocketAddr) -> Command {
    let mut command = Command::new(&subject.binary);
    command.arg("--serve-floor").arg(client.port().to_string());
    command
}

fn command(
    subject: &Subject,
    data: &Path,
    at: usize,
    client: SocketAddr,
    peers: &[SocketAddr],
) -> Command {
    let cluster: Vec<String> =
        peers.iter().enumerate().map(|(at, peer)| format!("m{at}=http://{peer}")).collect();
    let name = format!("m{at}");
    let (client, peer) = (format!("http://{client}"), format!("http://{}", peers[at]));
    let mut command = Command::new(&subject.binary);
    command
        .arg("--data-dir")
        .arg(data.join(&name))
        .args(["--name", &name])
        .args(["--listen-client-urls", &client])
        .args(["--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer])
        .args(["--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &cluster.join(",")])
        .args(["--initial-cluster-state", "new"])
        .args(["--initial-cluster-token", "bench"])
        .args(["--quota-backend-bytes", &QUOTA_BYTES.to_string()]);
    command
}

fn spawn(mut command: Command, client: SocketAddr, log: PathBuf) -> Result<Process, BenchError> {
    let output = File::create(&log).map_err(BenchError::io("create a log file"))?;
    let error = output.try_clone().map_err(BenchError::io("create a log file"))?;
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("ETCD_") {
            command.env_remove(variable);
        }
    }
    let what = format!("start {}", command.get_program().display());
    let spawned = command.stdin(Stdio::null()).stdout(output).stderr(error).spawn();
    Ok(Process { child: spawned.map_err(BenchError::io(what))?, client, log })
}

/// Waits until every member serves a linearizable read and names a leader; the leader's address.
async fn wait_ready(label: &str, members: &mut [Process]) -> Result<SocketAddr, BenchError> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let mut leader = None;
        let mut answered = 0;
        for member in members.iter_mut() {
            if let Ok(Some(status)) = member.child.try_wait() {
                return Err(failed(label, format!("ended with {status}"), &member.log));
            }
            let Ok(Ok(status)) = tokio::time::timeout(READY_WITHIN, ask(member.client)).await
            else {
                continue;
            };
            answered += 1;
            let id = status.header.map_or(0, |header| header.member_id);
            if status.leader != 0 && status.leader == id {
                leader = Some(member.client);
            }
        }
        if let (true, Some(leader)) = (answered == members.len(), leader) {
            return Ok(leader);
        }
        if Instant::now() > deadline {
            let what = format!("did not answer as a cluster within {READY_WITHIN:?}");
            return Err(failed(label, what, &members[0].log));
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

async fn ask(address: SocketAddr) -> Result<StatusResponse, grpc::CallError> {
    const KEPT_BYTES: usize = 64 * 1024;
    let mut sender = grpc::connect(address).await?;
    let get = Keyed::get(false).with_key(0);
    grpc::call(&mut sender, &grpc::head(address, grpc::RANGE)?, get, KEPT_BYTES).await?;
    let status = framed(&StatusRequest::default());
    let head = grpc::head(address, grpc::STATUS)?;
    let answer = grpc::call(&mut sender, &head, status, KEPT_BYTES).await?;
    StatusResponse::decode(answer.message)
        .map_err(|error| grpc::CallError::Connection(error.to_string()))
}

fn failed(label: &str, what: String, log: &Path) -> BenchError {
    BenchError::Member { label: label.to_owned(), what, log: end_of(log) }
}

fn end_of(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
    let short = |line: &&str| line.chars().take(LOG_LINE_CHARACTERS_SHOWN).collect::<String>();
    last.iter().map(short).collect::<Vec<_>>().join("\n")
}
