//! etcdutl's commands: on files, without a server.

use super::etcdctl;
use crate::command_line::{Command, Flag, Kind, flag};
use crate::commands::{file_hash, snapshot};

pub static ROOT: Command =
    Command::new("etcdutl", "", "Looks after etcd's files, without a server.")
        .shared(&[
            flag("timeout", Kind::Duration, "10s", "how long to wait for a file that is locked"),
            flag(
                "write-out",
                Kind::Text,
                "simple",
                "the format of the output: simple, fields, json, protobuf or table",
            )
            .short('w'),
        ])
        .children(&[
            etcdctl::COMPLETION.group(""),
            HASHKV,
            etcdctl::HELP.group(""),
            SNAPSHOT,
            etcdctl::VERSION.group(""),
        ]);

const SNAPSHOT: Command = Command::new("snapshot", "<subcommand>", "Snapshots of the whole store")
    .children(&[SNAPSHOT_STATUS]);

pub const SNAPSHOT_STATUS: Command = Command::new(
    "status",
    "<filename>",
    "Checks a snapshot, and prints hash, revision, keys, size and version",
)
.run(|invocation| Box::pin(snapshot::status(invocation)));

const REVISION: Flag = flag("rev", Kind::Integer, "", "up to this revision; the latest if 0");

pub const HASHKV: Command =
    Command::new("hashkv", "<filename>", "Prints the hash of a file's key-value history")
        .flags(&[REVISION])
        .run(|invocation| Box::pin(file_hash::run(invocation)));
