//! The configuration file: YAML (and with it JSON) with the names of flags as keys, as etcd reads it.
//!
//! Each key has the type that etcd's has: durations are integers in nanoseconds, lists of URLs are one string. A key
//! that is nobody's is told in the log, and otherwise left alone, because files for older servers carry some.

use std::path::Path;

use serde_json::{Map, Value as Tree};

use super::error::ConfigError;
use super::flags::{self, Flag};
use super::parse::{Given, Notice};
use super::value::Kind;
use crate::limits;

/// The keys under which others stand, and what their flags' names begin with.
const GROUPS: [(&str, &str); 4] = [
    ("client-transport-security", ""),
    ("peer-transport-security", "peer-"),
    ("socket-options", "socket-"),
    ("discovery-config", "discovery-"),
];

/// Keys in groups whose flags have other names than the rule gives.
const RENAMED: [(&str, &str); 5] = [
    ("allowed-hostname", "client-cert-allowed-hostname"),
    ("allowed-cn", "client-cert-allowed-cn"),
    ("peer-allowed-cn", "peer-cert-allowed-cn"),
    ("peer-allowed-hostname", "peer-cert-allowed-hostname"),
    ("skip-client-san-verification", "client-skip-client-san-verification"),
];

/// Flags that are no keys.
const NO_KEYS: [&str; 4] = ["config-file", "discovery-fallback", "version", "help"];

/// Reads the file into values, and into what the log is to be told.
///
/// # Errors
/// A file that cannot be read, or the first key whose value is wrong.
pub(super) fn read(path: &str) -> Result<(Given, Vec<Notice>), ConfigError> {
    let failed = |reason: String| ConfigError::File { path: path.to_owned(), reason };
    let bytes =
        std::fs::metadata(Path::new(path)).map_err(|error| failed(error.to_string()))?.len();
    if bytes > limits::CONFIG_FILE_BYTES {
        let most = limits::CONFIG_FILE_BYTES;
        return Err(failed(format!("it has {bytes} bytes; at most {most} are read")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let (given, mut notices) = parse(&text).map_err(failed)?;
    notices.insert(0, Notice::File { path: path.to_owned() });
    Ok((given, notices))
}

fn parse(text: &str) -> Result<(Given, Vec<Notice>), String> {
    let mut given = Given::from_file();
    let mut notices = Vec::new();
    // An empty document is a file without keys.
    let tree: Option<Tree> = serde_saphyr::from_str(text).map_err(|error| {
        let text = error.to_string();
        text.lines().next().unwrap_or_default().to_owned()
    })?;
    match tree {
        None | Some(Tree::Null) => {}
        Some(Tree::Object(keys)) => read_keys(&keys, "", &mut given, &mut notices)?,
        Some(_) => return Err("it is not a list of keys and values".to_owned()),
    }
    Ok((given, notices))
}

fn read_keys(
    keys: &Map<String, Tree>,
    prefix: &str,
    given: &mut Given,
    notices: &mut Vec<Notice>,
) -> Result<(), String> {
    for (key, value) in keys {
        if let (true, Some((_, prefix))) =
            (prefix.is_empty(), GROUPS.iter().find(|(group, _)| group == key))
        {
            match value {
                Tree::Null => {}
                Tree::Object(keys) => read_keys(keys, prefix, given, notices)?,
                _ => return Err(format!("invalid {key}: it has keys of its own")),
            }
            continue;
        }
        let full = format!("{prefix}{key}");
        let renamed = RENAMED.iter().find(|(name, _)| *name == full);
        let name = renamed.map_or(full.as_str(), |(_, flag)| flag);
        match flags::find(name).filter(|flag| !NO_KEYS.contains(&flag.name)) {
            Some(flag) => set(flag, value, given)?,
            None => notices.push(Notice::UnknownKey { key: full }),
        }
    }
    Ok(())
}

fn set(flag: &'static Flag, value: &Tree, given: &mut Given) -> Result<(), String> {
    let wrong_type = |wanted: &str| {
        Err(format!("cannot unmarshal {} into {}, which is {wanted}", type_of(value), flag.name))
    };
    let text = match (flag.kind, value) {
        (_, Tree::Null) => return Ok(()),
        (Kind::Boolean, Tree::Bool(boolean)) => boolean.to_string(),
        (Kind::Boolean, _) => return wrong_type("true or false"),
        (Kind::Duration, Tree::Number(number)) if number.is_u64() => format!("{number}ns"),
        (Kind::Duration, _) => return wrong_type("an integer of nanoseconds"),
        (Kind::Unsigned32 | Kind::Unsigned64 | Kind::Signed64, Tree::Number(number))
            if !number.is_f64() =>
        {
            number.to_string()
        }
        (Kind::Unsigned32 | Kind::Unsigned64 | Kind::Signed64, _) => {
            return wrong_type("an integer");
        }
        (_, Tree::Array(items)) if is_list(flag) => {
            let texts: Option<Vec<&str>> = items.iter().map(Tree::as_str).collect();
            match texts {
                Some(texts) => texts.join(","),
                None => return wrong_type("a list of strings"),
            }
        }
        (_, _) if is_list(flag) => return wrong_type("a list of strings"),
        (_, Tree::String(text)) => text.clone(),
        (_, _) => return wrong_type("a string"),
    };
    if text.is_empty() {
        return Ok(());
    }
    let parsed = flag
        .parse(&text)
        .map_err(|reason| format!("invalid value {text:?} for {}: {reason}", flag.name))?;
    given.set(flag, parsed);
    Ok(())
}

/// Flags whose keys etcd wants a list for; the others that take several values are strings with commas.
fn is_list(flag: &Flag) -> bool {
    matches!(
        flag.name,
        "log-outputs"
            | "cipher-suites"
            | "client-cert-allowed-hostname"
            | "peer-cert-allowed-cn"
            | "peer-cert-allowed-hostname"
            | "discovery-endpoints"
    )
}

fn type_of(value: &Tree) -> &'static str {
    match value {
        Tree::Null => "nothing",
        Tree::Bool(_) => "a boolean",
        Tree::Number(_) => "a number",
        Tree::String(_) => "a string",
        Tree::Array(_) => "a list",
        Tree::Object(_) => "keys",
    }
}
