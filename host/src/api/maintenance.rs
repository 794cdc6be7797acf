//! The calls of Maintenance that neither the state machine answers nor the member's own view: Defragment, Snapshot and
//! Downgrade.

use std::fs::File;
use std::io::Read;
use std::pin::pin;

use bytes::Bytes;
use http::HeaderMap;
use prost::Message;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::downgrade_request::DowngradeAction;
use sha2::{Digest, Sha256};

use super::call::{Gone, Responder};
use super::coordinator::{Coordinator, SnapshotFile};
use super::grpc::{Service, check_metadata, unless_gone};
use super::kv::decode;
use super::status::{Code, Status};
use super::wire::Frame;
use crate::config::ETCD_CLUSTER_VERSION;
use crate::limits;

/// Maintenance.Defragment: of this member alone. As in etcd, the response has no header.
pub(super) async fn defragment<C: Coordinator>(
    service: &Service<C>,
    headers: &HeaderMap,
    message: &Bytes,
) -> Result<Frame, Status> {
    decode::<pb::DefragmentRequest>(message)?;
    check_metadata(service.coordinator.standing(), headers, false)?;
    service.coordinator.defragment().await?;
    Ok(Frame::plain(Bytes::new()))
}

/// Maintenance.Snapshot: a database file of etcd's in small messages, and at last its SHA-256, as etcd sends them. A
/// learner serves it, too.
pub(super) async fn snapshot<C: Coordinator>(
    service: &Service<C>,
    headers: &HeaderMap,
    message: &Bytes,
    responder: &mut Responder<'_>,
) -> Result<Result<(), Status>, Gone> {
    let checked = decode::<pb::SnapshotRequest>(message)
        .and_then(|_| check_metadata(service.coordinator.standing(), headers, true));
    if let Err(status) = checked {
        return Ok(Err(status));
    }
    let SnapshotFile { mut file, size_bytes } =
        match unless_gone(responder, pin!(service.coordinator.snapshot())).await? {
            Ok(snapshot) => snapshot,
            Err(error) => return Ok(Err(error.into())),
        };
    tracing::info!(size_bytes, "sending database snapshot to client");
    let mut sum = Sha256::new();
    let mut remaining_bytes = size_bytes;
    while remaining_bytes > 0 {
        let most = remaining_bytes.min(limits::CLIENT_SNAPSHOT_READ_BYTES as u64) as usize;
        let read = unless_gone(responder, pin!(read_portion(file, most))).await?;
        let portion = match read {
            Ok((same, portion)) => {
                file = same;
                portion
            }
            Err(error) => {
                let message = format!("instar: the snapshot cannot be read: {error}");
                return Ok(Err(Status::new(Code::Unavailable, message)));
            }
        };
        sum.update(&portion);
        for blob in portion.chunks(limits::CLIENT_SNAPSHOT_CHUNK_BYTES) {
            remaining_bytes -= blob.len() as u64;
            responder.message(snapshot_response(remaining_bytes, portion.slice_ref(blob))).await?;
        }
    }
    responder.message(snapshot_response(0, Bytes::copy_from_slice(&sum.finalize()))).await?;
    Ok(Ok(()))
}

/// Reads so many bytes, on a thread that may wait for the disk.
async fn read_portion(mut file: File, bytes: usize) -> std::io::Result<(File, Bytes)> {
    let reading = tokio::task::spawn_blocking(move || {
        let mut portion = vec![0; bytes];
        file.read_exact(&mut portion)?;
        Ok((file, portion.into()))
    });
    reading.await.map_err(std::io::Error::other)?
}

fn snapshot_response(remaining_bytes: u64, blob: Bytes) -> Frame {
    let version = ETCD_CLUSTER_VERSION.to_owned();
    let response = pb::SnapshotResponse { header: None, remaining_bytes, blob, version };
    Frame::plain(response.encode_to_vec().into())
}

/// Maintenance.Downgrade. There is no earlier version of this program that a cluster could go back to, so no target is
/// valid, and no downgrade is ever under way; to cancel that is no error in etcd either.
pub(super) async fn downgrade<C: Coordinator>(
    service: &Service<C>,
    headers: &HeaderMap,
    message: &Bytes,
) -> Result<Frame, Status> {
    let request = decode::<pb::DowngradeRequest>(message)?;
    check_metadata(service.coordinator.standing(), headers, false)?;
    match DowngradeAction::try_from(request.action) {
        Ok(DowngradeAction::Validate | DowngradeAction::Enable) => {
            if !is_version(&request.version) {
                let message = "etcdserver: wrong downgrade target version format";
                return Err(Status::new(Code::InvalidArgument, message));
            }
            service.coordinator.read_index().await?;
            let message = "etcdserver: invalid downgrade target version";
            Err(Status::new(Code::InvalidArgument, message))
        }
        Ok(DowngradeAction::Cancel) => {
            service.coordinator.read_index().await?;
            let minor = ETCD_CLUSTER_VERSION.rsplit_once('.').map_or("", |(minor, _)| minor);
            let response = pb::DowngradeResponse { header: None, version: minor.to_owned() };
            let revision = service.coordinator.status().revision;
            Ok(Frame::response(&service.header(revision), response.encode_to_vec().into()))
        }
        Err(_) => Err(Status::new(Code::Unknown, "etcdserver: unknown method")),
    }
}

/// Whether a text is a semantic version, or the first two numbers of one.
fn is_version(text: &str) -> bool {
    let is_semantic = |text: &str| {
        let (text, metadata) = text.split_once('+').unwrap_or((text, "-"));
        let (numbers, pre_release) = text.split_once('-').unwrap_or((text, "-"));
        let is_suffix = |suffix: &str| {
            let is_known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
            suffix.bytes().all(is_known)
        };
        let numbers: Vec<&str> = numbers.split('.').collect();
        let is_number = |text: &&str| {
            text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<i64>().is_ok()
        };
        numbers.len() == 3
            && numbers.iter().all(is_number)
            && is_suffix(pre_release)
            && is_suffix(metadata)
    };
    is_semantic(text) || is_semantic(&format!("{text}.0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_from_other_texts() {
        for text in ["3.6", "3.6.0", "0.0.0", "3.7.1-rc.0", "3.7.1+a.b", "3.6.0-", "03.6", "99.99"]
        {
            assert!(is_version(text), "{text}");
        }
        for text in ["", "3", "3.", "a.b", "3.6.0.1", "v3.6", "3.6.x", "-3.6", "3..6"] {
            assert!(!is_version(text), "{text}");
        }
    }
}
