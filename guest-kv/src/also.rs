//! Puts and deletes behind a request, in its revision: what the host's modules add to it (`instar.kv.Also`).
//!
//! No response tells of them. What the end of a lease leads to is in a revision of its own behind it.

use crate::Applied;
use crate::rejection::Rejection;
use crate::request::{DeleteRange, Put};
use crate::state::State;
use crate::tables::Tables;
use crate::wire::{Content, Fields, Malformed};
use crate::write::{Writer, check_put};

/// The field of `instar.kv.Also`, behind those of a request.
const FIELD: u32 = 17;

enum Operation<'a> {
    Put(Put<'a>),
    Delete(DeleteRange<'a>),
}

/// Operations that are to be done behind a request.
pub struct Also<'a>(Vec<Operation<'a>>);

impl<'a> Also<'a> {
    pub fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut operations = Vec::new();
        let mut fields = Fields::new(message);
        while let Some((number, content)) = fields.next()? {
            if let (FIELD, Content::Bytes(operation)) = (number, content) {
                let mut fields = Fields::new(operation);
                while let Some((number, content)) = fields.next()? {
                    match (number, content) {
                        (2, Content::Bytes(message)) => {
                            let mut put = Put::default();
                            put.merge(message)?;
                            operations.push(Operation::Put(put));
                        }
                        (3, Content::Bytes(message)) => {
                            let mut delete = DeleteRange::default();
                            delete.merge(message)?;
                            operations.push(Operation::Delete(delete));
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(Also(operations))
    }

    /// Refuses what the state does not allow, before anything is written.
    pub fn check<T: Tables>(&self, tables: &T) -> Result<(), Rejection> {
        for operation in &self.0 {
            if let Operation::Put(put) = operation {
                if put.key.is_empty() {
                    return Err(Rejection::malformed());
                }
                check_put(tables, put)?;
            }
        }
        Ok(())
    }

    /// Adds the operations to a transaction that has changed something.
    pub fn write<T: Tables>(&self, writer: &mut Writer<'_, T>) {
        if !writer.has_changes() {
            return;
        }
        let mut unsaid = Vec::new();
        for operation in &self.0 {
            match operation {
                Operation::Put(put) => writer.put(put, &mut unsaid),
                Operation::Delete(delete) => writer.delete_range(delete, &mut unsaid),
            }
        }
    }

    /// Does the operations in a revision of their own, behind what the end of leases did.
    pub fn follow<T: Tables>(&self, tables: &mut T, before: State, applied: Applied) -> Applied {
        if self.0.is_empty() || applied.state.header_revision() == before.header_revision() {
            return applied;
        }
        let Applied { body, state, mut events } = applied;
        let mut writer = Writer::new(tables, state);
        let mut unsaid = Vec::new();
        for operation in &self.0 {
            match operation {
                // Its lease may be one of those that ended.
                Operation::Put(put) if check_put(writer.tables(), put).is_err() => {}
                Operation::Put(put) => writer.put(put, &mut unsaid),
                Operation::Delete(delete) => writer.delete_range(delete, &mut unsaid),
            }
        }
        let (state, told) = writer.finish();
        events.extend(told);
        Applied { body, state, events }
    }
}
