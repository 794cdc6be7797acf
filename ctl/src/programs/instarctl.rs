//! The commands of both programs under one name.

use super::{etcdctl, etcdutl};
use crate::command_line::{Command, Flag, Kind, flag};
use crate::commands::{
    doctor, machine, migrate, module, module_bench, module_project, module_work,
};

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
            Command::new(
                "prepare",
                "<digest> [options]",
                "Waits until every voter can run a machine",
            )
            .flags(&[flag(
                "shadow",
                Kind::Duration,
                "0s",
                "then run it beside the active one for so long, on one member, and compare",
            )])
            .run(|invocation| Box::pin(machine::prepare(invocation))),
            Command::new("activate", "<digest> [options]", "Runs another machine from now on")
                .flags(&[EXPECT])
                .run(|invocation| Box::pin(machine::activate(invocation))),
            Command::new("rollback", "[options]", "Goes back to the machine before")
                .flags(&[EXPECT])
                .run(|invocation| Box::pin(machine::rollback(invocation))),
            Command::new(
                "finalise",
                "[options]",
                "Raises the schema to the active machine's; there is no way back",
            )
            .flags(&[
                EXPECT,
                flag(
                    "wait",
                    Kind::Bool,
                    "",
                    "wait until the rows have the schema, and say how far they are",
                ),
            ])
            .run(|invocation| Box::pin(machine::finalise(invocation))),
        ]);

const MODULE: Command =
    Command::new("module", "<subcommand>", "Programs of your own that run beside the data")
        .group(etcdctl::MAINTENANCE)
        .children(&[
            Command::new("new", "<name> [options]", "Begins a module in a directory of its own")
                .flags(&[
                    flag("template", Kind::Text, "call", "what it serves: call, admit or react"),
                    flag("sdk", Kind::Text, "sdk", "the directory of Instar's SDK"),
                ])
                .run(|invocation| Box::pin(async move { module_project::new(&invocation) })),
            Command::new("test", "", "Runs the tests of the module in this directory")
                .run(|invocation| Box::pin(async move { module_project::test(&invocation) })),
            Command::new("build", "", "Makes a component of the module in this directory")
                .run(|invocation| Box::pin(async move { module_project::build(&invocation) })),
            Command::new("bench", "[file] [options]", "Measures a module, on a server of its own")
                .flags(&[
                    flag("key", Kind::Text, "/bench/", "the prefix that it is granted"),
                    flag("call", Kind::Text, "", "the procedure to call, if it has any"),
                    flag("argument", Kind::Text, "", "what to call it with"),
                    flag("clients", Kind::Integer, "16", "how many ask at once"),
                    flag("time", Kind::Duration, "3s", "how long each load lasts"),
                    flag("server", Kind::Text, "", "the program instar; found beside this one"),
                ])
                .run(|invocation| Box::pin(module_bench::bench(invocation))),
            Command::new("logs", "<name> [options]", "Shows what a module logs on the member")
                .flags(&[
                    flag("follow", Kind::Bool, "", "go on until interrupted").short('f'),
                    flag("tail", Kind::Integer, "0", "begin with so many lines; 0: with all"),
                ])
                .run(|invocation| Box::pin(module_work::logs(invocation))),
            Command::new("top", "[options]", "Shows what modules cost on the member")
                .flags(&[
                    flag("interval", Kind::Duration, "1s", "how often"),
                    flag("count", Kind::Integer, "0", "how many times; 0: until interrupted"),
                ])
                .run(|invocation| Box::pin(module_work::top(invocation))),
            Command::new("list", "", "Lists the modules that the cluster has")
                .run(|invocation| Box::pin(module::list(invocation))),
            Command::new("put", "<file>", "Brings a component into the cluster")
                .run(|invocation| Box::pin(module::put(invocation))),
            Command::new("activate", "<name> [options]", "Lets a module serve from now on")
                .flags(&[
                    flag(
                        "digest",
                        Kind::Text,
                        "",
                        "the component, where there are several of the name",
                    ),
                    flag(
                        "grant",
                        Kind::List,
                        "",
                        "prefixes of keys that it may read and write, and is shown",
                    ),
                ])
                .run(|invocation| Box::pin(module::activate(invocation))),
            Command::new("disable", "<name>", "Lets a module serve no more; its rows stay")
                .run(|invocation| Box::pin(module::disable(invocation))),
            Command::new(
                "call",
                "<name> <procedure> [argument]",
                "Runs a procedure of a module; its argument may come from standard input",
            )
            .run(|invocation| Box::pin(module::call(invocation))),
        ]);

static ALL: [Command; etcdctl::COMMANDS + 5] = {
    let commands = etcdctl::commands(SNAPSHOT, DEFRAG);
    let mut all = [HASHKV; etcdctl::COMMANDS + 5];
    all[etcdctl::COMMANDS + 1] = MIGRATE;
    all[etcdctl::COMMANDS + 2] = DOCTOR;
    all[etcdctl::COMMANDS + 3] = MACHINE;
    all[etcdctl::COMMANDS + 4] = MODULE;
    let mut at = 0;
    while at < commands.len() {
        all[at] = commands[at];
        at += 1;
    }
    all
};
