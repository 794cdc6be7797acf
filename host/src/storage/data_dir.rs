//! The data directory: whose it is, and that nobody else uses it.
//!
//! ```text
//! DATA_DIR                     locked (flock) by the running process
//! DATA_DIR/member/identity     cluster, member, incarnation of the data
//! DATA_DIR/member/log.wal      the raft log
//! DATA_DIR/member/state.redb   the machine's tables
//! DATA_DIR/member/state.new    a state from a snapshot that is not whole yet; removed at each start
//! DATA_DIR/member/state.defragmented  a state's new file while it is defragmented; removed at each start
//! DATA_DIR/member/snapshot/    snapshots on their way; emptied at each start
//! DATA_DIR/member/machine/     compiled machines, a cache
//! DATA_DIR/member.new/         `member` in the making; made again after a crash
//! ```
//!
//! `member` gets its name when everything in it is whole and on disk, so whatever is missing there later has been lost:
//! a member must not go on without its log, because it would have forgotten whom it voted for.
//! A refusal changes nothing on disk: even the lock is none.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

use super::log::{self, Log};
use super::state_file::{create_database, sync_directory};
use super::{Restoration, StorageError, files};

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
    #[error("the data directory {0} has a member already; choose another --data-dir")]
    Taken(PathBuf),
    #[error("{0}")]
    Source(Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot use the data directory {path}: {error}; check its permissions and the disk")]
    Io { path: PathBuf, error: io::Error },
    #[error(
        "cannot make the files of a new data directory: {0}; check its permissions and the disk"
    )]
    Files(#[from] StorageError),
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
const MEMBER: &str = "member";
const UNFINISHED: &str = "member.new";
const IDENTITY: &str = "identity";
const LOG: &str = log::FILE;
const STATE: &str = "state.redb";
const STATE_UNFINISHED: &str = "state.new";
const STATE_DEFRAGMENTED: &str = "state.defragmented";
/// What the file of the state begins with.
const REDB: &[u8] = b"redb";
const SNAPSHOTS: &str = "snapshot";
const MACHINES: &str = "machine";

impl DataDir {
    /// Takes a data directory, making it if it is new: then `fresh` becomes its identity. Otherwise its cluster and
    /// member must be those of `fresh`, unless `may_differ`: a member that has data can be started without being told
    /// again whose it is.
    pub fn open(path: &Path, fresh: Identity, may_differ: bool) -> Result<Self, DataDirError> {
        let failed = |error| DataDirError::Io { path: path.to_owned(), error };
        make_directory(path).map_err(failed)?;
        let lock = lock(path)?;
        let member = path.join(MEMBER);
        let found = look(&member)?;
        if let Some(identity) = &found {
            if !may_differ {
                compare(path, identity, &fresh)?;
            }
            look_at_files(&member)?;
        } else {
            make_member(path, &fresh, make_empty)?;
        }
        let identity = found.unwrap_or(fresh);
        let directory = Self { member, identity, is_new: found.is_none(), _lock: lock };
        directory.prepare().map_err(failed)?;
        Ok(directory)
    }

    /// Makes a new data directory, filled: it is whole and on disk afterwards, or not there. There must be no member in
    /// it yet.
    pub fn create(
        path: &Path,
        identity: &Identity,
        fill: impl FnOnce(Restoration) -> Result<(), DataDirError>,
    ) -> Result<(), DataDirError> {
        let failed = |error| DataDirError::Io { path: path.to_owned(), error };
        make_directory(path).map_err(failed)?;
        let _lock = lock(path)?;
        let member = path.join(MEMBER);
        if look(&member)?.is_some() {
            return Err(DataDirError::Taken(path.to_owned()));
        }
        let made = make_member(path, identity, |member| fill(Restoration::create(member)?));
        if made.is_err() {
            unless_missing(fs::remove_dir_all(path.join(UNFINISHED))).map_err(failed)?;
        }
        made
    }

    /// Whether there is a data directory with an identity already.
    pub fn exists(path: &Path) -> bool {
        path.join(MEMBER).join(IDENTITY).exists()
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
    fn prepare(&self) -> io::Result<()> {
        unless_missing(fs::remove_dir_all(self.snapshots()))?;
        unless_missing(fs::remove_file(self.member.join(STATE_UNFINISHED)))?;
        unless_missing(fs::remove_file(self.member.join(STATE_DEFRAGMENTED)))?;
        fs::create_dir_all(self.snapshots())?;
        fs::create_dir_all(self.machines())
    }
}

fn unless_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The data directory itself, as etcd makes it: for its owner alone.
fn make_directory(path: &Path) -> io::Result<()> {
    if !path.exists() {
        fs::create_dir_all(path)?;
        keep_private(path)?;
        sync_directory(&fs::canonicalize(path)?)?;
    }
    Ok(())
}

/// Whose data is in the directory already: none if it is new.
fn look(member: &Path) -> Result<Option<Identity>, DataDirError> {
    let failed = |error| DataDirError::Io { path: member.to_owned(), error };
    let path = member.join(IDENTITY);
    match fs::read(&path) {
        Ok(bytes) => decode(&bytes)
            .map(Some)
            .map_err(|reason| DataDirError::Damaged { path, reason: reason.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::read_dir(member) {
            Ok(mut entries) => entries
                .next()
                .map_or(Ok(None), |entry| Err(not_ours(member, &entry.map_err(failed)?))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
        },
        Err(error) => Err(failed(error)),
    }
}

fn not_ours(member: &Path, entry: &fs::DirEntry) -> DataDirError {
    let name = entry.file_name();
    let reason = match name.to_str() {
        Some("snap" | "wal") => "it is a data directory of etcd".to_owned(),
        _ => format!("it has no identity file, but {}", name.display()),
    };
    DataDirError::Foreign { path: member.to_owned(), reason }
}

/// Without its files a member would be another one, with the same name.
fn look_at_files(member: &Path) -> Result<(), DataDirError> {
    for (name, magic) in [(LOG, log::MAGIC.as_slice()), (STATE, REDB)] {
        let path = member.join(name);
        let mut begin = vec![0; magic.len()];
        let read = File::open(&path).and_then(|mut file| file.read_exact(&mut begin));
        let reason = match read {
            Ok(()) if begin == magic => continue,
            Ok(()) => "it does not begin as it should",
            Err(error) if error.kind() == io::ErrorKind::NotFound => "it is missing",
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => "it is cut short",
            Err(error) => return Err(DataDirError::Io { path, error }),
        };
        return Err(DataDirError::Damaged { path, reason: reason.to_owned() });
    }
    Ok(())
}

/// The files of a member that begins with nothing.
fn make_empty(member: &Path) -> Result<(), DataDirError> {
    Log::open(member, &files())?;
    Ok(create_database(&member.join(STATE), &files())?)
}

/// Makes `member` under another name, and renames it when all of it is on disk.
fn make_member(
    path: &Path,
    identity: &Identity,
    fill: impl FnOnce(&Path) -> Result<(), DataDirError>,
) -> Result<(), DataDirError> {
    let failed = |error| DataDirError::Io { path: path.to_owned(), error };
    let (unfinished, member) = (path.join(UNFINISHED), path.join(MEMBER));
    // Nothing else makes a directory of this name; what is in it, a crash has left.
    unless_missing(fs::remove_dir_all(&unfinished)).map_err(failed)?;
    fs::create_dir(&unfinished).and_then(|()| keep_private(&unfinished)).map_err(failed)?;
    fill(&unfinished)?;
    write_identity(&unfinished, identity).map_err(failed)?;
    fs::rename(&unfinished, &member).map_err(failed)?;
    sync_directory(&member).map_err(failed)
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

/// Locks the directory itself, so that nothing has to be made for it.
fn lock(path: &Path) -> Result<File, DataDirError> {
    let failed = |error| DataDirError::Io { path: path.to_owned(), error };
    if !path.is_dir() {
        return Err(failed(io::ErrorKind::NotADirectory.into()));
    }
    let directory = File::open(path).map_err(failed)?;
    match directory.try_lock() {
        Ok(()) => Ok(directory),
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
    let path = member.join(IDENTITY);
    let mut file = File::create(&path)?;
    file.write_all(&encode(identity))?;
    file.sync_all()?;
    sync_directory(&path)
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
