//! Reads the command line and the environment into values, by the table of flags.
//!
//! The syntax is that of Go's `flag` package, because scripts that start etcd use all of it: one dash or two, `-f v`
//! and `-f=v`, booleans without a value, and the last of repeated flags wins. clap knows neither long flags with one
//! dash nor this treatment of booleans, so the table has a parser of its own.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::error::ConfigError;
use super::flags::{self, Effect, Flag};
use super::value::{Kind, Value};

/// The values that were given, by the names of their flags.
#[derive(Debug)]
pub(super) struct Given {
    values: BTreeMap<&'static str, Value>,
    from_file: bool,
}

/// What the environment has to be told of, once there is a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A variable that set a flag.
    Used { variable: String, value: String },
    /// A variable that looks like a flag's, and is none.
    Unrecognized { variable: String },
    /// A flag that was given, and has no effect.
    WithoutEffect { flag: &'static str, reason: &'static str },
    /// A flag of times long past.
    Ignored { flag: String },
    /// A configuration file in the place of everything else.
    File { path: String },
    /// A key of the file that is no flag's.
    UnknownKey { key: String },
}

/// Variables that etcd or its images read for other purposes.
const TOLERATED: [&str; 3] = ["ETCD_VERIFY", "ETCD_UNSUPPORTED_ARCH", "ETCD_VERSION"];

impl Given {
    /// For a file to fill.
    pub(super) fn from_file() -> Given {
        Given { values: BTreeMap::new(), from_file: true }
    }

    pub(super) fn is_from_file(&self) -> bool {
        self.from_file
    }

    pub(super) fn set(&mut self, flag: &'static Flag, value: Value) {
        self.values.insert(flag.name, value);
    }

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

    /// Says which of the flags that were given do nothing.
    ///
    /// # Errors
    /// One that asks for what is not there.
    pub(super) fn check_effects(&self) -> Result<Vec<Notice>, ConfigError> {
        let mut notices = Vec::new();
        for (name, value) in &self.values {
            let Some(flag) = flags::find(name) else { continue };
            match flag.effect {
                Effect::Works => {}
                Effect::None(reason) => {
                    notices.push(Notice::WithoutEffect { flag: flag.name, reason });
                }
                Effect::Refused(_) if flag.parse(flag.default).as_ref() == Ok(value) => {}
                Effect::Refused(missing) => {
                    return Err(ConfigError::Missing { flag: flag.name, missing });
                }
            }
        }
        Ok(notices)
    }
}

/// Reads the arguments (without the program's name).
///
/// # Errors
/// The first argument that is wrong.
pub(super) fn arguments(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<(Given, Vec<Notice>), ConfigError> {
    let mut values = BTreeMap::new();
    let mut notices = Vec::new();
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
        if flags::is_ignored(name) {
            notices.push(Notice::Ignored { flag: name.to_owned() });
            continue;
        }
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
    Ok((Given { values, from_file: false }, notices))
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
        let flag = flags::all().find(|flag| flag.environment_variable() == variable);
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
            None => notices.push(Notice::Unrecognized { variable }),
        }
    }
    given.values.extend(from_environment);
    Ok(notices)
}
