//! etcdctl's commands.

use crate::command_line::{Command, Flag, Kind, flag};
use crate::commands::{
    alarm, auth, check, compaction, completion, defrag, delete, downgrade, elect, endpoint, get,
    help, lease, lock, make_mirror, member, move_leader, options, put, role, snapshot, txn, user,
    version, watch,
};

pub const KV: &str = "Key-value commands";
pub const MAINTENANCE: &str = "Cluster maintenance commands";
pub const CONCURRENCY: &str = "Concurrency commands";
pub const AUTHENTICATION: &str = "Authentication commands";
pub const UTILITY: &str = "Utility commands";

pub static ROOT: Command =
    Command::new("etcdctl", "", "Reads, writes and looks after an etcd cluster.")
        .shared(&GLOBAL)
        .children(&const { commands(SNAPSHOT, DEFRAG) });

pub static GLOBAL: [Flag; 21] = [
    flag(
        "endpoints",
        Kind::List,
        "127.0.0.1:2379",
        "where the servers answer, separated by commas",
    ),
    flag("debug", Kind::Bool, "", "log what the client does"),
    flag(
        "write-out",
        Kind::Text,
        "simple",
        "the format of the output: simple, fields, json, protobuf or table",
    )
    .short('w'),
    flag("hex", Kind::Bool, "", "write bytes in hexadecimal"),
    flag("dial-timeout", Kind::Duration, "2s", "how long to wait for a connection"),
    flag(
        "command-timeout",
        Kind::Duration,
        "5s",
        "how long a command may take that is meant to be short",
    ),
    flag(
        "keepalive-time",
        Kind::Duration,
        "2s",
        "how often to ask whether a connection still lives",
    ),
    flag("keepalive-timeout", Kind::Duration, "6s", "how long to wait for that answer"),
    flag(
        "max-request-bytes",
        Kind::Integer,
        "",
        "the largest request to send, in bytes (2 MiB if 0)",
    ),
    flag("max-recv-bytes", Kind::Integer, "", "the largest answer to take, in bytes (2 GiB if 0)"),
    flag(
        "insecure-transport",
        Kind::Bool,
        "true",
        "connect without TLS where an endpoint does not say",
    ),
    flag("insecure-discovery", Kind::Bool, "true", "accept endpoints without TLS from DNS"),
    flag(
        "insecure-skip-tls-verify",
        Kind::Bool,
        "",
        "do not verify the server's certificate (for tests only)",
    ),
    flag("cert", Kind::Text, "", "the file with this client's certificate"),
    flag("key", Kind::Text, "", "the file with this client's private key"),
    flag("cacert", Kind::Text, "", "the file with the certificates that sign those of servers"),
    flag("auth-jwt-token", Kind::Text, "", "a JWT to authenticate with, in place of --user"),
    flag(
        "user",
        Kind::Text,
        "",
        "name[:password] to authenticate with; a missing password is asked for",
    ),
    flag("password", Kind::Text, "", "the password, where --user has none"),
    flag("discovery-srv", Kind::Text, "", "the domain whose SRV records name the endpoints")
        .short('d'),
    flag("discovery-srv-name", Kind::Text, "", "the service's name in those records"),
];

/// How many commands there are.
pub const COMMANDS: usize = 25;

/// All of them, with those that the programs have in different ways.
pub const fn commands(snapshot: Command, defrag: Command) -> [Command; COMMANDS] {
    [
        GET,
        PUT,
        DEL,
        TXN,
        COMPACTION,
        ALARM,
        defrag,
        ENDPOINT,
        MOVE_LEADER,
        WATCH,
        VERSION,
        LEASE,
        MEMBER,
        snapshot,
        MAKE_MIRROR,
        LOCK,
        ELECT,
        AUTH,
        USER,
        ROLE,
        CHECK,
        COMPLETION,
        DOWNGRADE,
        OPTIONS,
        HELP,
    ]
}

pub const CONSISTENCY: Flag = flag(
    "consistency",
    Kind::Text,
    "l",
    "l: the latest state of the cluster; s: what the server has",
);

pub const GET: Command =
    Command::new("get", "[options] <key> [range_end]", "Gets the key or a range of keys")
        .group(KV)
        .flags(&[
            CONSISTENCY,
            flag("order", Kind::Text, "", "ASCEND or DESCEND; ASCEND if empty"),
            flag("sort-by", Kind::Text, "", "CREATE, KEY, MODIFY, VALUE or VERSION"),
            flag("limit", Kind::Integer, "", "the most keys to get"),
            flag("prefix", Kind::Bool, "", "get the keys that begin with this one"),
            flag("from-key", Kind::Bool, "", "get this key and all that come after it"),
            flag("rev", Kind::Integer, "", "get what was there at this revision"),
            flag("keys-only", Kind::Bool, "", "get keys without values"),
            flag("count-only", Kind::Bool, "", "get only how many there are"),
            flag(
                "print-value-only",
                Kind::Bool,
                "",
                "print values without keys; with the output format \"simple\"",
            ),
            flag(
                "min-create-rev",
                Kind::Integer,
                "",
                "no keys that were created before this revision",
            ),
            flag(
                "max-create-rev",
                Kind::Integer,
                "",
                "no keys that were created after this revision",
            ),
            flag(
                "min-mod-rev",
                Kind::Integer,
                "",
                "no keys that were last changed before this revision",
            ),
            flag(
                "max-mod-rev",
                Kind::Integer,
                "",
                "no keys that were last changed after this revision",
            ),
            flag("stream", Kind::Bool, "", "get them by RangeStream, in pieces"),
        ])
        .run(|invocation| Box::pin(get::run(invocation)));

pub const PUT: Command = Command::new(
    "put",
    "[options] <key> <value> (<value> can also be given from stdin)",
    "Puts the key into the store",
)
.group(KV)
.flags(&[
    flag("lease", Kind::Text, "0", "the lease to attach the key to, in hexadecimal"),
    flag("prev-kv", Kind::Bool, "", "print what the key was before"),
    flag("ignore-value", Kind::Bool, "", "keep the value that the key has"),
    flag("ignore-lease", Kind::Bool, "", "keep the lease that the key has"),
])
.run(|invocation| Box::pin(put::run(invocation)));

pub const DEL: Command = Command::new(
    "del",
    "[options] <key> [range_end]",
    "Removes the key, or the keys in [key, range_end)",
)
.group(KV)
.flags(&[
    flag("prefix", Kind::Bool, "", "remove the keys that begin with this one"),
    flag("prev-kv", Kind::Bool, "", "print what was removed"),
    flag("from-key", Kind::Bool, "", "remove this key and all that come after it"),
    flag("range", Kind::Bool, "", "remove a range without a pause for second thoughts"),
])
.run(|invocation| Box::pin(delete::run(invocation)));

const TXN: Command = Command::new(
    "txn",
    "[options]",
    "Reads conditions and requests from standard input, and applies them as one transaction",
)
.group(KV)
.flags(&[flag("interactive", Kind::Bool, "", "say what is expected next").short('i')])
.run(|invocation| Box::pin(txn::run(invocation)));

const COMPACTION: Command =
    Command::new("compaction", "[options] <revision>", "Forgets what was before a revision")
        .group(KV)
        .flags(&[flag("physical", Kind::Bool, "", "wait until it is gone from the disk")])
        .run(|invocation| Box::pin(compaction::run(invocation)));

pub const WATCH: Command = Command::new(
    "watch",
    "[options] [key or prefix] [range_end] [--] [exec-command arg1 arg2 ...]",
    "Prints the changes of keys as they happen, or runs a command at each",
)
.group(KV)
.flags(&[
    flag("interactive", Kind::Bool, "", "read from standard input what to watch").short('i'),
    flag("prefix", Kind::Bool, "", "watch the keys that begin with this one"),
    flag("rev", Kind::Integer, "", "begin at this revision"),
    flag("prev-kv", Kind::Bool, "", "print what the key was before"),
    flag("progress-notify", Kind::Bool, "", "have the server tell its revision now and then"),
])
.run(|invocation| Box::pin(watch::run(invocation)));

const LEASE: Command = Command::new(
    "lease",
    "<subcommand>",
    "Leases: keys that are removed when they are not renewed",
)
.group(KV)
.children(&[
    Command::new("grant", "<ttl>", "Grants a lease of so many seconds")
        .run(|invocation| Box::pin(lease::grant(invocation))),
    Command::new("revoke", "<leaseID>", "Revokes a lease and removes its keys")
        .run(|invocation| Box::pin(lease::revoke(invocation))),
    Command::new("timetolive", "<leaseID> [options]", "Says how long a lease still lasts")
        .flags(&[flag("keys", Kind::Bool, "", "list its keys")])
        .run(|invocation| Box::pin(lease::time_to_live(invocation))),
    Command::new("list", "", "Lists the leases")
        .run(|invocation| Box::pin(lease::list(invocation))),
    Command::new("keep-alive", "[options] <leaseID>", "Renews a lease again and again")
        .flags(&[flag("once", Kind::Bool, "", "renew it once")])
        .run(|invocation| Box::pin(lease::keep_alive(invocation))),
]);

const ALARM: Command = Command::new("alarm", "<subcommand>", "Alarms that members have raised")
    .group(MAINTENANCE)
    .children(&[
        Command::new("disarm", "", "Disarms all alarms")
            .run(|invocation| Box::pin(alarm::disarm(invocation))),
        Command::new("list", "", "Lists the alarms")
            .run(|invocation| Box::pin(alarm::list(invocation))),
    ]);

const CLUSTER: Flag = flag("cluster", Kind::Bool, "", "ask all members of the cluster");

pub const DEFRAG: Command =
    Command::new("defrag", "", "Gives unused disk space of the members back")
        .group(MAINTENANCE)
        .shared(&[CLUSTER])
        .run(|invocation| Box::pin(defrag::run(invocation)));

const ENDPOINT: Command =
    Command::new("endpoint", "<subcommand>", "How the servers at the endpoints are")
        .group(MAINTENANCE)
        .shared(&[CLUSTER])
        .children(&[
            Command::new("health", "", "Says whether each endpoint serves")
                .run(|invocation| Box::pin(endpoint::health(invocation))),
            Command::new(
                "status",
                "",
                "Prints version, sizes, leader and raft state of each endpoint",
            )
            .run(|invocation| Box::pin(endpoint::status(invocation))),
            Command::new("hashkv", "", "Prints the hash of each endpoint's key-value history")
                .flags(&[flag("rev", Kind::Integer, "", "up to this revision; the latest if 0")])
                .run(|invocation| Box::pin(endpoint::hash_kv(invocation))),
        ]);

const MOVE_LEADER: Command =
    Command::new("move-leader", "<transferee-member-id>", "Hands leadership to another member")
        .group(MAINTENANCE)
        .run(|invocation| Box::pin(move_leader::run(invocation)));

const PEER_URLS: Flag =
    flag("peer-urls", Kind::Text, "", "where the other members reach it, separated by commas");

const MEMBER: Command = Command::new("member", "<subcommand>", "Members of the cluster")
    .group(MAINTENANCE)
    .children(&[
        Command::new("add", "<memberName> [options]", "Adds a member")
            .flags(&[PEER_URLS, flag("learner", Kind::Bool, "", "as a learner, without a vote")])
            .run(|invocation| Box::pin(member::add(invocation))),
        Command::new("remove", "<memberID>", "Removes a member")
            .run(|invocation| Box::pin(member::remove(invocation))),
        Command::new("update", "<memberID> [options]", "Changes where a member is reached")
            .flags(&[PEER_URLS])
            .run(|invocation| Box::pin(member::update(invocation))),
        Command::new("list", "", "Lists the members: ID, status, name, peer and client addresses, whether it is a learner")
            .flags(&[CONSISTENCY])
            .run(|invocation| Box::pin(member::list(invocation))),
        Command::new("promote", "<memberID>", "Gives a learner a vote")
            .run(|invocation| Box::pin(member::promote(invocation))),
    ]);

const SNAPSHOT: Command = Command::new("snapshot", "<subcommand>", "Snapshots of the whole store")
    .group(MAINTENANCE)
    .children(&[SNAPSHOT_SAVE]);

pub const SNAPSHOT_SAVE: Command =
    Command::new("save", "<filename>", "Saves a server's state as an etcd database file")
        .run(|invocation| Box::pin(snapshot::save(invocation)));

const DOWNGRADE: Command =
    Command::new("downgrade", "<TARGET_VERSION>", "Going back to an earlier version")
        .group(MAINTENANCE)
        .children(&[
            Command::new("validate", "<TARGET_VERSION>", "Says whether it is possible")
                .run(|invocation| Box::pin(downgrade::validate(invocation))),
            Command::new("enable", "<TARGET_VERSION>", "Begins it")
                .run(|invocation| Box::pin(downgrade::enable(invocation))),
            Command::new("cancel", "", "Cancels it")
                .run(|invocation| Box::pin(downgrade::cancel(invocation))),
        ]);

const MAKE_MIRROR: Command = Command::new(
    "make-mirror",
    "[options] <destination>",
    "Copies keys to another cluster, and goes on copying what changes",
)
.group(UTILITY)
.flags(&[
    flag("prefix", Kind::Text, "", "only keys that begin so"),
    flag(
        "rev",
        Kind::Integer,
        "",
        "begin with the changes of this revision, without what was there before",
    ),
    flag(
        "max-txn-ops",
        Kind::Unsigned,
        "128",
        "the most operations of a transaction at the destination",
    ),
    flag("dest-prefix", Kind::Text, "", "what keys begin with at the destination"),
    flag("no-dest-prefix", Kind::Bool, "", "leave the prefix away at the destination"),
    flag(
        "dest-cert",
        Kind::Text,
        "",
        "the file with this client's certificate, for the destination",
    ),
    flag(
        "dest-key",
        Kind::Text,
        "",
        "the file with this client's private key, for the destination",
    ),
    flag(
        "dest-cacert",
        Kind::Text,
        "",
        "the file with the certificates that sign the destination's",
    ),
    flag("dest-insecure-transport", Kind::Bool, "true", "connect to the destination without TLS"),
    flag("dest-user", Kind::Text, "", "name[:password] at the destination"),
    flag("dest-password", Kind::Text, "", "the password, where --dest-user has none"),
])
.run(|invocation| Box::pin(make_mirror::run(invocation)));

const LOCK: Command = Command::new(
    "lock",
    "<lockname> [exec-command arg1 arg2 ...]",
    "Acquires a lock, and holds it while a command runs or until interrupted",
)
.group(CONCURRENCY)
.flags(&[flag(
    "ttl",
    Kind::Integer,
    "10",
    "seconds until the lock is free when its holder is lost",
)])
.run(|invocation| Box::pin(lock::run(invocation)));

const ELECT: Command =
    Command::new("elect", "<election-name> [proposal]", "Takes part in an election, or looks on")
        .group(CONCURRENCY)
        .flags(&[flag("listen", Kind::Bool, "", "look on").short('l')])
        .run(|invocation| Box::pin(elect::run(invocation)));

const AUTH: Command = Command::new("auth", "<enable or disable>", "Authentication on and off")
    .group(AUTHENTICATION)
    .children(&[
        Command::new("enable", "", "Turns authentication on")
            .run(|invocation| Box::pin(auth::enable(invocation))),
        Command::new("disable", "", "Turns authentication off")
            .run(|invocation| Box::pin(auth::disable(invocation))),
        Command::new("status", "", "Says whether authentication is on")
            .run(|invocation| Box::pin(auth::status(invocation))),
    ]);

const INTERACTIVE: Flag = flag(
    "interactive",
    Kind::Bool,
    "true",
    "ask for the password; without it, one line of standard input is the password",
);

const USER: Command =
    Command::new("user", "<subcommand>", "Users").group(AUTHENTICATION).children(&[
        Command::new("add", "<user name or user:password> [options]", "Adds a user")
            .flags(&[
                INTERACTIVE,
                flag("new-user-password", Kind::Text, "", "the user's password"),
                flag("no-password", Kind::Bool, "", "a user who authenticates by certificate only"),
            ])
            .run(|invocation| Box::pin(user::add(invocation))),
        Command::new("delete", "<user name>", "Deletes a user")
            .run(|invocation| Box::pin(user::delete(invocation))),
        Command::new("get", "<user name> [options]", "Lists a user's roles")
            .flags(&[flag("detail", Kind::Bool, "", "and what the roles permit")])
            .run(|invocation| Box::pin(user::get(invocation))),
        Command::new("list", "", "Lists the users")
            .run(|invocation| Box::pin(user::list(invocation))),
        Command::new("passwd", "<user name> [options]", "Changes a user's password")
            .flags(&[INTERACTIVE])
            .run(|invocation| Box::pin(user::change_password(invocation))),
        Command::new("grant-role", "<user name> <role name>", "Grants a role to a user")
            .run(|invocation| Box::pin(user::grant_role(invocation))),
        Command::new("revoke-role", "<user name> <role name>", "Revokes a role from a user")
            .run(|invocation| Box::pin(user::revoke_role(invocation))),
    ]);

const ROLE: Command = Command::new("role", "<subcommand>", "Roles, and what they permit")
    .group(AUTHENTICATION)
    .children(&[
        Command::new("add", "<role name>", "Adds a role")
            .run(|invocation| Box::pin(role::add(invocation))),
        Command::new("delete", "<role name>", "Deletes a role")
            .run(|invocation| Box::pin(role::delete(invocation))),
        Command::new("get", "<role name>", "Lists what a role permits")
            .run(|invocation| Box::pin(role::get(invocation))),
        Command::new("list", "", "Lists the roles")
            .run(|invocation| Box::pin(role::list(invocation))),
        Command::new(
            "grant-permission",
            "[options] <role name> <permission type> <key> [endkey]",
            "Permits a role to read, write or readwrite keys",
        )
        .flags(&[
            flag("prefix", Kind::Bool, "", "the keys that begin with this one"),
            flag("from-key", Kind::Bool, "", "this key and all that come after it"),
        ])
        .run(|invocation| Box::pin(role::grant_permission(invocation))),
        Command::new(
            "revoke-permission",
            "<role name> <key> [endkey]",
            "Takes a permission from a role",
        )
        .flags(&[
            flag("prefix", Kind::Bool, "", "the keys that begin with this one"),
            flag("from-key", Kind::Bool, "", "this key and all that come after it"),
        ])
        .run(|invocation| Box::pin(role::revoke_permission(invocation))),
    ]);

const LOAD: Flag = flag("load", Kind::Text, "s", "the workload: s, m, l or xl");
const AUTO_COMPACT: Flag = flag("auto-compact", Kind::Bool, "", "compact the store afterwards");
const AUTO_DEFRAG: Flag = flag("auto-defrag", Kind::Bool, "", "defragment the store afterwards");

const CHECK: Command =
    Command::new("check", "<subcommand>", "What a cluster can bear").group(UTILITY).children(&[
        Command::new(
            "perf",
            "[options]",
            "Puts for a minute, and says whether the cluster is quick enough",
        )
        .flags(&[
            LOAD,
            flag("prefix", Kind::Text, "/etcdctl-check-perf/", "where the keys go"),
            AUTO_COMPACT,
            AUTO_DEFRAG,
        ])
        .run(|invocation| Box::pin(check::perf(invocation))),
        Command::new(
            "datascale",
            "[options]",
            "Puts many keys, and says how much memory the first endpoint takes for them",
        )
        .flags(&[
            LOAD,
            flag("prefix", Kind::Text, "/etcdctl-check-datascale/", "where the keys go"),
            AUTO_COMPACT,
            AUTO_DEFRAG,
        ])
        .run(|invocation| Box::pin(check::datascale(invocation))),
    ]);

pub const VERSION: Command = Command::new("version", "", "Prints the version")
    .group(UTILITY)
    .run(|invocation| Box::pin(version::run(invocation)));

pub const COMPLETION: Command = Command::new(
    "completion",
    "[bash|zsh|fish|powershell]",
    "Prints the completion script for a shell",
)
.group(UTILITY)
.run(|invocation| Box::pin(completion::run(invocation)));

const OPTIONS: Command = Command::new("options", "", "Lists the flags that all commands have")
    .group(UTILITY)
    .run(|invocation| Box::pin(options::run(invocation)));

pub const HELP: Command = Command::new("help", "[command]", "Helps with a command")
    .group(UTILITY)
    .run(|invocation| Box::pin(help::run(invocation)));
