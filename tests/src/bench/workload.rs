//! The table of workloads, and what one client of each sends and expects.

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::{TxnResponse, response_op};

use super::grpc::{self, Answer};
use super::message::{
    FRAME_BYTES, GuardedPut, Keyed, VALUE_BYTES, bytes_field, grant, list, number_field,
};

/// Keys that are there before a workload reads.
pub const DATASET_KEYS: u64 = 10_000;
/// One transaction in this many compares with a revision that is no longer the key's, as an update does
/// that lost a race; it must take the branch that gets.
const STALE_EVERY: u64 = 10;
/// The time of leases that are not to expire during a run.
pub const LONG_TTL_S: i64 = 3_600;

/// What each request of a workload is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Put the next key in order, [`VALUE_BYTES`] bytes.
    Put,
    /// Put keys in turn, `keys` of them from the one with the number `first`.
    Update { first: u64, keys: u64 },
    /// Grant the lease whose id is the request's number, from 1.
    Grant { ttl_s: i64 },
    /// Get one key of the dataset.
    Get { serializable: bool },
    /// If the client's own key has the mod revision the client last saw then put it, else get it.
    Transaction,
    /// Get the whole dataset in one answer.
    List,
}

/// The members that clients connect to; connections are dealt to them in turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// Every member.
    All,
    /// The leader only.
    Leader,
    /// One follower; only where there is one.
    Follower,
}

/// When a run is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// After the time the options say.
    Time,
    /// After the keys the options say have been put; then memory is read.
    Keys,
    /// After the leases the options say have been granted; then memory is read.
    Leases,
}

/// What a workload's clients do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// Clients that each have one request out.
    Calls { action: Action, crowd: Crowd, extent: Extent },
    /// Watchers that share `keys` keys evenly, while one client puts these in turn at a fixed rate.
    Watch { crowd: Crowd, keys: u64, puts_per_s: u64 },
    /// Clients that each keep a lease of their own alive, one message out at a time.
    KeepAlive { crowd: Crowd },
    /// Leases that nobody keeps alive, from the first that is due until none is left.
    Expiry,
    /// Puts, first alone and then while watchers, a key each, read all revisions since the first.
    CatchUp { crowd: Crowd },
}

/// How many clients there are: a client is one of `streams` on one of `connections`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Crowd {
    pub connections: usize,
    pub streams: usize,
}

impl Crowd {
    /// All clients.
    pub fn clients(self) -> u64 {
        (self.connections * self.streams) as u64
    }
}

/// One line of the benchmark.
#[derive(Debug)]
pub struct Workload {
    pub name: &'static str,
    pub shape: Shape,
    pub target: Target,
}

const fn crowd(connections: usize, streams: usize) -> Crowd {
    Crowd { connections, streams }
}

const fn calls(
    name: &'static str,
    action: Action,
    crowd: Crowd,
    target: Target,
    extent: Extent,
) -> Workload {
    Workload { name, shape: Shape::Calls { action, crowd, extent }, target }
}

const fn timed(name: &'static str, action: Action, crowd: Crowd, target: Target) -> Workload {
    calls(name, action, crowd, target, Extent::Time)
}

const fn streams(name: &'static str, shape: Shape) -> Workload {
    Workload { name, shape, target: Target::All }
}

const fn watch(name: &'static str, crowd: Crowd, keys: u64, puts_per_s: u64) -> Workload {
    streams(name, Shape::Watch { crowd, keys, puts_per_s })
}

const LINEARIZABLE: Action = Action::Get { serializable: false };
const SERIALIZABLE: Action = Action::Get { serializable: true };
const ONE: Crowd = crowd(1, 1);
const THOUSAND: Crowd = crowd(100, 10);

/// Every workload, in the order they run. A name is its kind, then what sets it apart.
pub const WORKLOADS: [Workload; 20] = [
    timed("put-1", Action::Put, ONE, Target::Leader),
    timed("put-1-follower", Action::Put, ONE, Target::Follower),
    timed("put-16", Action::Put, crowd(16, 1), Target::All),
    timed("put-1000", Action::Put, THOUSAND, Target::All),
    timed("get-linearizable-1", LINEARIZABLE, ONE, Target::Leader),
    timed("get-linearizable-1-follower", LINEARIZABLE, ONE, Target::Follower),
    timed("get-linearizable-1000", LINEARIZABLE, THOUSAND, Target::All),
    timed("get-serializable-1", SERIALIZABLE, ONE, Target::Leader),
    timed("get-serializable-1000", SERIALIZABLE, THOUSAND, Target::All),
    timed("txn-100", Action::Transaction, crowd(100, 1), Target::All),
    timed("list-1", Action::List, ONE, Target::Leader),
    timed("list-8", Action::List, crowd(8, 1), Target::All),
    watch("watch-latency", crowd(10, 10), 1, 100),
    watch("watch-fanout", THOUSAND, 1, 20),
    watch("watch-distinct", crowd(100, 100), 10_000, 1_000),
    streams("watch-catchup", Shape::CatchUp { crowd: THOUSAND }),
    streams("lease-keepalive", Shape::KeepAlive { crowd: THOUSAND }),
    calls(
        "lease-grant",
        Action::Grant { ttl_s: LONG_TTL_S },
        THOUSAND,
        Target::All,
        Extent::Leases,
    ),
    streams("lease-expiry", Shape::Expiry),
    calls("load", Action::Put, THOUSAND, Target::All, Extent::Keys),
];

impl Workload {
    /// Whether a filter (a whole name, or a kind such as `put`) names this workload.
    pub fn is_named(&self, filter: &str) -> bool {
        self.name == filter || self.name.split('-').next() == Some(filter)
    }

    /// Whether the workload means anything on so many members.
    pub fn fits(&self, members: usize) -> bool {
        members > 1 || self.target != Target::Follower
    }

    /// Whether the dataset must be there first.
    pub fn reads_dataset(&self) -> bool {
        matches!(self.shape, Shape::Calls { action: Action::Get { .. } | Action::List, .. })
    }
}

impl Action {
    /// The method's path.
    pub fn path(self) -> &'static str {
        match self {
            Self::Put | Self::Update { .. } => grpc::PUT,
            Self::Grant { .. } => grpc::LEASE_GRANT,
            Self::Get { .. } | Self::List => grpc::RANGE,
            Self::Transaction => grpc::TXN,
        }
    }
}

/// One client's requests, one after the other.
pub enum Caller {
    Put(Keyed),
    Update { put: Keyed, first: u64, keys: u64 },
    Grant { ttl_s: i64 },
    Get(Keyed),
    Transaction(Guarded),
    List(Bytes),
}

/// A client of the transaction workload: it alone writes its key, so it knows every outcome beforehand.
pub struct Guarded {
    transaction: GuardedPut,
    /// The key's mod revision; 0 before it exists, as in a create.
    mod_revision: i64,
    sent: u64,
    /// The outcome that must come; none after a failed request, which may have been applied or not.
    expected: Option<bool>,
}

impl Caller {
    /// The requests of the client with a number.
    pub fn new(action: Action, client: u64) -> Self {
        match action {
            Action::Put => Self::Put(Keyed::put()),
            Action::Update { first, keys } => Self::Update { put: Keyed::put(), first, keys },
            Action::Grant { ttl_s } => Self::Grant { ttl_s },
            Action::Get { serializable } => Self::Get(Keyed::get(serializable)),
            Action::Transaction => Self::Transaction(Guarded {
                transaction: GuardedPut::new(client),
                mod_revision: 0,
                sent: 0,
                expected: Some(true),
            }),
            Action::List => Self::List(list()),
        }
    }

    /// The framed request that is the run's `number`th.
    pub fn next(&mut self, number: u64) -> Bytes {
        match self {
            Self::Put(put) => put.with_key(number),
            Self::Update { put, first, keys } => put.with_key(*first + number % *keys),
            Self::Grant { ttl_s } => grant(number as i64 + 1, *ttl_s),
            Self::Get(get) => {
                // A step that shares no factor with the dataset visits every key, neighbours far apart.
                get.with_key(number.wrapping_mul(7_919) % DATASET_KEYS)
            }
            Self::Transaction(guarded) => guarded.next(),
            Self::List(list) => list.clone(),
        }
    }

    /// Checks an answer as far as its request says what it must be.
    pub fn accept(&mut self, answer: &Answer) -> Result<(), String> {
        match self {
            Self::Put(_) | Self::Update { .. } => revision(&answer.message).map(|_| ()),
            Self::Grant { .. } => match number_field(&answer.message, 3) {
                Some(1..) => Ok(()),
                other => Err(format!("a lease was granted for {other:?} seconds")),
            },
            Self::Get(_) => match number_field(&answer.message, 4) {
                Some(1) => Ok(()),
                other => Err(format!("a get of one key counted {other:?}")),
            },
            Self::Transaction(guarded) => guarded.accept(&answer.message),
            Self::List(_) => {
                let least = DATASET_KEYS * VALUE_BYTES as u64;
                if answer.bytes > least {
                    return Ok(());
                }
                Err(format!("a listing has {} bytes, its values alone {least}", answer.bytes))
            }
        }
    }

    /// Takes note that a request failed: what it did is unknown.
    pub fn failed(&mut self) {
        if let Self::Transaction(guarded) = self {
            guarded.expected = None;
        }
    }
}

impl Guarded {
    fn next(&mut self) -> Bytes {
        self.sent += 1;
        let stale = self.sent.is_multiple_of(STALE_EVERY);
        if self.expected.is_some() {
            self.expected = Some(!stale);
        }
        self.transaction.if_modified_at(self.mod_revision - i64::from(stale))
    }

    fn accept(&mut self, message: &Bytes) -> Result<(), String> {
        let succeeded = number_field(message, 2) == Some(1);
        if self.expected.is_some_and(|expected| expected != succeeded) {
            return Err(format!("transaction {} took the wrong branch: {succeeded}", self.sent));
        }
        self.mod_revision = if succeeded { revision(message)? } else { read_revision(message)? };
        self.expected = Some(true);
        Ok(())
    }
}

/// The revision in an answer's header.
fn revision(message: &[u8]) -> Result<i64, String> {
    let header = bytes_field(message, 1).unwrap_or_default();
    match number_field(header, 3) {
        Some(revision) if revision > 1 => Ok(revision as i64),
        other => Err(format!("a write was answered with revision {other:?}")),
    }
}

/// The mod revision of the key that a transaction's get branch read.
fn read_revision(message: &Bytes) -> Result<i64, String> {
    let response = TxnResponse::decode(message.clone()).map_err(|error| error.to_string())?;
    let read = response.responses.into_iter().next().and_then(|operation| operation.response);
    match read {
        Some(response_op::Response::ResponseRange(range)) => {
            Ok(range.kvs.first().map_or(0, |read| read.mod_revision))
        }
        other => Err(format!("a transaction's get was answered with {other:?}")),
    }
}

/// Checks in full, once a run, that an answer lists the dataset.
pub fn check_listing(message: Bytes) -> Result<(), String> {
    let listing = proto::etcdserverpb::RangeResponse::decode(message);
    let listing = listing.map_err(|error| format!("a listing is no message: {error}"))?;
    let whole = listing.kvs.iter().all(|row| row.value.len() == VALUE_BYTES);
    if listing.count == DATASET_KEYS as i64 && listing.kvs.len() as u64 == DATASET_KEYS && whole {
        return Ok(());
    }
    Err(format!("a listing has {} rows and counts {}", listing.kvs.len(), listing.count))
}

/// Bytes of an answer that a client of this action looks at.
pub fn kept_bytes(action: Action) -> usize {
    if action == Action::List { FRAME_BYTES } else { 64 * 1024 }
}

#[cfg(test)]
mod tests {
    use proto::etcdserverpb::{RangeResponse, ResponseHeader, ResponseOp, TxnRequest};
    use proto::mvccpb::KeyValue;

    use super::*;

    fn answer(message: impl Message) -> Answer {
        let message = Bytes::from(message.encode_to_vec());
        Answer { bytes: message.len() as u64, message }
    }

    fn put_at(revision: i64) -> Answer {
        let header = ResponseHeader { revision, ..Default::default() };
        answer(TxnResponse { header: Some(header), succeeded: true, responses: vec![] })
    }

    fn got_at(mod_revision: i64) -> Answer {
        let kvs = vec![KeyValue { mod_revision, ..Default::default() }];
        let range = RangeResponse { kvs, count: 1, ..Default::default() };
        let response = Some(response_op::Response::ResponseRange(range));
        answer(TxnResponse { responses: vec![ResponseOp { response }], ..Default::default() })
    }

    #[test]
    fn names_are_unique_and_the_filter_knows_kinds() {
        for (at, workload) in WORKLOADS.iter().enumerate() {
            assert!(WORKLOADS[..at].iter().all(|earlier| earlier.name != workload.name));
        }
        let named = |filter| WORKLOADS.iter().filter(|workload| workload.is_named(filter)).count();
        assert_eq!((named("put-1"), named("put"), named("pu")), (1, 4, 0));
    }

    #[test]
    fn a_guarded_put_follows_its_key_and_notices_a_wrong_branch() {
        let mut caller = Caller::new(Action::Transaction, 3);
        for sent in 1..STALE_EVERY {
            caller.next(0);
            caller.accept(&put_at(10 + sent as i64)).expect("a put");
        }
        let stale = caller.next(0);
        let stale = TxnRequest::decode(&stale[FRAME_BYTES..]).expect("a transaction");
        assert!(format!("{:?}", stale.compare).contains("ModRevision(18)"));
        caller.accept(&got_at(19)).expect("the stale one gets");
        caller.next(0);
        caller.accept(&got_at(19)).expect_err("the key is at this revision");
        caller.failed();
        caller.next(0);
        caller.accept(&got_at(30)).expect("after a failure either branch may be taken");
    }

    #[test]
    fn watchers_share_their_keys_evenly_and_updates_stay_in_their_range() {
        for workload in &WORKLOADS {
            if let Shape::Watch { crowd, keys, .. } = workload.shape {
                assert_eq!(crowd.clients() % keys, 0, "{}", workload.name);
            }
        }
        let mut update = Caller::new(Action::Update { first: 40, keys: 3 }, 0);
        for (number, key) in [(0, 40), (2, 42), (3, 40), (u64::MAX, 40)] {
            assert_eq!(update.next(number), Keyed::put().with_key(key));
        }
    }

    #[test]
    fn short_answers_are_refused() {
        let range = RangeResponse { count: 0, ..Default::default() };
        let mut get = Caller::new(LINEARIZABLE, 0);
        get.accept(&answer(range.clone())).expect_err("nothing found");
        let mut grant = Caller::new(Action::Grant { ttl_s: 5 }, 0);
        grant.accept(&put_at(10)).expect_err("a lease without time");
        Caller::new(Action::List, 0).accept(&answer(range.clone())).expect_err("an empty listing");
        check_listing(range.encode_to_vec().into()).expect_err("an empty listing");
    }
}
