//! Durations as Go's `time.ParseDuration` reads them: for the server's flags, and for those of the client.

/// Why a text is no duration, as Go tells it apart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    #[error("invalid duration")]
    Invalid,
    #[error("missing unit in duration")]
    MissingUnit,
    #[error("unknown unit {unit:?} in duration")]
    UnknownUnit { unit: String },
}

const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// The nanoseconds of a duration, which may be negative.
///
/// # Errors
/// Says what is wrong with the text.
pub fn parse_duration(text: &str) -> Result<i64, DurationError> {
    let (is_negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(DurationError::Invalid);
    }
    let mut sum = 0u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (name, after) = after.split_at(unit);
        let nanoseconds = part(number, name)?;
        sum = sum.checked_add(nanoseconds).ok_or(DurationError::Invalid)?;
        rest = after;
    }
    let nanoseconds = i64::try_from(sum).map_err(|_| DurationError::Invalid)?;
    Ok(if is_negative { -nanoseconds } else { nanoseconds })
}

/// A number before its unit: whole ones exactly, fractions as near as a float is.
fn part(number: &str, name: &str) -> Result<u64, DurationError> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let has_digits = !whole.is_empty() || !fraction.is_empty();
    if !has_digits || fraction.contains('.') {
        return Err(DurationError::Invalid);
    }
    let known = UNITS.iter().find(|(unit, _)| *unit == name);
    let (_, unit) = known.ok_or_else(|| match name {
        "" => DurationError::MissingUnit,
        name => DurationError::UnknownUnit { unit: name.to_owned() },
    })?;
    let whole: u64 = match whole {
        "" => 0,
        whole => whole.parse().map_err(|_| DurationError::Invalid)?,
    };
    let part = format!("0.{fraction}0").parse::<f64>().map_err(|_| DurationError::Invalid)?;
    let nanoseconds = whole.checked_mul(*unit);
    nanoseconds
        .and_then(|sum| sum.checked_add((part * *unit as f64) as u64))
        .ok_or(DurationError::Invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, microseconds) in [
            ("0", 0),
            ("-0", 0),
            ("0s", 0),
            ("5s", 5_000_000),
            ("5.s", 5_000_000),
            ("1m30s", 90_000_000),
            ("1.5h", 5_400_000_000),
            ("+300ms", 300_000),
            ("-300ms", -300_000),
            ("1000us", 1_000),
            ("1000\u{b5}s", 1_000),
            (".5s", 500_000),
            ("1h2m3.5s", 3_723_500_000),
        ] {
            assert_eq!(parse_duration(text), Ok(microseconds * 1_000), "{text}");
        }
        assert_eq!(parse_duration("9223372036854775807ns"), Ok(i64::MAX));
    }

    #[test]
    fn what_is_none_is_refused_in_gos_words() {
        for text in ["", "s", "..s", "1..s", "+", "9999999999h", "9223372036854775808ns", "--1s"] {
            assert_eq!(parse_duration(text), Err(DurationError::Invalid), "{text}");
        }
        for text in ["5", "1s2", "-1"] {
            assert_eq!(parse_duration(text), Err(DurationError::MissingUnit), "{text}");
        }
        for (text, unit) in [("1x", "x"), ("1 s", " s"), ("1d2h", "d")] {
            let unit = unit.to_owned();
            assert_eq!(parse_duration(text), Err(DurationError::UnknownUnit { unit }), "{text}");
        }
    }
}
