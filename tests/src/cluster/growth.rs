//! Clusters that change while they run.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{Cluster, POLL_EVERY, READY_WITHIN};
use crate::client::within;

/// How long one attempt to change the membership may take.
const CHANGE_WITHIN: Duration = Duration::from_secs(15);
/// A member that was removed stops within this; etcd waits for a second.
const STOPS_WITHIN: Duration = Duration::from_secs(20);

impl Cluster {
    /// Adds a member through the one at `through`, and does not start it. Returns its position.
    pub async fn add(&mut self, through: usize, is_learner: bool) -> Result<usize> {
        let name = (0..).map(|at| format!("m{at}"));
        let is_free = |name: &String| {
            let directory = self.members[0].data_directory.with_file_name(name);
            !directory.exists() && self.members.iter().all(|member| member.name != *name)
        };
        let name = name.into_iter().find(is_free).context("a name")?;
        let mut newcomer = self.members[0].sibling(&name);
        let url = newcomer.peer_url();
        let client = self.client(through);
        let started = Instant::now();
        let members = loop {
            match within(CHANGE_WITHIN, client.member_add(&url, is_learner)).await {
                Ok(added) => break added.members,
                Err(status) => {
                    ensure!(started.elapsed() < READY_WITHIN, "cannot add a member: {status}");
                }
            }
            // It may have been added all the same.
            if let Ok(members) = within(CHANGE_WITHIN, client.members()).await
                && members.iter().any(|member| member.peer_ur_ls.contains(&url))
            {
                break members;
            }
            tokio::time::sleep(POLL_EVERY).await;
        };
        newcomer.joins(&members);
        self.members.push(newcomer);
        Ok(self.members.len() - 1)
    }

    /// Adds a member, starts it, and waits until it serves.
    pub async fn grow(&mut self, through: usize, is_learner: bool) -> Result<usize> {
        let at = self.add(through, is_learner).await?;
        self.members[at].start().await?;
        Ok(at)
    }

    /// Removes a member through another one, and waits until its process has ended by itself.
    pub async fn shrink(&mut self, through: usize, at: usize) -> Result<()> {
        let id = self.id(through, at).await?;
        self.remove(through, id).await?;
        let mut gone = self.members.remove(at);
        if gone.is_started() {
            let exit = gone.wait_exit(STOPS_WITHIN).await?;
            ensure!(exit.status.success(), "a removed member ended with {}", exit.status);
            let told = "the member has been permanently removed from the cluster";
            ensure!(gone.log().contains(told), "a removed member does not say why it stops");
        }
        Ok(())
    }

    /// Removes the member with this id, if it takes more than one attempt.
    pub async fn remove(&self, through: usize, id: u64) -> Result<()> {
        let client = self.client(through);
        let started = Instant::now();
        loop {
            let Err(status) = within(CHANGE_WITHIN, client.member_remove(id)).await else {
                return Ok(());
            };
            if let Ok(members) = within(CHANGE_WITHIN, client.members()).await
                && members.iter().all(|member| member.id != id)
            {
                return Ok(());
            }
            if started.elapsed() > READY_WITHIN {
                bail!("cannot remove {id:x}: {status}");
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// The id of the member at a position, as the others know it by its peer URL.
    pub async fn id(&self, through: usize, at: usize) -> Result<u64> {
        let (client, url) = (self.client(through), self.members[at].peer_url());
        let members = self.members[through].wait_answer(async || client.members().await).await?;
        let found = members.iter().find(|member| member.peer_ur_ls.contains(&url));
        found.map(|member| member.id).with_context(|| format!("no member at {url}: {members:?}"))
    }
}
