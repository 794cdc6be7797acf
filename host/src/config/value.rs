//! The kinds of values that flags have, and how they are written: as Go's `flag` package and etcd read them.

use super::duration::parse_duration;
use super::feature_gates;
use super::url::{self, Url};

/// What a flag's value may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Boolean,
    /// A size or a count; the largest that fits 32 bits.
    Unsigned32,
    Unsigned64,
    Signed64,
    /// URLs separated by commas.
    Urls,
    /// Origins for CORS: URLs separated by commas, or `*`.
    Origins,
    /// As Go writes durations: `1h30m`.
    Duration,
    /// `name=true`, separated by commas.
    FeatureGates,
    Choice(&'static [&'static str]),
}

/// A value that has the form its flag asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Boolean(bool),
    Unsigned(u64),
    Signed(i64),
    Urls(Vec<Url>),
    Duration(std::time::Duration),
}

pub(super) const PARSE_ERROR: &str = "parse error";
const OUT_OF_RANGE: &str = "value out of range";

impl Kind {
    /// # Errors
    /// What is wrong, in the words that Go and etcd have for it.
    pub(super) fn parse(self, text: &str) -> Result<Value, String> {
        match self {
            Kind::Text => Ok(Value::Text(text.to_owned())),
            Kind::Boolean => match text {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Boolean(true)),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Boolean(false)),
                _ => Err(PARSE_ERROR.to_owned()),
            },
            Kind::Unsigned32 => parse_unsigned(text, u64::from(u32::MAX)).map(Value::Unsigned),
            Kind::Unsigned64 => parse_unsigned(text, u64::MAX).map(Value::Unsigned),
            Kind::Signed64 => parse_signed(text).map(Value::Signed),
            Kind::Urls if text.is_empty() => Ok(Value::Urls(Vec::new())),
            // Negative ones, which Go knows, none of the flags has a use for.
            Kind::Duration => parse_duration(text)
                .ok()
                .and_then(|nanoseconds| u64::try_from(nanoseconds).ok())
                .map(|nanoseconds| Value::Duration(std::time::Duration::from_nanos(nanoseconds)))
                .ok_or_else(|| PARSE_ERROR.to_owned()),
            Kind::Origins => url::check_origins(text)
                .map(|()| Value::Text(text.to_owned()))
                .map_err(|error| error.to_string()),
            Kind::FeatureGates => feature_gates::check(text).map(|()| Value::Text(text.to_owned())),
            Kind::Urls => url::parse_list(text).map(Value::Urls).map_err(|error| error.to_string()),
            Kind::Choice(choices) if choices.contains(&text) => Ok(Value::Text(text.to_owned())),
            Kind::Choice(choices) => {
                Err(format!("invalid value, the choices are {}", choices.join(", ")))
            }
        }
    }
}

/// A number as Go reads it with base 0: decimal, or with 0x, 0o, 0b or a leading 0 (octal); single underscores
/// between digits.
fn parse_unsigned(text: &str, most: u64) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    let prefixed = digits.len() != lower.len();
    let digits = if prefixed { digits.strip_prefix('_').unwrap_or(digits) } else { digits };
    if digits.split('_').any(str::is_empty) {
        return Err(PARSE_ERROR.to_owned());
    }
    let digits = digits.replace('_', "");
    if !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err(PARSE_ERROR.to_owned());
    }
    match u64::from_str_radix(&digits, radix) {
        Ok(number) if number <= most => Ok(number),
        _ => Err(OUT_OF_RANGE.to_owned()),
    }
}

fn parse_signed(text: &str) -> Result<i64, String> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let magnitude = i128::from(parse_unsigned(digits, u64::MAX)?);
    let number = if negative { -magnitude } else { magnitude };
    i64::try_from(number).map_err(|_| OUT_OF_RANGE.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        let read = |text| parse_unsigned(text, u64::MAX);
        let cases = [
            ("0", 0),
            ("10", 10),
            ("0x1F", 31),
            ("0b11", 3),
            ("0o17", 15),
            ("017", 15),
            ("1_000", 1000),
            ("0x_ff", 255),
        ];
        for (text, number) in cases {
            assert_eq!(read(text), Ok(number), "{text}");
        }
        for text in ["", "-1", "+1", "abc", "1__0", "_1", "1_", "0x", "08", "1.5", " 1", "0x_"] {
            assert_eq!(read(text), Err(PARSE_ERROR.to_owned()), "{text}");
        }
        assert_eq!(read("99999999999999999999"), Err(OUT_OF_RANGE.to_owned()));
        assert_eq!(parse_unsigned("4294967296", u64::from(u32::MAX)), Err(OUT_OF_RANGE.to_owned()));
        assert_eq!(parse_signed("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(parse_signed("9223372036854775808"), Err(OUT_OF_RANGE.to_owned()));
        assert_eq!(parse_signed("--1"), Err(PARSE_ERROR.to_owned()));
    }
}
