//! Puts of keys that are each written once, and what became of every one of them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::mvccpb::KeyValue;
use tokio::task::JoinSet;

use super::{AFTER_ERROR, Control};
use crate::client::{Client, prefix, within};

/// A request that has no answer after this is of unknown outcome.
const REQUEST_WITHIN: Duration = Duration::from_secs(2);
const PREFIX: &str = "ledger/";

/// Running writers.
#[derive(Debug)]
pub struct Ledger {
    control: Control,
    writers: JoinSet<Account>,
}

/// What one writer, or all of them, were told: each key's revision, or `None` where nobody said.
type Account = BTreeMap<String, Option<i64>>;

/// How a check went.
#[derive(Clone, Copy, Debug)]
pub struct Tally {
    pub acknowledged: usize,
    pub unknown: usize,
    /// Of the unknown ones, those that happened.
    pub happened: usize,
}

impl Ledger {
    /// Starts `writers` clients that spread over the members at `addresses`. The name keeps the keys of
    /// several ledgers apart.
    pub fn start(name: &str, addresses: &[String], writers: usize) -> Self {
        let control = Control::default();
        let mut tasks = JoinSet::new();
        for writer in 0..writers {
            let clients: Vec<Client> = addresses.iter().map(|at| Client::new(at)).collect();
            let keys = format!("{PREFIX}{name}/{writer}");
            tasks.spawn(write(control.clone(), clients, keys, writer));
        }
        Self { control, writers: tasks }
    }

    /// Waits until this many more puts have been acknowledged.
    pub async fn wait_progress(&self, more: u64) -> Result<()> {
        self.control.wait_progress(more).await
    }

    /// Stops the writers and compares what they were told with what a member holds: every acknowledged
    /// put is there at its revision, nothing was written twice, nothing is there that nobody wrote.
    pub async fn settle(mut self, client: &Client) -> Result<Tally> {
        self.control.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let mut account = Account::new();
        while let Some(part) = self.writers.join_next().await {
            account.extend(part.context("a writer")?);
        }
        let rows = client.range(prefix(PREFIX)).await.context("read the ledger")?.kvs;
        audit(&account, &rows)
    }
}

async fn write(control: Control, clients: Vec<Client>, keys: String, mut at: usize) -> Account {
    let mut account = Account::new();
    while control.goes_on() {
        let key = format!("{keys}/{:06}", account.len());
        let answer = clients[at % clients.len()].put(&key, &key);
        match within(REQUEST_WITHIN, answer).await {
            Ok(answer) => {
                account.insert(key, Some(answer.header.unwrap_or_default().revision));
                control.count();
            }
            Err(_) => {
                account.insert(key, None);
                at += 1;
                tokio::time::sleep(AFTER_ERROR).await;
            }
        }
    }
    account
}

fn audit(account: &Account, rows: &[KeyValue]) -> Result<Tally> {
    let mut left = account.clone();
    let mut happened = 0;
    for row in rows {
        let key = String::from_utf8_lossy(&row.key).into_owned();
        let told = left.remove(&key).with_context(|| format!("nobody of this run wrote {key}"))?;
        ensure!(row.version == 1, "{key} was written {} times", row.version);
        ensure!(row.mod_revision == row.create_revision, "{key} has moved: {row:?}");
        ensure!(row.value == row.key, "{key} has another value");
        match told {
            Some(revision) => ensure!(
                revision == row.mod_revision,
                "{key} was acknowledged at revision {revision} and is at {}",
                row.mod_revision
            ),
            None => happened += 1,
        }
    }
    let lost: Vec<&String> =
        left.iter().filter(|(_, told)| told.is_some()).map(|(key, _)| key).collect();
    ensure!(lost.is_empty(), "{} acknowledged puts are lost, {:?} first", lost.len(), lost[0]);
    let acknowledged = account.values().filter(|told| told.is_some()).count();
    Ok(Tally { acknowledged, unknown: account.len() - acknowledged, happened })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, revision: i64, version: i64) -> KeyValue {
        let key = bytes::Bytes::from(key.to_owned());
        KeyValue {
            value: key.clone(),
            key,
            create_revision: revision,
            mod_revision: revision,
            version,
            lease: 0,
        }
    }

    #[test]
    fn an_audit_finds_what_is_lost_repeated_or_foreign() {
        let account: Account = [("a".to_owned(), Some(2)), ("b".to_owned(), None)].into();
        let tally = audit(&account, &[row("a", 2, 1), row("b", 3, 1)]).unwrap();
        assert_eq!((tally.acknowledged, tally.unknown, tally.happened), (1, 1, 1));
        assert_eq!(audit(&account, &[row("a", 2, 1)]).unwrap().happened, 0);

        let wrong = |rows: &[KeyValue]| audit(&account, rows).unwrap_err().to_string();
        assert!(wrong(&[row("b", 3, 1)]).contains("lost"));
        assert!(wrong(&[row("a", 2, 2)]).contains("2 times"));
        assert!(wrong(&[row("a", 4, 1)]).contains("acknowledged at revision 2"));
        assert!(wrong(&[row("a", 2, 1), row("c", 3, 1)]).contains("nobody"));
    }
}
