//! The table of flags: one row each. Parsing, the environment, `--help` and docs/flags.md are made from it.
//!
//! Names, defaults and kinds are etcd's (server/etcdmain/help.go, server/embed/config.go). The flags that do something
//! here stand in this file; those that cannot do anything yet, or ever, in `unused`.

mod unused;

use super::value::{Kind, Value};

/// The part of the help that a flag stands in, by etcd's names. The order is that of the help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Member,
    Clustering,
    Security,
    Auth,
    Monitoring,
    Logging,
    Tracing,
    Features,
    Unsafe,
    Program,
}

impl Section {
    pub(super) const ALL: [Section; 10] = [
        Section::Member,
        Section::Clustering,
        Section::Security,
        Section::Auth,
        Section::Monitoring,
        Section::Logging,
        Section::Tracing,
        Section::Features,
        Section::Unsafe,
        Section::Program,
    ];

    pub(super) fn title(self) -> &'static str {
        match self {
            Section::Member => "Member",
            Section::Clustering => "Clustering",
            Section::Security => "Security",
            Section::Auth => "Auth",
            Section::Monitoring => "Profiling and Monitoring",
            Section::Logging => "Logging",
            Section::Tracing => "Distributed tracing",
            Section::Features => "Features",
            Section::Unsafe => "Unsafe feature",
            Section::Program => "Program",
        }
    }
}

/// What giving a flag leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// What its help says.
    Works,
    /// Nothing but a warning; why.
    None(&'static str),
    /// A refusal, unless the value is the default: what is asked for is not there yet, and leaving it out would be
    /// dangerous; what is missing.
    Refused(&'static str),
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
    /// One paragraph for the help; empty where the effect says everything.
    pub(super) help: &'static str,
    pub(super) effect: Effect,
}

impl Flag {
    /// `ETCD_` and the name in capitals, with underscores for dashes.
    pub(super) fn environment_variable(&self) -> String {
        format!("ETCD_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }

    /// What the help says.
    pub(super) fn documentation(&self) -> String {
        match self.effect {
            Effect::Works => self.help.to_owned(),
            Effect::None(reason) => format!("No effect, and a warning: {reason}."),
            Effect::Refused(missing) => format!("Refused where it is not the default: {missing}."),
        }
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

/// All flags.
pub(super) fn all() -> impl Iterator<Item = &'static Flag> {
    FLAGS.iter().chain(unused::FLAGS)
}

/// The flag of that name (without dashes).
pub(super) fn find(name: &str) -> Option<&'static Flag> {
    all().find(|flag| flag.name == name)
}

/// Whether etcd knows the name from times long past, and ignores it.
pub(super) fn is_ignored(name: &str) -> bool {
    unused::IGNORED.contains(&name)
}

const fn flag(
    name: &'static str,
    section: Section,
    kind: Kind,
    default: &'static str,
    help: &'static str,
) -> Flag {
    Flag { name, section, kind, default, shown_default: "", help, effect: Effect::Works }
}

use Kind::{Boolean, Choice, Duration, Origins, Signed64, Text, Unsigned32, Unsigned64, Urls};
use Section::{Clustering, Features, Logging, Member, Monitoring, Program, Security};

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
        "URLs to listen on for clients (gRPC and HTTP on the same port), separated by commas: http:// with an IP address or localhost, or unix:// with the path of a socket.",
    ),
    flag(
        "listen-client-http-urls",
        Member,
        Urls,
        "",
        "URLs to listen on for HTTP only, separated by commas. With it, --listen-client-urls serves gRPC only.",
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
    Flag {
        shown_default: "4294967295",
        ..flag(
            "max-concurrent-streams",
            Member,
            Unsigned32,
            "4294967295",
            "The most calls that a client may have open on one connection. More than 4096 are never granted.",
        )
    },
    flag(
        "grpc-keepalive-min-time",
        Member,
        Duration,
        "5s",
        "The least time between two pings of a client. A connection that pings more often is closed; 0 lets gRPC's default of 5m stand.",
    ),
    flag(
        "grpc-keepalive-interval",
        Member,
        Duration,
        "2h",
        "Time after which a client that is silent is asked whether it is alive; 0 lets gRPC's default of 2h stand.",
    ),
    flag(
        "grpc-keepalive-timeout",
        Member,
        Duration,
        "20s",
        "Time that a client has to answer that; 0 lets gRPC's default of 20s stand.",
    ),
    flag("enable-grpc-gateway", Member, Boolean, "true", "Serve the JSON gateway, under /v3/."),
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
        "machine-upgrades",
        Clustering,
        Boolean,
        "false",
        "Let clients replace the state machine (`instarctl machine`) even where this member serves them on addresses other than loopback. Whoever may do that may do anything to the data.",
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
    flag(
        "cors",
        Security,
        Origins,
        "*",
        "Origins that browsers may ask from, separated by commas: http://host:port or https://host:port; empty or * is any.",
    ),
    flag(
        "host-whitelist",
        Security,
        Text,
        "*",
        "Host names that HTTP requests may be addressed to, separated by commas; empty or * is any.",
    ),
    flag(
        "metrics",
        Monitoring,
        Choice(&["basic", "extensive"]),
        "basic",
        "Detail of the metrics: 'extensive' adds a histogram of the time that each gRPC method takes.",
    ),
    flag(
        "listen-metrics-urls",
        Monitoring,
        Urls,
        "",
        "URLs to listen on for /metrics and the health checks only, separated by commas.",
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
    flag(
        "warning-unary-request-duration",
        Logging,
        Duration,
        "300ms",
        "A unary request that takes longer is logged, with a warning.",
    ),
    flag(
        "watch-progress-notify-interval",
        Features,
        Duration,
        "10m",
        "How often watchers that ask for it are told that they have missed nothing.",
    ),
    flag(
        "config-file",
        Program,
        Text,
        "",
        "A YAML or JSON file with the flags' names as keys. With it, all other flags and variables are ignored. Durations are integers, in nanoseconds.",
    ),
    flag("version", Program, Boolean, "false", "Print the version and exit."),
    flag("help", Program, Boolean, "false", "Print this help and exit; -h is the same."),
];
