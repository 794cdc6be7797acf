//! RangeStream: a range in many messages (server/etcdserver/v3_server.go, rangeStream), each a query of its own.
//!
//! The body of a step is a RangeResponse without its header. The host wraps it into a RangeStreamResponse, and gives
//! it a header (with the answered revision) only if no further step follows: the last message alone has one, and with
//! it `more` and `count`.
//!
//! Where etcd can loop, this does not: with an order of NONE and a target that is not KEY, etcd sorts each message and
//! goes on behind the key that happens to be its last. Here each message is sorted too, but the next one goes on
//! behind its greatest key.

use crate::listing;
use crate::range::{self, Purpose};
use crate::rejection::Rejection;
use crate::request::{self, RangeStreamStep, Span};
use crate::state::State;
use crate::tables::{Answer, Tables};
use crate::wire::varint_length;

/// Keys in the first message.
const FIRST_CHUNK_LIMIT: i64 = 10;

/// Answers one step. Returns the revision of the stream and the next step's request.
pub fn step<T: Tables>(
    tables: &T,
    answer: &mut impl Answer,
    view: &State,
    step: &RangeStreamStep<'_>,
) -> Result<(i64, Option<Vec<u8>>), Rejection> {
    let mut chunk = step.range;
    if chunk.count_only {
        let found = range::range(tables, answer, view, &chunk, Purpose::StreamChunk)?;
        found.append_to(answer);
        return Ok((view.revision, None));
    }
    let first = step.pinned_revision == 0;
    let pinned = if first { view.revision } else { step.pinned_revision };
    let total_limit = if chunk.limit == 0 { i64::MAX } else { chunk.limit };
    chunk.limit = if first { FIRST_CHUNK_LIMIT.min(total_limit) } else { step.chunk_limit };
    if chunk.revision <= 0 {
        chunk.revision = pinned;
    }

    let begin = answer.length();
    let mut found = range::range(tables, answer, view, &chunk, Purpose::StreamChunk)?;
    let sent = step.sent_count.saturating_add(found.taken);
    let next_key = found.next_key.take().filter(|_| found.more);
    match next_key {
        Some(key) if sent < total_limit => {
            let size = answer.length() - begin + overhead(pinned, found.count);
            let limit = next_limit(chunk.limit, size, step.target_bytes).min(total_limit - sent);
            let mut range = chunk;
            range.key = &key;
            range.limit = step.range.limit;
            let next = RangeStreamStep {
                range,
                pinned_revision: pinned,
                chunk_limit: limit,
                sent_count: sent,
                target_bytes: step.target_bytes,
            };
            Ok((pinned, Some(request::encode_range_stream_step(&next))))
        }
        rest => {
            found.count = sent;
            if let Some(key) = rest {
                let span = Span { key: &key, end: chunk.span().end };
                found.count += listing::count(tables, view, span, chunk.revision) as i64;
            }
            found.append_to(answer);
            Ok((pinned, None))
        }
    }
}

/// What etcd adds to the size of a message's rows when it decides on the next one's limit: header, `more`, `count`.
fn overhead(revision: i64, count: i64) -> u64 {
    (2 + 1 + varint_length(revision as u64) + 2 + 1 + varint_length(count as u64)) as u64
}

/// The keys of the next message, so that it comes near the target.
fn next_limit(limit: i64, size_bytes: u64, target_bytes: u64) -> i64 {
    let next = if size_bytes < target_bytes / 2 {
        limit.saturating_mul(2)
    } else if size_bytes > target_bytes.saturating_mul(2) {
        limit / 2
    } else {
        limit
    };
    next.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_follow_the_target() {
        let cases = [(10, 49, 100, 20), (10, 50, 100, 10), (10, 200, 100, 10), (10, 201, 100, 5)];
        for (limit, size, target, expected) in cases {
            assert_eq!(next_limit(limit, size, target), expected);
        }
        assert_eq!(next_limit(1, 1000, 100), 1);
        assert_eq!(next_limit(i64::MAX, 0, u64::MAX), i64::MAX);
    }
}
