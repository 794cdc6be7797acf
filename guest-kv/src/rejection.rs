//! Refusals: etcd's errors with their gRPC codes and texts (api/v3rpc/rpctypes/error.go), and a few of our own.

/// An answer that says no. It is the same on every replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// A gRPC status code, never 0.
    pub code: u32,
    pub message: String,
}

impl Rejection {
    pub(crate) fn new(code: u32, message: &str) -> Self {
        Rejection { code, message: message.to_owned() }
    }

    /// Bytes that are no request, in the words of grpc-go.
    pub(crate) fn malformed() -> Self {
        let text =
            "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data";
        Rejection::new(INTERNAL, text)
    }
}

const INVALID_ARGUMENT: u32 = 3;
const NOT_FOUND: u32 = 5;
const RESOURCE_EXHAUSTED: u32 = 8;
const FAILED_PRECONDITION: u32 = 9;
const OUT_OF_RANGE: u32 = 11;
const UNIMPLEMENTED: u32 = 12;
const INTERNAL: u32 = 13;
const DATA_LOSS: u32 = 15;

/// One named constructor a refusal.
macro_rules! rejections {
    ($($name:ident = $code:ident, $message:literal;)*) => {
        impl Rejection {$(
            pub(crate) fn $name() -> Self {
                Rejection::new($code, $message)
            }
        )*}
    };
}

rejections! {
    empty_key = INVALID_ARGUMENT, "etcdserver: key is not provided";
    key_not_found = INVALID_ARGUMENT, "etcdserver: key not found";
    value_provided = INVALID_ARGUMENT, "etcdserver: value is provided";
    lease_provided = INVALID_ARGUMENT, "etcdserver: lease is provided";
    too_many_ops = INVALID_ARGUMENT, "etcdserver: too many operations in txn request";
    duplicate_key = INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request";
    invalid_sort_option = INVALID_ARGUMENT, "etcdserver: invalid sort option";
    compacted = OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted";
    future_revision = OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision";
    no_space = RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded";
    corrupt_cluster = DATA_LOSS, "etcdserver: corrupt cluster";
    unknown_alarm_action = INVALID_ARGUMENT, "instar: an alarm can be got, activated and deactivated";
    lease_not_found = NOT_FOUND, "etcdserver: requested lease not found";
    lease_exists = FAILED_PRECONDITION, "etcdserver: lease already exists";
    lease_ttl_too_large = OUT_OF_RANGE, "etcdserver: too large lease TTL";
    stream_sort = UNIMPLEMENTED, "RangeStream does not support custom sort orders";
    stream_filter = UNIMPLEMENTED, "RangeStream does not support revision filters";
    unknown_request = UNIMPLEMENTED, "instar: the state machine does not know this request";
    not_a_command = INVALID_ARGUMENT, "instar: the request does not write, and is no command";
    not_a_query = INVALID_ARGUMENT, "instar: the request writes, and is no query";
}
