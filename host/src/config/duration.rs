//! Durations as Go's `time.ParseDuration` reads them.

use std::time::Duration;

use super::value::PARSE_ERROR;

const UNITS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("\u{b5}s", 1e3),
    ("\u{3bc}s", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];

/// Go's largest.
const MOST_NANOSECONDS: f64 = i64::MAX as f64;

/// # Errors
/// What is no duration, in the word that Go has for it. Negative ones, which Go knows, none of the flags has a use for.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let error = || PARSE_ERROR.to_owned();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return Err(error());
    }
    let mut nanoseconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(error)?;
        let number: f64 = rest[..digits].parse().map_err(|_| error())?;
        rest = &rest[digits..];
        let unit_bytes = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (_, unit) =
            UNITS.iter().find(|(name, _)| *name == &rest[..unit_bytes]).ok_or_else(error)?;
        nanoseconds += number * unit;
        rest = &rest[unit_bytes..];
    }
    if nanoseconds >= MOST_NANOSECONDS {
        return Err(error());
    }
    Ok(Duration::from_nanos(nanoseconds as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, milliseconds) in [
            ("0", 0),
            ("0s", 0),
            ("5s", 5_000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("+300ms", 300),
            ("1000us", 1),
            ("1000\u{b5}s", 1),
            (".5s", 500),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1x", "1s2", "1 s", "..s", "+", "9999999999h"] {
            assert_eq!(parse(text), Err(PARSE_ERROR.to_owned()), "{text}");
        }
    }
}
