//! What a command is.

use std::pin::Pin;

use super::Invocation;
use crate::failure::Failure;

pub type Future = Pin<Box<dyn std::future::Future<Output = Result<(), Failure>>>>;
pub type Run = fn(Invocation) -> Future;

/// A command, or a program at the root of a tree.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    pub name: &'static str,
    /// What follows the name in the line that shows the use.
    pub arguments: &'static str,
    pub about: &'static str,
    /// The heading that it stands under in its parent's help.
    pub group: &'static str,
    pub flags: &'static [Flag],
    /// Flags of this command and of those below it.
    pub shared: &'static [Flag],
    pub children: &'static [Command],
    /// Commands without it only hold others, and show their help.
    pub run: Option<Run>,
}

impl Command {
    pub const fn new(name: &'static str, arguments: &'static str, about: &'static str) -> Self {
        Self {
            name,
            arguments,
            about,
            group: "",
            flags: &[],
            shared: &[],
            children: &[],
            run: None,
        }
    }

    pub const fn group(mut self, group: &'static str) -> Self {
        self.group = group;
        self
    }

    pub const fn flags(mut self, flags: &'static [Flag]) -> Self {
        self.flags = flags;
        self
    }

    pub const fn shared(mut self, shared: &'static [Flag]) -> Self {
        self.shared = shared;
        self
    }

    pub const fn children(mut self, children: &'static [Command]) -> Self {
        self.children = children;
        self
    }

    pub const fn run(mut self, run: Run) -> Self {
        self.run = Some(run);
        self
    }

    /// The child of that name, or the only one whose name begins so.
    pub fn find(&self, word: &str) -> Option<&Command> {
        let exact = self.children.iter().find(|child| child.name == word);
        exact.or_else(|| {
            let mut begun = self.children.iter().filter(|child| child.name.starts_with(word));
            begun.next().filter(|_| begun.next().is_none() && !word.is_empty())
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Text,
    Integer,
    Unsigned,
    Duration,
    /// Separated by commas; given again, more are added.
    List,
}

#[derive(Clone, Copy, Debug)]
pub struct Flag {
    pub name: &'static str,
    pub short: Option<char>,
    pub kind: Kind,
    pub default: &'static str,
    pub about: &'static str,
}

/// A flag with its default, which `Value` can read.
pub const fn flag(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    about: &'static str,
) -> Flag {
    Flag { name, short: None, kind, default, about }
}

impl Flag {
    pub const fn short(mut self, short: char) -> Self {
        self.short = Some(short);
        self
    }
}
