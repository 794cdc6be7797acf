//! The requests, as borrowed views of the bytes they arrived in.
//!
//! A field that occurs twice is merged as protobuf demands: the last scalar wins, messages are merged. What is only
//! wrong in etcd's eyes (an empty key, an unknown sort order) is no matter of this module: see `admission`.

use crate::lease_request::{self, LeaseExpiry, LeaseGrant, LeaseTimeToLive};
use crate::wire::{self, Content, Fields, Malformed};

/// How deep transactions may nest below the outermost. It is what etcd's default limit of 128 operations comes to,
/// since each level costs its children at least one; and it bounds the stack of everything that walks a transaction.
pub const TXN_DEPTH_MAX: usize = 128;

pub const SORT_ASCEND: i32 = 1;
pub const SORT_DESCEND: i32 = 2;

pub const TARGET_KEY: i32 = 0;
pub const TARGET_VERSION: i32 = 1;
pub const TARGET_CREATE: i32 = 2;
pub const TARGET_MOD: i32 = 3;
pub const TARGET_VALUE: i32 = 4;

/// etcdserverpb.RangeRequest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Range<'a> {
    pub key: &'a [u8],
    pub range_end: &'a [u8],
    pub limit: i64,
    pub revision: i64,
    pub sort_order: i32,
    pub sort_target: i32,
    pub serializable: bool,
    pub keys_only: bool,
    pub count_only: bool,
    pub min_mod_revision: i64,
    pub max_mod_revision: i64,
    pub min_create_revision: i64,
    pub max_create_revision: i64,
}

impl<'a> Range<'a> {
    fn merge(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut fields = Fields::new(message);
        while let Some((number, content)) = fields.next()? {
            match number {
                1 => content.bytes(&mut self.key),
                2 => content.bytes(&mut self.range_end),
                3 => content.int64(&mut self.limit),
                4 => content.int64(&mut self.revision),
                5 => content.enumeration(&mut self.sort_order),
                6 => content.enumeration(&mut self.sort_target),
                7 => content.boolean(&mut self.serializable),
                8 => content.boolean(&mut self.keys_only),
                9 => content.boolean(&mut self.count_only),
                10 => content.int64(&mut self.min_mod_revision),
                11 => content.int64(&mut self.max_mod_revision),
                12 => content.int64(&mut self.min_create_revision),
                13 => content.int64(&mut self.max_create_revision),
                _ => {}
            }
        }
        Ok(())
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.key.len() + self.range_end.len() + 32);
        wire::put_bytes(&mut out, 1, self.key);
        wire::put_bytes(&mut out, 2, self.range_end);
        wire::put_int64(&mut out, 3, self.limit);
        wire::put_int64(&mut out, 4, self.revision);
        wire::put_int64(&mut out, 5, i64::from(self.sort_order));
        wire::put_int64(&mut out, 6, i64::from(self.sort_target));
        wire::put_bool(&mut out, 7, self.serializable);
        wire::put_bool(&mut out, 8, self.keys_only);
        wire::put_bool(&mut out, 9, self.count_only);
        wire::put_int64(&mut out, 10, self.min_mod_revision);
        wire::put_int64(&mut out, 11, self.max_mod_revision);
        wire::put_int64(&mut out, 12, self.min_create_revision);
        wire::put_int64(&mut out, 13, self.max_create_revision);
        out
    }

    /// Whether keys in ascending order, as the index has them, are what is asked for.
    pub fn has_default_order(&self) -> bool {
        self.sort_order == 0 || (self.sort_target == TARGET_KEY && self.sort_order == SORT_ASCEND)
    }

    pub fn has_revision_filters(&self) -> bool {
        self.min_mod_revision != 0
            || self.max_mod_revision != 0
            || self.min_create_revision != 0
            || self.max_create_revision != 0
    }

    pub fn span(&self) -> Span<'a> {
        Span::new(self.key, self.range_end)
    }
}

/// etcdserverpb.PutRequest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Put<'a> {
    pub key: &'a [u8],
    pub value: &'a [u8],
    pub lease: i64,
    pub prev_kv: bool,
    pub ignore_value: bool,
    pub ignore_lease: bool,
}

impl<'a> Put<'a> {
    pub fn merge(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut fields = Fields::new(message);
        while let Some((number, content)) = fields.next()? {
            match number {
                1 => content.bytes(&mut self.key),
                2 => content.bytes(&mut self.value),
                3 => content.int64(&mut self.lease),
                4 => content.boolean(&mut self.prev_kv),
                5 => content.boolean(&mut self.ignore_value),
                6 => content.boolean(&mut self.ignore_lease),
                _ => {}
            }
        }
        Ok(())
    }
}

/// etcdserverpb.DeleteRangeRequest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeleteRange<'a> {
    pub key: &'a [u8],
    pub range_end: &'a [u8],
    pub prev_kv: bool,
}

impl<'a> DeleteRange<'a> {
    pub fn merge(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut fields = Fields::new(message);
        while let Some((number, content)) = fields.next()? {
            match number {
                1 => content.bytes(&mut self.key),
                2 => content.bytes(&mut self.range_end),
                3 => content.boolean(&mut self.prev_kv),
                _ => {}
            }
        }
        Ok(())
    }

    pub fn span(&self) -> Span<'a> {
        Span::new(self.key, self.range_end)
    }
}

/// The keys that a request names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span<'a> {
    pub key: &'a [u8],
    /// None: only `key`. Empty: everything from `key` on. Otherwise the first key behind the range.
    pub end: Option<&'a [u8]>,
}

impl<'a> Span<'a> {
    /// `range_end` as etcd has it on the wire: absent for one key, a zero byte for everything from `key` on.
    pub fn new(key: &'a [u8], range_end: &'a [u8]) -> Self {
        let end = match range_end {
            [] => None,
            [0] => Some(&[][..]),
            end => Some(end),
        };
        Span { key, end }
    }
}

/// What a compare wants the compared field to be; none if the request leaves it out or names another field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operand<'a> {
    Absent,
    Version(i64),
    CreateRevision(i64),
    ModRevision(i64),
    Value(&'a [u8]),
    Lease(i64),
}

/// etcdserverpb.Compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compare<'a> {
    pub result: i32,
    pub target: i32,
    pub key: &'a [u8],
    pub operand: Operand<'a>,
    pub range_end: &'a [u8],
}

impl<'a> Compare<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut compare =
            Compare { result: 0, target: 0, key: &[], operand: Operand::Absent, range_end: &[] };
        let mut fields = Fields::new(message);
        while let Some((number, content)) = fields.next()? {
            match (number, content) {
                (1, content) => content.enumeration(&mut compare.result),
                (2, content) => content.enumeration(&mut compare.target),
                (3, content) => content.bytes(&mut compare.key),
                (64, content) => content.bytes(&mut compare.range_end),
                (4, Content::Varint(v)) => compare.operand = Operand::Version(v as i64),
                (5, Content::Varint(v)) => compare.operand = Operand::CreateRevision(v as i64),
                (6, Content::Varint(v)) => compare.operand = Operand::ModRevision(v as i64),
                (7, Content::Bytes(v)) => compare.operand = Operand::Value(v),
                (8, Content::Varint(v)) => compare.operand = Operand::Lease(v as i64),
                _ => {}
            }
        }
        Ok(compare)
    }

    pub fn span(&self) -> Span<'a> {
        Span::new(self.key, self.range_end)
    }
}

/// etcdserverpb.RequestOp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op<'a> {
    /// No operation is set, or one that is not known.
    Empty,
    Range(Range<'a>),
    Put(Put<'a>),
    DeleteRange(DeleteRange<'a>),
    /// A nested transaction: its place in `Txns`.
    Txn(usize),
    /// A transaction below `TXN_DEPTH_MAX`, left unread.
    TooDeep,
}

/// etcdserverpb.TxnRequest.
#[derive(Debug, Default)]
pub struct Txn<'a> {
    pub compares: Vec<Compare<'a>>,
    pub success: Vec<Op<'a>>,
    pub failure: Vec<Op<'a>>,
}

/// A transaction with all that nest in it, in one list: dropping it does not recurse.
#[derive(Debug)]
pub struct Txns<'a> {
    nodes: Vec<Txn<'a>>,
}

impl<'a> Txns<'a> {
    /// The place of the outermost transaction.
    pub const ROOT: usize = 0;

    pub fn get(&self, place: usize) -> &Txn<'a> {
        &self.nodes[place]
    }

    /// Whether any branch puts a key.
    pub fn has_put(&self) -> bool {
        let ops = self.nodes.iter().flat_map(|txn| txn.success.iter().chain(&txn.failure));
        ops.into_iter().any(|op| matches!(op, Op::Put(_)))
    }

    fn new() -> Self {
        Txns { nodes: vec![Txn::default()] }
    }

    fn merge(&mut self, place: usize, message: &'a [u8], depth: usize) -> Result<(), Malformed> {
        let mut fields = Fields::new(message);
        while let Some((number, content)) = fields.next()? {
            match (number, content) {
                (1, Content::Bytes(compare)) => {
                    let compare = Compare::parse(compare)?;
                    self.nodes[place].compares.push(compare);
                }
                (2, Content::Bytes(op)) => {
                    let op = self.parse_op(op, depth)?;
                    self.nodes[place].success.push(op);
                }
                (3, Content::Bytes(op)) => {
                    let op = self.parse_op(op, depth)?;
                    self.nodes[place].failure.push(op);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn parse_op(&mut self, message: &'a [u8], depth: usize) -> Result<Op<'a>, Malformed> {
        let mut op = Op::Empty;
        let mut fields = Fields::new(message);
        while let Some((number, content)) = fields.next()? {
            let Content::Bytes(message) = content else { continue };
            match number {
                1 => {
                    let mut range =
                        if let Op::Range(range) = op { range } else { Range::default() };
                    range.merge(message)?;
                    op = Op::Range(range);
                }
                2 => {
                    let mut put = if let Op::Put(put) = op { put } else { Put::default() };
                    put.merge(message)?;
                    op = Op::Put(put);
                }
                3 => {
                    let mut delete = if let Op::DeleteRange(delete) = op {
                        delete
                    } else {
                        DeleteRange::default()
                    };
                    delete.merge(message)?;
                    op = Op::DeleteRange(delete);
                }
                4 => op = self.parse_nested(op, message, depth + 1)?,
                _ => {}
            }
        }
        Ok(op)
    }

    fn parse_nested(
        &mut self,
        op: Op<'a>,
        message: &'a [u8],
        depth: usize,
    ) -> Result<Op<'a>, Malformed> {
        if depth > TXN_DEPTH_MAX {
            return Ok(Op::TooDeep);
        }
        let place = if let Op::Txn(place) = op {
            place
        } else {
            self.nodes.push(Txn::default());
            self.nodes.len() - 1
        };
        self.merge(place, message, depth)?;
        Ok(Op::Txn(place))
    }
}

pub const ALARM_NONE: i32 = 0;
pub const ALARM_NO_SPACE: i32 = 1;
pub const ALARM_CORRUPT: i32 = 2;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AlarmAction {
    #[default]
    Get,
    Activate,
    Deactivate,
    Unknown,
}

/// etcdserverpb.AlarmRequest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Alarm {
    pub action: AlarmAction,
    pub member_id: i64,
    /// Any number is kept, as etcd does.
    pub kind: i32,
}

impl Alarm {
    fn merge(&mut self, message: &[u8]) -> Result<(), Malformed> {
        let mut fields = Fields::new(message);
        while let Some((number, content)) = fields.next()? {
            match (number, content) {
                (1, Content::Varint(action)) => {
                    self.action = match action as i32 {
                        0 => AlarmAction::Get,
                        1 => AlarmAction::Activate,
                        2 => AlarmAction::Deactivate,
                        _ => AlarmAction::Unknown,
                    }
                }
                (2, content) => content.int64(&mut self.member_id),
                (3, content) => content.enumeration(&mut self.kind),
                _ => {}
            }
        }
        Ok(())
    }
}

/// instar.kv.CompactionStep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CompactionStep {
    pub revision: i64,
    pub row_limit: u32,
}

/// instar.kv.RangeStreamStep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RangeStreamStep<'a> {
    pub range: Range<'a>,
    pub pinned_revision: i64,
    pub chunk_limit: i64,
    pub sent_count: i64,
    pub target_bytes: u64,
}

impl<'a> RangeStreamStep<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut step = RangeStreamStep::default();
        let mut fields = Fields::new(message);
        while let Some((number, content)) = fields.next()? {
            match (number, content) {
                (1, Content::Bytes(range)) => step.range.merge(range)?,
                (2, content) => content.int64(&mut step.pinned_revision),
                (3, content) => content.int64(&mut step.chunk_limit),
                (4, content) => content.int64(&mut step.sent_count),
                (5, Content::Varint(bytes)) => step.target_bytes = bytes,
                _ => {}
            }
        }
        Ok(step)
    }
}

/// instar.kv.Request.
#[derive(Debug)]
pub enum Request<'a> {
    Range(Range<'a>),
    Put(Put<'a>),
    DeleteRange(DeleteRange<'a>),
    Txn(Txns<'a>),
    /// The revision to compact; whether to wait for the removal is the host's business.
    Compaction(i64),
    CompactionStep(CompactionStep),
    RangeStream(RangeStreamStep<'a>),
    /// The revision to hash.
    HashKv(i64),
    Hash,
    LeaseGrant(LeaseGrant),
    /// The lease to revoke.
    LeaseRevoke(i64),
    /// Leases and what is left of their time, in seconds.
    LeaseCheckpoint(Vec<(i64, i64)>),
    LeaseExpiry(LeaseExpiry),
    LeaseTimeToLive(LeaseTimeToLive),
    LeaseLeases,
    Alarm(Alarm),
    WatchStep(WatchStep),
    /// A request of etcd's that this machine does not know yet, or none at all.
    Unknown,
}

impl<'a> Request<'a> {
    pub fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut request = Request::Unknown;
        let mut fields = Fields::new(message);
        while let Some((number, content)) = fields.next()? {
            let Content::Bytes(message) = content else { continue };
            match number {
                1 => request = Self::parse_etcd(message)?,
                2 => request = Request::CompactionStep(parse_compaction_step(message)?),
                3 => request = Request::RangeStream(RangeStreamStep::parse(message)?),
                4 => request = Request::HashKv(parse_revision(message)?),
                5 => {
                    parse_revision(message)?;
                    request = Request::Hash;
                }
                6 => request = Request::LeaseExpiry(LeaseExpiry::parse(message)?),
                7 => request = Request::LeaseTimeToLive(LeaseTimeToLive::parse(message)?),
                8 => {
                    parse_revision(message)?;
                    request = Request::LeaseLeases;
                }
                16 => request = Request::WatchStep(parse_watch_step(message)?),
                _ => {}
            }
        }
        Ok(request)
    }

    /// An InternalRaftRequest. The host sets exactly one of its requests.
    fn parse_etcd(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut request = Request::Unknown;
        let mut fields = Fields::new(message);
        while let Some((number, content)) = fields.next()? {
            let Content::Bytes(message) = content else { continue };
            match number {
                3 => {
                    let mut range = Range::default();
                    range.merge(message)?;
                    request = Request::Range(range);
                }
                4 => {
                    let mut put = Put::default();
                    put.merge(message)?;
                    request = Request::Put(put);
                }
                5 => {
                    let mut delete = DeleteRange::default();
                    delete.merge(message)?;
                    request = Request::DeleteRange(delete);
                }
                6 => {
                    let mut txns = Txns::new();
                    txns.merge(Txns::ROOT, message, 0)?;
                    request = Request::Txn(txns);
                }
                7 => request = Request::Compaction(parse_revision(message)?),
                8 => request = Request::LeaseGrant(LeaseGrant::parse(message)?),
                9 => request = Request::LeaseRevoke(parse_revision(message)?),
                10 => {
                    let mut alarm = Alarm::default();
                    alarm.merge(message)?;
                    request = Request::Alarm(alarm);
                }
                11 => {
                    request = Request::LeaseCheckpoint(lease_request::parse_checkpoints(message)?);
                }
                _ => {}
            }
        }
        Ok(request)
    }
}

/// `instar.kv.WatchStep`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WatchStep {
    pub revision: i64,
    pub target_bytes: u64,
}

fn parse_compaction_step(message: &[u8]) -> Result<CompactionStep, Malformed> {
    let mut step = CompactionStep::default();
    let mut fields = Fields::new(message);
    while let Some((number, content)) = fields.next()? {
        match (number, content) {
            (1, content) => content.int64(&mut step.revision),
            (2, Content::Varint(limit)) => step.row_limit = limit as u32,
            _ => {}
        }
    }
    Ok(step)
}

fn parse_watch_step(message: &[u8]) -> Result<WatchStep, Malformed> {
    let mut step = WatchStep::default();
    let mut fields = Fields::new(message);
    while let Some((number, content)) = fields.next()? {
        match (number, content) {
            (1, content) => content.int64(&mut step.revision),
            (2, Content::Varint(bytes)) => step.target_bytes = bytes,
            _ => {}
        }
    }
    Ok(step)
}

/// A message whose field 1 is a number, a revision mostly, if it has one.
fn parse_revision(message: &[u8]) -> Result<i64, Malformed> {
    let mut revision = 0;
    let mut fields = Fields::new(message);
    while let Some((number, content)) = fields.next()? {
        if number == 1 {
            content.int64(&mut revision);
        }
    }
    Ok(revision)
}

/// The command of a compaction step, as an encoded `instar.kv.Request`.
pub fn encode_compaction_step(step: &CompactionStep) -> Vec<u8> {
    let mut message = Vec::new();
    wire::put_int64(&mut message, 1, step.revision);
    wire::put_int64(&mut message, 2, i64::from(step.row_limit));
    let mut request = Vec::new();
    wire::put_message(&mut request, 2, &message);
    request
}

/// The query of a stream's next message, as an encoded `instar.kv.Request`.
pub fn encode_range_stream_step(step: &RangeStreamStep<'_>) -> Vec<u8> {
    let mut message = Vec::new();
    wire::put_message(&mut message, 1, &step.range.encode());
    wire::put_int64(&mut message, 2, step.pinned_revision);
    wire::put_int64(&mut message, 3, step.chunk_limit);
    wire::put_int64(&mut message, 4, step.sent_count);
    wire::put_int64(&mut message, 5, step.target_bytes as i64);
    let mut request = Vec::new();
    wire::put_message(&mut request, 3, &message);
    request
}
