//! Reads the command line and the environment into values, by the table of flags.
//!
//! The syntax is that of Go's `flag` package, because scripts that start etcd use all of it: one dash or two, `-f v`
//! and `-f=v`, booleans without a value, and the last of repeated flags wins. clap knows neither long flags with one
//! dash nor this treatment of booleans, so the table has a parser of its own.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::error::ConfigError;
use super::flags::{self, FLAGS, Flag};
use super::value::{Kind, Value};

/// The values that were given, by the names of their flags.
pub(super) struct Given {
    values: BTreeMap<&'static str, Value>,
}

/// What the environment has to be told of, once there is a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A variable that set a flag.
    Used { variable: String, value: String },
    /// A variable that looks like a flag's, and is none.
    Unrecognized { variable: String },
}

/// Variables that etcd or its images read for other purposes.
const TOLERATED: [&str; 3] = ["ETCD_VERIFY", "ETCD_UNSUPPORTED_ARCH", "ETCD_VERSION"];

impl Given {
    /// The value of a flag, or its default. None where the table has no default either.
    pub(super) fn value(&self, name: &str) -> Option<Value> {
        if let Some(value) = self.values.get(name) {
            return Some(value.clone());
        }
        let flag = flags::find(name)?;
        if flag.default.is_empty() { None } else { flag.parse(flag.default).ok() }
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }
}

/// Reads the arguments (without the program's name).
///
/// # Errors
/// The first argument that is wrong.
pub(super) fn arguments(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Given, ConfigError> {
    let mut values = BTreeMap::new();
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        let argument = into_text(argument)?;
        let Some((name, inline)) = split(&argument)? else {
            // What stands behind a lone "--" is no flag either.
            let positional = if argument == "--" { rest.next() } else { Some(argument.into()) };
            match positional {
                Some(positional) => return Err(ConfigError::NotAFlag(into_text(positional)?)),
                None => break,
            }
        };
        let name = if name == "h" { "help" } else { name };
        let flag = flags::find(name).ok_or_else(|| ConfigError::Unknown(name.to_owned()))?;
        let text = match inline {
            Some(text) => text.to_owned(),
            None if flag.kind == Kind::Boolean => "true".to_owned(),
            None => match rest.next() {
                Some(text) => into_text(text)?,
                None => return Err(ConfigError::NoValue(flag.name)),
            },
        };
        values.insert(flag.name, parse(flag, &text)?);
    }
    Ok(Given { values })
}

fn parse(flag: &'static Flag, text: &str) -> Result<Value, ConfigError> {
    flag.parse(text).map_err(|reason| match flag.kind {
        Kind::Boolean => ConfigError::Boolean { flag: flag.name, text: text.to_owned() },
        _ => ConfigError::Value { flag: flag.name, text: text.to_owned(), reason },
    })
}

/// Name and value of `-name`, `--name` and `--name=value`; none if the argument is no flag.
fn split(argument: &str) -> Result<Option<(&str, Option<&str>)>, ConfigError> {
    let Some(rest) = argument.strip_prefix('-') else { return Ok(None) };
    let rest = rest.strip_prefix('-').unwrap_or(rest);
    if rest.is_empty() {
        return Ok(None);
    }
    if rest.starts_with(['-', '=']) {
        return Err(ConfigError::Syntax(argument.to_owned()));
    }
    Ok(Some(match rest.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (rest, None),
    }))
}

fn into_text(argument: OsString) -> Result<String, ConfigError> {
    argument
        .into_string()
        .map_err(|argument| ConfigError::NotUnicode(argument.display().to_string()))
}

/// Adds what the environment sets. Empty variables count as unset.
///
/// # Errors
/// A variable beside its flag, or with a value that is wrong.
pub(super) fn environment(
    given: &mut Given,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Vec<Notice>, ConfigError> {
    let variables: BTreeMap<String, OsString> = environment
        .into_iter()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.starts_with("ETCD_"))
        .collect();
    let mut notices = Vec::new();
    let mut from_environment = Vec::new();
    for (variable, value) in variables {
        let flag = FLAGS.iter().find(|flag| flag.environment_variable() == variable);
        match flag {
            Some(flag) if given.is_set(flag.name) => {
                return Err(ConfigError::Conflict { variable });
            }
            _ if value.is_empty() || TOLERATED.contains(&variable.as_str()) => {}
            Some(flag) => {
                let value = into_text(value)?;
                let parsed = flag.parse(&value).map_err(|reason| ConfigError::Variable {
                    variable: variable.clone(),
                    text: value.clone(),
                    reason,
                })?;
                from_environment.push((flag.name, parsed));
                notices.push(Notice::Used { variable, value });
            }
            None if variable == "ETCD_CONFIG_FILE" => return Err(ConfigError::ConfigFile),
            None => notices.push(Notice::Unrecognized { variable }),
        }
    }
    given.values.extend(from_environment);
    Ok(notices)
}
