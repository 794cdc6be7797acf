//! Whose directory it is, in every state that a directory can be in.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::storage::{DataDir, DataDirError, Identity, Log, State, files};

const OURS: Identity = Identity { cluster_id: 0xc1, member_id: 0xa1, incarnation: [9; 16] };

fn open(path: &Path) -> Result<DataDir, DataDirError> {
    DataDir::open(path, OURS, false)
}

/// Everything in a directory: names, contents, permissions.
fn everything(path: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![path.to_owned()];
    while let Some(next) = waiting.pop() {
        let metadata = fs::metadata(&next).unwrap();
        let mut content = Vec::new();
        if metadata.is_dir() {
            waiting.extend(fs::read_dir(&next).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            content = fs::read(&next).unwrap();
        }
        found.insert(next, (metadata.permissions().mode(), content));
    }
    found
}

/// Opening is refused with this sentence, and changes nothing.
fn refuse(path: &Path, identity: Identity, words: &str) -> DataDirError {
    let before = everything(path);
    let error = DataDir::open(path, identity, false).expect_err("it is refused");
    let text = error.to_string();
    assert!(text.contains(words) && !text.contains('\n'), "{text}");
    assert!(everything(path) == before, "something has changed: {text}");
    error
}

#[test]
fn a_directory_remembers_whose_it_is() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("deep").join("data");
    assert!(!DataDir::exists(&path));
    let made = open(&path).unwrap();
    assert!(made.is_new() && DataDir::exists(&path));
    assert_eq!(*made.identity(), OURS);
    for private in [&path, &path.join("member")] {
        assert_eq!(fs::metadata(private).unwrap().permissions().mode() & 0o777, 0o700);
    }
    fs::write(made.snapshots().join("left over"), b"x").unwrap();
    fs::write(made.machines().join("compiled"), b"x").unwrap();
    fs::write(made.files().join("state.new"), b"x").unwrap();
    Log::open(made.files(), &files()).expect("a log");
    State::open(made.files(), &files(), &[]).expect("a state");
    drop(made);

    let again =
        DataDir::open(&path, Identity { incarnation: [1; 16], ..OURS }, false).expect("it is ours");
    assert!(!again.is_new());
    assert_eq!(*again.identity(), OURS, "the incarnation is that of the data");
    assert_eq!(fs::read_dir(again.snapshots()).unwrap().count(), 0);
    assert!(again.machines().join("compiled").exists());
    assert!(!again.files().join("state.new").exists());
}

#[test]
fn a_directory_in_use_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let held = open(directory.path()).unwrap();
    refuse(directory.path(), OURS, "in use by another process");
    drop(held);
    open(directory.path()).expect("it is free again");
}

#[test]
fn another_clusters_or_members_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()).unwrap());
    let cluster = Identity { cluster_id: 0xc2, ..OURS };
    refuse(directory.path(), cluster, "belongs to cluster c1, and the flags describe cluster c2");
    let member = Identity { member_id: 0xa2, ..OURS };
    refuse(directory.path(), member, "belongs to member a1 of this cluster");
    let taken = DataDir::open(directory.path(), cluster, true).expect("nobody said whose it is");
    assert_eq!(*taken.identity(), OURS);
}

#[test]
fn what_is_not_ours_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let member = directory.path().join("member");
    fs::create_dir_all(member.join("snap")).unwrap();
    fs::write(member.join("snap/db"), b"bolt").unwrap();
    refuse(directory.path(), OURS, "it is a data directory of etcd");

    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("member")).unwrap();
    fs::write(directory.path().join("member/log.wal"), b"x").unwrap();
    refuse(directory.path(), OURS, "no identity file, but log.wal");

    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("member"), b"a file").unwrap();
    refuse(directory.path(), OURS, "cannot use");
    refuse(&directory.path().join("member"), OURS, "not a directory");
}

#[test]
fn a_damaged_identity_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()).unwrap());
    let path = directory.path().join("member/identity");
    let whole = fs::read(&path).unwrap();
    // docs/on-disk-format.md
    assert!(whole.len() == 52 && whole.starts_with(b"INSTARID\x01\0\0\0\xc1\0\0\0\0\0\0\0\xa1"));
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        refuse(directory.path(), OURS, "is damaged");
    }
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(&path, damaged).unwrap();
        refuse(directory.path(), OURS, "is damaged");
    }
    fs::write(&path, whole).unwrap();
    open(directory.path()).expect("it is whole again");
}

/// A member without its log has forgotten whom it voted for.
#[test]
fn lost_or_foreign_files_are_refused() {
    for name in ["log.wal", "state.redb"] {
        let directory = tempfile::tempdir().unwrap();
        drop(open(directory.path()).unwrap());
        let path = directory.path().join("member").join(name);
        for (content, words) in
            [(&b"not a database"[..], "does not begin as it should"), (b"", "cut short")]
        {
            fs::write(&path, content).unwrap();
            refuse(directory.path(), OURS, words);
        }
        fs::remove_file(&path).unwrap();
        refuse(directory.path(), OURS, "it is missing");
    }
}

/// Wherever a crash stopped the making of a directory, it is made again.
#[test]
fn a_directory_half_made_is_made_again() {
    let made = tempfile::tempdir().unwrap();
    drop(open(made.path()).unwrap());
    let member = made.path().join("member");
    let identity = fs::read(member.join("identity")).unwrap();
    let log = fs::read(member.join("log.wal")).unwrap();
    // In the order of their making, the last one torn; and `member`, empty, as an operator may have made it.
    let steps: &[&[(&str, &[u8])]] = &[
        &[],
        &[("log.wal", b"")],
        &[("log.wal", &log[..3000])],
        &[("log.wal", &log), ("state.redb", &log[..100])],
        &[("log.wal", &log), ("state.redb", &log), ("identity", &identity[..10])],
        &[("log.wal", &log), ("state.redb", &log), ("identity", &identity)],
    ];
    for files in steps {
        let directory = tempfile::tempdir().unwrap();
        let unfinished = directory.path().join("member.new");
        fs::create_dir(&unfinished).unwrap();
        fs::create_dir(directory.path().join("member")).unwrap();
        for (name, content) in *files {
            fs::write(unfinished.join(name), content).unwrap();
        }
        let data = open(directory.path()).expect("it is made again");
        assert!(data.is_new() && !unfinished.exists());
        Log::open(data.files(), &self::files()).expect("a log");
        drop(data);
        assert!(!open(directory.path()).expect("it is whole").is_new());
    }
}

#[test]
fn a_directory_without_permission_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let locked = parent.path().join("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o500)).unwrap();
    // Whoever may do everything is not held up.
    if fs::write(locked.join("probe"), b"").is_err() {
        refuse(&locked, OURS, "check its permissions");
        assert!(open(&locked.join("data")).is_err());
    }
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o700)).unwrap();
}
