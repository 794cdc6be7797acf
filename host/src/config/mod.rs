//! What the operator decides: flags and environment variables, read into a `Config`, or one sentence about what is
//! wrong with them.
//!
//! Everything is read and checked before a port is bound or a file is touched. Nothing here logs or prints: what the
//! log is to be told stands in `Config::notices`.

mod auto_compaction;
mod cluster;
mod duration;
mod error;
mod feature_gates;
mod file;
mod flags;
mod help;
mod parse;
#[cfg(test)]
mod tests;
mod url;
mod value;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

pub use auto_compaction::AutoCompaction;
pub use cluster::{ClusterError, InitialCluster, InitialMember, added_member_id};
pub use duration::{DurationError, parse_duration};
pub use error::ConfigError;
pub use parse::Notice;
pub use url::{Url, UrlError};

use flags::DEFAULT_NAME;
use parse::Given;
use value::Value;

/// The version of etcd whose behaviour this is, as `Maintenance.Status` and `/version` report it.
pub const ETCD_VERSION: &str = "3.7.1";
/// The version of etcd's cluster protocol and of its storage, as those that ask are told.
pub const ETCD_CLUSTER_VERSION: &str = "3.7.0";
/// Our own version.
pub const PRODUCT_VERSION: &str = env!("CARGO_PKG_VERSION");

/// etcd's `maxElectionMs`.
const MOST_ELECTION_TIMEOUT_MS: u32 = 50_000;
/// Beyond this, neither gRPC's lengths nor a log entry hold a request.
const MOST_REQUEST_BYTES: u32 = 512 << 20;

/// What the program was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    /// Serve.
    Serve(Box<Config>),
    /// Print this text to standard output, and end with 0.
    Print(String),
}

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    /// Each has a `bind_address` or a `socket_path`.
    pub listen_client_urls: Vec<Url>,
    /// Each has a `bind_address`.
    pub listen_peer_urls: Vec<Url>,
    pub advertise_client_urls: Vec<Url>,
    pub advertise_peer_urls: Vec<Url>,
    /// Contains this member.
    pub initial_cluster: InitialCluster,
    /// This member's id in `initial_cluster`.
    pub member_id: u64,
    /// Whether `--initial-cluster` was given. A member that has data may do without it.
    pub initial_cluster_is_given: bool,
    pub initial_cluster_state: ClusterState,
    /// Begin as the only member of the cluster, whatever the data says of others.
    pub force_new_cluster: bool,
    pub strict_reconfig_check: bool,
    /// Whether clients may replace the machine wherever they are served.
    pub machine_upgrades: bool,
    pub max_learners: u32,
    /// 0: etcd's default of 2 GiB; negative: no quota.
    pub quota_backend_bytes: i64,
    /// None: off.
    pub auto_compaction: Option<AutoCompaction>,
    /// In log entries.
    pub snapshot_count: u64,
    pub heartbeat_interval_ms: u32,
    pub election_timeout_ms: u32,
    pub max_request_bytes: u32,
    pub max_txn_ops: u32,
    pub http: HttpConfig,
    pub grpc: GrpcConfig,
    pub log: LogConfig,
    /// To be logged once there is a log.
    pub notices: Vec<Notice>,
}

/// What is served over HTTP beside gRPC, and to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// For HTTP only. If there are any, `listen_client_urls` are for gRPC only.
    pub listen_http_urls: Vec<Url>,
    /// For metrics and health checks only.
    pub listen_metrics_urls: Vec<Url>,
    pub gateway: bool,
    /// Origins that browsers may ask from; empty: any.
    pub cors: Vec<String>,
    /// Names that requests may be addressed to; empty: any.
    pub host_whitelist: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcConfig {
    /// On one connection.
    pub max_concurrent_streams: u32,
    pub keepalive_min_time: Duration,
    pub keepalive_interval: Duration,
    pub keepalive_timeout: Duration,
    /// Whether the time that methods take is measured, for a histogram.
    pub extensive_metrics: bool,
    /// A unary request that takes longer is logged.
    pub warning_duration: Duration,
    /// How often watchers that want it are told of their progress.
    pub watch_progress_notify_interval: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterState {
    New,
    Existing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    pub level: LogLevel,
    pub format: LogFormat,
    /// Never empty, without repetitions.
    pub outputs: Vec<LogOutput>,
}

/// The least important lines that are logged. Panic and fatal log only what ends the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
    Fatal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line, as zap writes them.
    Json,
    /// Columns separated by tabs.
    Console,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogOutput {
    Stderr,
    Stdout,
    File(PathBuf),
}

impl Config {
    /// Reads the arguments (without the program's name) and the environment.
    ///
    /// # Errors
    /// The first thing that is wrong: a sentence for standard error, and an exit code.
    pub fn from_args_and_environment(
        arguments: impl IntoIterator<Item = OsString>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Invocation, ConfigError> {
        let (mut given, mut notices) = parse::arguments(arguments)?;
        if boolean(&given, "help") {
            return Ok(Invocation::Print(help::help()));
        }
        if boolean(&given, "version") {
            return Ok(Invocation::Print(help::version()));
        }
        let environment: Vec<(OsString, OsString)> = environment.into_iter().collect();
        if let Some(path) = config_file(&given, &environment) {
            (given, notices) = file::read(&path)?;
        } else {
            notices.extend(parse::environment(&mut given, environment)?);
        }
        notices.extend(given.check_effects()?);
        Ok(Invocation::Serve(Box::new(Config::check(&given, notices)?)))
    }

    fn check(given: &Given, notices: Vec<Notice>) -> Result<Config, ConfigError> {
        let log = log_config(given)?;
        let listen_peer_urls =
            without_sockets("listen-peer-urls", bindable(given, "listen-peer-urls")?)?;
        let listen_client_urls = bindable(given, "listen-client-urls")?;
        let advertise_peer_urls = without_sockets(
            "initial-advertise-peer-urls",
            reachable(given, "initial-advertise-peer-urls")?,
        )?;
        let advertise_client_urls = reachable(given, "advertise-client-urls")?;
        let (heartbeat_interval_ms, election_timeout_ms) = intervals(given)?;
        let is_listening = given.is_set("listen-client-urls") && !given.is_from_file();
        if is_listening && !given.is_set("advertise-client-urls") {
            return Err(ConfigError::UnsetAdvertiseClientUrls);
        }
        let max_request_bytes = unsigned32(given, "max-request-bytes");
        if max_request_bytes > MOST_REQUEST_BYTES {
            return Err(ConfigError::RequestBytes {
                bytes: max_request_bytes,
                most: MOST_REQUEST_BYTES,
            });
        }
        let name = text(given, "name");
        let (initial_cluster, member_id) = initial_cluster(given, &name, &advertise_peer_urls)?;
        let data_dir = match text(given, "data-dir") {
            directory if directory.is_empty() => format!("{name}.etcd"),
            directory => directory,
        };
        Ok(Config {
            name,
            data_dir: data_dir.into(),
            listen_client_urls,
            listen_peer_urls,
            advertise_client_urls,
            advertise_peer_urls,
            initial_cluster,
            member_id,
            initial_cluster_is_given: given.is_set("initial-cluster"),
            initial_cluster_state: match text(given, "initial-cluster-state").as_str() {
                "existing" => ClusterState::Existing,
                _ => ClusterState::New,
            },
            force_new_cluster: boolean(given, "force-new-cluster"),
            strict_reconfig_check: boolean(given, "strict-reconfig-check"),
            machine_upgrades: boolean(given, "machine-upgrades"),
            max_learners: unsigned32(given, "max-learners"),
            quota_backend_bytes: signed(given, "quota-backend-bytes"),
            auto_compaction: AutoCompaction::parse(
                &text(given, "auto-compaction-mode"),
                &text(given, "auto-compaction-retention"),
            )?,
            snapshot_count: unsigned(given, "snapshot-count"),
            heartbeat_interval_ms,
            election_timeout_ms,
            max_request_bytes,
            max_txn_ops: unsigned32(given, "max-txn-ops"),
            http: http_config(given)?,
            grpc: grpc_config(given),
            log,
            notices,
        })
    }

    /// Whether the member has the name that it has when none is given.
    pub fn has_default_name(&self) -> bool {
        self.name == DEFAULT_NAME
    }
}

/// The configuration file, if there is one.
fn config_file(given: &Given, environment: &[(OsString, OsString)]) -> Option<String> {
    let flag = text(given, "config-file");
    if !flag.is_empty() {
        return Some(flag);
    }
    let variable = environment.iter().find(|(name, _)| name == "ETCD_CONFIG_FILE");
    variable.map(|(_, path)| path.to_string_lossy().into_owned()).filter(|path| !path.is_empty())
}

fn http_config(given: &Given) -> Result<HttpConfig, ConfigError> {
    // What allows everything is kept as an empty list.
    let list = |flag: &str| -> Vec<String> {
        let text = text(given, flag);
        let names: Vec<&str> = text.split(',').filter(|name| !name.is_empty()).collect();
        let any = names.contains(&"*");
        names.into_iter().filter(|_| !any).map(str::to_owned).collect()
    };
    Ok(HttpConfig {
        listen_http_urls: bindable(given, "listen-client-http-urls")?,
        listen_metrics_urls: bindable(given, "listen-metrics-urls")?,
        gateway: boolean(given, "enable-grpc-gateway"),
        cors: list("cors"),
        host_whitelist: list("host-whitelist"),
    })
}

/// etcd's `minWatchProgressInterval`; what is less is taken for it.
const LEAST_WATCH_PROGRESS_NOTIFY_INTERVAL: Duration = Duration::from_millis(100);

fn grpc_config(given: &Given) -> GrpcConfig {
    // Without a policy of etcd's, grpc-go's own stands.
    let or = |flag: &str, default: u64| match duration(given, flag) {
        Duration::ZERO => Duration::from_secs(default),
        other => other,
    };
    GrpcConfig {
        max_concurrent_streams: unsigned32(given, "max-concurrent-streams"),
        keepalive_min_time: or("grpc-keepalive-min-time", 300),
        keepalive_interval: or("grpc-keepalive-interval", 7_200),
        keepalive_timeout: or("grpc-keepalive-timeout", 20),
        extensive_metrics: text(given, "metrics") == "extensive",
        warning_duration: duration(given, "warning-unary-request-duration"),
        watch_progress_notify_interval: or("watch-progress-notify-interval", 600)
            .max(LEAST_WATCH_PROGRESS_NOTIFY_INTERVAL),
    }
}

fn intervals(given: &Given) -> Result<(u32, u32), ConfigError> {
    let heartbeat_ms = unsigned32(given, "heartbeat-interval");
    let election_ms = unsigned32(given, "election-timeout");
    for (flag, interval) in
        [("heartbeat-interval", heartbeat_ms), ("election-timeout", election_ms)]
    {
        if interval == 0 {
            return Err(ConfigError::Zero(flag));
        }
    }
    if u64::from(heartbeat_ms) * 5 > u64::from(election_ms) {
        return Err(ConfigError::ElectionTooShort { election_ms, heartbeat_ms });
    }
    if election_ms > MOST_ELECTION_TIMEOUT_MS {
        return Err(ConfigError::ElectionTooLong {
            election_ms,
            most_ms: MOST_ELECTION_TIMEOUT_MS,
        });
    }
    Ok((heartbeat_ms, election_ms))
}

/// The cluster, and this member's id in it.
fn initial_cluster(
    given: &Given,
    name: &str,
    advertised: &[Url],
) -> Result<(InitialCluster, u64), ConfigError> {
    if name.is_empty() {
        return Err(ConfigError::EmptyName);
    }
    let pairs = match text(given, "initial-cluster") {
        pairs if !pairs.is_empty() || given.is_set("initial-cluster") => pairs,
        _ => advertised.iter().map(|url| format!("{name}={url}")).collect::<Vec<_>>().join(","),
    };
    let cluster = InitialCluster::parse(&pairs, &text(given, "initial-cluster-token"))?;
    let member =
        cluster.member(name).ok_or_else(|| ConfigError::LocalName { name: name.to_owned() })?;
    let covers = |urls: &[Url], others: &[Url]| {
        urls.iter().all(|url| others.iter().any(|other| url.same_place(other)))
    };
    // Of a member that joins, the cluster knows the peer URLs already.
    let joins = text(given, "initial-cluster-state") == "existing";
    if joins {
        let id = member.id;
        return Ok((cluster, id));
    }
    if !covers(&member.peer_urls, advertised) || !covers(advertised, &member.peer_urls) {
        return Err(ConfigError::PeerUrls {
            name: name.to_owned(),
            in_cluster: url::join(&member.peer_urls),
            advertised: url::join(advertised),
        });
    }
    let id = member.id;
    Ok((cluster, id))
}

/// URLs to listen on: each has to have an address, as etcd wants it.
fn bindable(given: &Given, flag: &'static str) -> Result<Vec<Url>, ConfigError> {
    let urls = urls(given, flag);
    let has_place = |url: &Url| url.socket_path().is_some() || url.bind_address().is_some();
    match urls.iter().find(|url| !has_place(url)) {
        Some(url) => Err(ConfigError::NotAnAddress { flag, url: url.to_string() }),
        None => Ok(urls),
    }
}

/// Members reach each other by TCP only.
fn without_sockets(flag: &'static str, urls: Vec<Url>) -> Result<Vec<Url>, ConfigError> {
    match urls.iter().find(|url| url.socket_path().is_some()) {
        Some(url) => Err(ConfigError::PeerSocket { flag, url: url.to_string() }),
        None => Ok(urls),
    }
}

/// URLs that others are told: each has to have a host.
fn reachable(given: &Given, flag: &'static str) -> Result<Vec<Url>, ConfigError> {
    let urls = urls(given, flag);
    match urls.iter().find(|url| url.host().is_empty() && url.socket_path().is_none()) {
        Some(url) => {
            let (url, urls) = (url.to_string(), url::join(&urls));
            Err(ConfigError::EmptyHost { flag, urls, url })
        }
        None => Ok(urls),
    }
}

fn log_config(given: &Given) -> Result<LogConfig, ConfigError> {
    let level = match text(given, "log-level").as_str() {
        "debug" => LogLevel::Debug,
        "warn" => LogLevel::Warn,
        "error" => LogLevel::Error,
        "panic" | "fatal" => LogLevel::Fatal,
        _ => LogLevel::Info,
    };
    let format = match text(given, "log-format").as_str() {
        "console" => LogFormat::Console,
        _ => LogFormat::Json,
    };
    let text = text(given, "log-outputs");
    let names: Vec<&str> = text.split(',').filter(|name| !name.is_empty()).collect();
    if names.len() > 1 && names.contains(&"default") {
        return Err(ConfigError::LogOutputs);
    }
    let mut outputs: Vec<LogOutput> = names
        .into_iter()
        .map(|name| match name {
            "default" | "stderr" => LogOutput::Stderr,
            "stdout" => LogOutput::Stdout,
            path => LogOutput::File(path.into()),
        })
        .collect();
    if outputs.is_empty() {
        outputs.push(LogOutput::Stderr);
    }
    outputs.sort();
    outputs.dedup();
    Ok(LogConfig { level, format, outputs })
}

// The table decides a flag's kind, and a test asks for every flag's default: another kind cannot come.

fn text(given: &Given, flag: &str) -> String {
    match given.value(flag) {
        Some(Value::Text(text)) => text,
        _ => String::new(),
    }
}

fn boolean(given: &Given, flag: &str) -> bool {
    given.value(flag) == Some(Value::Boolean(true))
}

fn unsigned(given: &Given, flag: &str) -> u64 {
    match given.value(flag) {
        Some(Value::Unsigned(number)) => number,
        _ => 0,
    }
}

/// Of a flag whose kind bounds it to 32 bits.
fn unsigned32(given: &Given, flag: &str) -> u32 {
    u32::try_from(unsigned(given, flag)).unwrap_or(u32::MAX)
}

fn signed(given: &Given, flag: &str) -> i64 {
    match given.value(flag) {
        Some(Value::Signed(number)) => number,
        _ => 0,
    }
}

fn duration(given: &Given, flag: &str) -> Duration {
    match given.value(flag) {
        Some(Value::Duration(duration)) => duration,
        _ => Duration::ZERO,
    }
}

fn urls(given: &Given, flag: &str) -> Vec<Url> {
    match given.value(flag) {
        Some(Value::Urls(urls)) => urls,
        _ => Vec::new(),
    }
}
