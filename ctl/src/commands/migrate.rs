//! `migrate`: takes a running cluster to a new one, revision by revision.
//!
//! 1. With `--data-dir`: a snapshot of the old cluster, restored into the data directories of the new one.
//! 2. When the new cluster serves: every revision since, replayed as one transaction, so that it is the same revision
//!    there; leases are granted under their ids, and kept alive as long as the old cluster has them.
//! 3. Level: the old cluster has no further revision, and HashKV is the same on both sides.
//!
//! It begins where the new cluster is, so it may be ended and begun again at any time. Nothing but this command may
//! write to the new cluster until the clients are switched over.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;
use proto::mvccpb::Event;
use proto::mvccpb::event::EventType;

use super::restore::Kept;
use super::watching::Watching;
use super::{ask, lease, restore, snapshot};
use crate::client::Client;
use crate::command_line::Invocation;
use crate::failure::Failure;
use crate::go;
use crate::output::line;
use crate::settings::Settings;

/// How long the old cluster says nothing before it is asked whether there is more.
const QUIET: Duration = Duration::from_millis(200);
/// How often the new cluster's leases are renewed.
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// Between two tries to reach the new cluster, which is about to be started.
const RETRY_EVERY: Duration = Duration::from_millis(200);
/// The time of a lease that the old cluster has forgotten already: its keys are about to go.
const FORGOTTEN_TTL_S: i64 = 60;

pub async fn run(mut invocation: Invocation) -> Result<(), Failure> {
    let [destination] = invocation.arguments.clone().try_into().map_err(|_| {
        Failure::arguments("migrate takes one argument: an endpoint of the new cluster")
    })?;
    let settings = Settings::read(&mut invocation)?;
    if !invocation.text("data-dir").is_empty() {
        make_members(&invocation, &settings).await?;
    }
    let old = Client::connect(&settings, None).await?;
    let new = reach(&settings.at(&destination), invocation.duration("wait")).await?;
    let mut migration = Migration { old, new, leases: BTreeSet::new(), revision: 0 };
    migration.follow(invocation.flag("follow")).await
}

/// The data directories of the new cluster; `{name}` in the path stands for a member's name.
async fn make_members(invocation: &Invocation, settings: &Settings) -> Result<(), Failure> {
    let pattern = invocation.text("data-dir");
    let members = restore::members(invocation)?;
    if members.len() > 1 && !pattern.contains("{name}") {
        return Err(Failure::arguments(
            "--data-dir needs {name} in it, if there are several members",
        ));
    }
    let file = format!("{}.snapshot", pattern.replace("{name}", "migration"));
    let first = settings.endpoints.first().cloned().unwrap_or_default();
    snapshot::save_to(&settings.at(&first), None, &format!("{file}.part"), &file).await?;
    let without_authentication = invocation.flag("drop-auth");
    let kept = Kept { bump: 0, without_hash: false, without_authentication };
    for member in members {
        let data_dir = pattern.replace("{name}", &member.name);
        restore::make(Path::new(&file), &member, Path::new(&data_dir), kept)?;
        line(format!("made {data_dir}: start {} on it now", member.name))?;
    }
    Ok(std::fs::remove_file(&file)?)
}

/// Waits for a cluster that is about to be started.
async fn reach(settings: &Settings, wait: Duration) -> Result<Client, Failure> {
    let began = Instant::now();
    loop {
        match Client::connect(settings, None).await {
            Err(_) if began.elapsed() < wait => tokio::time::sleep(RETRY_EVERY).await,
            reached => return reached,
        }
    }
}

struct Migration {
    old: Client,
    new: Client,
    /// Leases of the new cluster that have to be renewed.
    leases: BTreeSet<i64>,
    /// Up to which the new cluster has everything.
    revision: i64,
}

impl Migration {
    async fn follow(&mut self, on: bool) -> Result<(), Failure> {
        self.revision = revision(&self.new).await?;
        let listed = ask!(self.new, Reading, lease.lease_leases(pb::LeaseLeasesRequest {}))?;
        self.leases = listed.leases.iter().map(|lease| lease.id).collect();
        let (began, mut renewed) = (Instant::now(), Instant::now());
        let (first, mut told) = (self.revision, None);
        let request = pb::WatchCreateRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            start_revision: first + 1,
            ..Default::default()
        };
        let mut watching = Watching::begin(&self.old, request).await?;
        loop {
            match tokio::time::timeout(QUIET, watching.next(&self.old)).await {
                Ok(response) => {
                    let ended = || Failure::error("the old cluster ended the watch");
                    self.replay(response?.ok_or_else(ended)?).await?;
                }
                Err(_) if told != Some(self.revision) && self.is_level().await? => {
                    told = Some(self.revision);
                    let took = go::duration(began.elapsed());
                    let count = self.revision - first;
                    line(format!("level at revision {}: {count} replayed, {took}", self.revision))?;
                    if !on {
                        return self.end();
                    }
                }
                Err(_) => {}
            }
            if renewed.elapsed() >= RENEW_EVERY {
                self.renew().await?;
                renewed = Instant::now();
            }
        }
    }

    fn end(&self) -> Result<(), Failure> {
        line("HashKV is the same on both sides.")?;
        line("If no client has written to the old cluster since: switch them over now.")?;
        line("Otherwise stop them, run this again without --data-dir, and switch when it is level.")
    }

    async fn replay(&mut self, response: pb::WatchResponse) -> Result<(), Failure> {
        if response.compact_revision != 0 {
            let message = "the old cluster was compacted beyond what the new one has";
            return Err(Failure::error(message).with_hint("begin anew, with new data directories"));
        }
        let revision = |event: &Event| event.kv.as_ref().map_or(0, |pair| pair.mod_revision);
        for events in response.events.chunk_by(|a, b| revision(a) == revision(b)) {
            self.replay_revision(revision(&events[0]), events).await?;
        }
        Ok(())
    }

    async fn replay_revision(&mut self, revision: i64, events: &[Event]) -> Result<(), Failure> {
        let mut success = Vec::with_capacity(events.len());
        for event in events {
            let pair = event.kv.clone().unwrap_or_default();
            if pair.lease != 0 && !self.leases.contains(&pair.lease) {
                self.grant(pair.lease).await?;
            }
            let (key, value, lease) = (pair.key, pair.value, pair.lease);
            let request = match event.r#type == EventType::Delete as i32 {
                true => Request::RequestDeleteRange(pb::DeleteRangeRequest {
                    key,
                    ..Default::default()
                }),
                false => {
                    Request::RequestPut(pb::PutRequest { key, value, lease, ..Default::default() })
                }
            };
            success.push(pb::RequestOp { request: Some(request) });
        }
        let request = pb::TxnRequest { success, ..Default::default() };
        let answer = ask!(self.new, Never, kv.txn(request)).map_err(|failure| {
            failure
                .with_hint("begin again; a larger --max-txn-ops of the new cluster may be needed")
        })?;
        let made = answer.header.map_or(0, |header| header.revision);
        if made != revision {
            let message = format!("revision {revision} became {made}: something else has written");
            return Err(Failure::error(message).with_hint("begin anew, with new data directories"));
        }
        self.revision = revision;
        Ok(())
    }

    async fn grant(&mut self, id: i64) -> Result<(), Failure> {
        let request = pb::LeaseTimeToLiveRequest { id, keys: false };
        let known = ask!(self.old, Reading, lease.lease_time_to_live(request))?;
        let ttl = if known.granted_ttl > 0 { known.granted_ttl } else { FORGOTTEN_TTL_S };
        let request = pb::LeaseGrantRequest { id, ttl };
        ask!(self.new, Never, lease.lease_grant(request))?;
        self.leases.insert(id);
        Ok(())
    }

    /// Renews what the old cluster has; what it has not is left to its time, or has no keys any more.
    async fn renew(&mut self) -> Result<(), Failure> {
        for id in self.leases.clone() {
            if lease::renew(&self.new, id).await?.ttl <= 0 {
                self.leases.remove(&id);
            }
        }
        Ok(())
    }

    /// Whether there is nothing to replay, and both are the same.
    async fn is_level(&mut self) -> Result<bool, Failure> {
        if revision(&self.old).await? != self.revision {
            return Ok(false);
        }
        self.make_leases_equal().await?;
        let request = pb::HashKvRequest { revision: self.revision };
        let old = ask!(self.old, Reading, maintenance.hash_kv(request))?;
        let mut new = ask!(self.new, Reading, maintenance.hash_kv(request))?;
        if old.compact_revision > new.compact_revision {
            let revision = old.compact_revision;
            let compaction = pb::CompactionRequest { revision, physical: true };
            ask!(self.new, Never, kv.compact(compaction))?;
            new = ask!(self.new, Reading, maintenance.hash_kv(request))?;
        }
        match (old.hash, old.compact_revision) == (new.hash, new.compact_revision) {
            true => Ok(true),
            false => {
                let (from, to) = (old.hash, new.hash);
                let message = format!("at revision {} HashKV is {from} and {to}", self.revision);
                Err(Failure::error(message)
                    .with_hint("the new cluster is no copy: begin anew, with new data directories"))
            }
        }
    }

    /// Leases without keys leave no trace in the revisions.
    async fn make_leases_equal(&mut self) -> Result<(), Failure> {
        let listed = ask!(self.old, Reading, lease.lease_leases(pb::LeaseLeasesRequest {}))?;
        let old: BTreeSet<i64> = listed.leases.iter().map(|lease| lease.id).collect();
        for id in old.difference(&self.leases.clone()) {
            self.grant(*id).await?;
        }
        for id in self.leases.clone().difference(&old) {
            let request = pb::LeaseTimeToLiveRequest { id: *id, keys: true };
            let left = ask!(self.new, Reading, lease.lease_time_to_live(request))?;
            // Its keys go with the next revision, which has not come by yet.
            if left.keys.is_empty() {
                ask!(self.new, Never, lease.lease_revoke(pb::LeaseRevokeRequest { id: *id })).ok();
                self.leases.remove(id);
            }
        }
        Ok(())
    }
}

/// A cluster's revision, as a majority confirms it.
async fn revision(client: &Client) -> Result<i64, Failure> {
    let request =
        pb::RangeRequest { key: Bytes::from_static(b"\0"), count_only: true, ..Default::default() };
    let answer = ask!(client, Reading, kv.range(request))?;
    Ok(answer.header.map_or(0, |header| header.revision))
}
