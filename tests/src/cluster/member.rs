//! One member: a process, its data directory, its log.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{POLL_EVERY, READY_WITHIN, free_port};
use crate::client::{Client, within};

/// The line that a member logs when it serves, etcd's own.
pub const READY: &str = "ready to serve client requests";
/// How long one attempt to be answered may take.
const ATTEMPT_WITHIN: Duration = Duration::from_secs(2);

/// A member, running or not.
#[derive(Debug)]
pub struct Member {
    pub name: String,
    /// `host:port` for clients.
    pub address: String,
    pub data_directory: PathBuf,
    pub log_path: PathBuf,
    /// The command line; changes count from the next start on.
    pub flags: Vec<String>,
    binary: PathBuf,
    child: Option<Child>,
    paused: bool,
    /// Where in the log the running process began to write.
    log_start: usize,
}

/// How a process ended.
#[derive(Debug)]
pub struct Exit {
    pub status: ExitStatus,
    pub took: Duration,
}

impl Member {
    /// A member that has not been started: `name` below `directory`, with a client port of its own.
    pub fn new(
        binary: &Path,
        name: &str,
        directory: &Path,
        peer_port: u16,
        flags: Vec<String>,
    ) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let data_directory = directory.join(name);
        let peer = format!("http://127.0.0.1:{peer_port}");
        let mut all = vec![
            format!("--name={name}"),
            format!("--data-dir={}", data_directory.display()),
            format!("--listen-client-urls=http://{address}"),
            format!("--advertise-client-urls=http://{address}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
        ];
        all.extend(flags);
        Self {
            name: name.to_owned(),
            address,
            data_directory,
            log_path: directory.join(format!("{name}.log")),
            binary: binary.to_owned(),
            flags: all,
            child: None,
            paused: false,
            log_start: 0,
        }
    }

    /// A member of the same program with the same flags, below the same directory, that is to join a running cluster:
    /// with which members, `joins` says later.
    pub fn sibling(&self, name: &str) -> Self {
        let directory = self.data_directory.parent().unwrap_or(&self.data_directory);
        let own = ["name", "data-dir", "listen-", "advertise-", "initial-", "force-new-cluster"];
        let is_own =
            |flag: &&String| own.iter().any(|name| flag.trim_start_matches("--").starts_with(name));
        let flags = self.flags.iter().filter(|flag| !is_own(flag)).cloned().collect();
        Self::new(&self.binary, name, directory, free_port(), flags)
    }

    /// Sets what the member is told of the cluster that it joins.
    pub fn joins(&mut self, members: &[proto::etcdserverpb::Member]) {
        let own = self.peer_url();
        let pairs = members.iter().flat_map(|member| {
            let is_own = member.peer_ur_ls.contains(&own);
            let name = if is_own { self.name.clone() } else { format!("{:x}", member.id) };
            member.peer_ur_ls.iter().map(move |url| format!("{name}={url}"))
        });
        let cluster = pairs.collect::<Vec<_>>().join(",");
        self.flags.retain(|flag| !flag.starts_with("--initial-cluster"));
        self.flags.push(format!("--initial-cluster={cluster}"));
        self.flags.push("--initial-cluster-state=existing".into());
    }

    /// Where its peers find it.
    pub fn peer_url(&self) -> String {
        let flag = "--initial-advertise-peer-urls=";
        self.flags.iter().find_map(|each| each.strip_prefix(flag)).unwrap_or_default().to_owned()
    }

    /// Starts the process without waiting until it serves.
    pub fn spawn(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(&self.log_path);
        let log = log.with_context(|| format!("open {}", self.log_path.display()))?;
        self.log_start = usize::try_from(log.metadata()?.len())?;
        let mut command = Command::new(&self.binary);
        command.args(&self.flags).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        let child = command.spawn();
        self.child = Some(child.with_context(|| format!("start {}", self.binary.display()))?);
        Ok(())
    }

    /// Starts the process and waits until it serves.
    pub async fn start(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_ready().await
    }

    /// Waits until the process has logged that it serves; fails when it ends before.
    pub async fn wait_ready(&mut self) -> Result<()> {
        let started = Instant::now();
        while !self.log().contains(READY) {
            if let Some(status) = self.ended()? {
                bail!("{} ended before it served: {status}", self.name);
            }
            let waited = started.elapsed();
            ensure!(waited < READY_WITHIN, "{} does not serve after {waited:?}", self.name);
            tokio::time::sleep(POLL_EVERY).await;
        }
        Ok(())
    }

    /// What the running (or last) process has logged.
    pub fn log(&self) -> String {
        let log = fs::read(&self.log_path).unwrap_or_default();
        String::from_utf8_lossy(log.get(self.log_start..).unwrap_or_default()).into_owned()
    }

    /// kill -9, and the corpse is waited for.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // An error means that the process has ended by itself.
            drop(child.kill());
            drop(child.wait());
        }
        self.paused = false;
    }

    /// Asks the process to end (SIGTERM) and waits for it.
    pub async fn terminate(&mut self) -> Result<Exit> {
        self.signal(Signal::SIGTERM)?;
        self.wait_exit(READY_WITHIN).await
    }

    /// Waits until the process ends by itself.
    pub async fn wait_exit(&mut self, longest: Duration) -> Result<Exit> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                self.child = None;
                return Ok(Exit { status, took: started.elapsed() });
            }
            ensure!(started.elapsed() < longest, "{} still runs after {longest:?}", self.name);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Stops the process without ending it (SIGSTOP).
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::SIGSTOP)?;
        self.paused = true;
        Ok(())
    }

    /// Lets a paused process go on (SIGCONT).
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::SIGCONT)?;
        self.paused = false;
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().with_context(|| format!("{} does not run", self.name))?;
        kill(Pid::from_raw(i32::try_from(pid)?), signal).context("send a signal")
    }

    /// The process's id; `None` when none was started.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether a process was started that nobody has ended.
    pub fn is_started(&self) -> bool {
        self.child.is_some()
    }

    /// Whether a process was started that nobody has ended or paused.
    pub fn is_serving(&self) -> bool {
        self.child.is_some() && !self.paused
    }

    /// How the process ended, if it has by itself; `None` also when none was started.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.as_mut().map_or(Ok(None), |child| child.try_wait().context("wait"))
    }

    /// A client of this member.
    pub fn client(&self) -> Client {
        Client::new(&self.address)
    }

    /// Repeats a request until it succeeds.
    pub async fn wait_answer<T>(
        &self,
        mut ask: impl AsyncFnMut() -> Result<T, tonic::Status>,
    ) -> Result<T> {
        let started = Instant::now();
        loop {
            match within(ATTEMPT_WITHIN, ask()).await {
                Ok(answer) => return Ok(answer),
                Err(status) if started.elapsed() > READY_WITHIN => {
                    bail!("{} does not answer: {status}", self.name)
                }
                Err(_) => tokio::time::sleep(POLL_EVERY).await,
            }
        }
    }

    /// The memory that the process occupies (VmRSS), in bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        let pid = self.pid().context("not running")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context("read /proc")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()).context("VmRSS")?;
        Ok(kib.parse::<u64>()? * 1024)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}
