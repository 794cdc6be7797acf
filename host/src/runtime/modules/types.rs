//! What goes into a module and what comes out, in the host's own types.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::runtime::CallError;
use crate::storage::{TableId, View};

/// What a module says of itself. Checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleDescription {
    pub name: String,
    pub version: String,
    pub serves: Serves,
}

/// Which of its exports are to be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serves {
    pub call: bool,
    pub admit: bool,
    pub react: bool,
}

/// Where a call stands in the history of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    pub index: u64,
    pub time_ms: u64,
    pub revision: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Bytes,
    pub value: Bytes,
    pub create_revision: u64,
    pub mod_revision: u64,
    pub version: u64,
    pub lease: i64,
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    Put {
        key: Bytes,
        value: Bytes,
        lease: i64,
    },
    /// `range_end` as the contract has it: none for the one key, empty for all from there on.
    Delete {
        key: Bytes,
        range_end: Option<Bytes>,
    },
}

/// What an entry did to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TouchedKey {
    pub key: Bytes,
    pub current: Option<KeyValue>,
    pub previous: Option<KeyValue>,
}

/// The machine's keys as of before the entry: only who knows the machine's requests can read them.
pub trait Keys: Send {
    /// The first keys from `start` on and before `end`, in order; of `start` alone without an end. Uses at most `fuel`,
    /// and says how much of it.
    ///
    /// # Errors
    ///
    /// The machine's failure, which is the module's then, or this member's.
    fn range(
        &mut self,
        start: &[u8],
        end: Option<&[u8]>,
        limit: u32,
        fuel: u64,
    ) -> Result<(Vec<KeyValue>, u64), CallError>;
}

/// What a module may reach in one entry.
pub struct Access {
    pub prefixes: Arc<[Bytes]>,
    pub keys: Box<dyn Keys>,
    /// The state before the entry, with the module's own rows: in `table`, behind `row_prefix`.
    pub view: Arc<View>,
    pub table: TableId,
    pub row_prefix: Vec<u8>,
}

/// What a module wrote in one entry, none of which is in the state yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// Keys with their values and leases; those that were deleted with none.
    pub keys: BTreeMap<Bytes, Option<(Bytes, i64)>>,
    /// Rows of its own.
    pub rows: BTreeMap<Bytes, Option<Bytes>>,
}
