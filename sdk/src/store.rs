//! A table of the module's own, which no client sees. It is replicated, and in every snapshot.

use serde::{Serialize, de::DeserializeOwned};

#[cfg(target_arch = "wasm32")]
use crate::component as host;
use crate::error::{Code, Rejection};
#[cfg(not(target_arch = "wasm32"))]
use crate::testing::current as host;

/// Why the host does not write a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    TooMuch,
    ReadOnly,
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::TooMuch => {
                Rejection::new(Code::ResourceExhausted, "one call cannot write so much")
            }
            Refusal::ReadOnly => Rejection::new(Code::Internal, "an admission only reads"),
        }
    }
}

pub fn get(key: impl AsRef<[u8]>) -> Option<Vec<u8>> {
    host::stored(key.as_ref())
}

/// Rows from `start` on and before `end` (empty: to the last), in order; at most `limit`, and at most 1000.
pub fn scan(start: impl AsRef<[u8]>, end: impl AsRef<[u8]>, limit: u32) -> Vec<(Vec<u8>, Vec<u8>)> {
    host::stored_rows(start.as_ref(), end.as_ref(), limit)
}

pub fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), Refusal> {
    host::store(key.as_ref(), Some(value.as_ref()))
}

pub fn delete(key: impl AsRef<[u8]>) -> Result<(), Refusal> {
    host::store(key.as_ref(), None)
}

/// Rows of one type, kept as JSON under keys that begin alike.
#[derive(Debug, Clone, Copy)]
pub struct Table<T> {
    name: &'static str,
    rows: std::marker::PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned> Table<T> {
    pub const fn new(name: &'static str) -> Self {
        Table { name, rows: std::marker::PhantomData }
    }

    /// # Errors
    ///
    /// The row is of another type: of another version of the module, perhaps.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<T>, Rejection> {
        let Some(row) = get(self.key(key.as_ref())) else { return Ok(None) };
        serde_json::from_slice(&row).map(Some).map_err(|error| {
            Rejection::new(
                Code::Internal,
                format!("a row of {} is of another type: {error}", self.name),
            )
        })
    }

    pub fn put(&self, key: impl AsRef<[u8]>, row: &T) -> Result<(), Rejection> {
        Ok(put(self.key(key.as_ref()), serde_json::to_vec(row)?)?)
    }

    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<(), Rejection> {
        Ok(delete(self.key(key.as_ref()))?)
    }

    fn key(&self, key: &[u8]) -> Vec<u8> {
        [self.name.as_bytes(), &[0], key].concat()
    }
}
