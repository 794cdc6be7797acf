//! The thread that writes the log.

use std::fs::OpenOptions;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use super::LogError;
use crate::config::{LogConfig, LogOutput};
use crate::limits;

enum Message {
    Line(String),
    /// Answered once everything before it is written.
    Flush(SyncSender<()>),
}

/// Takes lines without waiting.
pub(super) struct Writer {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

/// Waits for the last lines when the process ends.
#[derive(Debug, Clone)]
pub struct Flusher {
    queue: SyncSender<Message>,
}

impl Writer {
    pub(super) fn start(config: &LogConfig) -> Result<(Writer, Flusher), LogError> {
        let outputs = config.outputs.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let (queue, lines) = sync_channel(limits::WAITING_LOG_LINES);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = dropped.clone();
        std::thread::Builder::new()
            .name("log-lines".to_owned())
            .spawn(move || write_all(&lines, outputs, &counter))
            .map_err(LogError::Thread)?;
        Ok((Writer { queue: queue.clone(), dropped }, Flusher { queue }))
    }

    pub(super) fn write(&self, line: String) {
        if self.queue.try_send(Message::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Flusher {
    /// Waits, for a bounded time, until the lines logged so far are written.
    pub fn flush(&self) {
        let deadline = Instant::now() + limits::LOG_FLUSH_TIMEOUT;
        let (done, is_done) = sync_channel(1);
        while self.queue.try_send(Message::Flush(done.clone())).is_err() {
            if Instant::now() > deadline {
                return;
            }
            std::thread::yield_now();
        }
        let _ = is_done.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

fn open(output: &LogOutput) -> Result<Box<dyn Write + Send>, LogError> {
    Ok(match output {
        LogOutput::Stderr => Box::new(std::io::stderr()),
        LogOutput::Stdout => Box::new(std::io::stdout()),
        LogOutput::File(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            Box::new(file.map_err(|source| LogError::Open { path: path.clone(), source })?)
        }
    })
}

/// Writes until nobody can log any more. A failure to write has nowhere to go: the line is lost.
fn write_all(
    messages: &Receiver<Message>,
    mut outputs: Vec<Box<dyn Write + Send>>,
    dropped: &AtomicU64,
) {
    for message in messages {
        match message {
            Message::Line(line) => {
                for output in &mut outputs {
                    let _ = output.write_all(line.as_bytes()).and_then(|()| output.flush());
                }
                let lost = dropped.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    tracing::warn!(lines = lost, "log lines were dropped: the output is too slow");
                }
            }
            Message::Flush(done) => {
                let _ = done.try_send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LogFormat, LogLevel};

    #[test]
    fn lines_reach_their_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, "before\n").unwrap();
        let config = LogConfig {
            level: LogLevel::Info,
            format: LogFormat::Json,
            outputs: vec![LogOutput::File(path.clone())],
        };
        let (writer, flusher) = Writer::start(&config).unwrap();
        writer.write("first\n".to_owned());
        writer.write("second\n".to_owned());
        flusher.flush();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "before\nfirst\nsecond\n");

        let missing = LogOutput::File(directory.path().join("none/log"));
        let error = Writer::start(&LogConfig { outputs: vec![missing], ..config }).err().unwrap();
        assert!(error.to_string().starts_with("cannot open the log \""), "{error}");
    }
}
