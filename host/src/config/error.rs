//! What can be wrong with flags and variables: one sentence each, that says what is wrong and what to do.

use super::cluster::ClusterError;

/// Why the server cannot be configured. Nothing has been changed anywhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("flag provided but not defined: -{0}; `instar --help` lists the flags there are")]
    Unknown(String),
    #[error("bad flag syntax: {0}; write --name=value")]
    Syntax(String),
    #[error("flag needs an argument: -{0}; write --{0}=value")]
    NoValue(&'static str),
    #[error("invalid value {text:?} for flag -{flag}: {reason}")]
    Value { flag: &'static str, text: String, reason: String },
    #[error("invalid boolean value {text:?} for -{flag}: parse error; write true or false")]
    Boolean { flag: &'static str, text: String },
    #[error("{0:?} is not a valid flag; flags begin with a dash, and nothing else is expected")]
    NotAFlag(String),
    #[error("{0:?} is not valid UTF-8; flags and their values have to be")]
    NotUnicode(String),
    #[error(
        "conflicting environment variable is shadowed by corresponding command-line flag \
         (either unset environment variable or disable flag)): {variable}"
    )]
    Conflict { variable: String },
    #[error("invalid value {text:?} for {variable}: {reason}")]
    Variable { variable: String, text: String, reason: String },
    #[error(
        "ETCD_CONFIG_FILE is set, but configuration files are not there yet; use flags or ETCD_ variables"
    )]
    ConfigFile,
    #[error("--advertise-client-urls is required when --listen-client-urls is set explicitly")]
    UnsetAdvertiseClientUrls,
    #[error("expected IP in URL for binding ({url}): give --{flag} an IP address or localhost")]
    NotAnAddress { flag: &'static str, url: String },
    #[error("--{flag} {urls:?} must be \"host:port\" (unexpected empty host ({url}))")]
    EmptyHost { flag: &'static str, urls: String, url: String },
    #[error("--name is empty; give the member a name")]
    EmptyName,
    #[error("--{0} must be >0 (set to 0ms)")]
    Zero(&'static str),
    #[error(
        "--election-timeout[{election_ms}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat_ms}ms]"
    )]
    ElectionTooShort { election_ms: u32, heartbeat_ms: u32 },
    #[error(
        "--election-timeout[{election_ms}ms] is too long, and should be set less than {most_ms}ms"
    )]
    ElectionTooLong { election_ms: u32, most_ms: u32 },
    #[error("--max-request-bytes[{bytes}] is too large; it can be at most {most}")]
    RequestBytes { bytes: u32, most: u32 },
    #[error(
        "error parsing CompactionRetention: time: invalid duration {0:?}; write 12, 90m or 1h30m"
    )]
    CompactionRetention(String),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(
        "couldn't find local name {name:?} in the initial cluster configuration; \
         --initial-cluster has to name this member as --name does"
    )]
    LocalName { name: String },
    #[error(
        "--initial-cluster has {in_cluster} for {name:?}, but --initial-advertise-peer-urls is {advertised}; \
         they have to be the same"
    )]
    PeerUrls { name: String, in_cluster: String, advertised: String },
    #[error("--log-outputs has `default` beside others; `default` has to stand alone")]
    LogOutputs,
}

impl ConfigError {
    /// What the process ends with: 2 for a command line that cannot be read, as Go has it, and 1 for the rest.
    pub fn exit_code(&self) -> u8 {
        match self {
            ConfigError::Unknown(_)
            | ConfigError::Syntax(_)
            | ConfigError::NoValue(_)
            | ConfigError::Value { .. }
            | ConfigError::Boolean { .. } => 2,
            _ => 1,
        }
    }
}
