//! A stream of watches, and all that came of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_client::WatchClient;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::mvccpb::Event;
use tokio::sync::{mpsc, watch};
use tonic::Status;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

/// How long an answer is waited for on a busy machine.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Requests that may wait to be sent.
const REQUESTS: usize = 64;

/// What a watcher was told, one event or one control message each, with the revision of its response's header.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    Created { revision: i64 },
    Refused { revision: i64, reason: String },
    Canceled { revision: i64 },
    Compacted { revision: i64, compact_revision: i64 },
    Event { revision: i64, event: Event },
}

/// What has come of a stream so far.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// By watcher.
    pub told: BTreeMap<i64, Vec<Told>>,
    /// The revisions of progress for all watchers.
    pub progress: Vec<i64>,
    /// The answers to creations, in order: the id, and whether it was refused.
    pub created: Vec<(i64, bool)>,
    /// All responses, if they are kept.
    pub responses: Vec<pb::WatchResponse>,
    /// How the stream ended.
    pub end: Option<Status>,
}

impl Log {
    /// How many events a watcher was told since the log was cleared.
    pub fn events(&self, id: i64) -> usize {
        let told = self.told.get(&id).into_iter().flatten();
        told.filter(|told| matches!(told, Told::Event { .. })).count()
    }

    fn add(&mut self, response: pb::WatchResponse) {
        let revision = response.header.unwrap_or_default().revision;
        let id = response.watch_id;
        if response.created {
            self.created.push((id, response.canceled));
        }
        let told = self.told.entry(id).or_default();
        match response {
            pb::WatchResponse { created: true, canceled: true, cancel_reason: reason, .. } => {
                told.push(Told::Refused { revision, reason });
            }
            pb::WatchResponse { created: true, .. } => told.push(Told::Created { revision }),
            pb::WatchResponse { canceled: true, compact_revision: 0, .. } => {
                told.push(Told::Canceled { revision });
            }
            pb::WatchResponse { canceled: true, compact_revision, .. } => {
                told.push(Told::Compacted { revision, compact_revision });
            }
            pb::WatchResponse { events, .. } if events.is_empty() => {
                self.progress.push(revision);
            }
            pb::WatchResponse { events, .. } => {
                told.extend(events.into_iter().map(|event| Told::Event { revision, event }));
            }
        }
    }
}

/// A client's stream. It ends when this is dropped.
#[derive(Debug)]
pub struct Watching {
    requests: mpsc::Sender<pb::WatchRequest>,
    log: Arc<Mutex<Log>>,
    changed: watch::Receiver<()>,
    reader: tokio::task::JoinHandle<()>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// A connection for streams to the member at `address`.
pub fn channel(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    endpoint.connect_timeout(Duration::from_secs(2)).connect_lazy()
}

impl Watching {
    /// Opens a stream with a first watcher, whose creation is the answer that gRPC's headers wait for.
    pub async fn open(channel: Channel, first: pb::WatchCreateRequest) -> Result<Self, Status> {
        Self::open_with(channel, first, false, false).await
    }

    /// The same; `keeps` all responses as they are, or `wants_leader`.
    pub async fn open_with(
        channel: Channel,
        first: pb::WatchCreateRequest,
        keeps: bool,
        wants_leader: bool,
    ) -> Result<Self, Status> {
        let (requests, stream) = mpsc::channel(REQUESTS);
        let first = RequestUnion::CreateRequest(first);
        drop(requests.send(pb::WatchRequest { request_union: Some(first) }).await);
        let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
        let mut request = tonic::Request::new(ReceiverStream::new(stream));
        if wants_leader {
            let value = tonic::metadata::MetadataValue::from_static("true");
            request.metadata_mut().insert("hasleader", value);
        }
        let mut responses = client.watch(request).await?.into_inner();
        let log = Arc::new(Mutex::new(Log::default()));
        let (change, changed) = watch::channel(());
        let shared = log.clone();
        let reader = tokio::spawn(async move {
            loop {
                let response = responses.message().await;
                let mut log = shared.lock().unwrap_or_else(PoisonError::into_inner);
                let goes_on = matches!(response, Ok(Some(_)));
                match response {
                    Ok(Some(response)) => {
                        if keeps {
                            log.responses.push(response.clone());
                        }
                        log.add(response);
                    }
                    Ok(None) => log.end = Some(Status::ok("")),
                    Err(status) => log.end = Some(status),
                }
                drop(log);
                change.send_replace(());
                if !goes_on {
                    return;
                }
            }
        });
        Ok(Self { requests, log, changed, reader })
    }

    pub async fn send(&self, request: RequestUnion) -> Result<()> {
        let request = pb::WatchRequest { request_union: Some(request) };
        self.requests.send(request).await.ok().context("the stream has ended")
    }

    pub async fn create(&self, request: pb::WatchCreateRequest) -> Result<()> {
        self.send(RequestUnion::CreateRequest(request)).await
    }

    pub async fn cancel(&self, watch_id: i64) -> Result<()> {
        self.send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id })).await
    }

    pub async fn request_progress(&self) -> Result<()> {
        self.send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await
    }

    /// Looks at what has come.
    pub fn log<T>(&self, look: impl FnOnce(&mut Log) -> T) -> T {
        look(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until what has come is as `is_enough` wants it.
    pub async fn wait(&self, what: &str, mut is_enough: impl FnMut(&Log) -> bool) -> Result<()> {
        let started = Instant::now();
        let mut changed = self.changed.clone();
        loop {
            changed.mark_unchanged();
            if self.log(|log| is_enough(log)) {
                return Ok(());
            }
            if let Some(end) = self.log(|log| log.end.clone()) {
                bail!("waited for {what}, and the stream has ended: {end}");
            }
            let left = ANSWER_WITHIN.saturating_sub(started.elapsed());
            // The reader's end shows in the log as well.
            if tokio::time::timeout(left, changed.changed()).await.is_err() {
                bail!("{what} did not come; the stream so far: {:#?}", self.log(|log| log.clone()));
            }
        }
    }
}
