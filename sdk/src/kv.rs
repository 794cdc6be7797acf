//! The keys that clients see: those under the prefixes that the operator granted the module.
//!
//! Reads see the state before the entry, and what this call itself wrote. Writes become one revision when it is over.

use serde::{Serialize, de::DeserializeOwned};

#[cfg(target_arch = "wasm32")]
use crate::component as host;
use crate::error::{Code, Rejection};
#[cfg(not(target_arch = "wasm32"))]
use crate::testing::current as host;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    /// This and the two below are 0 for what the call itself wrote.
    pub create_revision: u64,
    pub mod_revision: u64,
    pub version: u64,
    /// 0: none.
    pub lease: i64,
}

impl KeyValue {
    /// The value, read as JSON.
    ///
    /// # Errors
    ///
    /// It is something else.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Rejection> {
        serde_json::from_slice(&self.value).map_err(|error| {
            let key = String::from_utf8_lossy(&self.key);
            Rejection::failed_precondition(format!(
                "the value of {key:?} is not as expected: {error}"
            ))
        })
    }
}

/// Why the host does not read or write a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    NotGranted,
    TooMuch,
    ReadOnly,
    NoKey,
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        let (code, message) = match refusal {
            Refusal::NotGranted => (
                Code::PermissionDenied,
                "the module was not granted this key: see `module activate --grant`",
            ),
            Refusal::TooMuch => (Code::ResourceExhausted, "one call cannot write so much"),
            Refusal::ReadOnly => (Code::Internal, "an admission only reads"),
            Refusal::NoKey => (Code::InvalidArgument, "key is not provided"),
        };
        Rejection::new(code, message)
    }
}

pub fn get(key: impl AsRef<[u8]>) -> Result<Option<KeyValue>, Refusal> {
    host::get(key.as_ref())
}

/// Keys from `start` on and before `end`, in order; at most `limit`, and at most 1000.
pub fn range(
    start: impl AsRef<[u8]>,
    end: impl AsRef<[u8]>,
    limit: u32,
) -> Result<Vec<KeyValue>, Refusal> {
    host::range(start.as_ref(), end.as_ref(), limit)
}

/// Keys that begin so.
pub fn prefix(prefix: impl AsRef<[u8]>, limit: u32) -> Result<Vec<KeyValue>, Refusal> {
    host::range(prefix.as_ref(), &behind(prefix.as_ref()), limit)
}

pub fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), Refusal> {
    host::put(key.as_ref(), value.as_ref(), 0)
}

/// Puts a key that goes with a lease. One that is not there refuses the whole call once it is over.
pub fn put_with_lease(
    key: impl AsRef<[u8]>,
    value: impl AsRef<[u8]>,
    lease: i64,
) -> Result<(), Refusal> {
    host::put(key.as_ref(), value.as_ref(), lease)
}

/// Puts a value as JSON.
pub fn put_json(key: impl AsRef<[u8]>, value: &impl Serialize) -> Result<(), Rejection> {
    let value = serde_json::to_vec(value)?;
    Ok(host::put(key.as_ref(), &value, 0)?)
}

pub fn delete(key: impl AsRef<[u8]>) -> Result<(), Refusal> {
    host::delete(key.as_ref())
}

/// The first key behind all that begin so; empty if there is none.
pub fn behind(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}
