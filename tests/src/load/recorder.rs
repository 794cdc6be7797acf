//! Clients that read and write a few keys and record a history for `check`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::{CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op::Response;
use proto::mvccpb::KeyValue;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tonic::Status;

use super::{AFTER_ERROR, Control};
use crate::check::{
    Action, Condition, Effect, History, Operation, Outcome, Row, Rows, Timeline, Write,
};
use crate::client::{Client, prefix, within};

const PREFIX: &str = "history/";
const KEYS: [&str; 6] =
    ["history/a", "history/b", "history/c", "history/d", "history/e", "history/f"];
/// Short, so that clients find another member soon after theirs was paused.
const REQUEST_WITHIN: Duration = Duration::from_millis(700);
/// The longest pause between two requests of a client: the whole history is read back afterwards,
/// revision by revision.
const THINK_MAX: Duration = Duration::from_millis(15);
/// How many revisions are read back at once.
const READ_BACK_AT_ONCE: usize = 16;

/// Running clients.
#[derive(Debug)]
pub struct Recorder {
    control: Control,
    clients: JoinSet<Vec<Operation>>,
    /// The store's revision when the clients began.
    first: i64,
}

impl Recorder {
    /// Starts `count` clients over the members at `addresses`, whose keys below `history/` must be empty.
    pub async fn start(addresses: &[String], count: usize, seed: u64) -> Result<Self> {
        let any = Client::new(addresses.first().context("no member")?);
        let first = any.get("any").await.context("read the first revision")?;
        let first = first.header.unwrap_or_default().revision;
        let control = Control::default();
        let epoch = Instant::now();
        let mut clients = JoinSet::new();
        for number in 0..count {
            let members: Vec<Client> = addresses.iter().map(|at| Client::new(at)).collect();
            let client = Session {
                number,
                random: StdRng::seed_from_u64(seed.wrapping_add(number as u64)),
                members: members.into(),
                member: number,
                epoch,
                seen: None,
                writes: 0,
            };
            clients.spawn(client.run(control.clone()));
        }
        Ok(Self { control, clients, first })
    }

    /// Waits until this many more requests have been answered.
    pub async fn wait_progress(&self, more: u64) -> Result<()> {
        self.control.wait_progress(more).await
    }

    /// Stops the clients and reads back what a member knows of every revision.
    pub async fn finish(mut self, client: &Client) -> Result<History> {
        self.control.stop.store(true, Ordering::Relaxed);
        let mut operations = Vec::new();
        while let Some(part) = self.clients.join_next().await {
            operations.extend(part.context("a client")?);
        }
        Ok(History { operations, timeline: timeline(client, self.first).await? })
    }
}

/// The keys below `history/` after every revision from `first` to the latest.
pub async fn timeline(client: &Client, first: i64) -> Result<Timeline> {
    let latest = client.get("any").await.context("read the last revision")?;
    let latest = latest.header.unwrap_or_default().revision;
    let mut states = Vec::new();
    let revisions: Vec<i64> = (first..=latest).collect();
    for part in revisions.chunks(READ_BACK_AT_ONCE) {
        let mut reads = JoinSet::new();
        for &revision in part {
            let client = client.clone();
            let range = pb::RangeRequest { revision, ..prefix(PREFIX) };
            reads.spawn(async move { client.range(range).await.map(|answer| (revision, answer)) });
        }
        let mut answers = reads.join_all().await.into_iter().collect::<Result<Vec<_>, Status>>()?;
        answers.sort_by_key(|&(revision, _)| revision);
        states.extend(answers.into_iter().map(|(_, answer)| rows(&answer.kvs)));
    }
    Ok(Timeline { first, states })
}

fn rows(kvs: &[KeyValue]) -> Rows {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    kvs.iter()
        .map(|kv| {
            let row = Row {
                value: text(&kv.value),
                create_revision: kv.create_revision,
                mod_revision: kv.mod_revision,
                version: kv.version,
            };
            (text(&kv.key), row)
        })
        .collect()
}

/// One client.
struct Session {
    number: usize,
    random: StdRng,
    members: Arc<[Client]>,
    /// Which member it talks to.
    member: usize,
    epoch: Instant,
    /// A key as the client last saw it, for a condition that has a chance.
    seen: Option<(String, Option<Row>)>,
    writes: u64,
}

impl Session {
    async fn run(mut self, control: Control) -> Vec<Operation> {
        let mut operations = Vec::new();
        while control.goes_on() {
            let action = self.action();
            let invoked_ns = self.now();
            let answer = within(REQUEST_WITHIN, self.perform(&action)).await;
            let returned_ns = self.now();
            let is_read = matches!(action, Action::Read { .. });
            let outcome = match answer {
                Ok(outcome) => outcome,
                Err(_) => {
                    self.member += 1;
                    tokio::time::sleep(AFTER_ERROR).await;
                    // A read without an answer says nothing.
                    if is_read {
                        continue;
                    }
                    Outcome::Unknown
                }
            };
            if outcome != Outcome::Unknown {
                control.count();
            }
            self.remember(&action, &outcome);
            let client = self.number;
            operations.push(Operation { client, invoked_ns, returned_ns, action, outcome });
            let think = self.random.random_range(Duration::ZERO..THINK_MAX);
            tokio::time::sleep(think).await;
        }
        operations
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn action(&mut self) -> Action {
        let key = (*KEYS.choose(&mut self.random).expect("keys")).to_owned();
        match self.random.random_range(0..100) {
            0..25 => Action::Read { key: Some(key), serializable: false },
            25..35 => Action::Read { key: None, serializable: false },
            35..45 => Action::Read { key: Some(key), serializable: true },
            45..65 => self.write(None, vec![Effect::Put { key }]),
            65..75 => {
                let marker = format!("{PREFIX}marker/{}", self.number);
                self.write(None, vec![Effect::Delete { key }, Effect::Put { key: marker }])
            }
            _ => {
                let (key, row) = self.seen.clone().unwrap_or((key, None));
                let condition = Condition { key: key.clone(), value: row.map(|row| row.value) };
                self.write(Some(condition), vec![Effect::Put { key }])
            }
        }
    }

    fn write(&mut self, condition: Option<Condition>, effects: Vec<Effect>) -> Action {
        self.writes += 1;
        let value = format!("{}-{}", self.number, self.writes);
        Action::Write(Write { value, condition, effects })
    }

    fn remember(&mut self, action: &Action, outcome: &Outcome) {
        let Outcome::Saw { rows, .. } = outcome else { return };
        let key = match action {
            Action::Read { key: Some(key), serializable: false } => key,
            Action::Write(Write { condition: Some(condition), .. }) => &condition.key,
            _ => return,
        };
        self.seen = Some((key.clone(), rows.get(key).cloned()));
    }

    async fn perform(&self, action: &Action) -> Result<Outcome, Status> {
        let client = &self.members[self.member % self.members.len()];
        match action {
            Action::Read { key, serializable } => {
                let mut range = match key {
                    None => prefix(PREFIX),
                    Some(key) => pb::RangeRequest { key: key.clone().into(), ..Default::default() },
                };
                range.serializable = *serializable;
                let answer = client.range(range).await?;
                let revision = answer.header.unwrap_or_default().revision;
                Ok(Outcome::Saw { revision, rows: rows(&answer.kvs) })
            }
            Action::Write(write) => {
                let answer = client.txn(self.txn(write)).await?;
                let revision = answer.header.unwrap_or_default().revision;
                if answer.succeeded {
                    return Ok(Outcome::Wrote { revision });
                }
                let first = answer.responses.into_iter().next().and_then(|op| op.response);
                match first {
                    Some(Response::ResponseRange(seen)) => {
                        Ok(Outcome::Saw { revision, rows: rows(&seen.kvs) })
                    }
                    other => Err(Status::internal(format!("the else branch answered {other:?}"))),
                }
            }
        }
    }

    /// The write as etcd's transaction. What was seen is compared by mod revision, what was never seen
    /// by value.
    fn txn(&self, write: &Write) -> pb::TxnRequest {
        let mut txn = pb::TxnRequest::default();
        if let Some(condition) = &write.condition {
            let key = condition.key.clone();
            let seen = self.seen.as_ref().filter(|(seen, _)| *seen == key);
            let mod_revision =
                seen.and_then(|(_, row)| row.as_ref()).map_or(0, |row| row.mod_revision);
            txn.compare.push(pb::Compare {
                key: key.clone().into(),
                target: CompareTarget::Mod.into(),
                target_union: Some(TargetUnion::ModRevision(mod_revision)),
                ..Default::default()
            });
            let range = pb::RangeRequest { key: key.into(), ..Default::default() };
            txn.failure.push(pb::RequestOp { request: Some(Request::RequestRange(range)) });
        }
        for effect in &write.effects {
            let request = match effect {
                Effect::Delete { key } => Request::RequestDeleteRange(pb::DeleteRangeRequest {
                    key: key.clone().into(),
                    ..Default::default()
                }),
                Effect::Put { key } => Request::RequestPut(pb::PutRequest {
                    key: key.clone().into(),
                    value: write.value.clone().into(),
                    ..Default::default()
                }),
            };
            txn.success.push(pb::RequestOp { request: Some(request) });
        }
        txn
    }
}
