//! The commands of both programs under one name.

use super::{etcdctl, etcdutl};
use crate::command_line::{Command, Flag, Kind, flag};
use crate::commands::{doctor, machine, migrate};

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

const EXPECT: Flag = flag(
    "expect",
    Kind::Text,
    "",
    "the machine that is to be replaced; refused if another one is active",
);

const MACHINE: Command =
    Command::new("machine", "<subcommand>", "The state machine, and putting another in its place")
        .group(etcdctl::MAINTENANCE)
        .children(&[
            Command::new("list", "", "Lists the machines that the cluster has")
                .run(|invocation| Box::pin(machine::list(invocation))),
            Command::new("put", "<file>", "Brings a component into the cluster")
                .run(|invocation| Box::pin(machine::put(invocation))),
            Command::new("prepare", "<digest>", "Waits until every voter can run a machine")
                .run(|invocation| Box::pin(machine::prepare(invocation))),
            Command::new("activate", "<digest> [options]", "Runs another machine from now on")
                .flags(&[EXPECT])
                .run(|invocation| Box::pin(machine::activate(invocation))),
            Command::new("rollback", "[options]", "Goes back to the machine before")
                .flags(&[EXPECT])
                .run(|invocation| Box::pin(machine::rollback(invocation))),
        ]);

static ALL: [Command; etcdctl::COMMANDS + 4] = {
    let commands = etcdctl::commands(SNAPSHOT, DEFRAG);
    let mut all = [HASHKV; etcdctl::COMMANDS + 4];
    all[etcdctl::COMMANDS + 1] = MIGRATE;
    all[etcdctl::COMMANDS + 2] = DOCTOR;
    all[etcdctl::COMMANDS + 3] = MACHINE;
    let mut at = 0;
    while at < commands.len() {
        all[at] = commands[at];
        at += 1;
    }
    all
};
