//! etcdutl's commands: on files, without a server.

use super::etcdctl;
use crate::command_line::{Command, Flag, Kind, flag};
use crate::commands::{data_directory, file_hash, restore, snapshot};

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
            DEFRAG,
            HASHKV,
            etcdctl::HELP.group(""),
            MIGRATE,
            SNAPSHOT,
            etcdctl::VERSION.group(""),
        ]);

const SNAPSHOT: Command = Command::new("snapshot", "<subcommand>", "Snapshots of the whole store")
    .children(&[SNAPSHOT_RESTORE, SNAPSHOT_STATUS]);

pub const INITIAL_CLUSTER: Flag = flag(
    "initial-cluster",
    Kind::Text,
    "default=http://localhost:2380",
    "the members of the new cluster: name=URL, separated by commas",
);
pub const INITIAL_CLUSTER_TOKEN: Flag = flag(
    "initial-cluster-token",
    Kind::Text,
    "etcd-cluster",
    "tells clusters of the same URLs apart",
);

/// Not etcd's, whose server has authentication.
pub const DROP_AUTH: Flag = flag(
    "drop-auth",
    Kind::Bool,
    "",
    "restore without users and roles, so that every client may read and write",
);

/// The defaults are the server's: a cluster of one member on this machine.
pub const SNAPSHOT_RESTORE: Command = Command::new(
    "restore",
    "<filename> --data-dir {output dir} [options]",
    "Makes the data directory of a member of a new cluster from a snapshot",
)
.flags(&[
    flag("data-dir", Kind::Text, "", "the directory to make; {name}.etcd if none is given"),
    flag("wal-dir", Kind::Text, "", "no effect: the log stands in the data directory"),
    INITIAL_CLUSTER,
    INITIAL_CLUSTER_TOKEN,
    flag(
        "initial-advertise-peer-urls",
        Kind::Text,
        "http://localhost:2380",
        "where the others reach this member",
    ),
    flag("name", Kind::Text, "default", "this member's name"),
    flag(
        "skip-hash-check",
        Kind::Bool,
        "",
        "take a file without its hash, as one from a data directory is",
    ),
    flag("initial-memory-map-size", Kind::Unsigned, "10737418240", "no effect: nothing is mapped"),
    DROP_AUTH,
    flag("bump-revision", Kind::Unsigned, "", "how much to add to the latest revision"),
    flag(
        "mark-compacted",
        Kind::Bool,
        "",
        "compact at the latest revision; required with --bump-revision",
    ),
])
.run(|invocation| Box::pin(restore::run(invocation)));

pub const SNAPSHOT_STATUS: Command = Command::new(
    "status",
    "<filename>",
    "Checks a snapshot, and prints hash, revision, keys, size and version",
)
.run(|invocation| Box::pin(snapshot::status(invocation)));

pub const DATA_DIR: Flag =
    flag("data-dir", Kind::Text, "", "the data directory of a member that does not run");

const DEFRAG: Command =
    Command::new("defrag", "", "Gives unused disk space of a data directory back")
        .flags(&[DATA_DIR])
        .run(|invocation| Box::pin(data_directory::defragment(invocation)));

const MIGRATE: Command = Command::new(
    "migrate",
    "",
    "Brings a data directory to the storage version of another etcd; Instar has one version only",
)
.flags(&[
    DATA_DIR,
    flag("target-version", Kind::Text, "", "the version, X.Y, from 3.5 on"),
    flag("force", Kind::Bool, "", "no effect: nothing is written over"),
])
.run(|invocation| Box::pin(data_directory::migrate(invocation)));

const REVISION: Flag = flag("rev", Kind::Integer, "", "up to this revision; the latest if 0");

pub const HASHKV: Command =
    Command::new("hashkv", "<filename>", "Prints the hash of a file's key-value history")
        .flags(&[REVISION])
        .run(|invocation| Box::pin(file_hash::run(invocation)));
