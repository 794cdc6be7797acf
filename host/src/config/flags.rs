//! The table of flags: one row each. Parsing, the environment, `--help` and docs/flags.md are made from it.
//!
//! Names, defaults and kinds are etcd's (server/etcdmain/help.go, server/embed/config.go).

use super::value::{Kind, Value};

/// The part of the help that a flag stands in. The order is that of the help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Member,
    Clustering,
    Logging,
    Program,
}

impl Section {
    pub(super) const ALL: [Section; 4] =
        [Section::Member, Section::Clustering, Section::Logging, Section::Program];

    pub(super) fn title(self) -> &'static str {
        match self {
            Section::Member => "Member",
            Section::Clustering => "Clustering",
            Section::Logging => "Logging",
            Section::Program => "Program",
        }
    }
}

/// One flag.
#[derive(Debug)]
pub(super) struct Flag {
    /// Without dashes.
    pub(super) name: &'static str,
    pub(super) section: Section,
    pub(super) kind: Kind,
    /// As it would be written on the command line; the empty string where the default depends on other flags.
    pub(super) default: &'static str,
    /// What the help shows in place of an empty `default`.
    pub(super) shown_default: &'static str,
    /// One paragraph for the help.
    pub(super) help: &'static str,
}

impl Flag {
    /// `ETCD_` and the name in capitals, with underscores for dashes.
    pub(super) fn environment_variable(&self) -> String {
        format!("ETCD_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }

    /// The default that the help shows.
    pub(super) fn documented_default(&self) -> &'static str {
        if self.default.is_empty() { self.shown_default } else { self.default }
    }

    /// # Errors
    /// What is wrong with `text`, in etcd's words.
    pub(super) fn parse(&self, text: &str) -> Result<Value, String> {
        self.kind.parse(text)
    }
}

/// The flag of that name (without dashes).
pub(super) fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

const fn flag(
    name: &'static str,
    section: Section,
    kind: Kind,
    default: &'static str,
    help: &'static str,
) -> Flag {
    Flag { name, section, kind, default, shown_default: "", help }
}

use Kind::{Boolean, Choice, Signed64, Text, Unsigned32, Unsigned64, Urls};
use Section::{Clustering, Logging, Member, Program};

pub(super) const DEFAULT_NAME: &str = "default";

pub(super) static FLAGS: &[Flag] = &[
    flag(
        "name",
        Member,
        Text,
        DEFAULT_NAME,
        "Human-readable name of this member; the one that --initial-cluster has for it.",
    ),
    Flag {
        shown_default: "${name}.etcd",
        ..flag(
            "data-dir",
            Member,
            Text,
            "",
            "Directory that holds the member's data. Two servers cannot use it at once.",
        )
    },
    flag(
        "snapshot-count",
        Member,
        Unsigned64,
        "10000",
        "Committed entries after which a snapshot is made, and the log before it removed.",
    ),
    flag(
        "heartbeat-interval",
        Member,
        Unsigned32,
        "100",
        "Time (in milliseconds) between two heartbeats of the leader.",
    ),
    flag(
        "election-timeout",
        Member,
        Unsigned32,
        "1000",
        "Time (in milliseconds) without a leader after which a member wants to become it: at least 5 times the heartbeat interval, at most 50000.",
    ),
    flag(
        "listen-peer-urls",
        Member,
        Urls,
        "http://localhost:2380",
        "URLs to listen on for other members, separated by commas. The host is an IP address or localhost.",
    ),
    flag(
        "listen-client-urls",
        Member,
        Urls,
        "http://localhost:2379",
        "URLs to listen on for clients (gRPC and HTTP on the same port), separated by commas. The host is an IP address or localhost.",
    ),
    flag(
        "quota-backend-bytes",
        Member,
        Signed64,
        "0",
        "Size (in bytes) of the database beyond which only reads and deletions are accepted: 0 is 2 GiB, a negative number is no limit.",
    ),
    flag(
        "max-txn-ops",
        Member,
        Unsigned32,
        "128",
        "The most operations in one list of a transaction.",
    ),
    flag(
        "max-request-bytes",
        Member,
        Unsigned32,
        "1572864",
        "The most bytes of a client's request.",
    ),
    flag(
        "initial-advertise-peer-urls",
        Clustering,
        Urls,
        "http://localhost:2380",
        "This member's peer URLs as the other members reach them. They stand in --initial-cluster under this member's name.",
    ),
    Flag {
        shown_default: "${name}=${initial-advertise-peer-urls}",
        ..flag(
            "initial-cluster",
            Clustering,
            Text,
            "",
            "The members of a new cluster: name=peer-url, separated by commas; a name with several URLs is repeated. The same text on each of them. A member that joins a running cluster names the members that it has.",
        )
    },
    flag(
        "initial-cluster-state",
        Clustering,
        Choice(&["new", "existing"]),
        "new",
        "'new' for a cluster that is started for the first time, 'existing' for a member that was added to a running one. A member that has data ignores it.",
    ),
    flag(
        "initial-cluster-token",
        Clustering,
        Text,
        "etcd-cluster",
        "Part of the cluster's and its members' ids. Clusters with different tokens do not mix, even where their URLs are the same.",
    ),
    flag(
        "strict-reconfig-check",
        Clustering,
        Boolean,
        "true",
        "Refuse changes of the membership that would endanger the quorum.",
    ),
    flag(
        "max-learners",
        Clustering,
        Unsigned32,
        "1",
        "The most learners that the cluster may have at once.",
    ),
    flag(
        "force-new-cluster",
        Clustering,
        Boolean,
        "false",
        "Begin as the only member of the cluster, whatever the data says of others. For when a majority is lost for good; to be given once.",
    ),
    flag(
        "advertise-client-urls",
        Clustering,
        Urls,
        "http://localhost:2379",
        "This member's client URLs as clients reach them. Required when --listen-client-urls is set.",
    ),
    flag(
        "auto-compaction-mode",
        Clustering,
        Choice(&["periodic", "revision"]),
        "periodic",
        "How to read --auto-compaction-retention: 'periodic' as a time (in hours without a unit), 'revision' as a number of revisions.",
    ),
    flag(
        "auto-compaction-retention",
        Clustering,
        Text,
        "0",
        "How much of the history automatic compaction keeps: a time like 12 (hours), 90m or 1h30m, or a number of revisions. 0 turns it off.",
    ),
    flag("logger", Logging, Choice(&["zap"]), "zap", "Only 'zap': the shape of the log lines."),
    flag(
        "log-outputs",
        Logging,
        Text,
        "default",
        "Where log lines go, separated by commas: 'stderr', 'stdout', 'default' (stderr), or the path of a file that is appended to.",
    ),
    flag(
        "log-level",
        Logging,
        Choice(&["debug", "info", "warn", "error", "panic", "fatal"]),
        "info",
        "The least important lines that are logged: debug, info, warn, error, panic or fatal.",
    ),
    flag(
        "log-format",
        Logging,
        Choice(&["json", "console"]),
        "json",
        "The form of log lines: json or console.",
    ),
    flag("version", Program, Boolean, "false", "Print the version and exit."),
    flag("help", Program, Boolean, "false", "Print this help and exit; -h is the same."),
];
