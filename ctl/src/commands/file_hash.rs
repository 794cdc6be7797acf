//! `hashkv`: the hash of a file's key-value history, as a server would tell it. Instead of a file it may be the data
//! directory of a member that does not run: then of what its state on disk has.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;

use bolt::Database;
use crc::{CRC_32_ISCSI, Crc};
use host::server::OfflineState;
use host::storage::Tables;
use prost::Message;
use proto::mvccpb::KeyValue;

use super::data_directory;
use crate::backup::Revision;
use crate::command_line::Invocation;
use crate::failure::Failure;
use crate::go;
use crate::output::{Answer, FileHash, Format, Output};

const BUCKET: &str = "key";
const NO_REVISION: &str = "a key of bucket \"key\" is no revision";

pub async fn run(invocation: Invocation) -> Result<(), Failure> {
    let [path] = invocation.arguments.as_slice() else {
        let given = invocation.arguments.len();
        return Err(Failure::error(format!("accepts 1 arg(s), received {given}")));
    };
    let format = Format::parse(&invocation.text("write-out"))?;
    let revision = invocation.integer("rev");
    let failed = |error: Box<dyn Error>| Failure::error(error.to_string());
    let hash = if Path::new(path).is_dir() {
        let state = data_directory::open(Path::new(path)).map_err(|error| failed(error.into()))?;
        hash(&state, revision).map_err(failed)?
    } else {
        let opened = File::open(path);
        let file = opened.map_err(|error| Failure::error(go::path_error("stat", path, &error)))?;
        let database = Database::open(file).map_err(|error| failed(error.into()))?;
        hash(&database, revision).map_err(failed)?
    };
    Output::new(format, false).print(&Answer::FileHash(hash))
}

type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<(), Box<dyn Error>>;

/// etcd's buckets, wherever they are kept.
trait Buckets {
    /// Shows the rows of a bucket in the order of their keys; none if there is no such bucket.
    fn visit(&self, bucket: &str, visit: Visit<'_>) -> Result<(), Box<dyn Error>>;
}

impl Buckets for Database<File> {
    fn visit(&self, bucket: &str, visit: Visit<'_>) -> Result<(), Box<dyn Error>> {
        let Some(mut rows) = self.rows(bucket.as_bytes())? else { return Ok(()) };
        while let Some((key, value)) = rows.next()? {
            visit(key, value)?;
        }
        Ok(())
    }
}

impl Buckets for OfflineState {
    fn visit(&self, bucket: &str, visit: Visit<'_>) -> Result<(), Box<dyn Error>> {
        let view = self.view();
        let Some(table) = view.table_named(bucket) else { return Ok(()) };
        let mut result = Ok(());
        view.scan(table, &[], &[], false, &mut |key, value| {
            result = visit(key, value);
            match result {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        })?;
        result
    }
}

/// Hashes the revisions up to `revision`, but for those that a compaction is due to remove.
fn hash(buckets: &impl Buckets, revision: i64) -> Result<FileHash, Box<dyn Error>> {
    let compact_revision = compacted(buckets)?;
    let (current, keep) = survey(buckets, revision, compact_revision)?;
    if revision > 0 && revision < compact_revision {
        return Err("mvcc: required revision has been compacted".into());
    }
    if revision > current {
        return Err("mvcc: required revision is a future revision".into());
    }
    let revision = if revision > 0 { revision } else { current };
    let crc = Crc::<u32>::new(&CRC_32_ISCSI);
    let mut digest = crc.digest();
    digest.update(BUCKET.as_bytes());
    buckets.visit(BUCKET, &mut |key, value| {
        let at = Revision::decode(key).ok_or(NO_REVISION)?;
        let is_due = at.main <= compact_revision && !keep.is_empty() && !keep.contains(&at);
        let is_last_tombstone = at.main == compact_revision && at.is_tombstone;
        if at.main <= revision && !is_due && !is_last_tombstone {
            digest.update(key);
            digest.update(value);
        }
        Ok(())
    })?;
    Ok(FileHash { hash: digest.finalize(), revision, compact_revision })
}

/// The revision that was compacted last, or is about to be; -1 for none.
fn compacted(buckets: &impl Buckets) -> Result<i64, Box<dyn Error>> {
    let mut greatest = -1;
    buckets.visit("meta", &mut |key, value| {
        if matches!(key, b"finishedCompactRev" | b"scheduledCompactRev") {
            let at = Revision::decode(value).ok_or("a compaction has no revision")?;
            greatest = greatest.max(at.main);
        }
        Ok(())
    })?;
    Ok(greatest)
}

/// The current revision, and the rows that a compaction at `revision` (0: the current one) would keep:
/// each key's last, unless that is its deletion.
fn survey(
    buckets: &impl Buckets,
    revision: i64,
    compact_revision: i64,
) -> Result<(i64, HashSet<Revision>), Box<dyn Error>> {
    let mut current = compact_revision.max(1);
    let mut last: HashMap<bytes::Bytes, Revision> = HashMap::new();
    buckets.visit(BUCKET, &mut |key, value| {
        let at = Revision::decode(key).ok_or(NO_REVISION)?;
        current = current.max(at.main);
        if revision <= 0 || at.main <= revision {
            last.insert(KeyValue::decode(value)?.key, at);
        }
        Ok(())
    })?;
    Ok((current, last.into_values().filter(|at| !at.is_tombstone).collect()))
}
