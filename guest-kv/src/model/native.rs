//! The library over tables in memory, as the subject of a campaign.

use crate::memory::{MemoryAnswer, MemoryTables};
use crate::tables::Table;
use crate::{Admission, Answered, Entry, Outcome, Progress, Rejection, RequestLimits};

use super::Subject;

/// The library itself.
pub struct NativeSubject {
    tables: MemoryTables,
}

impl NativeSubject {
    /// `page_rows` ends pages early, as a host does with large rows.
    pub fn new(page_rows: u32) -> Self {
        NativeSubject { tables: MemoryTables::with_page_rows(page_rows) }
    }
}

#[cfg(test)]
impl NativeSubject {
    pub(crate) fn tables_mut(&mut self) -> &mut MemoryTables {
        &mut self.tables
    }
}

impl Subject for NativeSubject {
    fn admit(&mut self, request: &[u8], limits: RequestLimits) -> Result<Admission, Rejection> {
        crate::admit(request, limits)
    }

    fn apply(&mut self, entry: Entry<'_>) -> Outcome {
        let before = self.tables.clone();
        let outcome = crate::apply(&mut self.tables, entry);
        if outcome.response.is_err() {
            assert!(before.has_rows_of(&self.tables), "a refused command has written");
        }
        outcome
    }

    fn query(&mut self, request: &[u8]) -> Result<(Answered, Vec<u8>), Rejection> {
        let mut answer = MemoryAnswer::new(&self.tables);
        let answered = crate::query(&self.tables, &mut answer, request)?;
        Ok((answered, answer.bytes))
    }

    fn next_task(&mut self) -> Option<Vec<u8>> {
        crate::next_task(&self.tables)
    }

    fn restart(&mut self) -> Result<(), String> {
        let mut tables = self.tables.durable_only();
        let mut cursor = Vec::new();
        while let Progress::More(next) = crate::rebuild(&mut tables, &cursor) {
            cursor = next;
        }
        if !tables.has_rows_of(&self.tables) {
            return Err(format!("rebuilt {tables:?}\nfrom {:?}", self.tables));
        }
        self.tables = tables;
        Ok(())
    }

    fn check(&mut self) -> Result<(), String> {
        let mut cursor = Vec::new();
        while let Progress::More(next) = crate::check(&self.tables, &cursor)? {
            cursor = next;
        }
        Ok(())
    }

    fn rows(&mut self, table: Table) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.tables.table(table).map(|(key, row)| (key.to_vec(), row.to_vec())).collect()
    }
}
