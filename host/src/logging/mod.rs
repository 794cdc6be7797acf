//! The server's log: lines in the form of zap, as etcd writes them.
//!
//! - It is fed by `tracing`'s events. Spans are not kept: what a line has to say, it says itself.
//! - Writing never holds up who logs. Lines go to a thread of their own, and are dropped, and counted, when the output
//!   does not take them.
//! - Lines of other crates are logged from `warn` on, and never above it: what is an error is ours to say.
//! - openraft's word on every single failed message is for debugging: `raft/network` tells of an outage once.
//! - zap's level `fatal` is an error event with the field `fatal = true`. It ends nothing by itself.

mod line;
#[cfg(test)]
mod tests;
mod writer;

use std::path::PathBuf;

use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::config::{Config, LogConfig, LogFormat, LogLevel, Notice};
pub use writer::Flusher;
use writer::Writer;

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("cannot open the log {path:?}: {source}; change --log-outputs")]
    Open { path: PathBuf, source: std::io::Error },
    #[error("the thread that writes the log cannot be started: {0}")]
    Thread(std::io::Error),
    #[error("the log is set up already")]
    AlreadySetUp,
}

/// Sets up the log of the process. The lines that still wait when the process ends are written by `Flusher::flush`.
///
/// # Errors
/// An output that cannot be opened.
pub fn set_up(config: &LogConfig) -> Result<Flusher, LogError> {
    let (writer, flusher) = Writer::start(config)?;
    let log = Log { level: config.level, format: config.format, writer };
    tracing::subscriber::set_global_default(log).map_err(|_| LogError::AlreadySetUp)?;
    Ok(flusher)
}

/// Logs what the operator should know of his flags and variables.
pub fn announce(config: &Config) {
    for notice in &config.notices {
        match notice {
            Notice::Used { variable, value } => tracing::info!(
                "variable-name" = variable,
                "variable-value" = value,
                "recognized and used environment variable"
            ),
            Notice::Unrecognized { variable } => {
                tracing::warn!(
                    "environment-variable" = variable,
                    "unrecognized environment variable"
                );
            }
            Notice::WithoutEffect { flag, reason } => {
                tracing::warn!("flag-name" = flag, reason, "flag has no effect");
            }
            Notice::Ignored { flag } => {
                tracing::warn!("flag-name" = flag, "flag is no longer supported - ignoring");
            }
            Notice::File { path } => tracing::info!(
                path,
                "loaded server configuration, other configuration command line flags and environment variables will \
                 be ignored if provided"
            ),
            Notice::UnknownKey { key } => {
                tracing::warn!(key, "unknown key in the configuration file - ignoring");
            }
        }
    }
    if config.has_default_name() {
        tracing::warn!(
            name = config.name,
            "it isn't recommended to use default name, please set a value for --name"
        );
    }
}

struct Log {
    level: LogLevel,
    format: LogFormat,
    writer: Writer,
}

impl Log {
    /// Whether an event of this kind may be logged; whether it is fatal, only the event itself says.
    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        if !metadata.is_event() {
            return false;
        }
        let level = match *metadata.level() {
            Level::ERROR => LogLevel::Fatal,
            Level::WARN => LogLevel::Warn,
            Level::INFO => LogLevel::Info,
            _ => LogLevel::Debug,
        };
        let is_trace = *metadata.level() == Level::TRACE;
        let is_told_once = self.level > LogLevel::Debug && is_of_one_message(metadata);
        !is_trace
            && !is_told_once
            && level >= self.level
            && (is_ours(metadata) || level >= LogLevel::Warn)
    }
}

/// What openraft says of a message that failed, many times a second while a peer is down.
fn is_of_one_message(metadata: &Metadata<'_>) -> bool {
    const SOURCES: [&str; 2] = ["openraft::core::heartbeat", "openraft::replication"];
    SOURCES.iter().any(|source| metadata.target().starts_with(source))
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    let krate = metadata.target().split("::").next();
    matches!(krate, Some("host" | "instar"))
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.wants(metadata)
    }

    /// Lets the crates that trace everything see at once that nobody listens.
    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match self.level {
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Error | LogLevel::Fatal => LevelFilter::ERROR,
        })
    }

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let line = line::Line::new(event);
        let level = match *metadata.level() {
            Level::ERROR if !is_ours(metadata) => LogLevel::Warn,
            Level::ERROR if line.is_fatal() => LogLevel::Fatal,
            Level::ERROR => LogLevel::Error,
            Level::WARN => LogLevel::Warn,
            Level::INFO => LogLevel::Info,
            _ => LogLevel::Debug,
        };
        if level >= self.level {
            let now = time::OffsetDateTime::now_utc();
            self.writer.write(line.render(level, now, self.format));
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
