//! `make-mirror`: copies what is there, then what changes, revision by revision.

use std::time::Duration;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;
use proto::mvccpb::event::EventType;

use super::get::{exclusive, range};
use super::watching::Watching;
use super::{ask, connect_to_stay};
use crate::client::Client;
use crate::command_line::Invocation;
use crate::failure::Failure;
use crate::output::line;
use crate::settings::{Settings, Tls, password_of};

/// How many keys are read at once.
const BATCH_KEYS: i64 = 1000;
/// How often it tells how much it has copied.
const TELL_EVERY: Duration = Duration::from_secs(30);

pub async fn run(mut invocation: Invocation) -> Result<(), Failure> {
    let [destination] = invocation
        .arguments
        .clone()
        .try_into()
        .map_err(|_| Failure::arguments("make-mirror takes one destination argument"))?;
    let (source, _) = connect_to_stay(&mut invocation).await?;
    let settings = destination_settings(&mut invocation, &destination)?;
    let target = Client::connect(&settings, None).await?;
    let given = invocation.text("dest-prefix");
    let no_prefix = invocation.flag("no-dest-prefix");
    exclusive(no_prefix && !given.is_empty(), "--dest-prefix", "--no-dest-prefix")?;
    let prefix = invocation.text("prefix");
    let replacement = match given {
        given if no_prefix || !given.is_empty() => given,
        _ => prefix.clone(),
    };
    let mirror = Mirror {
        target,
        prefix,
        replacement,
        operations_max: usize::try_from(invocation.unsigned("max-txn-ops")).unwrap_or(1).max(1),
        total: std::cell::Cell::new(0),
    };
    let copying = mirror.copy(&source, invocation.integer("rev"));
    tokio::pin!(copying);
    loop {
        tokio::select! {
            copied = &mut copying => return copied,
            () = tokio::time::sleep(TELL_EVERY) => line(mirror.total.get().to_string())?,
        }
    }
}

fn destination_settings(
    invocation: &mut Invocation,
    destination: &str,
) -> Result<Settings, Failure> {
    let text = |name: &str| invocation.text(name);
    let tls = Tls {
        cert: text("dest-cert"),
        key: text("dest-key"),
        cacert: text("dest-cacert"),
        skip_verify: false,
    };
    let secure = !tls.cert.is_empty()
        || !tls.cacert.is_empty()
        || !invocation.flag("dest-insecure-transport");
    let (user, password) = (text("dest-user"), text("dest-password"));
    let mut settings = Settings::read(invocation)?.at(destination);
    settings.tls = secure.then_some(tls);
    settings.credentials = password_of(&user, &password, "Destination Password: ")?;
    Ok(settings)
}

struct Mirror {
    target: Client,
    prefix: String,
    replacement: String,
    operations_max: usize,
    /// How many keys were written or deleted.
    total: std::cell::Cell<u64>,
}

impl Mirror {
    async fn copy(&self, source: &Client, revision: i64) -> Result<(), Failure> {
        // From a given revision on, only changes are copied.
        let start = match revision {
            ..=1 => self.copy_base(source).await? + 1,
            revision => revision,
        };
        self.copy_changes(source, start).await
    }

    /// Copies what is there; returns the revision at which it was.
    async fn copy_base(&self, source: &Client) -> Result<i64, Failure> {
        let (mut key, range_end) = range(&self.prefix, Bytes::new(), true, false);
        let mut revision = 0;
        loop {
            let request = pb::RangeRequest {
                key,
                range_end: range_end.clone(),
                limit: BATCH_KEYS,
                revision,
                ..Default::default()
            };
            let response = ask!(source, Reading, kv.range(request))?;
            if revision == 0 {
                revision = response.header.map_or(0, |header| header.revision);
            }
            for pair in &response.kvs {
                let (key, value) = (self.renamed(&pair.key), pair.value.clone());
                let request = pb::PutRequest { key, value, ..Default::default() };
                ask!(self.target, Never, kv.put(request))?;
                self.total.set(self.total.get() + 1);
            }
            match response.kvs.last() {
                Some(last) if response.more => key = [&last.key[..], b"\0"].concat().into(),
                _ => return Ok(revision),
            }
        }
    }

    /// A transaction for each revision, or several for a large one.
    async fn copy_changes(&self, source: &Client, start_revision: i64) -> Result<(), Failure> {
        let (key, range_end) = range(&self.prefix, Bytes::new(), true, false);
        let request =
            pb::WatchCreateRequest { key, range_end, start_revision, ..Default::default() };
        let mut watching = Watching::begin(source, request).await?;
        while let Some(response) = watching.next(source).await? {
            if response.compact_revision != 0 {
                let message = "etcdserver: mvcc: required revision has been compacted";
                return Err(Failure::error(message));
            }
            let (mut last, mut operations) = (0, Vec::new());
            for event in response.events {
                let pair = event.kv.unwrap_or_default();
                let is_next = last != 0 && pair.mod_revision > last;
                if is_next || operations.len() == self.operations_max {
                    self.commit(std::mem::take(&mut operations)).await?;
                }
                last = pair.mod_revision;
                let key = self.renamed(&pair.key);
                let request = match event.r#type == EventType::Delete as i32 {
                    true => Request::RequestDeleteRange(pb::DeleteRangeRequest {
                        key,
                        ..Default::default()
                    }),
                    false => Request::RequestPut(pb::PutRequest {
                        key,
                        value: pair.value,
                        ..Default::default()
                    }),
                };
                operations.push(pb::RequestOp { request: Some(request) });
            }
            self.commit(operations).await?;
        }
        Ok(())
    }

    async fn commit(&self, operations: Vec<pb::RequestOp>) -> Result<(), Failure> {
        if operations.is_empty() {
            return Ok(());
        }
        self.total.set(self.total.get() + operations.len() as u64);
        let request = pb::TxnRequest { success: operations, ..Default::default() };
        ask!(self.target, Never, kv.txn(request))?;
        Ok(())
    }

    /// The key at the destination.
    fn renamed(&self, key: &Bytes) -> Bytes {
        match key.strip_prefix(self.prefix.as_bytes()) {
            Some(rest) => [self.replacement.as_bytes(), rest].concat().into(),
            None => key.clone(),
        }
    }
}
