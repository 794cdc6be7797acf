//! Completions for shells, generated from the tree of commands.

use clap_complete::Shell;

use super::{Command, Flag, Kind};

/// The script for a shell, by its name; `None` for a shell that is not known.
pub fn completions(root: &'static Command, shell: &str) -> Option<Vec<u8>> {
    let shell = match shell {
        "bash" => Shell::Bash,
        "zsh" => Shell::Zsh,
        "fish" => Shell::Fish,
        "powershell" => Shell::PowerShell,
        _ => return None,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut described(root), root.name, &mut script);
    Some(script)
}

/// The same tree as clap knows it.
fn described(command: &'static Command) -> clap::Command {
    let mut known = clap::Command::new(command.name).about(command.about);
    for flag in command.flags {
        known = known.arg(argument(flag));
    }
    for flag in command.shared {
        known = known.arg(argument(flag).global(true));
    }
    known.subcommands(command.children.iter().map(described))
}

fn argument(flag: &'static Flag) -> clap::Arg {
    let argument = clap::Arg::new(flag.name).long(flag.name).help(flag.about);
    let argument = match flag.short {
        Some(short) => argument.short(short),
        None => argument,
    };
    match (flag.kind, flag.name) {
        (Kind::Bool, _) => argument.action(clap::ArgAction::SetTrue),
        (_, "write-out") => {
            argument.value_parser(["fields", "json", "protobuf", "simple", "table"])
        }
        (_, "order") => argument.value_parser(["ASCEND", "DESCEND"]),
        (_, "sort-by") => argument.value_parser(["CREATE", "KEY", "MODIFY", "VALUE", "VERSION"]),
        (_, "consistency") => argument.value_parser(["l", "s"]),
        _ => argument,
    }
}
