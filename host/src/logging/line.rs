//! One line of the log.

use std::error::Error;
use std::fmt::{Debug, Write};

use time::OffsetDateTime;
use tracing::Event;
use tracing::field::{Field, Visit};

use crate::config::{LogFormat, LogLevel};
use crate::limits;

/// What an event says, ready to be written.
pub(super) struct Line {
    /// `directory/file:line` of the code that logs.
    caller: String,
    message: String,
    /// The fields as the inside of a JSON object; `Some` separator where it has one.
    fields: String,
    is_fatal: bool,
}

impl Line {
    pub(super) fn new(event: &Event<'_>) -> Line {
        let metadata = event.metadata();
        let caller = caller(metadata.file().unwrap_or("unknown"), metadata.line().unwrap_or(0));
        let mut line =
            Line { caller, message: String::new(), fields: String::new(), is_fatal: false };
        event.record(&mut line);
        line
    }

    pub(super) fn is_fatal(&self) -> bool {
        self.is_fatal
    }

    /// The line with its end.
    pub(super) fn render(&self, level: LogLevel, now: OffsetDateTime, format: LogFormat) -> String {
        let level = match level {
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
            LogLevel::Fatal => "fatal",
        };
        let time = timestamp(now);
        let Line { caller, message, fields, .. } = self;
        let comma = if fields.is_empty() { "" } else { "," };
        match format {
            LogFormat::Json => format!(
                "{{\"level\":\"{level}\",\"ts\":\"{time}\",\"caller\":{},\"msg\":{}{comma}{fields}}}\n",
                quoted(caller),
                quoted(message),
            ),
            LogFormat::Console if fields.is_empty() => {
                format!("{time}\t{level}\t{caller}\t{message}\n")
            }
            LogFormat::Console => format!("{time}\t{level}\t{caller}\t{message}\t{{{fields}}}\n"),
        }
    }

    /// Adds a field whose value is JSON already.
    fn add(&mut self, field: &Field, json: &str) {
        if self.fields.len() + json.len() > limits::LOG_LINE_BYTES {
            return;
        }
        if !self.fields.is_empty() {
            self.fields.push(',');
        }
        self.fields.push_str(&quoted(field.name()));
        self.fields.push(':');
        self.fields.push_str(json);
    }

    fn add_text(&mut self, field: &Field, text: &str) {
        let text = truncated(text);
        if field.name() == "message" {
            self.message.push_str(text);
        } else {
            self.add(field, &quoted(text));
        }
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        // Writing to a String cannot fail; a value that cannot be written is left as far as it came.
        let _ = write!(text, "{value:?}");
        self.add_text(field, &text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add_text(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.add_text(field, &value.to_string());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        if field.name() == "fatal" {
            self.is_fatal = value;
        } else {
            self.add(field, if value { "true" } else { "false" });
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, &value.to_string());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, &value.to_string());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, &serde_json::Value::from(value).to_string());
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn truncated(text: &str) -> &str {
    &text[..text.floor_char_boundary(limits::LOG_LINE_BYTES / 4)]
}

/// The last directory and the file, as zap shortens them.
fn caller(file: &str, line: u32) -> String {
    let start = file.rmatch_indices(['/', '\\']).nth(1).map_or(0, |(at, _)| at + 1);
    format!("{}:{line}", &file[start..])
}

/// `2006-01-02T15:04:05.000000Z`, always in UTC.
fn timestamp(now: OffsetDateTime) -> String {
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        now.year(),
        u8::from(now.month()),
        now.day(),
        now.hour(),
        now.minute(),
        now.second(),
        now.microsecond()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        Line {
            caller: caller("host/src/api/serve.rs", 7),
            message: "said \"so\"".to_owned(),
            fields: String::new(),
            is_fatal: false,
        }
    }

    #[test]
    fn lines_have_zaps_form() {
        let now = OffsetDateTime::from_unix_timestamp_nanos(1_795_413_041_936_305_999).unwrap();
        let mut line = line();
        let json = line.render(LogLevel::Info, now, LogFormat::Json);
        assert_eq!(
            json,
            "{\"level\":\"info\",\"ts\":\"2026-11-23T05:50:41.936305Z\",\"caller\":\"api/serve.rs:7\",\
             \"msg\":\"said \\\"so\\\"\"}\n"
        );
        line.fields.push_str("\"a\":1");
        let json = line.render(LogLevel::Fatal, now, LogFormat::Json);
        assert!(json.ends_with(",\"msg\":\"said \\\"so\\\"\",\"a\":1}\n"), "{json}");
        assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok());
        let console = line.render(LogLevel::Warn, now, LogFormat::Console);
        assert_eq!(
            console,
            "2026-11-23T05:50:41.936305Z\twarn\tapi/serve.rs:7\tsaid \"so\"\t{\"a\":1}\n"
        );
    }

    #[test]
    fn callers_are_short() {
        assert_eq!(caller("main.rs", 1), "main.rs:1");
        assert_eq!(caller("src/main.rs", 1), "src/main.rs:1");
        assert_eq!(caller("/a/b/c/d.rs", 1), "c/d.rs:1");
    }
}
