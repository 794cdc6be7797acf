//! The programs and their commands: names, flags, help, and what runs them.

mod etcdctl;
mod etcdutl;
mod instarctl;

use crate::command_line::Command;

/// The program that a name stands for.
pub fn named(name: &str) -> &'static Command {
    match name {
        "etcdctl" => &etcdctl::ROOT,
        "etcdutl" => &etcdutl::ROOT,
        _ => &instarctl::ROOT,
    }
}

/// What a transaction may hold.
pub static OPERATIONS: [Command; 3] = [etcdctl::GET, etcdctl::PUT, etcdctl::DEL];

/// What can be said to an interactive `watch`.
pub static WATCHES: [Command; 1] = [etcdctl::WATCH];
