//! `hashkv`: the hash of a file's key-value history, as a server would tell it.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fs::File;

use bolt::Database;
use crc::{CRC_32_ISCSI, Crc};
use prost::Message;
use proto::mvccpb::KeyValue;

use super::snapshot::Revision;
use crate::command_line::Invocation;
use crate::failure::Failure;
use crate::go;
use crate::output::{Answer, FileHash, Format, Output};

const BUCKET: &[u8] = b"key";

pub async fn run(invocation: Invocation) -> Result<(), Failure> {
    let [path] = invocation.arguments.as_slice() else {
        let given = invocation.arguments.len();
        return Err(Failure::error(format!("accepts 1 arg(s), received {given}")));
    };
    let format = Format::parse(&invocation.text("write-out"))?;
    let opened = File::open(path);
    let file = opened.map_err(|error| Failure::error(go::path_error("stat", path, &error)))?;
    let hash = hash(file, invocation.integer("rev"));
    let hash = hash.map_err(|error| Failure::error(error.to_string()))?;
    Output::new(format, false).print(&Answer::FileHash(hash))
}

/// Hashes the revisions up to `revision`, but for those that a compaction is due to remove.
fn hash(file: File, revision: i64) -> Result<FileHash, Box<dyn Error>> {
    let database = Database::open(file)?;
    let compact_revision = compacted(&database)?;
    let (current, keep) = survey(&database, revision, compact_revision)?;
    if revision > 0 && revision < compact_revision {
        return Err("mvcc: required revision has been compacted".into());
    }
    if revision > current {
        return Err("mvcc: required revision is a future revision".into());
    }
    let revision = if revision > 0 { revision } else { current };
    let crc = Crc::<u32>::new(&CRC_32_ISCSI);
    let mut digest = crc.digest();
    digest.update(BUCKET);
    if let Some(mut rows) = database.rows(BUCKET)? {
        while let Some((key, value)) = rows.next()? {
            let at = Revision::decode(key).ok_or("a key of bucket \"key\" is no revision")?;
            let is_due = at.main <= compact_revision && !keep.is_empty() && !keep.contains(&at);
            let is_last_tombstone = at.main == compact_revision && at.is_tombstone;
            if at.main <= revision && !is_due && !is_last_tombstone {
                digest.update(key);
                digest.update(value);
            }
        }
    }
    Ok(FileHash { hash: digest.finalize(), revision, compact_revision })
}

/// The revision that was compacted last, or is about to be; -1 for none.
fn compacted(database: &Database<File>) -> Result<i64, Box<dyn Error>> {
    let mut greatest = -1;
    if let Some(mut rows) = database.rows(b"meta")? {
        while let Some((key, value)) = rows.next()? {
            if matches!(key, b"finishedCompactRev" | b"scheduledCompactRev") {
                let at = Revision::decode(value).ok_or("a compaction has no revision")?;
                greatest = greatest.max(at.main);
            }
        }
    }
    Ok(greatest)
}

/// The current revision, and the rows that a compaction at `revision` (0: the current one) would keep:
/// each key's last, unless that is its deletion.
fn survey(
    database: &Database<File>,
    revision: i64,
    compact_revision: i64,
) -> Result<(i64, HashSet<Revision>), Box<dyn Error>> {
    let mut current = compact_revision.max(1);
    let mut last: HashMap<bytes::Bytes, Revision> = HashMap::new();
    if let Some(mut rows) = database.rows(BUCKET)? {
        while let Some((key, value)) = rows.next()? {
            let at = Revision::decode(key).ok_or("a key of bucket \"key\" is no revision")?;
            current = current.max(at.main);
            if revision <= 0 || at.main <= revision {
                last.insert(KeyValue::decode(value)?.key, at);
            }
        }
    }
    Ok((current, last.into_values().filter(|at| !at.is_tombstone).collect()))
}
