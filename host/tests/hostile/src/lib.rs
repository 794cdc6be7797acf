//! The components of `machine/` and `kv/`, as bytes.

use sha2::{Digest, Sha256};

/// A machine that breaks the contract in whatever way a command asks for.
pub const HOSTILE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/machine.wasm"));

const KV: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kv.wasm"));

const MODE: &[u8] = b"hostile-kv-mode=none            ";

/// The KV machine, which breaks the contract in one way (`kv/src/lib.rs` lists them) once a command has `provoke` in it.
pub fn kv(mode: &str) -> Vec<u8> {
    replaced(KV, MODE, format!("hostile-kv-mode={mode:<16}").as_bytes())
}

/// Bytes with every occurrence of some replaced by as many others.
pub fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len(), "the size of nothing may change");
    let mut bytes = bytes.to_vec();
    let places: Vec<usize> =
        (0..=bytes.len() - from.len()).filter(|&at| bytes[at..].starts_with(from)).collect();
    assert!(!places.is_empty(), "there is nothing to replace");
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
    bytes
}

/// How operators name a component.
pub fn digest(component: &[u8]) -> [u8; 32] {
    Sha256::digest(component).into()
}
