//! Stand-in until the storage arrives.
use std::{
    collections::BTreeMap,
    ops::{Bound, ControlFlow},
    sync::Arc,
};
pub type TableId = u32;
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    Durable,
    Derived,
}
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSpec {
    pub id: TableId,
    pub name: String,
    pub kind: TableKind,
}
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StorageError(pub String);
pub trait Tables {
    fn get(
        &self,
        table: TableId,
        key: &[u8],
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, StorageError>;
    fn scan(
        &self,
        table: TableId,
        start: &[u8],
        end: &[u8],
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StorageError>;
    fn count(&self, table: TableId, start: &[u8], end: &[u8]) -> Result<u64, StorageError>;
}
type Rows = BTreeMap<(TableId, Vec<u8>), Vec<u8>>;
#[derive(Clone, Default)]
pub struct View {
    pub rows: Rows,
}
pub struct Overlay {
    rows: Rows,
    entry: Vec<(TableId, Vec<u8>, Option<Vec<u8>>)>,
    undo: Option<Rows>,
}
fn scan(
    rows: &Rows,
    t: TableId,
    start: &[u8],
    end: &[u8],
    reverse: bool,
    visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
) {
    if !end.is_empty() && start >= end {
        return;
    }
    let hi = if end.is_empty() {
        Bound::Excluded((t + 1, vec![]))
    } else {
        Bound::Excluded((t, end.to_vec()))
    };
    let mut it = rows.range((Bound::Included((t, start.to_vec())), hi));
    while let Some((k, v)) = if reverse { it.next_back() } else { it.next() } {
        if visit(&k.1, v).is_break() {
            return;
        }
    }
}
impl Tables for View {
    fn get(
        &self,
        table: TableId,
        key: &[u8],
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, StorageError> {
        Ok(self.rows.get(&(table, key.to_vec())).map(|v| visit(v)).is_some())
    }
    fn scan(
        &self,
        t: TableId,
        start: &[u8],
        end: &[u8],
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        scan(&self.rows, t, start, end, reverse, visit);
        Ok(())
    }
    fn count(&self, t: TableId, start: &[u8], end: &[u8]) -> Result<u64, StorageError> {
        let mut n = 0;
        self.scan(t, start, end, false, &mut |_, _| {
            n += 1;
            ControlFlow::Continue(())
        })?;
        Ok(n)
    }
}
impl Tables for Overlay {
    fn get(
        &self,
        table: TableId,
        key: &[u8],
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, StorageError> {
        Ok(self.rows.get(&(table, key.to_vec())).map(|v| visit(v)).is_some())
    }
    fn scan(
        &self,
        t: TableId,
        start: &[u8],
        end: &[u8],
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        scan(&self.rows, t, start, end, reverse, visit);
        Ok(())
    }
    fn count(&self, t: TableId, start: &[u8], end: &[u8]) -> Result<u64, StorageError> {
        let mut n = 0;
        self.scan(t, start, end, false, &mut |_, _| {
            n += 1;
            ControlFlow::Continue(())
        })?;
        Ok(n)
    }
}
impl Overlay {
    pub fn new(view: Arc<View>) -> Self {
        Overlay { rows: view.rows.clone(), entry: vec![], undo: None }
    }
    fn touch(&mut self) {
        if self.undo.is_none() {
            self.undo = Some(self.rows.clone());
        }
    }
    pub fn put(&mut self, t: TableId, k: &[u8], v: &[u8]) -> Result<(), StorageError> {
        self.touch();
        self.rows.insert((t, k.to_vec()), v.to_vec());
        self.entry.push((t, k.to_vec(), Some(v.to_vec())));
        Ok(())
    }
    pub fn delete(&mut self, t: TableId, k: &[u8]) -> Result<(), StorageError> {
        self.touch();
        self.rows.remove(&(t, k.to_vec()));
        self.entry.push((t, k.to_vec(), None));
        Ok(())
    }
    pub fn delete_range(&mut self, t: TableId, s: &[u8], e: &[u8]) -> Result<u64, StorageError> {
        let mut ks = vec![];
        self.scan(t, s, e, false, &mut |k, _| {
            ks.push(k.to_vec());
            ControlFlow::Continue(())
        })?;
        for k in &ks {
            self.delete(t, k)?;
        }
        Ok(ks.len() as u64)
    }
    pub fn wrote(&self, t: TableId, k: &[u8]) -> bool {
        self.entry.iter().any(|e| e.0 == t && e.1 == k) && self.rows.contains_key(&(t, k.to_vec()))
    }
    pub fn entry_is_empty(&self) -> bool {
        self.entry.is_empty()
    }
    pub fn finish_entry(&mut self) -> u128 {
        self.undo = None;
        xxhash_rust::xxh3::xxh3_128(format!("{:?}", std::mem::take(&mut self.entry)).as_bytes())
    }
    pub fn discard_entry(&mut self) {
        if let Some(u) = self.undo.take() {
            self.rows = u;
        }
        self.entry.clear();
    }
    pub fn view_overlay(&self) -> Overlay {
        Overlay::new(self.view())
    }
    pub fn view(&self) -> Arc<View> {
        Arc::new(View { rows: self.rows.clone() })
    }
}
