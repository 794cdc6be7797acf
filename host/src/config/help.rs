//! Texts for the operator: the help, the version, and docs/flags.md, all from the table of flags.

use std::fmt::Write;

use super::flags::{self, Flag, Section};
use super::value::Kind;
use super::{ETCD_VERSION, PRODUCT_VERSION};

const USAGE: &str = "Usage:

  instar [flags]
    Start a server.

  instar --version
    Show the version.

  instar -h | --help
    Show this help.

  instar --config-file
    Path to a configuration file. With it, all other flags and variables are ignored.

Every flag but --version and --help can also be set by an environment variable: ETCD_, and the flag's name in capitals
with underscores for dashes. Setting one both ways is refused.
";

/// What `--help` prints.
pub(super) fn help() -> String {
    let mut text = USAGE.to_owned();
    for section in Section::ALL {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n{}:\n", section.title());
        for flag in flags_of(section) {
            let _ = match flag.kind {
                Kind::Boolean => writeln!(text, "  --{}", flag.name),
                _ => writeln!(text, "  --{} '{}'", flag.name, flag.documented_default()),
            };
            let _ = writeln!(text, "    {}", flag.documentation());
        }
    }
    text
}

fn flags_of(section: Section) -> impl Iterator<Item = &'static Flag> {
    flags::all().filter(move |flag| flag.section == section)
}

/// What `--version` prints: etcd's four lines, then ours. Tools read the first one.
pub(super) fn version() -> String {
    let system = match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    };
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!(
        "etcd Version: {ETCD_VERSION}\n\
         Git SHA: {}\n\
         Go Version: none, this is Rust\n\
         Go OS/Arch: {system}/{architecture}\n\
         Instar Version: {PRODUCT_VERSION}\n",
        option_env!("INSTAR_GIT_SHA").unwrap_or("Not provided"),
    )
}

/// The content of docs/flags.md.
#[cfg(test)]
pub(super) fn document() -> String {
    let mut text = String::from(
        "# Flags\n\n\
         Made from the table in `host/src/config/flags.rs`; a test compares this page with it.\n\n\
         Names, defaults and syntax are etcd's: `--flag value`, `--flag=value`, with one dash or two; the last of \
         repeated flags wins.\nThe variable in the second column does the same as the flag. Setting both is refused, \
         and an unknown `ETCD_` variable is\nonly warned of. In a file for `--config-file` the names are keys; durations are \
         integers there, in nanoseconds, and unknown keys\nare only warned of, which etcd does not even do.\n",
    );
    for section in Section::ALL {
        let _ = write!(
            text,
            "\n## {}\n\n| Flag | Variable | Default | Meaning |\n|---|---|---|---|\n",
            section.title()
        );
        for flag in flags_of(section) {
            let variable = match section {
                Section::Program if flag.name != "config-file" => String::new(),
                _ => format!("`{}`", flag.environment_variable()),
            };
            let _ = writeln!(
                text,
                "| `--{}` | {variable} | `{}` | {} |",
                flag.name,
                flag.documented_default(),
                flag.documentation()
            );
        }
    }
    text
}
