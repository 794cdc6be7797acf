//! The bytes of requests and answers: gRPC's frame around a protobuf message.
//!
//! Requests are encoded once and patched in place; of an answer only the fields a check needs are read,
//! so that the generator does not spend on decoding what it is there to measure.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use proto::etcdserverpb::{
    Compare, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, PutRequest,
    RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchRequest, compare, request_op,
    watch_request,
};

/// What every key starts with; a listing reads this prefix.
const KEY_PREFIX: &[u8] = b"bench/";
const PREFIX_END: &[u8] = b"bench0";
/// Digits after the prefix: keys of one length, in the order of their numbers.
const KEY_DIGITS: usize = 10;
/// Bytes of each value.
pub const VALUE_BYTES: usize = 256;
/// Where a value that is timed carries the time it was sent at, as eight bytes.
const SENT_AT_BYTES: usize = 8;
/// gRPC's frame: a flag for compression and the length in four bytes.
pub const FRAME_BYTES: usize = 5;

/// The key with a number.
pub fn key(number: u64) -> Bytes {
    let mut key = KEY_PREFIX.to_vec();
    key.extend_from_slice(&[b'0'; KEY_DIGITS]);
    write_digits(&mut key[KEY_PREFIX.len()..], number);
    key.into()
}

/// Bytes that do not compress, the same in every run.
fn value() -> Bytes {
    let mut state = 0x9e37_79b9_u32;
    let bytes = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    });
    bytes.take(VALUE_BYTES).collect::<Vec<u8>>().into()
}

fn write_digits(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// A message in gRPC's frame.
pub fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(FRAME_BYTES + length);
    frame.put_u8(0);
    frame.put_u32(length as u32);
    message.encode_raw(&mut frame);
    frame.freeze()
}

/// A framed request whose key's number is patched in for each call.
pub struct Keyed {
    frame: Bytes,
    digits_at: usize,
}

impl Keyed {
    /// Puts of [`VALUE_BYTES`] bytes.
    pub fn put() -> Self {
        Self::new(framed(&PutRequest { key: key(0), value: value(), ..Default::default() }))
    }

    /// Reads of one key.
    pub fn get(serializable: bool) -> Self {
        Self::new(framed(&RangeRequest { key: key(0), serializable, ..Default::default() }))
    }

    fn new(frame: Bytes) -> Self {
        let zeros = key(0);
        let key_at = frame.windows(zeros.len()).position(|window| window == zeros);
        let digits_at = key_at.expect("the request holds the key it was made with");
        Self { frame, digits_at: digits_at + KEY_PREFIX.len() }
    }

    /// The request for the key with a number.
    pub fn with_key(&self, number: u64) -> Bytes {
        self.patched(number).freeze()
    }

    /// The put of the key with a number whose value begins with the time it is sent at.
    pub fn with_time(&self, number: u64, sent_at_ns: u64) -> Bytes {
        let mut frame = self.patched(number);
        // The value is a put's last field.
        let value_at = frame.len() - VALUE_BYTES;
        frame[value_at..value_at + SENT_AT_BYTES].copy_from_slice(&sent_at_ns.to_be_bytes());
        frame.freeze()
    }

    fn patched(&self, number: u64) -> BytesMut {
        let mut frame = BytesMut::from(&self.frame[..]);
        write_digits(&mut frame[self.digits_at..self.digits_at + KEY_DIGITS], number);
        frame
    }
}

/// All keys there are, in one answer.
pub fn list() -> Bytes {
    let prefix = Bytes::from_static(KEY_PREFIX);
    let range_end = Bytes::from_static(PREFIX_END);
    framed(&RangeRequest { key: prefix, range_end, ..Default::default() })
}

/// What a Kubernetes API server sends for a create (`mod_revision` 0) or an update: if the key was last
/// modified at that revision then put it, else get it.
pub struct GuardedPut {
    key: Bytes,
    value: Bytes,
}

impl GuardedPut {
    /// Transactions on the key with a number.
    pub fn new(number: u64) -> Self {
        Self { key: key(number), value: value() }
    }

    /// The transaction that puts if the key's mod revision is `mod_revision`.
    pub fn if_modified_at(&self, mod_revision: i64) -> Bytes {
        let guard = Compare {
            result: compare::CompareResult::Equal.into(),
            target: compare::CompareTarget::Mod.into(),
            key: self.key.clone(),
            target_union: Some(compare::TargetUnion::ModRevision(mod_revision)),
            ..Default::default()
        };
        let (key, value) = (self.key.clone(), self.value.clone());
        let put = PutRequest { key: key.clone(), value, ..Default::default() };
        let get = RangeRequest { key, ..Default::default() };
        let operation = |request| vec![RequestOp { request: Some(request) }];
        framed(&TxnRequest {
            compare: vec![guard],
            success: operation(request_op::Request::RequestPut(put)),
            failure: operation(request_op::Request::RequestRange(get)),
        })
    }
}

/// Creates a watch of the key with a number; `start_revision` 0 is from now on.
pub fn watch(number: u64, start_revision: i64) -> Bytes {
    let create = WatchCreateRequest { key: key(number), start_revision, ..Default::default() };
    let request_union = Some(watch_request::RequestUnion::CreateRequest(create));
    framed(&WatchRequest { request_union })
}

/// Grants the lease with an id.
pub fn grant(id: i64, ttl_s: i64) -> Bytes {
    framed(&LeaseGrantRequest { ttl: ttl_s, id })
}

/// Keeps a lease alive.
pub fn keep_alive(id: i64) -> Bytes {
    framed(&LeaseKeepAliveRequest { id })
}

/// All leases there are.
pub fn leases() -> Bytes {
    framed(&LeaseLeasesRequest {})
}

/// How many leases an answer to [`leases`] lists.
pub fn leases_listed(message: &[u8]) -> Option<u64> {
    let mut listed = 0;
    walk(message, |field, _, _| listed += u64::from(field == 2))?;
    Some(listed)
}

/// Calls `visit` with the key's version and the time its value was sent at, for each put that a watch
/// response tells of. Whether the response says that the watch was created; none when it is no message,
/// the watch was cancelled, or an event is not such a put.
pub fn watch_events(message: &[u8], mut visit: impl FnMut(u64, u64)) -> Option<bool> {
    let (mut created, mut good) = (false, true);
    walk(message, |field, number, bytes| match field {
        3 => created = number == 1,
        4 => good &= number == 0,
        11 => match put_event(bytes) {
            Some((version, sent_at_ns)) => visit(version, sent_at_ns),
            None => good = false,
        },
        _ => {}
    })?;
    good.then_some(created)
}

fn put_event(event: &[u8]) -> Option<(u64, u64)> {
    let (mut version, mut value): (u64, &[u8]) = (0, &[]);
    walk(bytes_field(event, 2)?, |field, number, bytes| match field {
        4 => version = number,
        5 => value = bytes,
        _ => {}
    })?;
    Some((version, u64::from_be_bytes(*value.first_chunk::<SENT_AT_BYTES>()?)))
}

/// The number field `wanted` of a message: 0 when it is absent, as in proto3; `None` when the bytes are
/// no message.
pub fn number_field(message: &[u8], wanted: u64) -> Option<u64> {
    let mut found = 0;
    walk(message, |field, number, _| {
        if field == wanted {
            found = number;
        }
    })?;
    Some(found)
}

/// The bytes of field `wanted` of a message: empty when it is absent.
pub fn bytes_field(message: &[u8], wanted: u64) -> Option<&[u8]> {
    let mut found: &[u8] = &[];
    walk(message, |field, _, bytes| {
        if field == wanted {
            found = bytes;
        }
    })?;
    Some(found)
}

/// Calls `visit` with each field's number, its varint (or 0) and its bytes (or none).
fn walk<'a>(mut rest: &'a [u8], mut visit: impl FnMut(u64, u64, &'a [u8])) -> Option<()> {
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let (number, bytes) = match tag & 7 {
            0 => (varint(&mut rest)?, &rest[..0]),
            1 => (0, rest.split_off(..8)?),
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                (0, rest.split_off(..length)?)
            }
            5 => (0, rest.split_off(..4)?),
            _ => return None,
        };
        visit(tag >> 3, number, bytes);
    }
    Some(())
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *rest.split_off_first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proto::etcdserverpb::{
        LeaseLeasesResponse, LeaseStatus, RangeResponse, ResponseHeader, WatchResponse,
    };
    use proto::mvccpb::{Event, KeyValue};

    use super::*;

    #[test]
    fn a_patched_request_is_the_one_that_prost_encodes() {
        let frame = Keyed::put().with_key(1_234_567_890);
        let request = PutRequest::decode(&frame[FRAME_BYTES..]).expect("a put");
        assert_eq!(request.key, "bench/1234567890");
        assert_eq!(request.value.len(), VALUE_BYTES);
        assert_eq!(frame, framed(&request));
        assert_eq!(key(42), "bench/0000000042");
        let timed = Keyed::put().with_time(7, 99);
        let timed = PutRequest::decode(&timed[FRAME_BYTES..]).expect("a put");
        assert_eq!((&timed.key, &timed.value[..8]), (&key(7), &99_u64.to_be_bytes()[..]));
        assert_eq!((timed.value.len(), &timed.value[8..]), (VALUE_BYTES, &request.value[8..]));
    }

    #[test]
    fn events_are_read_and_what_is_no_put_is_refused() {
        let event = |version, value: &[u8]| {
            let value = Bytes::copy_from_slice(value);
            let kv = KeyValue { key: key(1), version, value, ..Default::default() };
            Event { kv: Some(kv), ..Default::default() }
        };
        let read = |response: WatchResponse| {
            let mut seen = Vec::new();
            let created = watch_events(&response.encode_to_vec(), |version, sent_at_ns| {
                seen.push((version, sent_at_ns));
            });
            created.map(|created| (created, seen))
        };
        let created = WatchResponse { created: true, ..Default::default() };
        assert_eq!(read(created), Some((true, vec![])));
        let events = vec![event(1, &5_u64.to_be_bytes()), event(2, &[0; VALUE_BYTES])];
        let told = WatchResponse { events, ..Default::default() };
        assert_eq!(read(told), Some((false, vec![(1, 5), (2, 0)])));
        let bare = WatchResponse { events: vec![event(0, b"")], ..Default::default() };
        assert_eq!(read(bare), None);
        assert_eq!(read(WatchResponse { canceled: true, ..Default::default() }), None);

        let leases = vec![LeaseStatus { id: 1 }, LeaseStatus { id: 300 }];
        let header = Some(ResponseHeader { revision: 9, ..Default::default() });
        let listing = LeaseLeasesResponse { header, leases }.encode_to_vec();
        assert_eq!(leases_listed(&listing), Some(2));
    }

    #[test]
    fn fields_are_found_without_decoding_the_rest() {
        let header = ResponseHeader { cluster_id: u64::MAX, revision: 77, ..Default::default() };
        let response = RangeResponse { header: Some(header), count: 1 << 40, ..Default::default() };
        let bytes = response.encode_to_vec();
        assert_eq!(number_field(&bytes, 4), Some(1 << 40));
        assert_eq!(number_field(&bytes, 9), Some(0));
        let header = bytes_field(&bytes, 1).expect("a message");
        assert_eq!(number_field(header, 3), Some(77));
        for end in 1..bytes.len() {
            // A cut message is refused or is a shorter message; it is never read past its end.
            let _ = number_field(&bytes[..end], 4);
        }
        assert_eq!(number_field(&[0xff; 11], 1), None);
    }
}
