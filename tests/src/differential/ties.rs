//! Rows that a sort finds equal.
//!
//! Nothing says in which order they come. etcd's is that of the sort in Go's library, which keeps the
//! order of keys for up to twelve rows and moves equal rows about for more. So for more, equal rows are
//! put into the order of their keys before answers are compared; and where a limit cuts off a run of
//! equal rows, any of them will do.

use proto::etcdserverpb as pb;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op::Response;
use proto::mvccpb::KeyValue;

use super::{Call, Message};

/// Up to this many rows Go sorts by insertion, which keeps equal rows in order.
const STABLE_ROWS_MAX: i64 = 12;

/// Makes answers to the same request comparable where a sort leaves their order open.
pub fn settle(call: &Call, messages: &mut [Message]) {
    for message in messages {
        match (call, message) {
            (Call::Range(request), Message::Range(answer)) => settle_range(request, answer),
            (Call::Txn(request), Message::Txn(answer)) => settle_txn(request, answer),
            _ => {}
        }
    }
}

fn settle_txn(request: &pb::TxnRequest, answer: &mut pb::TxnResponse) {
    let ops = if answer.succeeded { &request.success } else { &request.failure };
    for (op, answer) in ops.iter().zip(&mut answer.responses) {
        match (&op.request, &mut answer.response) {
            (Some(Request::RequestRange(op)), Some(Response::ResponseRange(answer))) => {
                settle_range(op, answer);
            }
            (Some(Request::RequestTxn(op)), Some(Response::ResponseTxn(answer))) => {
                settle_txn(op, answer);
            }
            _ => {}
        }
    }
}

fn settle_range(request: &pb::RangeRequest, answer: &mut pb::RangeResponse) {
    let by_key = request.sort_target() == SortTarget::Key;
    if answer.count <= STABLE_ROWS_MAX || by_key && request.sort_order() != SortOrder::None {
        return;
    }
    let equal = |a: &KeyValue, b: &KeyValue| match request.sort_target() {
        SortTarget::Key => false,
        SortTarget::Version => a.version == b.version,
        SortTarget::Create => a.create_revision == b.create_revision,
        SortTarget::Mod => a.mod_revision == b.mod_revision,
        // Without values there is no telling which are equal.
        SortTarget::Value => request.keys_only || a.value == b.value,
    };
    let mut runs: Vec<&mut [KeyValue]> = answer.kvs.chunk_by_mut(equal).collect();
    runs.iter_mut().for_each(|run| run.sort_by(|a, b| a.key.cmp(&b.key)));
    if answer.more
        && let Some(last) = runs.last_mut()
    {
        last.fill(KeyValue::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(keys: &[(&'static str, i64)], more: bool) -> pb::RangeResponse {
        let kvs = keys.iter().map(|&(key, mod_revision)| KeyValue {
            key: key.into(),
            mod_revision,
            ..Default::default()
        });
        pb::RangeResponse { kvs: kvs.collect(), count: 20, more, ..Default::default() }
    }

    fn settled(request: &pb::RangeRequest, mut answer: pb::RangeResponse) -> pb::RangeResponse {
        settle_range(request, &mut answer);
        answer
    }

    #[test]
    fn equal_rows_may_come_in_any_order_and_others_may_not() {
        let request =
            pb::RangeRequest { sort_target: SortTarget::Mod.into(), ..Default::default() };
        let one = settled(&request, answer(&[("a", 1), ("c", 2), ("b", 2), ("d", 3)], false));
        let same = settled(&request, answer(&[("a", 1), ("b", 2), ("c", 2), ("d", 3)], false));
        let other = settled(&request, answer(&[("b", 2), ("a", 1), ("c", 2), ("d", 3)], false));
        assert_eq!(one, same);
        assert_ne!(one, other);
    }

    #[test]
    fn where_a_limit_cuts_a_run_any_of_it_will_do() {
        let request =
            pb::RangeRequest { sort_target: SortTarget::Mod.into(), ..Default::default() };
        let one = settled(&request, answer(&[("a", 1), ("c", 2)], true));
        assert_eq!(one, settled(&request, answer(&[("a", 1), ("b", 2)], true)));
        assert_ne!(one, settled(&request, answer(&[("a", 1)], true)));
    }
}
