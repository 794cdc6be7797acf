//! Machines to upgrade to, as bytes.

/// The KV machine of schema 2, which counts keys by directory.
pub const KV_1_1: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kv-1.1.0.wasm"));
