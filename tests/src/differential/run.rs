//! Two fresh servers, and requests sent to both until their answers differ.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::generator::{MAX_REQUEST_BYTES, MAX_TXN_OPS};
use super::position::Known;
use super::{Call, Reply};
use tonic::Code;

use crate::client::Client;
use crate::cluster::{Cluster, Plan, Program};

/// How many differing lines of two answers are shown.
const LINES_SHOWN: usize = 12;
/// How many lines of the subject's log are shown beside them.
const LOG_LINES_SHOWN: usize = 5;
/// What a client sees of a server that ended.
const MAYBE_ENDED: [Code; 3] = [Code::Unavailable, Code::Unknown, Code::Cancelled];

/// The same, of a connection that was cut off.
const CUT_OFF: &str = "transport error";
/// How long after that the process may still be seen.
const ENDED_WITHIN: Duration = Duration::from_secs(5);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A request that ended etcd itself: there is nothing to compare with.
#[derive(Debug, thiserror::Error)]
#[error("etcd itself ended at request {at}: {call}")]
pub struct EtcdEnded {
    at: usize,
    call: String,
}

/// A fault added to the subject's answers, to see whether it is found.
pub type Planted = fn(&Call, &mut Reply);

/// How to start the two servers.
#[derive(Clone, Debug)]
pub struct Pair {
    pub subject: Program,
    pub directory: PathBuf,
    pub planted: Option<Planted>,
}

/// The first request that was answered differently.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Its position among the requests sent.
    pub at: usize,
    /// The request with absolute revisions.
    pub call: Call,
    pub etcd: Reply,
    pub subject: Reply,
}

/// A running pair.
pub struct Running {
    etcd: (Cluster, Client),
    subject: (Cluster, Client),
    planted: Option<Planted>,
    known: Known,
    sent: usize,
    // Dropped last: the processes write to it.
    _directory: TempDir,
}

impl Pair {
    /// Starts both servers with empty data.
    pub async fn start(&self) -> Result<Running> {
        let fresh = tempfile::Builder::new().prefix("pair-").tempdir_in(&self.directory);
        let directory = fresh.context("make the pair's directory")?;
        let etcd = plan(Program::Etcd, &directory.path().join("etcd")).start();
        let subject = plan(self.subject, &directory.path().join("subject")).start();
        let (etcd, subject) = tokio::try_join!(etcd, subject)?;
        let with_client = |cluster: Cluster| {
            let client = cluster.client(0);
            (cluster, client)
        };
        Ok(Running {
            etcd: with_client(etcd),
            subject: with_client(subject),
            planted: self.planted,
            known: Known { latest: 1, ..Default::default() },
            sent: 0,
            _directory: directory,
        })
    }

    /// The first difference among these requests, on fresh servers.
    pub async fn first_difference(&self, calls: &[Call]) -> Result<Option<Difference>> {
        let mut running = self.start().await?;
        for call in calls {
            if let Some(difference) = running.send(call).await? {
                return Ok(Some(difference));
            }
        }
        Ok(None)
    }
}

fn plan(program: Program, directory: &Path) -> Plan {
    // A single member need not wait for others before it leads; shrinking starts many of them.
    let plan = Plan::new(program, 1, directory)
        .flag("heartbeat-interval", 10)
        .flag("election-timeout", 50)
        .flag("max-request-bytes", MAX_REQUEST_BYTES)
        .flag("max-txn-ops", MAX_TXN_OPS);
    match program {
        // Nothing here asks whether etcd keeps its word over a crash.
        Program::Etcd => plan.flag("unsafe-no-fsync", true),
        Program::Instar => plan,
    }
}

impl Running {
    /// Sends one request to both; what differs, if anything does. Fails when etcd itself ends.
    pub async fn send(&mut self, call: &Call) -> Result<Option<Difference>> {
        let call = self.known.resolve(call);
        let (etcd, mut subject) = tokio::join!(call.send(&self.etcd.1), call.send(&self.subject.1));
        if let Some(planted) = self.planted {
            planted(&call, &mut subject);
        }
        if etcd.error.as_ref().is_some_and(|(code, _)| MAYBE_ENDED.contains(code)) {
            let is_cut = etcd.error.as_ref().is_some_and(|(_, message)| message == CUT_OFF);
            if self.etcd_has_ended(is_cut).await? {
                return Err(EtcdEnded { at: self.sent, call: format!("{call:?}") }.into());
            }
        }
        self.known.learn(&call, etcd.revision());
        self.sent += 1;
        let at = self.sent - 1;
        Ok((etcd != subject).then_some(Difference { at, call, etcd, subject }))
    }

    /// Whether etcd's process is gone. A connection that was cut off tells of it before the system does.
    async fn etcd_has_ended(&mut self, is_cut: bool) -> Result<bool> {
        let deadline = Instant::now() + ENDED_WITHIN;
        while self.etcd.0.members[0].ended()?.is_none() {
            if !is_cut || Instant::now() >= deadline {
                return Ok(false);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(true)
    }

    /// A client of each server, etcd's first.
    pub fn clients(&self) -> [&Client; 2] {
        [&self.etcd.1, &self.subject.1]
    }

    /// The end of what the subject logged.
    pub fn subject_log_end(&self) -> String {
        let log = self.subject.0.members[0].log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "request {} was answered differently: {:?}", self.at, self.call)?;
        let (etcd, subject) = (format!("{:#?}", self.etcd), format!("{:#?}", self.subject));
        let (etcd, subject): (Vec<&str>, Vec<&str>) =
            (etcd.lines().collect(), subject.lines().collect());
        let empty = "(nothing)";
        let rows = etcd.len().max(subject.len());
        let pairs =
            (0..rows).map(|at| (etcd.get(at).unwrap_or(&empty), subject.get(at).unwrap_or(&empty)));
        for (etcd, subject) in pairs.filter(|(etcd, subject)| etcd != subject).take(LINES_SHOWN) {
            writeln!(f, "  etcd: {}\n  here: {}", etcd.trim(), subject.trim())?;
        }
        Ok(())
    }
}
