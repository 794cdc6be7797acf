//! The data directory: whose it is, and that nobody else uses it.
//!
//! ```text
//! DATA_DIR/member/lock         held by the running process
//! DATA_DIR/member/identity     cluster, member, incarnation of the data
//! DATA_DIR/member/log.redb     the raft log
//! DATA_DIR/member/state.redb   the machine's tables
//! DATA_DIR/member/snapshot/    snapshots on their way, removed at each start
//! DATA_DIR/member/machine/     compiled machines, a cache
//! ```
//!
//! The identity is written before any other file, whole or not at all: a directory without one is new, and a directory
//! with anything else in it but no identity is not ours. A refusal changes nothing on disk.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

use super::state::sync_directory;

/// Whose data it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub cluster_id: u64,
    pub member_id: u64,
    /// Drawn when the directory was made: a member that lost its data is another replica.
    pub incarnation: [u8; 16],
}

/// Why a data directory cannot be used. Each sentence says what to do.
#[derive(Debug, Error)]
pub enum DataDirError {
    #[error(
        "the data directory {0} is in use by another process; stop that one, or choose another --data-dir"
    )]
    InUse(PathBuf),
    #[error(
        "the data directory {path} belongs to cluster {found:x}, and the flags describe cluster {expected:x}; \
         check --initial-cluster and --initial-cluster-token, or choose another --data-dir"
    )]
    OtherCluster { path: PathBuf, found: u64, expected: u64 },
    #[error(
        "the data directory {path} belongs to member {found:x} of this cluster, and the flags describe member \
         {expected:x}; check --name and --initial-advertise-peer-urls, or choose another --data-dir"
    )]
    OtherMember { path: PathBuf, found: u64, expected: u64 },
    #[error("{path} is not Instar's ({reason}); choose another --data-dir")]
    Foreign { path: PathBuf, reason: String },
    #[error(
        "{path} is damaged ({reason}); move the data directory away, and restore this member from its peers or a backup"
    )]
    Damaged { path: PathBuf, reason: String },
    #[error("cannot use the data directory {path}: {error}; check its permissions and the disk")]
    Io { path: PathBuf, error: io::Error },
}

/// A data directory that this process holds.
#[derive(Debug)]
pub struct DataDir {
    member: PathBuf,
    identity: Identity,
    /// Whether the directory was made just now.
    is_new: bool,
    /// Keeps others out as long as it is open.
    _lock: File,
}

const MAGIC: &[u8; 8] = b"INSTARID";
const VERSION: u32 = 1;
const IDENTITY_BYTES: usize = 8 + 4 + 8 + 8 + 16 + 8;
const LOCK: &str = "lock";
const IDENTITY: &str = "identity";
const IDENTITY_UNFINISHED: &str = "identity.new";
const SNAPSHOTS: &str = "snapshot";
const MACHINES: &str = "machine";

impl DataDir {
    /// Takes a data directory, making it if it is new: then `fresh` becomes its identity. Otherwise its cluster and
    /// member must be those of `fresh`, unless `may_differ`: a member that has data can be started without being told
    /// again whose it is.
    pub fn open(path: &Path, fresh: Identity, may_differ: bool) -> Result<Self, DataDirError> {
        let member = path.join("member");
        let found = look(&member)?;
        if let Some(identity) = &found
            && !may_differ
        {
            compare(path, identity, &fresh)?;
        }
        let failed = |error| DataDirError::Io { path: path.to_owned(), error };
        if found.is_none() {
            fs::create_dir_all(&member).map_err(failed)?;
            keep_private(path).and_then(|()| keep_private(&member)).map_err(failed)?;
        }
        let lock = lock(path, &member)?;
        let identity = match found {
            Some(identity) => identity,
            None => {
                write_identity(&member, &fresh).map_err(failed)?;
                fresh
            }
        };
        let directory = Self { member, identity, is_new: found.is_none(), _lock: lock };
        directory.prepare_subdirectories().map_err(failed)?;
        Ok(directory)
    }

    /// Whether there is a data directory with an identity already.
    pub fn exists(path: &Path) -> bool {
        path.join("member").join(IDENTITY).exists()
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Where the log and the state are.
    pub fn files(&self) -> &Path {
        &self.member
    }

    /// Where snapshots are while they are sent or received.
    pub fn snapshots(&self) -> PathBuf {
        self.member.join(SNAPSHOTS)
    }

    /// Where compiled machines are kept.
    pub fn machines(&self) -> PathBuf {
        self.member.join(MACHINES)
    }

    /// Snapshots of an earlier run are of no use to this one.
    fn prepare_subdirectories(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.snapshots()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir_all(self.snapshots())?;
        fs::create_dir_all(self.machines())
    }
}

/// What is in the directory already: none if it is new.
fn look(member: &Path) -> Result<Option<Identity>, DataDirError> {
    let failed = |error| DataDirError::Io { path: member.to_owned(), error };
    let path = member.join(IDENTITY);
    match fs::read(&path) {
        Ok(bytes) => decode(&bytes)
            .map(Some)
            .map_err(|reason| DataDirError::Damaged { path, reason: reason.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::read_dir(member) {
            Ok(entries) => only_ours(member, entries).map(|()| None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
        },
        Err(error) => Err(failed(error)),
    }
}

/// A directory without an identity may hold what a crash left while it was made, and nothing else.
fn only_ours(member: &Path, entries: fs::ReadDir) -> Result<(), DataDirError> {
    for entry in entries {
        let entry = entry.map_err(|error| DataDirError::Io { path: member.to_owned(), error })?;
        let name = entry.file_name();
        if name == LOCK || name == IDENTITY_UNFINISHED {
            continue;
        }
        let reason = match name.to_str() {
            Some("snap" | "wal") => "it is a data directory of etcd".to_owned(),
            _ => format!("it has no identity file, but {}", name.display()),
        };
        return Err(DataDirError::Foreign { path: member.to_owned(), reason });
    }
    Ok(())
}

fn compare(path: &Path, identity: &Identity, fresh: &Identity) -> Result<(), DataDirError> {
    let path = path.to_owned();
    if identity.cluster_id != fresh.cluster_id {
        let (found, expected) = (identity.cluster_id, fresh.cluster_id);
        return Err(DataDirError::OtherCluster { path, found, expected });
    }
    if identity.member_id != fresh.member_id {
        let (found, expected) = (identity.member_id, fresh.member_id);
        return Err(DataDirError::OtherMember { path, found, expected });
    }
    Ok(())
}

fn lock(path: &Path, member: &Path) -> Result<File, DataDirError> {
    let failed = |error| DataDirError::Io { path: path.to_owned(), error };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(member.join(LOCK))
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DataDirError::InUse(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

#[cfg(unix)]
fn keep_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

#[cfg(not(unix))]
fn keep_private(_: &Path) -> io::Result<()> {
    Ok(())
}

fn write_identity(member: &Path, identity: &Identity) -> io::Result<()> {
    let unfinished = member.join(IDENTITY_UNFINISHED);
    let mut file = File::create(&unfinished)?;
    file.write_all(&encode(identity))?;
    file.sync_all()?;
    let path = member.join(IDENTITY);
    fs::rename(unfinished, &path)?;
    sync_directory(&path).map_err(io::Error::other)?;
    sync_directory(member).map_err(io::Error::other)
}

fn encode(identity: &Identity) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(IDENTITY_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&identity.cluster_id.to_le_bytes());
    bytes.extend_from_slice(&identity.member_id.to_le_bytes());
    bytes.extend_from_slice(&identity.incarnation);
    bytes.extend_from_slice(&xxh3_64(&bytes).to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Result<Identity, &'static str> {
    if bytes.len() != IDENTITY_BYTES || !bytes.starts_with(MAGIC) {
        return Err("it is no identity file of Instar's");
    }
    let (content, sum) = bytes.split_at(IDENTITY_BYTES - 8);
    if xxh3_64(content).to_le_bytes() != sum {
        return Err("its checksum is wrong");
    }
    let number = |at: usize| {
        let bytes = content.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u64::from_le_bytes).ok_or("it is too short")
    };
    if content[8..12] != VERSION.to_le_bytes() {
        return Err("it is of a version that this program does not know");
    }
    let incarnation = content.get(28..44).and_then(|bytes| bytes.try_into().ok());
    Ok(Identity {
        cluster_id: number(12)?,
        member_id: number(20)?,
        incarnation: incarnation.ok_or("it is too short")?,
    })
}
