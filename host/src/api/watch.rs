//! The Watch service: one stream of requests and responses for many watchers.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use prost::Message;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_create_request::FilterType;
use proto::etcdserverpb::watch_request::RequestUnion;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::call::Gone;
use super::coordinator::Coordinator;
use super::grpc::{Service, check_metadata};
use super::kv::decode;
use super::leadership;
use super::status::Status;
use super::streams::{Requests, Responses};
use super::wire::Frame;
use crate::metrics::metrics;
use crate::raft::{WatchEvent, put_field};
use crate::watch::{WatchMessage, WatchRequest, WatchStream};

/// The id of a watcher that was not created; etcd's InvalidWatchID.
const NO_WATCHER: i64 = -1;
/// `events` of a WatchResponse.
const EVENTS_TAG: u8 = 11 << 3 | 2;
/// `prev_kv` of an Event.
const PREV_KV_TAG: u8 = 3 << 3 | 2;
/// The most that tag and length of an event take.
const EVENT_PREFIX_BYTES: usize = 6;

/// Serves a stream until the client gives it up, or loses the leader that it wants. That the client has ended its side
/// is no end: it can still be told.
pub(super) async fn serve<C: Coordinator>(
    service: &Service<C>,
    headers: &HeaderMap,
    requests: &mut Requests<'_>,
    responses: &mut Responses<'_>,
) -> Result<Result<(), Status>, Gone> {
    if let Err(status) = check_metadata(service.coordinator.standing(), headers, false) {
        return Ok(Err(status));
    }
    let stream = service.coordinator.watches().open();
    let mut progress_due = ticks(with_jitter(service.settings.grpc.watch_progress_notify_interval));
    let mut leader_lost = std::pin::pin!(leadership::lost(service, headers));
    let mut is_open = true;
    loop {
        let has_room = responses.has_room();
        tokio::select! {
            room = responses.drive() => room?,
            () = stream.ready(), if has_room => {}
            request = requests.next(), if is_open && has_room && stream.has_room() => match request {
                Ok(Some(request)) => match decode(&request) {
                    Ok(request) => take(&stream, request),
                    Err(status) => return Ok(Err(status)),
                },
                Ok(None) => is_open = false,
                Err(status) => return Ok(Err(status)),
            },
            _ = progress_due.tick() => stream.notify_progress(),
            status = &mut leader_lost => return Ok(Err(status)),
        }
        while responses.has_room()
            && let Some(message) = stream.pop()
        {
            send(service, message, responses);
        }
    }
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Up to a tenth longer, so that streams that began together are not told at once.
fn with_jitter(interval: Duration) -> Duration {
    interval + interval.mul_f64(rand::random_range(0.0..0.1))
}

fn take(stream: &WatchStream<'_>, request: pb::WatchRequest) {
    match request.request_union {
        Some(RequestUnion::CreateRequest(create)) => stream.create(&WatchRequest {
            id: create.watch_id,
            no_put: create.filters.contains(&FilterType::Noput.into()),
            no_delete: create.filters.contains(&FilterType::Nodelete.into()),
            key: create.key,
            range_end: create.range_end,
            start_revision: create.start_revision,
            prev_kv: create.prev_kv,
            fragment: create.fragment,
            progress_notify: create.progress_notify,
        }),
        Some(RequestUnion::CancelRequest(cancel)) => stream.cancel(cancel.watch_id),
        Some(RequestUnion::ProgressRequest(_)) => stream.request_progress(),
        // etcd takes no notice of it either.
        None => {}
    }
}

fn send<C: Coordinator>(
    service: &Service<C>,
    message: WatchMessage,
    responses: &mut Responses<'_>,
) {
    use pb::WatchResponse as Response;
    let (revision, response) = match message {
        WatchMessage::Created { id: watch_id, revision } => {
            (revision, Response { watch_id, created: true, ..Response::default() })
        }
        WatchMessage::Refused { revision, reason } => {
            let response = Response {
                watch_id: NO_WATCHER,
                created: true,
                canceled: true,
                cancel_reason: reason.to_owned(),
                ..Response::default()
            };
            (revision, response)
        }
        WatchMessage::Canceled { id: watch_id, revision } => {
            (revision, Response { watch_id, canceled: true, ..Response::default() })
        }
        WatchMessage::Compacted { id: watch_id, compact_revision } => {
            // Without a revision in its header, as in etcd.
            (0, Response { watch_id, canceled: true, compact_revision, ..Response::default() })
        }
        WatchMessage::Progress { id: watch_id, revision } => {
            (revision, Response { watch_id, ..Response::default() })
        }
        WatchMessage::Events { id: watch_id, revision, events, prev_kv, fragment } => {
            let response = Response { watch_id, ..Response::default() };
            let most_bytes = if fragment { service.most_message_bytes() } else { usize::MAX };
            let cut = (prev_kv, most_bytes);
            return send_events(service, revision, response, &events, cut, responses);
        }
    };
    let header = service.header(revision as u64);
    responses.push_later(Frame::response(&header, response.encode_to_vec().into()));
}

/// In several responses if one would have more than `most_bytes`, and more than one event.
fn send_events<C: Coordinator>(
    service: &Service<C>,
    revision: i64,
    mut response: pb::WatchResponse,
    events: &[std::sync::Arc<WatchEvent>],
    (prev_kv, most_bytes): (bool, usize),
    responses: &mut Responses<'_>,
) {
    metrics().watches.events.inc_by(events.len() as u64);
    let header = service.header(revision as u64);
    let bytes = |event: &WatchEvent| encoded_bytes(event, prev_kv);
    // Header, id, and what tells of a fragment.
    let overhead = Frame::response(&header, response.encode_to_vec().into()).bytes() + 2;
    let is_cut = overhead + events.iter().map(|event| bytes(event)).sum::<usize>() >= most_bytes;
    let mut rest = events;
    while !rest.is_empty() {
        let mut count = rest.len();
        if is_cut {
            let mut size = overhead;
            let fits = |event: &&std::sync::Arc<WatchEvent>| {
                size += bytes(event);
                size < most_bytes
            };
            count = rest.iter().take_while(fits).count().max(1);
        }
        let (now, later) = rest.split_at(count);
        rest = later;
        response.fragment = !rest.is_empty();
        let mut body =
            BytesMut::with_capacity(overhead + now.iter().map(|event| bytes(event)).sum::<usize>());
        body.put_slice(&response.encode_to_vec());
        now.iter().for_each(|event| put_event(&mut body, event, prev_kv));
        responses.push_later(Frame::response(&header, body.freeze()));
    }
}

fn previous(event: &WatchEvent, prev_kv: bool) -> Option<&Bytes> {
    event.previous.get().filter(|_| prev_kv)?.as_ref()
}

fn encoded_bytes(event: &WatchEvent, prev_kv: bool) -> usize {
    let previous = previous(event, prev_kv).map_or(0, |kv| kv.len() + EVENT_PREFIX_BYTES);
    event.encoded.len() + previous + EVENT_PREFIX_BYTES
}

fn put_event(out: &mut BytesMut, event: &WatchEvent, prev_kv: bool) {
    let Some(previous) = previous(event, prev_kv) else {
        return put_field(out, EVENTS_TAG, &event.encoded);
    };
    let mut whole = BytesMut::with_capacity(encoded_bytes(event, prev_kv));
    whole.put_slice(&event.encoded);
    put_field(&mut whole, PREV_KV_TAG, previous);
    put_field(out, EVENTS_TAG, &whole);
}
