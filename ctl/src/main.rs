//! `instarctl`: a drop-in for etcdctl and etcdutl.
//!
//! Called by one of their names (a link) it is that program; by its own it has the commands of both.
//!
//! `command_line` finds the command, `programs` says which there are, `commands` does what they do over
//! `client` and with the files of `bolt` (`backup`: those to be restored), `output` prints their answers. `settings` reads the global
//! flags, `failure` how a command may end, `go` how Go writes what etcd's programs print.

mod backup;
mod client;
mod command_line;
mod commands;
mod failure;
mod go;
mod logging;
mod output;
mod programs;
mod settings;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;

use command_line::{Command, Parsed};
use failure::Failure;

fn main() {
    let mut words = std::env::args_os();
    let program = words.next().unwrap_or_default();
    let root =
        programs::named(&Path::new(&program).file_stem().unwrap_or_default().to_string_lossy());
    let code = match run(root, words) {
        Ok(()) => 0,
        Err(failure) => {
            if !failure.message.is_empty() {
                eprintln!("Error: {failure}");
            }
            if !failure.hint.is_empty() {
                eprintln!("Hint: {}", failure.hint);
            }
            failure.code
        }
    };
    std::process::exit(code);
}

fn run(root: &'static Command, words: impl Iterator<Item = OsString>) -> Result<(), Failure> {
    let words = words.map(OsString::into_string).collect::<Result<Vec<String>, _>>();
    let words = words.map_err(|_| {
        Failure::arguments("a word of the command line is not UTF-8")
            .with_hint("values of any bytes can be given through standard input")
    })?;
    match command_line::parse(root, &words) {
        Ok(Parsed::Help(path)) => output::write_out(commands::help::text(&path).as_bytes()),
        Ok(Parsed::Run(invocation)) => {
            let Some(run) = invocation.command.run else { return Ok(()) };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let ended = runtime.block_on(run(invocation));
            // A thread that waits for standard input does not keep a command that has ended.
            runtime.shutdown_background();
            ended
        }
        Err(refused) => {
            let after = match refused.usage {
                Some(path) => command_line::usage(&path),
                None => format!("Run '{} --help' for usage.", root.name),
            };
            let text = format!("Error: {}\n{after}\n", refused.message);
            _ = std::io::stderr().write_all(text.as_bytes());
            Err(Failure::silent(failure::ERROR))
        }
    }
}
