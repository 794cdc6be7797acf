//! What becomes a machine, and what does not; and the cache of compiled ones.

use std::fs;

use super::{Budgets, Replica, runtime};
use crate::{
    limits::COMPONENT_BYTES,
    runtime::{BUILT_IN, RuntimeError, machine::Machine, machine::Runtime},
};

/// The hostile machine with one string of its bytes replaced by another of the same length.
fn patched(from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = ::hostile::HOSTILE.to_vec();
    let at: Vec<_> =
        (0..bytes.len()).filter(|&i| bytes[i..].starts_with(from.as_bytes())).collect();
    assert!(!at.is_empty());
    for at in at {
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    bytes
}

fn refusal(component: &[u8]) -> RuntimeError {
    runtime().load(component).err().expect("a refusal")
}

#[test]
fn the_built_in_machine_is_the_kv_machine() {
    let machine = super::kv();
    assert_eq!(machine.description().name, "kv");
    let linked = guest_kv::describe();
    assert_eq!(machine.description().schema_version, linked.schema_version);
    assert_eq!(machine.description().tables.len(), linked.tables.len());
    assert_eq!(
        machine.digest(),
        <[u8; 32]>::from(<sha2::Sha256 as sha2::Digest>::digest(BUILT_IN))
    );
}

#[test]
fn what_is_no_machine_is_refused_with_a_reason() {
    assert!(matches!(refusal(b"no component"), RuntimeError::Invalid(_)));
    let module = b"\0asm\x01\0\0\0";
    assert!(matches!(refusal(module), RuntimeError::Invalid(_)));
    let empty = b"\0asm\x0d\0\x01\0";
    assert!(matches!(refusal(empty), RuntimeError::Export { name: "describe", .. }));
    let huge = vec![0; COMPONENT_BYTES + 1];
    assert!(matches!(refusal(&huge), RuntimeError::TooLarge { .. }));
    let mut cut = ::hostile::HOSTILE.to_vec();
    cut.truncate(cut.len() / 2);
    assert!(matches!(refusal(&cut), RuntimeError::Invalid(_)));
}

#[test]
fn a_component_may_import_the_contract_and_nothing_else() {
    let foreign = patched("instar:machine/log@1.0.0", "instar:machine/fly@1.0.0");
    match refusal(&foreign) {
        RuntimeError::Import { name } => assert_eq!(name, "instar:machine/fly@1.0.0"),
        other => panic!("{other}"),
    }
    let newer = patched("instar:machine/log@1.0.0", "instar:machine/log@2.0.0");
    match refusal(&newer) {
        RuntimeError::Contract { found } => assert_eq!(found, "instar:machine@2.0.0"),
        other => panic!("{other}"),
    }
}

#[test]
fn a_compiled_machine_is_kept_and_a_damaged_one_compiled_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let load = || -> Machine {
        let runtime = Runtime::with_budgets(Some(folder.path().join("machine")), Budgets::SMALL);
        runtime.expect("an engine").load(::hostile::HOSTILE).expect("a machine")
    };
    let works = |machine: Machine| {
        assert!(Replica::new(&machine).apply(&[b"pkey"])[0].response.is_ok());
    };
    works(load());
    let files: Vec<_> = fs::read_dir(folder.path().join("machine")).expect("a folder").collect();
    assert_eq!(files.len(), 1, "one file, and nothing unfinished");
    let path = files[0].as_ref().expect("a file").path();
    let good = fs::read(&path).expect("the file");

    works(load());
    assert_eq!(fs::read(&path).expect("the file"), good, "it was used as it is");

    let mut damaged = good.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x20;
    let foreign = {
        // Whole, but nothing that the engine wrote.
        let artefact = b"something else";
        let digest = xxhash_rust::xxh3::xxh3_128(artefact).to_le_bytes();
        [&digest[..], artefact].concat()
    };
    for useless in [&damaged[..], &good[..middle], &good[..3], &[], &foreign] {
        fs::write(&path, useless).expect("a file");
        works(load());
        let now = fs::read(&path).expect("the file");
        assert_eq!(now.len(), good.len(), "it was compiled anew");
    }
}
