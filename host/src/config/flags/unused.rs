//! etcd's flags that do nothing here, each with the reason: accepted with a warning where leaving them out is harmless,
//! refused where it is not.

use super::{Effect, Flag, Kind, Section, flag};
use Kind::{Boolean, Choice, Duration, FeatureGates, Signed64, Text, Unsigned64};
use Section::{Auth, Clustering, Features, Logging, Member, Monitoring, Security, Tracing, Unsafe};

const ONE_DIRECTORY: &str = "the log stands in the data directory";
const OWN_STORAGE: &str = "it is about files and memory of etcd's storage, and this one has others";
const OWN_RAFT: &str = "it is about etcd's raft, and this one has no such choice";
const SOCKETS: &str = "addresses are always reused, and ports never shared";
const GATES: &str = "what the gates switch is always so here, or does not apply";
const DISCOVERY: &str = "discovery is not supported; name the members with --initial-cluster";
const V2: &str = "it is deprecated and scheduled for removal, and there never was a v2 store here";
const TLS: &str = "TLS is not there yet";
const NO_TLS: &str = "it is about TLS, which is not there yet";
const AUTH: &str = "auth is not there yet";
const PROFILES: &str = "profiles are taken from outside, with perf";
const ROTATION: &str = "rotate a log file with the system's tools";
const ROTATION_DEFAULT: &str =
    r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#;
const TRACING: &str = "distributed tracing is not supported";
const CORRUPTION: &str = "members compare their states all the time";
const COMPACTION: &str = "the steps of a compaction are entries of the log, and of one size";
const APPLY: &str = "the time that entries take is told by the metrics only";
const DOWNGRADE: &str = "there is nothing to downgrade to";
const CATCH_UP: &str = "5000 entries are always kept";
const FSYNC: &str = "the log is always synchronised, and data is safe";
const V2_PHASES: &[&str] = &["write-only", "write-only-skip-check", "write-only-drop-data", "gone"];
const TLS_VERSIONS: &[&str] = &["", "TLS1.2", "TLS1.3"];

const fn without_effect(
    name: &'static str,
    section: Section,
    kind: Kind,
    default: &'static str,
    reason: &'static str,
) -> Flag {
    Flag { effect: Effect::None(reason), ..flag(name, section, kind, default, "") }
}

const fn refused(
    name: &'static str,
    section: Section,
    kind: Kind,
    default: &'static str,
    missing: &'static str,
) -> Flag {
    Flag { effect: Effect::Refused(missing), ..flag(name, section, kind, default, "") }
}

pub(super) static FLAGS: &[Flag] = &[
    without_effect("wal-dir", Member, Text, "", ONE_DIRECTORY),
    without_effect("initial-election-tick-advance", Member, Boolean, "true", OWN_RAFT),
    without_effect("max-snapshots", Member, Unsigned64, "5", OWN_STORAGE),
    without_effect("max-wals", Member, Unsigned64, "5", OWN_STORAGE),
    without_effect("memory-mlock", Member, Boolean, "false", OWN_STORAGE),
    without_effect(
        "backend-bbolt-freelist-type",
        Member,
        Choice(&["map", "array"]),
        "map",
        OWN_STORAGE,
    ),
    without_effect("backend-batch-interval", Member, Duration, "0s", OWN_STORAGE),
    without_effect("backend-batch-limit", Member, Signed64, "0", OWN_STORAGE),
    without_effect("socket-reuse-port", Member, Boolean, "false", SOCKETS),
    without_effect("socket-reuse-address", Member, Boolean, "false", SOCKETS),
    without_effect("raft-read-timeout", Member, Duration, "5s", OWN_RAFT),
    without_effect("raft-write-timeout", Member, Duration, "5s", OWN_RAFT),
    without_effect("feature-gates", Member, FeatureGates, "", GATES),
    refused("discovery-token", Clustering, Text, "", DISCOVERY),
    refused("discovery-endpoints", Clustering, Text, "", DISCOVERY),
    refused("discovery-srv", Clustering, Text, "", DISCOVERY),
    refused("discovery-srv-name", Clustering, Text, "", DISCOVERY),
    without_effect("discovery-dial-timeout", Clustering, Duration, "2s", DISCOVERY),
    without_effect("discovery-request-timeout", Clustering, Duration, "5s", DISCOVERY),
    without_effect("discovery-keepalive-time", Clustering, Duration, "2s", DISCOVERY),
    without_effect("discovery-keepalive-timeout", Clustering, Duration, "6s", DISCOVERY),
    without_effect("discovery-insecure-transport", Clustering, Boolean, "true", DISCOVERY),
    without_effect("discovery-insecure-skip-tls-verify", Clustering, Boolean, "false", DISCOVERY),
    without_effect("discovery-cert", Clustering, Text, "", DISCOVERY),
    without_effect("discovery-key", Clustering, Text, "", DISCOVERY),
    without_effect("discovery-cacert", Clustering, Text, "", DISCOVERY),
    without_effect("discovery-user", Clustering, Text, "", DISCOVERY),
    without_effect("discovery-password", Clustering, Text, "", DISCOVERY),
    without_effect("discovery-fallback", Clustering, Choice(&["exit"]), "exit", DISCOVERY),
    without_effect("pre-vote", Clustering, Boolean, "true", OWN_RAFT),
    without_effect("v2-deprecation", Clustering, Choice(V2_PHASES), "write-only", V2),
    refused("cert-file", Security, Text, "", TLS),
    refused("key-file", Security, Text, "", TLS),
    refused("client-cert-auth", Security, Boolean, "false", TLS),
    refused("client-cert-file", Security, Text, "", TLS),
    refused("client-key-file", Security, Text, "", TLS),
    refused("client-crl-file", Security, Text, "", TLS),
    refused("client-cert-allowed-hostname", Security, Text, "", TLS),
    refused("trusted-ca-file", Security, Text, "", TLS),
    refused("auto-tls", Security, Boolean, "false", TLS),
    refused("peer-cert-file", Security, Text, "", TLS),
    refused("peer-key-file", Security, Text, "", TLS),
    refused("peer-client-cert-auth", Security, Boolean, "false", TLS),
    refused("peer-client-cert-file", Security, Text, "", TLS),
    refused("peer-client-key-file", Security, Text, "", TLS),
    refused("peer-trusted-ca-file", Security, Text, "", TLS),
    refused("peer-cert-allowed-cn", Security, Text, "", TLS),
    refused("peer-cert-allowed-hostname", Security, Text, "", TLS),
    refused("peer-auto-tls", Security, Boolean, "false", TLS),
    without_effect("self-signed-cert-validity", Security, Unsigned64, "1", NO_TLS),
    refused("peer-crl-file", Security, Text, "", TLS),
    without_effect("cipher-suites", Security, Text, "", NO_TLS),
    without_effect("tls-min-version", Security, Choice(TLS_VERSIONS), "TLS1.2", NO_TLS),
    without_effect("tls-max-version", Security, Choice(TLS_VERSIONS), "", NO_TLS),
    refused("auth-token", Auth, Text, "simple", AUTH),
    refused("bcrypt-cost", Auth, Unsigned64, "10", AUTH),
    refused("auth-token-ttl", Auth, Unsigned64, "300", AUTH),
    without_effect("enable-pprof", Monitoring, Boolean, "false", PROFILES),
    without_effect("enable-log-rotation", Logging, Boolean, "false", ROTATION),
    without_effect("log-rotation-config-json", Logging, Text, ROTATION_DEFAULT, ROTATION),
    without_effect("enable-distributed-tracing", Tracing, Boolean, "false", TRACING),
    without_effect("distributed-tracing-address", Tracing, Text, "localhost:4317", TRACING),
    without_effect("distributed-tracing-service-name", Tracing, Text, "etcd", TRACING),
    without_effect("distributed-tracing-instance-id", Tracing, Text, "", TRACING),
    without_effect("distributed-tracing-sampling-rate", Tracing, Signed64, "0", TRACING),
    without_effect("corrupt-check-time", Features, Duration, "0s", CORRUPTION),
    without_effect("compact-hash-check-time", Features, Duration, "1m", CORRUPTION),
    without_effect("compaction-batch-limit", Features, Signed64, "1000", COMPACTION),
    refused("peer-skip-client-san-verification", Features, Boolean, "false", TLS),
    without_effect("warning-apply-duration", Features, Duration, "100ms", APPLY),
    without_effect("bootstrap-defrag-threshold-megabytes", Features, Unsigned64, "0", OWN_STORAGE),
    without_effect("compaction-sleep-interval", Features, Duration, "10ms", COMPACTION),
    without_effect("downgrade-check-time", Features, Duration, "5s", DOWNGRADE),
    without_effect("snapshot-catchup-entries", Features, Unsigned64, "5000", CATCH_UP),
    without_effect("unsafe-no-fsync", Unsafe, Boolean, "false", FSYNC),
];

/// Flags of etcd 2, which etcd still takes and ignores. They need no value.
pub(super) const IGNORED: [&str; 13] = [
    "cluster-active-size",
    "cluster-remove-delay",
    "cluster-sync-interval",
    "config",
    "force",
    "max-result-buffer",
    "max-retry-attempts",
    "peer-heartbeat-interval",
    "peer-election-timeout",
    "retry-interval",
    "snapshot",
    "v",
    "vv",
];
