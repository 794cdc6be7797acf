//! Real members as processes: started, killed, paused, ended and started again.
//!
//! Every member gets two ports of its own, its data directory and a log file below one directory.
//! Processes never outlive the value that stands for them.

mod growth;
mod member;
mod ports;
mod program;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub use member::{Exit, Member};
pub use ports::free_port;
pub use program::{Program, etcd_programs, instarctl};

use crate::client::{Client, within};

/// How long members may take to serve, on a busy machine.
pub const READY_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks at a condition that is waited for.
pub const POLL_EVERY: Duration = Duration::from_millis(10);
/// How often ports are chosen anew when another process took one in between.
const START_ATTEMPTS: usize = 5;

/// What a cluster is started with.
#[derive(Clone, Debug)]
pub struct Plan {
    pub program: Program,
    pub members: usize,
    /// Where data and logs go; created.
    pub directory: PathBuf,
    /// Flags in addition to those every member gets.
    pub flags: Vec<String>,
}

impl Plan {
    /// `members` members of `program` below `directory`, with default flags.
    pub fn new(program: Program, members: usize, directory: &Path) -> Self {
        Self { program, members, directory: directory.to_owned(), flags: Vec::new() }
    }

    /// The same with one more flag and its value.
    #[must_use]
    pub fn flag(mut self, name: &str, value: impl ToString) -> Self {
        self.flags.push(format!("--{name}={}", value.to_string()));
        self
    }

    /// Starts the members and waits until all of them serve.
    pub async fn start(self) -> Result<Cluster> {
        for attempt in 1.. {
            let mut cluster = Cluster { members: self.lay_out(attempt)? };
            match cluster.start_all().await {
                Err(_) if attempt < START_ATTEMPTS && cluster.port_was_taken() => {}
                started => return started.map(|()| cluster),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// The members, not started: for whoever wants to change something before `Cluster::start_all`.
    pub fn prepare(&self) -> Result<Cluster> {
        Ok(Cluster { members: self.lay_out(1)? })
    }

    fn lay_out(&self, attempt: usize) -> Result<Vec<Member>> {
        let binary = self.program.binary()?;
        let names: Vec<String> = (0..self.members).map(|at| format!("m{at}")).collect();
        let peers: Vec<u16> = names.iter().map(|_| free_port()).collect();
        let cluster: Vec<String> = names
            .iter()
            .zip(&peers)
            .map(|(name, peer)| format!("{name}=http://127.0.0.1:{peer}"))
            .collect();
        let directory = self.directory.join(format!("cluster{attempt}"));
        std::fs::create_dir_all(&directory).context("make the cluster's directory")?;
        let members = names.iter().zip(&peers).map(|(name, &peer)| {
            let mut flags = vec![format!("--initial-cluster={}", cluster.join(","))];
            flags.extend(program::timing_flags());
            flags.extend(self.flags.iter().cloned());
            Member::new(&binary, name, &directory, peer, flags)
        });
        Ok(members.collect())
    }
}

/// Members that were started together.
#[derive(Debug)]
pub struct Cluster {
    pub members: Vec<Member>,
}

impl Cluster {
    /// Starts every member and waits until all of them serve.
    pub async fn start_all(&mut self) -> Result<()> {
        for member in &mut self.members {
            member.spawn()?;
        }
        self.wait_ready().await
    }

    /// Waits until every running member serves.
    pub async fn wait_ready(&mut self) -> Result<()> {
        for member in self.members.iter_mut().filter(|member| member.is_started()) {
            member.wait_ready().await?;
        }
        Ok(())
    }

    fn port_was_taken(&self) -> bool {
        self.members.iter().any(|member| member.log().contains("address already in use"))
    }

    /// A client of one member.
    pub fn client(&self, at: usize) -> Client {
        self.members[at].client()
    }

    /// The position of the member that leads, once there is one that the running members agree on.
    pub async fn leader(&self) -> Result<usize> {
        let mut last = String::new();
        for _ in 0..READY_WITHIN.as_millis() / POLL_EVERY.as_millis() {
            match self.leader_now().await {
                Ok(Some(leader)) => return Ok(leader),
                Ok(None) => {}
                Err(status) => last = status.to_string(),
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
        bail!("no leader within {} s {last}", READY_WITHIN.as_secs())
    }

    async fn leader_now(&self) -> Result<Option<usize>, tonic::Status> {
        let mut leaders = Vec::new();
        let mut ids = Vec::new();
        for (at, member) in self.members.iter().enumerate().filter(|(_, m)| m.is_serving()) {
            let status = within(Duration::from_secs(2), member.client().status()).await?;
            ids.push((at, status.header.unwrap_or_default().member_id));
            leaders.push(status.leader);
        }
        let first = leaders.first().copied().unwrap_or_default();
        let agreed = first != 0 && leaders.iter().all(|&leader| leader == first);
        Ok(ids.into_iter().find(|&(_, id)| agreed && id == first).map(|(at, _)| at))
    }

    /// Waits until every member has applied what is committed now, and checks that their keys are equal:
    /// the same revision and the same HashKV. Returns the revision.
    pub async fn wait_equal(&self) -> Result<i64> {
        let mut hashes = Vec::new();
        for member in &self.members {
            let client = member.client();
            member.wait_answer(async || client.get("any").await).await?;
            hashes.push(client.hash_kv(0).await.context("HashKV")?);
        }
        let rows: Vec<(i64, u32)> =
            hashes.iter().map(|hash| (hash.hash_revision, hash.hash)).collect();
        if rows.iter().any(|row| row != &rows[0]) {
            bail!("members differ; (revision, HashKV) of each: {rows:?}");
        }
        Ok(rows[0].0)
    }
}
