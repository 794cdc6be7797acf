//! The component of `machine/`, as bytes.

/// A machine that breaks the contract in whatever way a command asks for.
pub const HOSTILE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/machine.wasm"));
