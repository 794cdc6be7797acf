//! A data directory while no server uses it.
//!
//! What is there is the state as of the last time that it was brought to disk; entries that only the log has are applied
//! when the server starts. The directory's lock keeps a server out meanwhile.

use std::path::Path;
use std::sync::Arc;

use thiserror::Error;

use crate::raft::with_host_tables;
use crate::storage::{
    DataDir, DataDirError, Identity, State, StorageError, TableSpec, View, files,
};

/// Why a data directory cannot be used so.
#[derive(Debug, Error)]
pub enum OfflineError {
    #[error("{0} is no data directory of Instar's")]
    Missing(String),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The state of a member that does not run.
pub struct OfflineState {
    state: State,
    _data: DataDir,
}

impl OfflineState {
    /// Takes the directory. `tables` are the machine's durable ones.
    ///
    /// # Errors
    /// It is in use, damaged, or not there.
    pub fn open(path: &Path, tables: &[TableSpec]) -> Result<Self, OfflineError> {
        if !DataDir::exists(path) {
            return Err(OfflineError::Missing(path.display().to_string()));
        }
        let any = Identity { cluster_id: 0, member_id: 0, incarnation: [0; 16] };
        let data = DataDir::open(path, any, true)?;
        State::check(data.files(), &files())?;
        let state = State::open(data.files(), &files(), &with_host_tables(tables))?;
        Ok(Self { state, _data: data })
    }

    /// Its rows.
    pub fn view(&self) -> Arc<View> {
        self.state.view()
    }

    /// Moves the rows to a new file, without what the old one could give back.
    ///
    /// # Errors
    /// The old file stays as it was.
    pub fn defragment(mut self) -> Result<(), OfflineError> {
        let work = self.state.begin_defragment()?;
        work.copy()?;
        self.state.finish_defragment(work)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Mark, Tables};

    /// Which machines and modules there are is part of the state, too.
    #[test]
    fn a_defragmentation_keeps_what_is_the_hosts_own() {
        let directory = tempfile::tempdir().expect("a directory");
        let identity = Identity { cluster_id: 1, member_id: 2, incarnation: [3; 16] };
        let data = DataDir::open(directory.path(), identity, false).expect("a data directory");
        let tables = with_host_tables(&[]);
        let mut state = State::open(data.files(), &files(), &tables).expect("a state");
        let mut overlay = state.overlay();
        overlay.put(tables[0].id, b"slots", b"a machine").expect("a row");
        state.commit(overlay.into_writes(), Mark::default()).expect("a commit");
        state.persist().expect("a disk");
        drop((state, data));
        let offline = OfflineState::open(directory.path(), &[]).expect("a state");
        offline.defragment().expect("a new file");
        let offline = OfflineState::open(directory.path(), &[]).expect("a state");
        assert_eq!(offline.view().get(tables[0].id, b"slots", &mut |_| ()), Ok(true));
    }
}
