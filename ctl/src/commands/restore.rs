//! `snapshot restore`: makes an Instar data directory from a database file of etcd's.
//!
//! The server's own code makes the directory, linked into this program: an operator who restores has one file to bring
//! along, and the linker leaves out what restoring does not reach (the Wasm runtime above all).
//! Nothing of the file is believed: `bolt` checks its pages, the machine's library its rows.

use std::error::Error;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

use bolt::Database;
use guest_kv::tables::{DESCRIPTIONS, KEY, META, Table, TableDescription, TableKind};
use host::config::{Config, InitialCluster, Invocation as ServerInvocation};
use host::server::{NewMember, restore};
use host::storage::Restoration;
use sha2::{Digest, Sha256};

use super::snapshot::{CHECKSUM_BYTES, SECTOR_BYTES};
use crate::command_line::Invocation;
use crate::failure::Failure;
use crate::go;
use crate::logging;

type Boxed = Box<dyn Error + Send + Sync>;

/// What is read of a file at once to sum it up.
const READ_BYTES: usize = 1 << 20;

pub async fn run(invocation: Invocation) -> Result<(), Failure> {
    let [path] = invocation.arguments.as_slice() else {
        return Err(Failure::arguments("snapshot restore requires exactly one argument"));
    };
    let bump = invocation.unsigned("bump-revision");
    if invocation.flag("mark-compacted") != (bump > 0) {
        return Err(Failure::arguments("--mark-compacted required if --revision-bump > 0"));
    }
    let name = invocation.text("name");
    let urls = invocation.text("initial-advertise-peer-urls");
    let config = described(&invocation, &name, &urls)?;
    let data_dir = data_directory(&invocation)?;
    make(Path::new(path), &config, &data_dir, bump, invocation.flag("skip-hash-check"))
}

/// Makes a member's data directory.
pub fn make(
    path: &Path,
    config: &Config,
    data_dir: &Path,
    bump: u64,
    skip_hash_check: bool,
) -> Result<(), Failure> {
    let path = path.display().to_string();
    let text = data_dir.display().to_string();
    let fields = [("path", path.as_str()), ("data-dir", text.as_str())];
    logging::log("info", "restoring snapshot", &fields);
    let failed = |error: Boxed| Failure::error(error.to_string());
    let mut file =
        File::open(&path).map_err(|error| Failure::error(go::path_error("open", &path, &error)))?;
    check_sum(&mut file, skip_hash_check)?;
    let database = Database::open(file).map_err(|error| failed(error.into()))?;
    refuse_authentication(&database).map_err(failed)?;
    let member =
        NewMember { data_dir, cluster: &config.initial_cluster, member_id: config.member_id };
    restore(member, &mut |restoration| copy(&database, restoration, bump))
        .map_err(|error| failed(error.into()))?;
    logging::log("info", "restored snapshot", &fields);
    Ok(())
}

/// All members that the flags describe.
pub fn members(invocation: &Invocation) -> Result<Vec<Config>, Failure> {
    let pairs = invocation.text("initial-cluster");
    let cluster = InitialCluster::parse(&pairs, &invocation.text("initial-cluster-token"))
        .map_err(|error| Failure::error(error.to_string()))?;
    let described = cluster.members.iter().map(|member| {
        let urls: Vec<String> = member.peer_urls.iter().map(ToString::to_string).collect();
        Ok(*described(invocation, &member.name, &urls.join(","))?)
    });
    described.collect()
}

/// The member as the server would read it from the same flags.
fn described(invocation: &Invocation, name: &str, urls: &str) -> Result<Box<Config>, Failure> {
    let (cluster, token) =
        (invocation.text("initial-cluster"), invocation.text("initial-cluster-token"));
    let flags = [
        format!("--name={name}"),
        format!("--initial-cluster={cluster}"),
        format!("--initial-cluster-token={token}"),
        format!("--initial-advertise-peer-urls={urls}"),
    ];
    match Config::from_args_and_environment(flags.into_iter().map(Into::into), std::iter::empty()) {
        Ok(ServerInvocation::Serve(config)) => Ok(config),
        Ok(ServerInvocation::Print(_)) => Err(Failure::error("no member is described")),
        Err(error) => Err(Failure::error(error.to_string())),
    }
}

fn data_directory(invocation: &Invocation) -> Result<PathBuf, Failure> {
    let data_dir = match invocation.text("data-dir") {
        given if given.is_empty() => PathBuf::from(format!("{}.etcd", invocation.text("name"))),
        given => PathBuf::from(given),
    };
    let is_empty = fs::read_dir(&data_dir).is_ok_and(|mut entries| entries.next().is_none());
    if data_dir.exists() && !is_empty {
        let message = format!("data-dir {data_dir:?} not empty or could not be read");
        return Err(Failure::error(message).with_hint("choose another --data-dir"));
    }
    let wal_dir = invocation.text("wal-dir");
    if wal_dir.is_empty() {
        return Ok(data_dir);
    }
    if Path::new(&wal_dir).exists() {
        return Err(Failure::error(format!("wal-dir {wal_dir:?} exists")));
    }
    logging::log("warn", "the log stands in the data directory", &[("wal-dir", &wal_dir)]);
    Ok(data_dir)
}

/// Compares the SHA-256 behind the pages with what they are.
fn check_sum(file: &mut File, skip: bool) -> Result<(), Failure> {
    let bytes = file.metadata()?.len();
    let has_sum = bytes % SECTOR_BYTES == CHECKSUM_BYTES as u64;
    if skip {
        return Ok(());
    }
    if !has_sum {
        let message = "snapshot missing hash but --skip-hash-check=false";
        let hint = "a file from a data directory has none: give --skip-hash-check";
        return Err(Failure::error(message).with_hint(hint));
    }
    let mut digest = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut left = bytes - CHECKSUM_BYTES as u64;
    while left > 0 {
        let most = left.min(READ_BYTES as u64) as usize;
        let read = file.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(Failure::error("unexpected EOF"));
        }
        digest.update(&buffer[..read]);
        left -= read as u64;
    }
    let mut expected = [0; CHECKSUM_BYTES];
    file.read_exact(&mut expected)?;
    file.rewind()?;
    let found = digest.finalize();
    match found.as_slice() == expected {
        true => Ok(()),
        false => {
            let numbers =
                |bytes: &[u8]| bytes.iter().map(u8::to_string).collect::<Vec<String>>().join(" ");
            let (expected, found) = (numbers(&expected), numbers(&found));
            Err(Failure::error(format!("expected sha256 [{expected}], got [{found}]")))
        }
    }
}

/// The machine's table with the rows of a bucket.
fn table_of(bucket: &[u8]) -> Option<Table> {
    let is_it = |description: &&TableDescription| {
        description.kind == TableKind::Durable && description.name.as_bytes() == bucket
    };
    DESCRIPTIONS.iter().find(is_it).map(|description| description.table)
}

/// A store whose passwords would be gone must not open to everybody.
fn refuse_authentication(database: &Database<File>) -> Result<(), Boxed> {
    if table_of(b"auth").is_some() {
        return Ok(());
    }
    let Some(mut rows) = database.rows(b"auth")? else { return Ok(()) };
    while let Some((key, value)) = rows.next()? {
        if key == b"authEnabled" && value == [1] {
            return Err(
                "the snapshot has authentication enabled, which Instar does not serve yet; \
                        disable it in the old cluster, and save another snapshot"
                    .into(),
            );
        }
    }
    Ok(())
}

/// Hands over the rows of every bucket that the machine has a table for. Says the store's revision.
fn copy(database: &Database<File>, restoration: &mut Restoration, bump: u64) -> Result<u64, Boxed> {
    let mut latest = 0;
    let buckets = ["key", "meta", "lease", "alarm", "auth", "authUsers", "authRoles"];
    for bucket in buckets {
        let Some(table) = table_of(bucket.as_bytes()) else { continue };
        let Some(mut rows) = database.rows(bucket.as_bytes())? else { continue };
        while let Some((key, value)) = rows.next()? {
            let checked = guest_kv::check_row(table, key, value);
            let revision = checked
                .map_err(|why| format!("a row of bucket {bucket:?} cannot be restored: {why}"))?;
            let is_replaced = bump > 0 && table == META && key == SCHEDULED_COMPACTION;
            if let Some(revision) = revision.filter(|_| !is_replaced) {
                latest = latest.max(revision);
                restoration.put(table, key, value)?;
            }
        }
        if table == KEY && bump > 0 {
            latest = bumped(latest, bump)?;
            // As etcd does it: a row without a key, which no range comes by.
            restoration.put(KEY, &revision_key(latest), b"")?;
        }
    }
    if bump > 0 {
        restoration.put(META, SCHEDULED_COMPACTION, &revision_key(latest))?;
    }
    // A store that was never written to is at 1.
    Ok(latest.max(1).unsigned_abs())
}

const SCHEDULED_COMPACTION: &[u8] = b"scheduledCompactRev";

fn bumped(latest: i64, bump: u64) -> Result<i64, Boxed> {
    let sum = i64::try_from(bump).ok().and_then(|bump| latest.checked_add(bump));
    let sum = sum.filter(|sum| guest_kv::check_row(KEY, &revision_key(*sum), b"").is_ok());
    Ok(sum.ok_or("--bump-revision is too high")?)
}

fn revision_key(main: i64) -> Vec<u8> {
    [&main.to_be_bytes()[..], b"_", &[0; 8]].concat()
}
