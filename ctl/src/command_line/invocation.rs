//! A command with what it was given.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Command, Flag, Kind};
use crate::go;

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Bool(bool),
    Text(String),
    Integer(i64),
    Unsigned(u64),
    Duration(Duration),
    List(Vec<String>),
}

impl Value {
    pub fn parse(kind: Kind, text: &str) -> Result<Self, String> {
        Ok(match kind {
            Kind::Bool => Self::Bool(go::parse_bool(text)?),
            Kind::Text => Self::Text(text.to_owned()),
            Kind::Integer => Self::Integer(go::parse_signed(text, 10)?),
            Kind::Unsigned => Self::Unsigned(go::parse_unsigned(text, 10)?),
            Kind::Duration => Self::Duration(go::parse_duration(text)?),
            Kind::List => Self::List(match text {
                "" => Vec::new(),
                text => text.split(',').map(str::to_owned).collect(),
            }),
        })
    }
}

/// A command, its words and its flags.
#[derive(Clone, Debug)]
pub struct Invocation {
    pub root: &'static Command,
    pub command: &'static Command,
    /// The words that led to the command, with the program's name first.
    pub path: Vec<&'static str>,
    /// What is neither a command nor a flag.
    pub arguments: Vec<String>,
    /// How many of the arguments stood before `--`, if that was there.
    pub dash: Option<usize>,
    pub(super) flags: Vec<&'static Flag>,
    pub(super) given: BTreeMap<&'static str, Value>,
}

impl Invocation {
    /// Whether the command line, or later the environment, has set the flag.
    pub fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// The flags that a parent shares, which the environment may set as well.
    pub fn inherited(&self) -> impl Iterator<Item = &'static Flag> {
        let own = self.command;
        self.flags.iter().copied().filter(move |flag| {
            !own.flags.iter().chain(own.shared).any(|other| other.name == flag.name)
        })
    }

    pub fn set(&mut self, name: &'static str, value: Value) {
        match (self.given.get_mut(name), value) {
            (Some(Value::List(all)), Value::List(more)) => all.extend(more),
            (_, value) => {
                self.given.insert(name, value);
            }
        }
    }

    fn value(&self, name: &str) -> Option<Value> {
        let given = self.given.get(name).cloned();
        given.or_else(|| {
            let flag = self.flags.iter().find(|flag| flag.name == name)?;
            let default = match (flag.kind, flag.default) {
                (Kind::Bool, "") => "false",
                (Kind::Integer | Kind::Unsigned | Kind::Duration, "") => "0",
                (_, default) => default,
            };
            Value::parse(flag.kind, default).ok()
        })
    }

    pub fn flag(&self, name: &str) -> bool {
        matches!(self.value(name), Some(Value::Bool(true)))
    }

    pub fn text(&self, name: &str) -> String {
        match self.value(name) {
            Some(Value::Text(text)) => text,
            _ => String::new(),
        }
    }

    pub fn integer(&self, name: &str) -> i64 {
        match self.value(name) {
            Some(Value::Integer(number)) => number,
            _ => 0,
        }
    }

    pub fn unsigned(&self, name: &str) -> u64 {
        match self.value(name) {
            Some(Value::Unsigned(number)) => number,
            _ => 0,
        }
    }

    pub fn duration(&self, name: &str) -> Duration {
        match self.value(name) {
            Some(Value::Duration(duration)) => duration,
            _ => Duration::ZERO,
        }
    }

    pub fn list(&self, name: &str) -> Vec<String> {
        match self.value(name) {
            Some(Value::List(list)) => list,
            _ => Vec::new(),
        }
    }
}
