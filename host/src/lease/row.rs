//! The rows of leases, which are etcd's, and where they are.

use prost::Message;

use crate::storage::{StorageError, TableId, TableSpec, Tables, View};

/// leasepb.Lease, which is in no .proto of etcd's API.
#[derive(Clone, PartialEq, Message)]
struct Row {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int64, tag = "2")]
    ttl: i64,
    #[prost(int64, tag = "3")]
    remaining_ttl: i64,
}

/// A lease as the state has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseRow {
    pub id: i64,
    /// As granted, in seconds.
    pub ttl_s: i64,
    /// At the last checkpoint, in seconds; 0 if there was none.
    pub remaining_s: i64,
    /// The index of the entry that granted it; 0 for one that came with a snapshot of another cluster.
    pub granted_index: u64,
}

/// The machine's tables of leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTables {
    pub leases: TableId,
    grants: TableId,
}

impl LeaseTables {
    /// None if the machine has no leases.
    pub fn find(tables: &[TableSpec]) -> Option<Self> {
        let table = |name| tables.iter().find(|table| &*table.name == name).map(|table| table.id);
        Some(Self { leases: table("lease")?, grants: table("lease_grant")? })
    }

    /// The lease under a row key; none if there is none, or if it is no lease.
    pub fn get(&self, view: &View, key: &[u8]) -> Result<Option<LeaseRow>, StorageError> {
        let mut found = None;
        view.get(self.leases, key, &mut |value| found = Row::decode(value).ok())?;
        let Some(row) = found else { return Ok(None) };
        Ok(Some(self.lease(view, key, &row)?))
    }

    pub fn all(&self, view: &View) -> Result<Vec<LeaseRow>, StorageError> {
        let mut rows = Vec::new();
        view.scan(self.leases, &[], &[], false, &mut |key, value| {
            rows.extend(Row::decode(value).ok().map(|row| (key.to_vec(), row)));
            std::ops::ControlFlow::Continue(())
        })?;
        rows.iter().map(|(key, row)| self.lease(view, key, row)).collect()
    }

    fn lease(&self, view: &View, key: &[u8], row: &Row) -> Result<LeaseRow, StorageError> {
        let mut granted_index = 0;
        view.get(self.grants, key, &mut |value| {
            granted_index = value.try_into().map(u64::from_be_bytes).unwrap_or_default();
        })?;
        let Row { id, ttl, remaining_ttl } = *row;
        Ok(LeaseRow { id, ttl_s: ttl, remaining_s: remaining_ttl, granted_index })
    }
}
