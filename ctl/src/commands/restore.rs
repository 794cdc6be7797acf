//! `snapshot restore`: makes an Instar data directory from a database file of etcd's.
//!
//! The server's own code makes the directory, linked into this program: an operator who restores has one file to bring
//! along, and the linker leaves out what restoring does not reach (the Wasm runtime above all).
//! Nothing of the file is believed: see `backup`.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

use bolt::Database;
use host::config::{Config, InitialCluster, Invocation as ServerInvocation};
use host::server::{NewMember, restore};
use sha2::{Digest, Sha256};

use super::snapshot::{CHECKSUM_BYTES, SECTOR_BYTES};
use crate::backup::{Authentication, Backup, BackupError};
use crate::command_line::Invocation;
use crate::failure::Failure;
use crate::go;
use crate::logging;

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
    let kept = Kept {
        bump,
        without_hash: invocation.flag("skip-hash-check"),
        without_authentication: invocation.flag("drop-auth"),
    };
    make(Path::new(path), &config, &data_dir, kept)
}

/// What of the file is to be looked at and kept.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// What the latest revision is raised by.
    pub bump: u64,
    /// The file need not end with its hash.
    pub without_hash: bool,
    /// Users, roles, and that authentication is on, may be lost.
    pub without_authentication: bool,
}

/// Makes a member's data directory.
pub fn make(path: &Path, config: &Config, data_dir: &Path, kept: Kept) -> Result<(), Failure> {
    let path = path.display().to_string();
    let text = data_dir.display().to_string();
    let fields = [("path", path.as_str()), ("data-dir", text.as_str())];
    logging::log("info", "restoring snapshot", &fields);
    let failed = |error: BackupError| Failure::error(error.to_string());
    let mut file =
        File::open(&path).map_err(|error| Failure::error(go::path_error("open", &path, &error)))?;
    if !kept.without_hash {
        check_sum(&mut file)?;
    }
    let backup = Backup::open(file).map_err(failed)?;
    let lost = backup.lost_authentication().map_err(failed)?;
    check_authentication(lost, kept.without_authentication)?;
    let member =
        NewMember { data_dir, cluster: &config.initial_cluster, member_id: config.member_id };
    restore(member, &mut |restoration| {
        let mut take = |table, key: &[u8], value: &[u8]| Ok(restoration.put(table, key, value)?);
        Ok(backup.restore(kept.bump, &mut take)?)
    })
    .map_err(|error| Failure::error(error.to_string()))?;
    logging::log("info", "restored snapshot", &fields);
    Ok(())
}

/// A store whose passwords would be gone opens to everybody only if that is said.
fn check_authentication(lost: Authentication, is_given_up: bool) -> Result<(), Failure> {
    if lost == Authentication::default() {
        return Ok(());
    }
    let Authentication { is_enabled, users, roles } = lost;
    let state = if is_enabled { "on" } else { "off" };
    if is_given_up {
        let (users, roles) = (users.to_string(), roles.to_string());
        let fields = [("authentication", state), ("users", &users), ("roles", &roles)];
        logging::log("warn", "every client may read and write: users and roles dropped", &fields);
        return Ok(());
    }
    let message = format!(
        "the snapshot has authentication {state} (users: {users}, roles: {roles}), \
         which Instar does not serve yet"
    );
    let hint = "--drop-auth restores it without them: then every client may read and write";
    Err(Failure::error(message).with_hint(hint))
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
fn check_sum(file: &mut File) -> Result<(), Failure> {
    let bytes = file.metadata()?.len();
    if bytes % SECTOR_BYTES != CHECKSUM_BYTES as u64 {
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
    if found.as_slice() == expected {
        return Ok(());
    }
    let numbers = |bytes: &[u8]| bytes.iter().map(u8::to_string).collect::<Vec<String>>().join(" ");
    let (expected, found) = (numbers(&expected), numbers(&found));
    let message = format!("expected sha256 [{expected}], got [{found}]");
    Err(Failure::error(message).with_hint(where_damaged(file)))
}

/// A hash says that a file is damaged; where, its pages tell.
fn where_damaged(file: &File) -> String {
    let opened = file.try_clone().map_err(bolt::ReadError::from).and_then(Database::open);
    match opened.and_then(|database| database.verify()) {
        Ok(()) => "every page is sound: keys, values or the hash itself were changed".to_owned(),
        Err(damage) => damage.to_string(),
    }
}
