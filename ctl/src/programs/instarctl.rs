//! The commands of both programs under one name.

use super::{etcdctl, etcdutl};
use crate::command_line::{Command, Flag, Kind, flag};
use crate::commands::machine;

pub static ROOT: Command =
    Command::new("instarctl", "", "Reads, writes and looks after an Instar or etcd cluster.")
        .shared(&etcdctl::GLOBAL)
        .children(&ALL);

const SNAPSHOT: Command = Command::new("snapshot", "<subcommand>", "Snapshots of the whole store")
    .group(etcdctl::MAINTENANCE)
    .children(&[etcdctl::SNAPSHOT_SAVE, etcdutl::SNAPSHOT_STATUS]);

const HASHKV: Command = etcdutl::HASHKV.group(etcdctl::MAINTENANCE);

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

static ALL: [Command; etcdctl::COMMANDS + 2] = {
    let commands = etcdctl::commands(SNAPSHOT);
    let mut all = [HASHKV; etcdctl::COMMANDS + 2];
    all[etcdctl::COMMANDS] = MACHINE;
    let mut at = 0;
    while at < commands.len() {
        all[at] = commands[at];
        at += 1;
    }
    all
};
