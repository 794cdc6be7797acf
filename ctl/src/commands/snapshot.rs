//! `snapshot save` and `snapshot status`.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use bolt::Database;
use crc::{CRC_32_ISCSI, Crc};
use indicatif::{ProgressBar, ProgressStyle};
use prost::Message;
use proto::etcdserverpb as pb;
use proto::mvccpb::KeyValue;
use sha2::{Digest, Sha256};

use super::ask;
use crate::backup::Revision;
use crate::client::Client;
use crate::command_line::Invocation;
use crate::failure::{self, Failure};
use crate::go;
use crate::logging;
use crate::output::{Answer, Format, Output, SnapshotStatus, line};
use crate::settings::Settings;

/// The SHA-256 of a snapshot is appended to it.
pub const CHECKSUM_BYTES: usize = 32;
/// Database files are whole pages: what is more than these is the checksum.
pub const SECTOR_BYTES: u64 = 512;
/// Only the owner may read what everybody's keys are in.
const PRIVATE: u32 = 0o600;

pub async fn save(mut invocation: Invocation) -> Result<(), Failure> {
    let [path] = invocation
        .arguments
        .clone()
        .try_into()
        .map_err(|_| Failure::arguments("snapshot save expects one argument <filename>"))?;
    let settings = Settings::read(&mut invocation)?;
    if settings.endpoints.len() != 1 {
        let endpoints = settings.endpoints.join(" ");
        let message =
            format!("snapshot must be requested to one selected node, not multiple [{endpoints}]");
        return Err(Failure::new(failure::INTERRUPTED, message));
    }
    // A large store takes its time, unless one was set.
    let given = invocation.is_given("command-timeout");
    let timeout = given.then(|| invocation.duration("command-timeout"));
    let part = format!("{path}.part");
    let saved = save_to(&settings, timeout, &part, &path).await;
    if saved.is_err() {
        // It may not even have been made.
        drop(fs::remove_file(&part));
    }
    let version = saved.map_err(|failure| failure.with_code(failure::INTERRUPTED))?;
    line(format!("Snapshot saved at {path}"))?;
    match version.as_str() {
        "" => Ok(()),
        version => line(format!("Server version {version}")),
    }
}

/// Saves under a name of its own first.
pub async fn save_to(
    settings: &Settings,
    timeout: Option<Duration>,
    part: &str,
    path: &str,
) -> Result<String, Failure> {
    let started = Instant::now();
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(PRIVATE);
    let mut file = options.open(part).map_err(|error| {
        let why = go::path_error("open", part, &error);
        Failure::error(format!("could not open {part} ({why})"))
    })?;
    logging::log("info", "created temporary db file", &[("path", part)]);
    let receiving = async {
        let client = Client::connect(settings, timeout).await?;
        receive(&client, &mut file).await
    };
    let (bytes, version) = match timeout {
        Some(timeout) => {
            let received = tokio::time::timeout(timeout, receiving).await;
            received.map_err(|_| Failure::deadline())??
        }
        None => receiving.await?,
    };
    file.sync_all()?;
    fs::rename(part, path).map_err(|error| {
        let why = go::io_error(&error);
        Failure::error(format!("could not rename {part} to {path} ({why})"))
    })?;
    let (size, took) = (go::size(bytes), go::duration(started.elapsed()));
    logging::log("info", "fetched snapshot", &[("size", &size), ("took", &took)]);
    logging::log("info", "saved", &[("path", path)]);
    Ok(version)
}

/// Writes the stream to a file, and checks the checksum at its end.
async fn receive(client: &Client, file: &mut File) -> Result<(u64, String), Failure> {
    let mut stream = ask!(client, Reading, maintenance.snapshot(pb::SnapshotRequest {}))?;
    let (mut bytes, mut version) = (0u64, String::new());
    let mut digest = Sha256::new();
    // The last bytes so far: what they are is known when no more come.
    let mut held: Vec<u8> = Vec::new();
    let mut bar = None;
    while let Some(piece) = stream.message().await? {
        let bar = bar.get_or_insert_with(|| progress(piece.remaining_bytes));
        if !piece.version.is_empty() {
            version = piece.version;
        }
        file.write_all(&piece.blob)?;
        bytes += piece.blob.len() as u64;
        held.extend_from_slice(&piece.blob);
        let sure = held.len().saturating_sub(CHECKSUM_BYTES);
        digest.update(&held[..sure]);
        held.drain(..sure);
        bar.inc(piece.blob.len() as u64);
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    if bytes % SECTOR_BYTES != CHECKSUM_BYTES as u64 {
        return Err(Failure::error(format!("sha256 checksum not found [bytes: {bytes}]")));
    }
    match digest.finalize().as_slice() == held {
        true => Ok((bytes, version)),
        false => Err(Failure::error("the snapshot was damaged on its way: wrong SHA-256")),
    }
}

fn progress(remaining: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bytes}/{total_bytes} {wide_bar} {eta}");
    let bar = ProgressBar::new(remaining);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

pub async fn status(invocation: Invocation) -> Result<(), Failure> {
    let [path] = invocation.arguments.as_slice() else {
        return Err(Failure::arguments("snapshot status requires exactly one argument"));
    };
    let opened = File::open(path);
    let file = opened.map_err(|error| Failure::error(go::path_error("stat", path, &error)))?;
    let format = Format::parse(&invocation.text("write-out"))?;
    let status = examine(file).map_err(|error| Failure::error(error.to_string()))?;
    Output::new(format, false).print(&Answer::SnapshotStatus(status))
}

/// Checks every page, and hashes every row.
fn examine(file: File) -> Result<SnapshotStatus, Box<dyn std::error::Error>> {
    let database = Database::open(file)?;
    database.verify()?;
    let crc = Crc::<u32>::new(&CRC_32_ISCSI);
    let mut hash = crc.digest();
    let mut status = SnapshotStatus {
        hash: 0,
        revision: 0,
        keys: 0,
        bytes: database.bytes(),
        version: String::new(),
    };
    let mut keys = HashSet::new();
    for name in database.buckets() {
        hash.update(name);
        let Some(mut rows) = database.rows(name)? else { continue };
        while let Some((key, value)) = rows.next()? {
            hash.update(key);
            hash.update(value);
            match name {
                b"meta" if key == b"storageVersion" => {
                    status.version = String::from_utf8_lossy(value).into_owned();
                }
                b"key" => {
                    let revision =
                        Revision::decode(key).ok_or("a key of bucket \"key\" is no revision")?;
                    status.revision = revision.main;
                    let pair = KeyValue::decode(value).map_err(|why| {
                        format!("a value of bucket \"key\" is no key-value: {why}")
                    })?;
                    match revision.is_tombstone {
                        true => keys.remove(&pair.key),
                        false => keys.insert(pair.key),
                    };
                }
                _ => {}
            }
        }
    }
    status.hash = hash.finalize();
    status.keys = keys.len() as u64;
    Ok(status)
}
