//! Each check, by a row that no etcd would have written.

use super::*;
use crate::backup::{Authentication, BackupError};

/// The store with one row of a bucket replaced or added, in its place.
fn store_with(bucket: &str, key: &[u8], value: &[u8]) -> Buckets {
    let mut store = store();
    let (_, rows) = store.iter_mut().find(|(name, _)| *name == bucket).expect("the bucket");
    rows.retain(|(other, _)| other != key);
    rows.push((key.to_vec(), value.to_vec()));
    rows.sort();
    store
}

#[test]
fn a_store_is_restored() {
    let (revision, taken) = restored(written(&store()), 0).expect("sound");
    assert_eq!(revision, 6);
    let of = |table| taken.iter().filter(|row| row.0 == table).count();
    let tables = [guest_kv::tables::KEY, guest_kv::tables::META, guest_kv::tables::LEASE];
    assert_eq!(tables.map(of), [7, 2, 2]);
    assert_eq!(of(guest_kv::tables::ALARM), 1);
    // With a higher revision, which has a row of its own.
    let (revision, raised) = restored(written(&store()), 100).expect("sound");
    assert_eq!((revision, raised.len()), (106, taken.len() + 1));
    assert_eq!(restored(written(&store()), u64::MAX).unwrap_err(), "--bump-revision is too high");
    // As does one that was restored so before.
    let again = written(&store_with("key", &Revision::first_of(106), b""));
    assert_eq!(restored(again, 0).expect("sound").0, 106);
}

#[test]
fn a_store_that_was_never_written_to_is_at_1() {
    let empty = written(&vec![("key", vec![]), ("meta", vec![])]);
    assert_eq!(restored(empty, 0), Ok((1, vec![])));
}

#[test]
fn a_file_of_something_else_is_refused() {
    for (present, missing) in [(vec![], "key"), (vec!["key"], "meta"), (vec!["meta"], "key")] {
        let file = written(&present.iter().map(|name| (*name, vec![])).collect());
        let error = Backup::open(file).expect_err("refused");
        assert!(
            matches!(&error, BackupError::NoBucket { bucket } if *bucket == missing),
            "{error}"
        );
    }
}

#[test]
fn rows_that_make_no_sense_are_refused() {
    let long = Revision::first_of(1 << 62 | 1);
    let cases: &[(&str, &[u8], Vec<u8>, &str)] = &[
        ("key", b"7", pair("d", (7, 7, 1), 0), "\"7\" of bucket \"key\""),
        ("key", &long, pair("d", (2, 1 << 62 | 1, 2), 0), "its revision is too high"),
        ("key", &revision(7, 0), b"\x0a\xff".to_vec(), "7.0 of bucket \"key\""),
        (
            "key",
            &revision(7, 0),
            pair("", (7, 7, 1), 0),
            "7.0 of bucket \"key\" cannot be restored: it has no key",
        ),
        ("key", &revision(7, 0), pair("d", (7, 8, 1), 0), "its mod_revision is 8"),
        ("key", &revision(7, 0), pair("d", (8, 7, 1), 0), "its create_revision is 8, 1 to 7"),
        ("key", &revision(7, 0), pair("d", (0, 7, 1), 0), "its create_revision is 0"),
        ("key", &revision(7, 0), pair("d", (6, 7, 0), 0), "its version is 0"),
        ("key", &revision(7, 0), pair("d", (6, 7, 3), 0), "its version is 3, 1 to 2"),
        ("key", &tombstone(7, 0), pair("d", (6, 7, 1), 0), "a deletion has nothing but a key"),
        ("key", &tombstone(6, 0), deleted("a"), "there already, as a put"),
        (
            "key",
            &revision(7, 0),
            pair("d", (7, 7, 1), 10),
            "7.0 of bucket \"key\" cannot be restored: the key hangs on lease a, which",
        ),
        ("lease", &lease(10).0, lease(11).1, "it is no lease"),
        ("lease", &lease(10).0, vec![0x08, 10, 0x10, 60, 0x18, 0xff], "it is no lease"),
        (
            "lease",
            &lease(10).0,
            vec![0x08, 10, 0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            "its TTL is 68719476735 s",
        ),
        ("alarm", &[0xff], vec![], "it is no alarm"),
        ("alarm", &[0x08, 1], vec![], "it is no alarm of a kind"),
        ("alarm", &[0x08, 1, 0x10, 1], vec![1], "it has a value of 1 bytes, 0 are expected"),
        ("members", b"xyz", b"{}".to_vec(), "its key is no member's ID"),
        ("members", b"01", br#"{"id":1}"#.to_vec(), "its key is no member's ID"),
        ("members", b"1", br#"{"id":2}"#.to_vec(), "different members"),
        ("members", b"1", b"{".to_vec(), "not JSON as a member"),
        ("members", b"1", br#"{"id":1,"peerURLs":[1]}"#.to_vec(), "not JSON as a member"),
        ("members_removed", b"-1", b"removed".to_vec(), "its key is no member's ID"),
        ("meta", b"term", b"1".to_vec(), "a value of 1 bytes, 8 are expected"),
        ("meta", b"confState", b"7".to_vec(), "not JSON as a configuration of raft's"),
        ("meta", b"finishedCompactRev", b"5".to_vec(), "its value is no revision"),
        (
            "meta",
            b"finishedCompactRev",
            Revision::first_of(4),
            "more was compacted than was to be: 4 of 3",
        ),
    ];
    for (bucket, key, value, reason) in cases {
        let error = restored(written(&store_with(bucket, key, value)), 0).expect_err(reason);
        assert!(error.contains(reason), "{error:?} instead of {reason:?}");
        assert!(error.starts_with("page "), "{error}");
    }
}

/// A key's last row counts: before, it may have hung on any lease.
#[test]
fn live_keys_hang_on_leases_that_are_there() {
    let mut store = store();
    let (_, keys) = store.iter_mut().find(|(name, _)| *name == "key").expect("keys");
    // The deletion of c, which hung on lease 8.
    keys.retain(|(key, _)| *key != tombstone(5, 1));
    let error = restored(written(&store), 0).expect_err("a live key on lease 8");
    assert!(error.contains("row 4.1") && error.contains("lease 8"), "{error}");
    keys_of(&mut store).push((revision(7, 0), pair("c", (4, 7, 2), 9)));
    assert!(restored(written(&store), 0).is_ok());
}

fn keys_of(store: &mut Buckets) -> &mut Vec<(Vec<u8>, Vec<u8>)> {
    &mut store.iter_mut().find(|(name, _)| *name == "key").expect("keys").1
}

#[test]
fn authentication_is_counted() {
    let row = |key: &str, value: &[u8]| (key.as_bytes().to_vec(), value.to_vec());
    let lost = |more: Buckets| {
        let file = written(&store().into_iter().chain(more).collect());
        Backup::open(file).expect("sound").lost_authentication().expect("read")
    };
    let off = vec![row("authEnabled", &[0]), row("authRevision", &1u64.to_be_bytes())];
    let none = vec![("auth", off.clone()), ("authRoles", vec![]), ("authUsers", vec![])];
    assert_eq!(lost(none), Authentication::default());
    assert_eq!(lost(vec![]), Authentication::default());
    let on = vec![("auth", vec![row("authEnabled", &[1])])];
    assert_eq!(lost(on), Authentication { is_enabled: true, users: 0, roles: 0 });
    let users = vec![row("alice", b"x"), row("root", b"y")];
    let prepared =
        vec![("auth", off), ("authRoles", vec![row("root", b"z")]), ("authUsers", users)];
    assert_eq!(lost(prepared), Authentication { is_enabled: false, users: 2, roles: 1 });
}
