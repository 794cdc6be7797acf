//! The commands of both programs under one name.

use super::{etcdctl, etcdutl};
use crate::command_line::{Command, Kind, flag};
use crate::commands::{doctor, migrate};

pub static ROOT: Command =
    Command::new("instarctl", "", "Reads, writes and looks after an Instar or etcd cluster.")
        .shared(&etcdctl::GLOBAL)
        .children(&ALL);

const SNAPSHOT: Command = Command::new("snapshot", "<subcommand>", "Snapshots of the whole store")
    .group(etcdctl::MAINTENANCE)
    .children(&[etcdutl::SNAPSHOT_RESTORE, etcdctl::SNAPSHOT_SAVE, etcdutl::SNAPSHOT_STATUS]);

/// Of running members, or of the data directory of one that does not run.
const DEFRAG: Command = etcdctl::DEFRAG.flags(&[etcdutl::DATA_DIR]);

const HASHKV: Command = etcdutl::HASHKV.group(etcdctl::MAINTENANCE);

const MIGRATE: Command = Command::new(
    "migrate",
    "<endpoint of the new cluster>",
    "Takes a running etcd cluster to Instar, until both have the same HashKV",
)
.group(etcdctl::MAINTENANCE)
.flags(&[
    flag(
        "data-dir",
        Kind::Text,
        "",
        "make the new cluster's data directories first; {name} stands for a member's name",
    ),
    etcdutl::INITIAL_CLUSTER,
    etcdutl::INITIAL_CLUSTER_TOKEN,
    etcdutl::DROP_AUTH,
    flag("wait", Kind::Duration, "5m", "how long to wait until the new cluster serves"),
    flag("follow", Kind::Bool, "", "go on after the clusters are level, until interrupted"),
])
.run(|invocation| Box::pin(migrate::run(invocation)));

const DOCTOR: Command =
    Command::new("doctor", "", "Looks at this machine and at the cluster, and says what to mend")
        .group(etcdctl::MAINTENANCE)
        .flags(&[flag(
            "data-dir",
            Kind::Text,
            ".",
            "where to measure the disk: a directory to write in",
        )])
        .run(|invocation| Box::pin(doctor::run(invocation)));

static ALL: [Command; etcdctl::COMMANDS + 3] = {
    let commands = etcdctl::commands(SNAPSHOT, DEFRAG);
    let mut all = [HASHKV; etcdctl::COMMANDS + 3];
    all[etcdctl::COMMANDS + 1] = MIGRATE;
    all[etcdctl::COMMANDS + 2] = DOCTOR;
    let mut at = 0;
    while at < commands.len() {
        all[at] = commands[at];
        at += 1;
    }
    all
};
