//! Two sides: etcd's programs and ours under their names, each with an etcd of its own whose ids are equal.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use tests::cluster::{Cluster, Plan, Program, etcd_programs, instarctl};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

/// The longest a command may take that is meant to end.
const COMMAND_WITHIN: Duration = Duration::from_secs(30);
/// The address that both members have for peers they do not have: ids are made from it.
const PEER: &str = "http://127.0.0.1:1";

/// Programs, and the server that they talk to.
pub struct Side {
    pub etcdctl: PathBuf,
    pub etcdutl: PathBuf,
    pub cluster: Cluster,
}

impl Side {
    pub fn address(&self) -> &str {
        &self.cluster.members[0].address
    }

    /// A command of etcdctl, connected to this side's server.
    pub fn command(&self, words: &[String]) -> Command {
        self.command_at(self.address(), words)
    }

    /// The same, connected to another server.
    pub fn command_at(&self, address: &str, words: &[String]) -> Command {
        let mut command = Command::new(&self.etcdctl);
        command.arg(format!("--endpoints={address}")).args(words);
        prepared(command)
    }

    pub async fn run(&self, words: &[&str]) -> Result<Output> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        finish(self.command(&words), b"").await
    }

    pub async fn run_on_files(&self, words: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.etcdutl);
        command.args(words);
        finish(prepared(command), b"").await
    }

    /// Starts a command that lasts; what it prints is read from the child.
    pub fn start(&self, words: &[&str]) -> Result<Child> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        self.command(&words).spawn().context("start etcdctl")
    }
}

fn prepared(mut command: Command) -> Command {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.kill_on_drop(true);
    command
}

/// Runs a command to its end.
pub async fn finish(mut command: Command, input: &[u8]) -> Result<Output> {
    let mut child = command.spawn().context("start a command")?;
    let mut stdin = child.stdin.take().context("its standard input")?;
    // It may have ended without reading.
    drop(stdin.write_all(input).await);
    drop(stdin);
    let ended = tokio::time::timeout(COMMAND_WITHIN, child.wait_with_output()).await;
    ended.with_context(|| format!("{command:?} does not end"))?.context("a command")
}

/// Etcd's side and ours; or why there is none.
pub async fn sides(directory: &Path) -> Result<Result<[Side; 2], String>> {
    let programs = match etcd_programs() {
        Ok(programs) => programs,
        Err(reason) => return Ok(Err(reason)),
    };
    let links = directory.join("programs");
    std::fs::create_dir_all(&links)?;
    let ours = instarctl()?;
    for name in ["etcdctl", "etcdutl"] {
        symlink(&ours, links.join(name)).context("link instarctl")?;
    }
    let etcd = Side {
        etcdctl: programs.etcdctl.clone(),
        etcdutl: programs.etcdutl.clone(),
        cluster: server(&directory.join("etcd")).await?,
    };
    let ours = Side {
        etcdctl: links.join("etcdctl"),
        etcdutl: links.join("etcdutl"),
        cluster: server(&directory.join("ours")).await?,
    };
    Ok(Ok([etcd, ours]))
}

async fn server(directory: &Path) -> Result<Cluster> {
    let plan = Plan::new(Program::Etcd, 1, directory);
    let plan = plan.flag("initial-advertise-peer-urls", PEER);
    plan.flag("initial-cluster", format!("m0={PEER}")).start().await
}
