//! What events become, from end to end.

use super::*;
use crate::config::LogOutput;

/// The lines that `events` leaves in a file.
fn logged(level: LogLevel, events: impl FnOnce()) -> Vec<serde_json::Value> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let outputs = vec![LogOutput::File(path.clone())];
    let (writer, flusher) =
        Writer::start(&LogConfig { level, format: LogFormat::Json, outputs }).unwrap();
    let log = Log { level, format: LogFormat::Json, writer };
    tracing::subscriber::with_default(log, events);
    flusher.flush();
    let text = std::fs::read_to_string(&path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn levels_and_messages(lines: &[serde_json::Value]) -> Vec<(&str, &str)> {
    lines
        .iter()
        .map(|line| (line["level"].as_str().unwrap(), line["msg"].as_str().unwrap()))
        .collect()
}

#[test]
fn events_become_lines() {
    let error = std::io::Error::other("it \"broke\"");
    let lines = logged(LogLevel::Info, || {
        tracing::info!("status-code" = 200, ok = true, ratio = 0.5, path = ?"a", "said {}", 1);
        tracing::error!(error = &error as &(dyn std::error::Error + 'static), "failed");
        tracing::debug!("not seen");
    });
    assert_eq!(levels_and_messages(&lines), [("info", "said 1"), ("error", "failed")]);
    assert_eq!(lines[0]["status-code"], 200);
    assert_eq!((&lines[0]["ok"], &lines[0]["ratio"]), (&true.into(), &0.5.into()));
    assert_eq!(lines[0]["path"], "\"a\"");
    assert_eq!(lines[1]["error"], "it \"broke\"");
    let caller = lines[0]["caller"].as_str().unwrap();
    assert!(caller.starts_with("logging/tests.rs:"), "{caller}");
}

#[test]
fn levels_are_kept_to() {
    let all = || {
        tracing::trace!("trace");
        tracing::debug!("debug");
        tracing::info!("info");
        tracing::warn!("warn");
        tracing::error!("error");
        tracing::error!(fatal = true, "fatal");
    };
    let names = ["debug", "info", "warn", "error", "fatal"];
    let levels =
        [LogLevel::Debug, LogLevel::Info, LogLevel::Warn, LogLevel::Error, LogLevel::Fatal];
    for (first, level) in levels.into_iter().enumerate() {
        let expected: Vec<_> = names[first..].iter().map(|name| (*name, *name)).collect();
        assert_eq!(levels_and_messages(&logged(level, all)), expected, "{level:?}");
    }
}

#[test]
fn other_crates_do_not_speak_of_errors() {
    let lines = logged(LogLevel::Debug, || {
        tracing::info!(target: "openraft::core", "info");
        tracing::warn!(target: "openraft::core", "warn");
        tracing::error!(target: "h2", "error");
        tracing::info!(target: "instar", "ours");
    });
    assert_eq!(
        levels_and_messages(&lines),
        [("warn", "warn"), ("warn", "error"), ("info", "ours")]
    );
}

/// While a peer was down, openraft's words about each message filled the log with dozens of lines a second.
#[test]
fn messages_that_fail_are_for_debugging() {
    let all = || {
        tracing::warn!(target: "openraft::core::heartbeat::worker", "a heartbeat");
        tracing::warn!(target: "openraft::replication", "entries");
    };
    assert!(logged(LogLevel::Info, all).is_empty());
    assert_eq!(logged(LogLevel::Debug, all).len(), 2);
}

#[test]
fn a_line_has_a_limit() {
    let huge = "\u{e4}".repeat(1 << 20);
    let lines = logged(LogLevel::Info, || {
        tracing::info!(a = huge, b = huge, c = huge, d = huge, e = huge, "{huge}");
    });
    let bytes = lines[0].to_string().len();
    assert!(bytes < 2 * crate::limits::LOG_LINE_BYTES, "{bytes} bytes");
}
