//! The few lines that go to standard error as JSON, in the form of etcd's client.

use time::OffsetDateTime;
use time::macros::format_description;

use crate::output::json_string;

/// Writes one line.
pub fn log(level: &str, message: &str, fields: &[(&str, &str)]) {
    let format =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    let now = OffsetDateTime::now_utc().format(format).unwrap_or_default();
    let fields: String = fields
        .iter()
        .map(|(name, value)| {
            format!(",{}:{}", json_string(name.as_bytes()), json_string(value.as_bytes()))
        })
        .collect();
    eprintln!(
        "{{\"level\":\"{level}\",\"ts\":\"{now}\",\"msg\":{}{fields}}}",
        json_string(message.as_bytes())
    );
}
