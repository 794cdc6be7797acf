//! What can go wrong with a machine, divided by what it means.
//!
//! A [`Fault`] is the machine's own: it happens on every replica alike, and may become an answer. A [`LocalFailure`]
//! is this member's: it must never become an answer, because the others would give another one.

use std::fmt;

use crate::storage::StorageError;

/// The machine trapped, exceeded a limit, or broke a rule of the contract. Its text is the same on every replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault(String);

impl Fault {
    pub fn new(reason: impl Into<String>) -> Self {
        Fault(reason.into())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

/// This member cannot go on: its storage fails, or it lacks memory or instances.
#[derive(Debug, thiserror::Error)]
pub enum LocalFailure {
    #[error("the storage fails under the state machine: {0}")]
    Storage(#[from] StorageError),
    #[error("this member lacks the resources to run the state machine: {0}")]
    Resources(String),
    /// An invariant of this module does not hold. It is a defect of the server.
    #[error("the runtime lost track of its own state")]
    Broken,
}

/// How a call of a machine can fail.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("the state machine failed: {0}")]
    Fault(Fault),
    #[error(transparent)]
    Local(#[from] LocalFailure),
}

impl From<Fault> for CallError {
    fn from(fault: Fault) -> Self {
        CallError::Fault(fault)
    }
}

/// Applying stopped. The entries are committed, so this member has to stop applying too, and to say so.
#[derive(Debug, thiserror::Error)]
#[error("entry {index} cannot be applied by this member: {failure}")]
pub struct ApplyError {
    /// The entry's position in the log.
    pub index: u64,
    #[source]
    pub failure: LocalFailure,
}

/// A query that has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The machine's answer is a refusal.
    #[error("{}", .0.message)]
    Rejected(super::Rejection),
    /// There is none; the request may be tried again elsewhere if the failure is this member's.
    #[error(transparent)]
    Failed(#[from] CallError),
}

/// Rebuilding, migrating or checking stopped.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    /// The machine's own words for the operator.
    #[error("the state machine refuses: {0}")]
    Refused(String),
    #[error(transparent)]
    Failed(#[from] CallError),
}

/// A component that cannot become a machine of this host.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("the WebAssembly engine cannot be set up on this machine: {0}")]
    Engine(String),
    #[error(
        "the component has {bytes} bytes, more than the {} that are allowed",
        crate::limits::COMPONENT_BYTES
    )]
    TooLarge { bytes: usize },
    #[error(
        "compiling the component, and those before it, takes more than the {seconds} s that are allowed: make it smaller, or put it again later"
    )]
    CompileTime { seconds: u64 },
    #[error("this is no component that this host can run: {0}")]
    Invalid(String),
    #[error(
        "the component imports `{name}`; a machine may import only tables, answer and log of {}",
        super::CONTRACT
    )]
    Import { name: String },
    #[error("the component is written for `{found}`; this host supports {}", super::CONTRACT)]
    Contract { found: String },
    #[error("the component does not export `{name}` as {} has it: {reason}", super::CONTRACT)]
    Export { name: &'static str, reason: String },
    #[error(
        "the component imports `{name}`; a module may import only kv, store and log of instar:module@1.0.0"
    )]
    ModuleImport { name: String },
    #[error("the component does not export `{name}` as instar:module@1.0.0 has it: {reason}")]
    ModuleExport { name: &'static str, reason: String },
    #[error("the machine's description of itself is not valid: {0}")]
    Description(String),
    #[error(transparent)]
    Call(#[from] CallError),
}
