//! Makes the data directory of a member of a new cluster, with a state that comes from elsewhere.
//!
//! Each member of the cluster is made by itself, from the same rows: their digests are equal then, and the members
//! find out when they are not.

use std::path::Path;

use thiserror::Error;

use crate::config::InitialCluster;
use crate::raft::{self, StartError};
use crate::storage::{DataDir, DataDirError, Identity, Mark, Restoration};

/// Whose data directory is to be made.
#[derive(Debug, Clone, Copy)]
pub struct NewMember<'a> {
    pub data_dir: &'a Path,
    pub cluster: &'a InitialCluster,
    pub member_id: u64,
}

/// Why there is no data directory.
#[derive(Debug, Error)]
pub enum RestoreError {
    #[error(transparent)]
    Cluster(#[from] StartError),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
}

/// Where the rows come from. It hands them over, and says which revision the machine will have with them.
pub type Source<'a> =
    &'a mut dyn FnMut(&mut Restoration) -> Result<u64, Box<dyn std::error::Error + Send + Sync>>;

/// Makes a data directory, or leaves none.
///
/// # Errors
/// Says why.
pub fn restore(member: NewMember<'_>, source: Source<'_>) -> Result<(), RestoreError> {
    let begun = raft::begin_restored(member.cluster)?;
    let identity = Identity {
        cluster_id: member.cluster.cluster_id,
        member_id: member.member_id,
        incarnation: rand::random(),
    };
    DataDir::create(member.data_dir, &identity, |mut restoration| {
        let revision = source(&mut restoration).map_err(DataDirError::Source)?;
        let mark = Mark {
            applied: Some(begun.applied),
            membership: begun.membership,
            revision,
            digest: restoration.digest(),
            ..Mark::default()
        };
        Ok(restoration.finish(&mark, &begun.log)?)
    })?;
    Ok(())
}
