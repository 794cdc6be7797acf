//! Automatic compaction: a mode, and what to retain, read as etcd reads them (server/embed/etcd.go).

use std::time::Duration;

use super::ConfigError;

/// What automatic compaction retains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoCompaction {
    /// The history of this time.
    Periodic(Duration),
    /// So many revisions.
    Revision(i64),
}

impl AutoCompaction {
    /// None if it is off. A number without a unit is hours, or revisions. A time where revisions are wanted is its
    /// nanoseconds, as in etcd.
    pub(super) fn parse(mode: &str, retention: &str) -> Result<Option<Self>, ConfigError> {
        let invalid = || ConfigError::CompactionRetention(retention.to_owned());
        let of_revisions = mode == "revision";
        let unsigned = retention.strip_prefix('+').unwrap_or(retention);
        let is_number = !unsigned.is_empty() && unsigned.bytes().all(|byte| byte.is_ascii_digit());
        if is_number {
            let number: i64 = unsigned.parse().map_err(|_| invalid())?;
            if number == 0 {
                return Ok(None);
            }
            if of_revisions {
                return Ok(Some(Self::Revision(number)));
            }
            let seconds = number.checked_mul(3600).filter(|seconds| *seconds <= i64::MAX / NANOS);
            let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
            return Ok(Some(Self::Periodic(Duration::from_secs(seconds.ok_or_else(invalid)?))));
        }
        let nanos = parse_nanos(unsigned).ok_or_else(invalid)?;
        Ok(match nanos {
            0 => None,
            nanos if of_revisions => Some(Self::Revision(nanos)),
            nanos => Some(Self::Periodic(Duration::from_nanos(nanos.unsigned_abs()))),
        })
    }
}

const NANOS: i64 = 1_000_000_000;

/// A duration as Go writes it, such as 1h30m or 1.5s, in nanoseconds; a negative one is none.
fn parse_nanos(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total: i64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let number = rest.find(|it: char| !it.is_ascii_digit() && it != '.')?;
        let (digits, behind) = rest.split_at(number);
        let unit = behind.find(|it: char| it.is_ascii_digit() || it == '.').unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit);
        let unit_nanos: i64 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => NANOS,
            "m" => 60 * NANOS,
            "h" => 3600 * NANOS,
            _ => return None,
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return None;
        }
        let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let fraction: f64 = format!("0.{fraction}0").parse().ok()?;
        let nanos = whole.checked_mul(unit_nanos)?;
        total = total.checked_add(nanos)?.checked_add((fraction * unit_nanos as f64) as i64)?;
        rest = behind;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retentions_are_read_as_etcd_reads_them() {
        let periodic = |seconds| Ok(Some(AutoCompaction::Periodic(Duration::from_secs(seconds))));
        let cases = [
            ("periodic", "0", Ok(None)),
            ("periodic", "0s", Ok(None)),
            ("revision", "0", Ok(None)),
            ("periodic", "5", periodic(5 * 3600)),
            ("periodic", "5m", periodic(300)),
            ("periodic", "1h30m", periodic(5400)),
            ("periodic", "1.5h", periodic(5400)),
            ("periodic", "3000ms", periodic(3)),
            ("revision", "1000", Ok(Some(AutoCompaction::Revision(1000)))),
            ("revision", "1us", Ok(Some(AutoCompaction::Revision(1000)))),
        ];
        for (mode, text, expected) in cases {
            assert_eq!(AutoCompaction::parse(mode, text), expected, "{mode} {text}");
        }
        for text in ["", "x", "-1", "-5m", "5 m", "1h30", ".s", "1.2.3s", "99999999999999h", "5d"] {
            let expected = Err(ConfigError::CompactionRetention(text.to_owned()));
            assert_eq!(AutoCompaction::parse("periodic", text), expected, "{text}");
        }
    }
}
