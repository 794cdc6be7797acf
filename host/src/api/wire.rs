//! Protobuf by hand, for the messages that pass through unread: requests are wrapped and responses are given their
//! header by writing tags and lengths around bytes that stay as they are.

use bytes::{BufMut, Bytes, BytesMut};

const VARINT: u32 = 0;
const LENGTH_DELIMITED: u32 = 2;

/// gRPC's prefix of a message: whether it is compressed, and its length.
pub(super) const FRAME_PREFIX_BYTES: usize = 5;

/// The requests of `instar.kv.Request` that are etcd's, by their field numbers in InternalRaftRequest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EtcdRequest {
    Range = 3,
    Put = 4,
    DeleteRange = 5,
    Txn = 6,
    Compaction = 7,
    LeaseGrant = 8,
    LeaseRevoke = 9,
    Alarm = 10,
}

/// The other requests, by their field numbers in `instar.kv.Request`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnRequest {
    HashKv = 4,
    Hash = 5,
    LeaseTimeToLive = 7,
    LeaseLeases = 8,
}

const REQUEST_ETCD: u32 = 1;
const REQUEST_RANGE_STREAM_STEP: u32 = 3;
const STEP_RANGE: u32 = 1;
const STEP_TARGET_BYTES: u32 = 5;
const RANGE_STREAM_RESPONSE: u32 = 1;
const RESPONSE_HEADER: u32 = 1;

/// `instar.kv.Request{etcd: InternalRaftRequest{<kind>: message}}`.
pub(super) fn etcd_request(kind: EtcdRequest, message: &[u8]) -> Bytes {
    let inner = field_bytes(kind as u32, message.len());
    let mut out = BytesMut::with_capacity(field_bytes(REQUEST_ETCD, inner));
    put_prefix(&mut out, REQUEST_ETCD, inner);
    put_prefix(&mut out, kind as u32, message.len());
    out.put_slice(message);
    out.freeze()
}

/// `instar.kv.Request{<kind>: message}`.
pub(super) fn own_request(kind: OwnRequest, message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(field_bytes(kind as u32, message.len()));
    put_prefix(&mut out, kind as u32, message.len());
    out.put_slice(message);
    out.freeze()
}

/// `instar.kv.Request{range_stream_step: {range: message, target_bytes}}`: the first step.
pub(super) fn range_stream_request(message: &[u8], target_bytes: u64) -> Bytes {
    let inner = field_bytes(STEP_RANGE, message.len())
        + if target_bytes == 0 { 0 } else { 1 + varint_bytes(target_bytes) };
    let mut out = BytesMut::with_capacity(field_bytes(REQUEST_RANGE_STREAM_STEP, inner));
    put_prefix(&mut out, REQUEST_RANGE_STREAM_STEP, inner);
    put_prefix(&mut out, STEP_RANGE, message.len());
    out.put_slice(message);
    put_number(&mut out, STEP_TARGET_BYTES, target_bytes);
    out.freeze()
}

/// How many bytes etcd's log entry has for that request: InternalRaftRequest{header: {ID}, <kind>: message}.
///
/// etcd's request ids have the low 16 bits of the member's id on top, and the time below, which is never 0.
pub(super) fn raft_request_bytes(kind: EtcdRequest, message_bytes: usize, member_id: u64) -> usize {
    const HEADER: u32 = 100;
    let request_id = member_id << 48 | 1 << 47;
    field_bytes(HEADER, 1 + varint_bytes(request_id)) + field_bytes(kind as u32, message_bytes)
}

/// The header of a response; fields that are 0 are left out, as protobuf does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ResponseHeader {
    pub(super) cluster_id: u64,
    pub(super) member_id: u64,
    pub(super) revision: u64,
    pub(super) raft_term: u64,
}

impl ResponseHeader {
    /// Including the tag and length of the field that it is.
    const MOST_BYTES: usize = 2 + 4 * 11;

    fn put(&self, out: &mut BytesMut) {
        let numbers = [self.cluster_id, self.member_id, self.revision, self.raft_term];
        let bytes =
            numbers.iter().filter(|number| **number != 0).map(|n| 1 + varint_bytes(*n)).sum();
        put_prefix(out, RESPONSE_HEADER, bytes);
        for (field, number) in (1..).zip(numbers) {
            put_number(out, field, number);
        }
    }
}

/// A gRPC message in at most two parts, prefix included.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) head: Bytes,
    /// Empty if all is in `head`.
    pub(super) body: Bytes,
}

/// Up to this size a copy is cheaper than a second frame.
const COPY_BYTES: usize = 8 << 10;

impl Frame {
    pub(super) fn bytes(&self) -> usize {
        self.head.len() + self.body.len()
    }

    #[cfg(test)]
    /// The message alone, without gRPC's prefix. Nothing is left in the frame.
    pub(super) fn take_message(&mut self) -> Bytes {
        let head = std::mem::take(&mut self.head).split_off(FRAME_PREFIX_BYTES);
        let body = std::mem::take(&mut self.body);
        match body.is_empty() {
            true => head,
            false => [head, body].concat().into(),
        }
    }

    fn new(before: &[u8], body: Bytes) -> Frame {
        let copied = if body.len() <= COPY_BYTES { body.len() } else { 0 };
        let mut head = BytesMut::with_capacity(FRAME_PREFIX_BYTES + before.len() + copied);
        head.put_u8(0);
        // Whoever sends it has checked that it fits.
        head.put_u32((before.len() + body.len()) as u32);
        head.put_slice(before);
        if body.len() > COPY_BYTES {
            return Frame { head: head.freeze(), body };
        }
        head.put_slice(&body);
        Frame { head: head.freeze(), body: Bytes::new() }
    }

    /// A message that is written already.
    pub(super) fn plain(message: Bytes) -> Frame {
        Frame::new(&[], message)
    }

    /// A response message: its header and the rest of it.
    pub(super) fn response(header: &ResponseHeader, body: Bytes) -> Frame {
        let mut before = BytesMut::with_capacity(ResponseHeader::MOST_BYTES);
        header.put(&mut before);
        Frame::new(&before, body)
    }

    /// RangeStreamResponse{range_response: {header?, ...}}.
    pub(super) fn range_stream(header: Option<&ResponseHeader>, body: Bytes) -> Frame {
        let mut inner = BytesMut::with_capacity(ResponseHeader::MOST_BYTES);
        if let Some(header) = header {
            header.put(&mut inner);
        }
        let mut before = BytesMut::with_capacity(11 + inner.len());
        put_prefix(&mut before, RANGE_STREAM_RESPONSE, inner.len() + body.len());
        before.put_slice(&inner);
        Frame::new(&before, body)
    }
}

fn put_varint(out: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

fn varint_bytes(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

/// Tag and length of a field with `content_bytes`.
fn put_prefix(out: &mut BytesMut, field: u32, content_bytes: usize) {
    put_varint(out, u64::from(field << 3 | LENGTH_DELIMITED));
    put_varint(out, content_bytes as u64);
}

fn put_number(out: &mut BytesMut, field: u32, number: u64) {
    if number != 0 {
        put_varint(out, u64::from(field << 3 | VARINT));
        put_varint(out, number);
    }
}

/// A length-delimited field with tag and length, in bytes.
fn field_bytes(field: u32, content_bytes: usize) -> usize {
    varint_bytes(u64::from(field << 3)) + varint_bytes(content_bytes as u64) + content_bytes
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use proto::etcdserverpb as pb;
    use proto::instar::kv;

    use super::*;

    #[test]
    fn requests_are_what_prost_would_write() {
        let put =
            pb::PutRequest { key: "k".into(), value: vec![7; 300].into(), ..Default::default() };
        let raw = put.encode_to_vec();
        let expected = kv::Request {
            kind: Some(kv::request::Kind::Etcd(pb::InternalRaftRequest {
                put: Some(put),
                ..Default::default()
            })),
        };
        assert_eq!(etcd_request(EtcdRequest::Put, &raw), expected.encode_to_vec());

        let range = pb::RangeRequest { key: "k".into(), ..Default::default() };
        let raw = range.encode_to_vec();
        for target_bytes in [0, 1 << 20] {
            let step = kv::RangeStreamStep {
                range: Some(range.clone()),
                target_bytes,
                ..Default::default()
            };
            let expected = kv::Request { kind: Some(kv::request::Kind::RangeStreamStep(step)) };
            assert_eq!(range_stream_request(&raw, target_bytes), expected.encode_to_vec());
        }

        let hash = pb::HashKvRequest { revision: 9 };
        let expected = kv::Request { kind: Some(kv::request::Kind::HashKv(hash)) };
        assert_eq!(
            own_request(OwnRequest::HashKv, &hash.encode_to_vec()),
            expected.encode_to_vec()
        );
        let expected = kv::Request { kind: Some(kv::request::Kind::Hash(pb::HashRequest {})) };
        assert_eq!(own_request(OwnRequest::Hash, &[]), expected.encode_to_vec());
    }

    #[test]
    fn the_size_in_the_log_is_etcds() {
        for member_id in [0, 1, 0x7f, 0x8e9e_05c5_2164_694d, u64::MAX] {
            let put = pb::PutRequest { value: vec![1; 1000].into(), ..Default::default() };
            let request = pb::InternalRaftRequest {
                header: Some(pb::RequestHeader {
                    id: member_id << 48 | 1 << 47,
                    ..Default::default()
                }),
                put: Some(put.clone()),
                ..Default::default()
            };
            let bytes = raft_request_bytes(EtcdRequest::Put, put.encoded_len(), member_id);
            assert_eq!(bytes, request.encoded_len(), "{member_id:x}");
        }
    }

    #[test]
    fn responses_are_what_prost_would_write() {
        for (revision, count) in [(0, 0), (7, 1), (u64::MAX >> 1, 20_000)] {
            let header =
                ResponseHeader { cluster_id: u64::MAX, member_id: 3, revision, raft_term: 0 };
            let body = pb::RangeResponse {
                kvs: vec![Default::default(); count],
                more: true,
                ..Default::default()
            };
            let whole = pb::RangeResponse {
                header: Some(pb::ResponseHeader {
                    cluster_id: u64::MAX,
                    member_id: 3,
                    revision: revision as i64,
                    raft_term: 0,
                }),
                ..body.clone()
            };
            let encoded = Bytes::from(body.encode_to_vec());
            let frame = Frame::response(&header, encoded.clone());
            assert_eq!(unframed(&frame), whole.encode_to_vec());
            let stream = |response| pb::RangeStreamResponse { range_response: Some(response) };
            let frame = Frame::range_stream(Some(&header), encoded.clone());
            assert_eq!(unframed(&frame), stream(whole).encode_to_vec());
            assert_eq!(unframed(&Frame::range_stream(None, encoded)), stream(body).encode_to_vec());
        }
    }

    fn unframed(frame: &Frame) -> Vec<u8> {
        let bytes = [frame.head.as_ref(), frame.body.as_ref()].concat();
        assert_eq!(bytes.len(), frame.bytes());
        assert_eq!(bytes[0], 0);
        assert_eq!(u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize, bytes.len() - 5);
        bytes[5..].to_vec()
    }
}
