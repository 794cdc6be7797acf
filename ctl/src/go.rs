//! How Go reads and writes numbers, durations and strings: what etcdctl prints goes through its library.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use host::config::DurationError;

/// `strconv.ParseInt` and `ParseUint`, with their words for what is wrong.
pub fn parse_signed(text: &str, base: u32) -> Result<i64, String> {
    parse(text, "ParseInt", i64::from_str_radix(text, base), text.strip_prefix(['-', '+']), base)
}

pub fn parse_unsigned(text: &str, base: u32) -> Result<u64, String> {
    let signed = text.starts_with(['+', '-']);
    let parsed = u64::from_str_radix(if signed { "" } else { text }, base);
    parse(text, "ParseUint", parsed, None, base)
}

fn parse<T>(
    text: &str,
    function: &str,
    parsed: Result<T, std::num::ParseIntError>,
    unsigned: Option<&str>,
    base: u32,
) -> Result<T, String> {
    parsed.map_err(|_| {
        let digits = unsigned.unwrap_or(text);
        let valid = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(base));
        let why = if valid { "value out of range" } else { "invalid syntax" };
        format!("strconv.{function}: parsing {}: {why}", quote(text.as_bytes()))
    })
}

/// `strconv.ParseBool`.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {}: invalid syntax", quote(text.as_bytes()))),
    }
}

/// `time.ParseDuration`. What is below zero comes out as zero: it is over at once either way.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let quoted = quote(text.as_bytes());
    let nanoseconds = host::config::parse_duration(text).map_err(|error| match error {
        DurationError::Invalid => format!("time: invalid duration {quoted}"),
        DurationError::MissingUnit => format!("time: missing unit in duration {quoted}"),
        DurationError::UnknownUnit { unit } => {
            format!("time: unknown unit {} in duration {quoted}", quote(unit.as_bytes()))
        }
    })?;
    Ok(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or_default()))
}

/// `Duration.String`.
pub fn duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let fraction = |divisor: u128| {
        let digits = divisor.ilog10() as usize;
        let text = format!("{}.{:0digits$}", nanos / divisor, nanos % divisor);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match nanos {
        0 => "0s".into(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => fraction(1_000) + "\u{b5}s",
        1_000_000..1_000_000_000 => fraction(1_000_000) + "ms",
        _ => {
            let seconds = duration.as_secs();
            let mut text = String::new();
            if seconds >= 3600 {
                _ = write!(text, "{}h", seconds / 3600);
            }
            if seconds >= 60 {
                _ = write!(text, "{}m", seconds / 60 % 60);
            }
            let rest = format!("{}.{:09}", seconds % 60, duration.subsec_nanos());
            text + rest.trim_end_matches('0').trim_end_matches('.') + "s"
        }
    }
}

/// `strconv.Quote`, of bytes that need not be UTF-8.
pub fn quote(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| quote_char(c, &mut text));
        for byte in chunk.invalid() {
            _ = write!(text, "\\x{byte:02x}");
        }
    }
    text + "\""
}

fn quote_char(c: char, text: &mut String) {
    let named = [
        ('"', "\\\""),
        ('\\', "\\\\"),
        ('\u{7}', "\\a"),
        ('\u{8}', "\\b"),
        ('\u{c}', "\\f"),
        ('\n', "\\n"),
        ('\r', "\\r"),
        ('\t', "\\t"),
        ('\u{b}', "\\v"),
    ];
    if let Some((_, escape)) = named.iter().find(|(known, _)| *known == c) {
        text.push_str(escape);
    } else if c == ' ' || c == '\'' || !c.is_whitespace() && c.escape_debug().len() == 1 {
        text.push(c);
    } else {
        _ = match u32::from(c) {
            code @ (..0x20 | 0x7f) => write!(text, "\\x{code:02x}"),
            code @ ..0x1_0000 => write!(text, "\\u{code:04x}"),
            code => write!(text, "\\U{code:08x}"),
        };
    }
}

/// Reads a quoted string at the beginning of `text`; returns it and what follows.
pub fn unquote(text: &str) -> Option<(Bytes, &str)> {
    if let Some(raw) = text.strip_prefix('`') {
        let (raw, rest) = raw.split_once('`')?;
        return Some((Bytes::from(raw.to_owned()), rest));
    }
    let mut rest = text.strip_prefix('"')?;
    let mut bytes = Vec::new();
    loop {
        let c = rest.chars().next()?;
        rest = &rest[c.len_utf8()..];
        match c {
            '"' => return Some((bytes.into(), rest)),
            '\n' => return None,
            '\\' => rest = unescape(rest, &mut bytes)?,
            c => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

fn unescape<'a>(text: &'a str, bytes: &mut Vec<u8>) -> Option<&'a str> {
    let c = text.chars().next()?;
    let rest = &text[c.len_utf8()..];
    let simple = match c {
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 11,
        '\\' | '"' => c as u8,
        'x' => {
            bytes.push(u8::from_str_radix(rest.get(..2)?, 16).ok()?);
            return rest.get(2..);
        }
        '0'..='7' => {
            bytes.push(u8::from_str_radix(text.get(..3)?, 8).ok()?);
            return text.get(3..);
        }
        'u' | 'U' => {
            let digits = if c == 'u' { 4 } else { 8 };
            let code = u32::from_str_radix(rest.get(..digits)?, 16).ok()?;
            let c = char::from_u32(code)?;
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            return rest.get(digits..);
        }
        _ => return None,
    };
    bytes.push(simple);
    Some(rest)
}

/// Sizes as `humanize.Bytes` writes them: decimal units, two digits.
pub fn size(bytes: u64) -> String {
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let power = ((bytes as f64).log10() / 3.0).floor() as usize;
    let power = power.min(units.len() - 1);
    let value = (bytes as f64 / 1000f64.powi(power as i32) * 10.0 + 0.5).floor() / 10.0;
    let digits = usize::from(value < 10.0);
    format!("{value:.digits$} {}", units[power])
}

/// An error of the system without Rust's number behind it, in the lower case that Go has.
pub fn io_error(error: &io::Error) -> String {
    let text = error.to_string();
    match error.raw_os_error() {
        Some(_) => text.split(" (os error").next().unwrap_or_default().to_lowercase(),
        None => text,
    }
}

/// An error about a file, as Go's `PathError`.
pub fn path_error(operation: &str, path: &str, error: &io::Error) -> String {
    format!("{operation} {path}: {}", io_error(error))
}

/// The least key above all that begin with `prefix`; a zero byte if there is none.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < 0xff {
            *last += 1;
            return end;
        }
        end.pop();
    }
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (nanos, text) in [
            (0, "0s"),
            (999, "999ns"),
            (1_500, "1.5\u{b5}s"),
            (6_931_812, "6.931812ms"),
            (2_000_000_000, "2s"),
            (3_661_500_000_000, "1h1m1.5s"),
        ] {
            assert_eq!(duration(Duration::from_nanos(nanos)), text);
        }
        assert_eq!(parse_duration("1h2m3.5s").expect("one"), Duration::from_millis(3_723_500));
        assert_eq!(parse_duration("5").expect_err("none"), "time: missing unit in duration \"5\"");
        assert_eq!(
            parse_duration("5x").expect_err("none"),
            "time: unknown unit \"x\" in duration \"5x\""
        );
        assert!(parse_duration("").is_err() && parse_duration("abc").is_err());
    }

    #[test]
    fn strings_are_quoted_and_back() {
        for bytes in [&b"plain"[..], b"q\"\\\n\t\x07", "g\u{fc}\u{200b}".as_bytes(), b"\xff\xfe"] {
            let quoted = quote(bytes);
            let (back, rest) = unquote(&quoted).expect("a string");
            assert_eq!((&back[..], rest), (bytes, ""), "{quoted}");
        }
        assert_eq!(quote(b"\xff\x01"), "\"\\xff\\x01\"");
        assert!(unquote("\"open").is_none() && unquote("\"\\q\"").is_none());
    }

    #[test]
    fn sizes_are_humanized() {
        for (bytes, text) in
            [(0, "0 B"), (20_480, "20 kB"), (2_147_483_648, "2.1 GB"), (1_000, "1.0 kB")]
        {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn numbers_are_refused_in_gos_words() {
        assert_eq!(
            parse_signed("abc", 10).expect_err("none"),
            "strconv.ParseInt: parsing \"abc\": invalid syntax"
        );
        assert_eq!(
            parse_signed("99999999999999999999", 10).expect_err("none"),
            "strconv.ParseInt: parsing \"99999999999999999999\": value out of range"
        );
        assert_eq!(parse_signed("-7b", 16), Ok(-0x7b));
        assert!(parse_unsigned("-1", 10).is_err());
    }
}
