//! Files that make no sense are refused, and by which row; whatever happens to a file, it is refused or read.

mod mutations;
mod rows;

use std::io::Cursor;

use bolt::{Source, Writer};
use prost::Message;
use proto::mvccpb::KeyValue;

use super::{Backup, Boxed, Revision};

/// Rows of the buckets, in the order of their names and keys.
type Buckets = Vec<(&'static str, Vec<(Vec<u8>, Vec<u8>)>)>;

fn written(buckets: &Buckets) -> Vec<u8> {
    let mut writer = Writer::seeking(Cursor::new(Vec::new())).expect("begun");
    for (name, rows) in buckets {
        writer.bucket(name.as_bytes()).expect("a bucket");
        for (key, value) in rows {
            writer.row(key, value).expect("a row");
        }
    }
    writer.finish_seeking().expect("finished").1.into_inner()
}

fn revision(main: i64, sub: i64) -> Vec<u8> {
    [&main.to_be_bytes()[..], b"_", &sub.to_be_bytes()].concat()
}

fn tombstone(main: i64, sub: i64) -> Vec<u8> {
    [&revision(main, sub)[..], b"t"].concat()
}

fn pair(key: &str, numbers: (i64, i64, i64), lease: i64) -> Vec<u8> {
    let (create_revision, mod_revision, version) = numbers;
    let (key, value) = (key.to_owned().into(), "value".into());
    KeyValue { key, value, create_revision, mod_revision, version, lease }.encode_to_vec()
}

fn deleted(key: &str) -> Vec<u8> {
    KeyValue { key: key.to_owned().into(), ..KeyValue::default() }.encode_to_vec()
}

/// leasepb.Lease: a number, and 60 s.
fn lease(id: u8) -> (Vec<u8>, Vec<u8>) {
    (u64::from(id).to_be_bytes().to_vec(), vec![0x08, id, 0x10, 60])
}

/// A store with all that a server writes: puts, deletions, leases, a compaction, an alarm, members.
fn store() -> Buckets {
    let member = (b"ac7c".to_vec(), br#"{"id":44156,"peerURLs":["http://a:2380"]}"#.to_vec());
    let row = |key: &str, value: &[u8]| (key.as_bytes().to_vec(), value.to_vec());
    vec![
        ("alarm", vec![(vec![0x08, 9, 0x10, 1], vec![])]),
        (
            "key",
            vec![
                (revision(2, 0), pair("a", (2, 2, 1), 0)),
                (revision(3, 0), pair("a", (2, 3, 2), 8)),
                (revision(4, 0), pair("b", (4, 4, 1), 7)),
                (revision(4, 1), pair("c", (4, 4, 1), 8)),
                (tombstone(5, 0), deleted("a")),
                (tombstone(5, 1), deleted("c")),
                (revision(6, 0), pair("a", (6, 6, 1), 0)),
            ],
        ),
        ("lease", vec![lease(7), lease(9)]),
        ("members", vec![member]),
        ("members_removed", vec![row("8e9e05c52164694d", b"removed")]),
        (
            "meta",
            vec![
                row("confState", br#"{"voters":[1],"auto_leave":false}"#),
                row("consistent_index", &9u64.to_be_bytes()),
                row("finishedCompactRev", &Revision::first_of(2)),
                row("scheduledCompactRev", &Revision::first_of(3)),
                row("storageVersion", b"3.7.0"),
                row("term", &2u64.to_be_bytes()),
            ],
        ),
    ]
}

type Taken = Vec<(u32, Vec<u8>, Vec<u8>)>;

/// The revision and the rows of a file, or the reason why it is refused.
fn restored(file: impl Source, bump: u64) -> Result<(u64, Taken), String> {
    let backup = Backup::open(file).map_err(|error| error.to_string())?;
    let mut taken = Vec::new();
    let mut take = |table: u32, key: &[u8], value: &[u8]| -> Result<(), Boxed> {
        taken.push((table, key.to_vec(), value.to_vec()));
        Ok(())
    };
    let revision = backup.restore(bump, &mut take).map_err(|error| error.to_string())?;
    Ok((revision, taken))
}
