//! What a module is.

use serde::{Serialize, de::DeserializeOwned};

use crate::error::Rejection;
use crate::kv::KeyValue;

/// Which functions of a module are to be called; the others never are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Served {
    pub call: bool,
    pub admit: bool,
    pub react: bool,
}

impl Served {
    pub const CALL: Served = Served { call: true, admit: false, react: false };
    pub const ADMIT: Served = Served { call: false, admit: true, react: false };
    pub const REACT: Served = Served { call: false, admit: false, react: true };

    pub const fn and(self, other: Served) -> Served {
        Served {
            call: self.call || other.call,
            admit: self.admit || other.admit,
            react: self.react || other.react,
        }
    }
}

/// Where a call stands in the history of the cluster, the same on every member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Position in the log: higher than that of every call before.
    pub index: u64,
    /// Replicated time: it never goes back. Its zero means nothing, so only differences do.
    pub time_ms: u64,
    /// Of the state that reads see.
    pub revision: u64,
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    Put {
        key: Vec<u8>,
        value: Vec<u8>,
        lease: i64,
    },
    /// `range_end` is the first key that stays: none if only `key` is deleted, empty if all from `key` on.
    Delete {
        key: Vec<u8>,
        range_end: Option<Vec<u8>>,
    },
}

/// What happened to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub key: Vec<u8>,
    /// None: it was deleted.
    pub current: Option<KeyValue>,
    /// As it was before; none: it was not there.
    pub previous: Option<KeyValue>,
}

/// A module. There is never an instance of it: nothing may be kept between calls.
pub trait Module {
    /// What it is activated and called by.
    const NAME: &'static str;
    const VERSION: &'static str;
    const SERVES: Served;

    /// Runs a procedure for a client. A refusal leaves nothing behind.
    fn call(procedure: &str, argument: &[u8], moment: Moment) -> Result<Vec<u8>, Rejection> {
        let _ = (argument, moment);
        Err(Rejection::no_procedure(procedure))
    }

    /// Looks at what a request is to do under the module's prefixes, before any of it is done; of a transaction, at
    /// both branches. It only reads.
    fn admit(operations: &[Operation], moment: Moment) -> Result<(), Rejection> {
        let _ = (operations, moment);
        Ok(())
    }

    /// Is told what an entry did under the module's prefixes. What it writes is in the same revision. It may not write
    /// a key that the entry wrote.
    fn react(events: &[Event], moment: Moment) {
        let _ = (events, moment);
    }
}

/// Reads an argument from JSON and writes the answer as JSON; an empty argument is `null`.
///
/// # Errors
///
/// The procedure's own refusal, or that the argument is not what it takes.
pub fn json<A: DeserializeOwned, R: Serialize>(
    argument: &[u8],
    procedure: impl FnOnce(A) -> Result<R, Rejection>,
) -> Result<Vec<u8>, Rejection> {
    let argument = if argument.is_empty() { b"null" } else { argument };
    let answer = procedure(serde_json::from_slice(argument)?)?;
    Ok(serde_json::to_vec(&answer)?)
}

/// Makes a type that implements [`Module`] the component's.
#[macro_export]
macro_rules! export {
    ($module:ty) => {
        #[cfg(target_arch = "wasm32")]
        $crate::__export_component!($module);

        // Elsewhere it is a library, whose tests use it.
        #[cfg(not(target_arch = "wasm32"))]
        const _: () = {
            let _ = <$module as $crate::Module>::call;
            let _ = <$module as $crate::Module>::admit;
            let _ = <$module as $crate::Module>::react;
        };
    };
}
