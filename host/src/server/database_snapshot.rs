//! A backup: the state as a database file of etcd's, so that etcd's own tools check and restore it, and nobody is locked
//! in.
//!
//! The tables that have the name of one of etcd's buckets are that bucket, row by row; what etcd's server itself adds
//! (raft's position, the members, the versions) is added here. The file is written in one pass from a view, with bounded
//! memory, on a thread that may block; it has no name any more when the first byte is sent.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Seek};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use thiserror::Error;

use crate::api::SnapshotFile;
use crate::config::ETCD_CLUSTER_VERSION;
use crate::raft::{self, MemberRecord};
use crate::storage::{StorageError, TableId, Tables, View};

/// etcd's buckets, in the order in which they are written.
const BUCKETS: [&str; 10] = [
    "key",
    "meta",
    "lease",
    "alarm",
    "cluster",
    "members",
    "members_removed",
    "auth",
    "authUsers",
    "authRoles",
];
/// A row of our own in the `meta` table: where an unfinished compaction goes on. etcd begins one anew.
const COMPACTION_CURSOR: &[u8] = b"compactionCursor";

/// Files are named by a number that no other one of this process has.
static NEXT_FILE: AtomicU64 = AtomicU64::new(0);

/// Why there is no backup.
#[derive(Debug, Error)]
pub enum SnapshotError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("cannot write the snapshot: {0}")]
    File(#[from] std::io::Error),
    #[error("the state cannot be written as a database of etcd's: {0}")]
    Format(#[from] bolt::WriteError),
}

/// Rows of a bucket that are added to those of a table, or replace them.
type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Writes a view to a file in this directory.
pub fn write(view: &View, directory: &Path) -> Result<SnapshotFile, SnapshotError> {
    let number = NEXT_FILE.fetch_add(1, Ordering::Relaxed);
    let path = directory.join(format!("client-{number}.tmp"));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    // It goes with its last user, even if the process dies.
    fs::remove_file(&path)?;
    let added = added_rows(view)?;
    let mut writer = bolt::Writer::seeking(BufWriter::with_capacity(1 << 20, file))?;
    for bucket in BUCKETS {
        writer.bucket(bucket.as_bytes())?;
        let added = added.get(bucket);
        match view.table_named(bucket) {
            Some(table) => write_table(view, table, added, &mut writer)?,
            None => {
                for (key, value) in added.into_iter().flatten() {
                    writer.row(key, value)?;
                }
            }
        }
    }
    let (layout, sink) = writer.finish_seeking()?;
    let mut file = sink.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    file.rewind()?;
    Ok(SnapshotFile { file, size_bytes: layout.bytes() })
}

fn write_table<W: std::io::Write + Seek>(
    view: &View,
    table: TableId,
    added: Option<&Rows>,
    writer: &mut bolt::Writer<W>,
) -> Result<(), SnapshotError> {
    let none = Rows::new();
    let mut added = added.unwrap_or(&none).iter().peekable();
    let mut failure = None;
    view.scan(table, &[], &[], false, &mut |key, value| {
        let mut write = || {
            while let Some((before, value)) = added.next_if(|(before, _)| before.as_slice() < key) {
                writer.row(before, value)?;
            }
            if added.peek().is_some_and(|(same, _)| same.as_slice() == key)
                || key == COMPACTION_CURSOR
            {
                return Ok(());
            }
            writer.row(key, value)
        };
        match write() {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    if let Some(error) = failure {
        return Err(error.into());
    }
    for (key, value) in added {
        writer.row(key, value)?;
    }
    Ok(())
}

/// What etcd's server keeps beside the tables.
fn added_rows(view: &View) -> Result<BTreeMap<&'static str, Rows>, SnapshotError> {
    let applied = view.mark().applied;
    let (index, term) = applied.map_or((0, 0), |applied| (applied.index, applied.term));
    let members = raft::recorded_members(view.mark())?;
    let row = |key: &str, value: &[u8]| (key.as_bytes().to_vec(), value.to_vec());
    let meta = Rows::from([
        row("confState", conf_state(&members).to_string().as_bytes()),
        row("consistent_index", &index.to_be_bytes()),
        row("storageVersion", ETCD_CLUSTER_VERSION.as_bytes()),
        row("term", &term.to_be_bytes()),
    ]);
    let members = members
        .iter()
        .map(|member| row(&format!("{:x}", member.id), attributes(member).to_string().as_bytes()));
    let members = members.collect();
    let cluster = Rows::from([row("clusterVersion", ETCD_CLUSTER_VERSION.as_bytes())]);
    let mut added = BTreeMap::from([("meta", meta), ("members", members), ("cluster", cluster)]);
    // A store that was never under authentication has these rows in etcd, too.
    if view.table_named("auth").is_none_or(|table| view.count(table, &[], &[]) == Ok(0)) {
        let revision = 1u64.to_be_bytes();
        added
            .insert("auth", Rows::from([row("authEnabled", &[0]), row("authRevision", &revision)]));
    }
    Ok(added)
}

/// raftpb.ConfState as Go writes it.
fn conf_state(members: &[MemberRecord]) -> serde_json::Value {
    let ids = |learners: bool| {
        let of_kind = members.iter().filter(|member| member.is_learner == learners);
        of_kind.map(|member| member.id).collect::<Vec<u64>>()
    };
    let mut state = serde_json::json!({ "voters": ids(false), "auto_leave": false });
    if !ids(true).is_empty() {
        state["learners"] = ids(true).into();
    }
    state
}

/// membership.Member as Go writes it.
fn attributes(member: &MemberRecord) -> serde_json::Value {
    let mut value = serde_json::json!({ "id": member.id, "peerURLs": member.peer_urls });
    if !member.name.is_empty() {
        value["name"] = member.name.as_str().into();
    }
    if !member.client_urls.is_empty() {
        value["clientURLs"] = member.client_urls.clone().into();
    }
    if member.is_learner {
        value["isLearner"] = true.into();
    }
    value
}
