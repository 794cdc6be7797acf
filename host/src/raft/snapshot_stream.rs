//! Snapshots between members: a file on each side, chunks in between.
//!
//! The sender writes its view to a file of its own and removes it when the stream ends; the receiver verifies the whole
//! file before openraft hears of it.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use proto::instar::peer as pb;
use tokio::sync::mpsc;

use super::state_machine::{Snapshot, SnapshotData, applied_state};
use super::types::{self, DecodeError, TypeConfig, Vote};
use crate::limits;
use crate::storage::snapshot;

/// Files are named by a number that no other snapshot of this process has.
static NEXT_FILE: AtomicU64 = AtomicU64::new(0);

fn new_file(directory: &Path, purpose: &str) -> PathBuf {
    directory.join(format!("{purpose}-{}.tmp", NEXT_FILE.fetch_add(1, Ordering::Relaxed)))
}

/// A file that is gone when this value is.
struct TemporaryFile(PathBuf);

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(file = %self.0.display(), error = %error, "cannot remove a temporary snapshot");
        }
    }
}

/// Runs blocking file work on a thread of its own.
async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// The messages that carry a snapshot.
pub async fn send(
    directory: &Path,
    identity: pb::Identity,
    vote: Vote,
    snapshot: Snapshot,
) -> io::Result<impl Stream<Item = pb::SnapshotRequest> + Send + 'static + use<>> {
    let SnapshotData::View(view) = snapshot.snapshot else {
        return Err(io::Error::other("only a view of this member's own can be sent"));
    };
    let file = TemporaryFile(new_file(directory, "send"));
    let (size_bytes, file) = on_thread(move || {
        snapshot::write(&view, &file.0).map_err(io::Error::other)?;
        Ok((std::fs::metadata(&file.0)?.len(), file))
    })
    .await?;
    let header = pb::SnapshotHeader {
        identity: Some(identity),
        vote: Some(types::vote_to_pb(&vote)),
        last_log_id: snapshot.meta.last_log_id.as_ref().map(types::log_id_to_pb),
        last_membership: Some(types::stored_membership_to_pb(&snapshot.meta.last_membership)),
        size_bytes,
    };
    let (parts, stream) = mpsc::channel(limits::SNAPSHOT_CHUNKS);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = send_parts(&file.0, header, &parts) {
            // The receiver sees a file that is too short, and refuses it.
            tracing::warn!(error = %error, "cannot read the snapshot that is being sent");
        }
    });
    Ok(tokio_stream::wrappers::ReceiverStream::new(stream))
}

fn send_parts(
    path: &Path,
    header: pb::SnapshotHeader,
    parts: &mpsc::Sender<pb::SnapshotRequest>,
) -> io::Result<()> {
    let mut file = std::fs::File::open(path)?;
    let mut part = pb::snapshot_request::Part::Header(header);
    loop {
        if parts.blocking_send(pb::SnapshotRequest { part: Some(part) }).is_err() {
            // The connection is gone, and has said so to openraft.
            return Ok(());
        }
        let mut chunk = vec![0; limits::SNAPSHOT_CHUNK_BYTES];
        let length = file.read(&mut chunk)?;
        if length == 0 {
            return Ok(());
        }
        chunk.truncate(length);
        part = pb::snapshot_request::Part::Chunk(Bytes::from(chunk));
    }
}

/// A snapshot that has arrived whole, with the vote of the leader that sent it.
pub struct Received {
    pub vote: Vote,
    pub snapshot: openraft::alias::SnapshotOf<TypeConfig, SnapshotData>,
}

/// Takes the chunks after the header into a file and verifies it.
///
/// Fails if the stream breaks off, the file is not a whole snapshot, or it is not the one that the header announced.
pub async fn receive<S>(
    directory: &Path,
    header: pb::SnapshotHeader,
    mut parts: S,
) -> io::Result<Received>
where
    S: Stream<Item = Result<pb::SnapshotRequest, tonic::Status>> + Unpin,
{
    let invalid = |error: DecodeError| io::Error::new(io::ErrorKind::InvalidData, error);
    let vote = types::vote_from_pb(header.vote).map_err(invalid)?;
    let last_log_id = types::optional_log_id_from_pb(header.last_log_id).map_err(invalid)?;

    let path = new_file(directory, "receive");
    let file = TemporaryFile(path.clone());
    let (chunks, queue) = mpsc::channel(limits::SNAPSHOT_CHUNKS);
    let size_bytes = header.size_bytes;
    let writing = on_thread(move || write_chunks(&path, queue, size_bytes));
    let feeding = async move {
        while let Some(part) = parts.next().await {
            let part = part.map_err(io::Error::other)?;
            let Some(pb::snapshot_request::Part::Chunk(chunk)) = part.part else {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a snapshot has one header",
                ));
            };
            if chunks.send(chunk).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let (written, fed) = tokio::join!(writing, feeding);
    fed?;
    written?;
    let path = file.0.clone();
    let mark = on_thread(move || snapshot::verify(&path).map_err(io::Error::other)).await?;
    let (applied, last_membership) = applied_state(&mark)?;
    if applied != last_log_id || applied.is_none() {
        let reason = "the snapshot is not the one that its header announces";
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    let path = file.0.clone();
    // From here on the apply thread owns the file.
    std::mem::forget(file);
    let meta =
        openraft::alias::SnapshotMetaOf::<TypeConfig> { last_log_id: applied, last_membership };
    let snapshot = Snapshot { meta, snapshot: SnapshotData::File(path) };
    Ok(Received { vote, snapshot })
}

fn write_chunks(path: &Path, mut queue: mpsc::Receiver<Bytes>, size_bytes: u64) -> io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    let mut written = 0;
    while let Some(chunk) = queue.blocking_recv() {
        written += chunk.len() as u64;
        if written > size_bytes {
            break;
        }
        file.write_all(&chunk)?;
    }
    if written != size_bytes {
        let reason = format!("the snapshot has {written} bytes of {size_bytes}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    file.sync_all()
}
