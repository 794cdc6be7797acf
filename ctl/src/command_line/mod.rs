//! Command lines as etcd's programs take them: a tree of commands, flags anywhere, unique prefixes.
//!
//! `command` says what a command is, `parse` finds it and its flags among the words, `help` explains it,
//! `complete` writes completions for shells. What each command does is not known here.

mod command;
mod complete;
mod help;
mod invocation;
mod parse;

pub use command::{Command, Flag, Kind, flag};
pub use complete::completions;
pub use help::{flag_table, help, usage};
pub use invocation::{Invocation, Value};
pub use parse::{Parsed, parse};
