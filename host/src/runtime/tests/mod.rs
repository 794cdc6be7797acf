//! The runtime with machines of both kinds: the real one, and one that breaks the contract.

mod costs;
mod hostile;
