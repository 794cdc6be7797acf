//! One watch over its own stream: responses in order, begun again where it stopped when a server is lost.

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_request::RequestUnion;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status, Streaming};

use crate::client::{Client, Repeat};
use crate::failure::Failure;

/// How many requests wait to be sent; a watch sends few.
const REQUESTS_MAX: usize = 16;

/// A watch that has been created.
#[derive(Debug)]
pub struct Watching {
    requests: mpsc::Sender<pb::WatchRequest>,
    responses: Streaming<pb::WatchResponse>,
    request: pb::WatchCreateRequest,
}

impl Watching {
    pub async fn begin(client: &Client, request: pb::WatchCreateRequest) -> Result<Self, Failure> {
        let (requests, responses) = open(client, &request).await?;
        Ok(Self { requests, responses, request })
    }

    /// The next response that says something; `None` when the server has ended the stream.
    pub async fn next(&mut self, client: &Client) -> Result<Option<pb::WatchResponse>, Failure> {
        loop {
            let response = match self.responses.message().await {
                Ok(Some(response)) => response,
                Ok(None) => return Ok(None),
                Err(status) if is_lost(&status) => {
                    let opened = open(client, &self.request).await?;
                    (self.requests, self.responses) = opened;
                    continue;
                }
                Err(status) => return Err(status.into()),
            };
            if let Some(last) = response.events.last() {
                let revision = last.kv.as_ref().map_or(0, |pair| pair.mod_revision);
                self.request.start_revision = revision + 1;
            }
            if response.created && !response.canceled {
                continue;
            }
            return Ok(Some(response));
        }
    }

    /// Asks the server to tell its revision.
    pub fn sender(&self) -> mpsc::Sender<pb::WatchRequest> {
        self.requests.clone()
    }
}

pub fn progress_request() -> pb::WatchRequest {
    let progress = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
    pb::WatchRequest { request_union: Some(progress) }
}

fn is_lost(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal)
}

type Opened = (mpsc::Sender<pb::WatchRequest>, Streaming<pb::WatchResponse>);

async fn open(client: &Client, request: &pb::WatchCreateRequest) -> Result<Opened, Failure> {
    let create = RequestUnion::CreateRequest(request.clone());
    let create = pb::WatchRequest { request_union: Some(create) };
    let senders = std::cell::RefCell::new(None);
    let responses = client
        .call(Repeat::Reading, |connection| {
            let mut service = client.watch(connection);
            let (sender, receiver) = mpsc::channel(REQUESTS_MAX);
            // The channel is new and takes it.
            drop(sender.try_send(create.clone()));
            senders.replace(Some(sender));
            let mut request = Request::new(Received(receiver));
            let leader = MetadataValue::from_static("true");
            request.metadata_mut().insert("hasleader", leader);
            async move { service.watch(request).await }
        })
        .await?;
    let sender = senders.take().ok_or_else(|| Failure::error("no watch was opened"))?;
    Ok((sender, responses))
}

/// What is sent through a channel, as a stream.
struct Received(mpsc::Receiver<pb::WatchRequest>);

impl Stream for Received {
    type Item = pb::WatchRequest;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

/// A watch of one key from a revision on.
pub fn of_key(key: Bytes, start_revision: i64) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key, start_revision, ..Default::default() }
}
