//! The commands of both programs under one name.

use super::{etcdctl, etcdutl};
use crate::command_line::Command;

pub static ROOT: Command =
    Command::new("instarctl", "", "Reads, writes and looks after an Instar or etcd cluster.")
        .shared(&etcdctl::GLOBAL)
        .children(&ALL);

const SNAPSHOT: Command = Command::new("snapshot", "<subcommand>", "Snapshots of the whole store")
    .group(etcdctl::MAINTENANCE)
    .children(&[etcdutl::SNAPSHOT_RESTORE, etcdctl::SNAPSHOT_SAVE, etcdutl::SNAPSHOT_STATUS]);

const HASHKV: Command = etcdutl::HASHKV.group(etcdctl::MAINTENANCE);

static ALL: [Command; etcdctl::COMMANDS + 1] = {
    let commands = etcdctl::commands(SNAPSHOT);
    let mut all = [HASHKV; etcdctl::COMMANDS + 1];
    let mut at = 0;
    while at < commands.len() {
        all[at] = commands[at];
        at += 1;
    }
    all
};
