//! The types of the contract (`wit/module/module.wit`) as they cross the boundary.

use wasmtime::component::{ComponentType, Lift, Lower, flags};

use super::{KeyValue, Operation, TouchedKey};

flags! {
    Served {
        #[component(name = "call")]
        const CALL;
        #[component(name = "admit")]
        const ADMIT;
        #[component(name = "react")]
        const REACT;
    }
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct Description {
    pub name: String,
    pub version: String,
    pub serves: Served,
}

#[derive(Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub(super) struct Moment {
    pub index: u64,
    #[component(name = "time-ms")]
    pub time_ms: u64,
    pub revision: u64,
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(super) struct KeyRecord {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    #[component(name = "create-revision")]
    pub create_revision: u64,
    #[component(name = "mod-revision")]
    pub mod_revision: u64,
    pub version: u64,
    pub lease: i64,
}

impl From<KeyValue> for KeyRecord {
    fn from(kv: KeyValue) -> Self {
        KeyRecord {
            key: kv.key.to_vec(),
            value: kv.value.to_vec(),
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            lease: kv.lease,
        }
    }
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(super) struct RowRecord {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, ComponentType, Lower)]
#[component(enum)]
#[repr(u8)]
pub(in crate::runtime) enum KeyRefusal {
    #[component(name = "not-granted")]
    NotGranted,
    #[component(name = "too-much")]
    TooMuch,
    #[component(name = "read-only")]
    ReadOnly,
    #[component(name = "no-key")]
    NoKey,
}

#[derive(Clone, Copy, PartialEq, Eq, ComponentType, Lower)]
#[component(enum)]
#[repr(u8)]
pub(in crate::runtime) enum RowRefusal {
    #[component(name = "too-much")]
    TooMuch,
    #[component(name = "read-only")]
    ReadOnly,
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(super) struct PutOperation {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub lease: i64,
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(super) struct DeleteOperation {
    pub key: Vec<u8>,
    #[component(name = "range-end")]
    pub range_end: Option<Vec<u8>>,
}

#[derive(ComponentType, Lower)]
#[component(variant)]
pub(super) enum OperationCase {
    #[component(name = "put")]
    Put(PutOperation),
    #[component(name = "delete")]
    Delete(DeleteOperation),
}

impl From<Operation> for OperationCase {
    fn from(operation: Operation) -> Self {
        match operation {
            Operation::Put { key, value, lease } => {
                OperationCase::Put(PutOperation { key: key.to_vec(), value: value.to_vec(), lease })
            }
            Operation::Delete { key, range_end } => OperationCase::Delete(DeleteOperation {
                key: key.to_vec(),
                range_end: range_end.map(|end| end.to_vec()),
            }),
        }
    }
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(super) struct Event {
    pub key: Vec<u8>,
    pub current: Option<KeyRecord>,
    pub previous: Option<KeyRecord>,
}

impl From<TouchedKey> for Event {
    fn from(touched: TouchedKey) -> Self {
        Event {
            key: touched.key.to_vec(),
            current: touched.current.map(KeyRecord::from),
            previous: touched.previous.map(KeyRecord::from),
        }
    }
}
