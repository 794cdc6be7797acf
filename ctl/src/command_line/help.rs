//! Help texts, in the shape that etcd's programs have.

use super::{Command, Flag, Kind};

/// How wide the column of names is at least.
const NAME_WIDTH_LEAST: usize = 11;

/// What `--help` prints.
pub fn help(path: &[&'static Command]) -> String {
    let Some(command) = path.last() else { return String::new() };
    format!("{}\n\n{}", command.about, usage(path))
}

/// How a command is used: what also follows a mistake.
pub fn usage(path: &[&'static Command]) -> String {
    let Some(command) = path.last() else { return String::new() };
    let names: Vec<&str> = path.iter().map(|command| command.name).collect();
    let whole = names.join(" ");
    let mut text = String::from("Usage:");
    if command.run.is_some() {
        let arguments = match command.arguments {
            "" => String::new(),
            arguments => format!(" {arguments}"),
        };
        text += &format!("\n  {whole}{arguments} [flags]");
    }
    if !command.children.is_empty() {
        text += &format!("\n  {whole} [command]");
        text += &children(command);
    }
    let own: Vec<&Flag> = command.flags.iter().collect();
    // A program's own flags are listed by `options`, or here where there is no such command.
    let lists_options = path[0].children.iter().any(|child| child.name == "options");
    let shared = path.iter().skip(usize::from(lists_options)).flat_map(|command| command.shared);
    let own: Vec<&Flag> = own.into_iter().chain(shared).collect();
    if path.len() > 1 || !own.is_empty() {
        let table = flag_table(&own, Some(command.name));
        text += &format!("\n\nFlags:\n{}", table.trim_end());
    }
    if !command.children.is_empty() {
        text +=
            &format!("\n\nUse \"{whole} [command] --help\" for more information about a command.");
    }
    text + "\n"
}

fn children(command: &Command) -> String {
    let width = command.children.iter().map(|child| child.name.len()).max().unwrap_or(0);
    let width = width.max(NAME_WIDTH_LEAST);
    let mut groups: Vec<&str> = Vec::new();
    for child in command.children {
        if !groups.contains(&child.group) {
            groups.push(child.group);
        }
    }
    let mut text = String::new();
    for group in groups {
        let title = if group.is_empty() { "Available Commands:" } else { group };
        text += &format!("\n\n{title}");
        let mut members: Vec<&Command> =
            command.children.iter().filter(|child| child.group == group).collect();
        members.sort_by_key(|child| child.name);
        for child in members {
            text += &format!("\n  {:width$} {}", child.name, child.about);
        }
    }
    text
}

/// A line for each flag, in the order of their names. With a command's name, its `--help` too.
pub fn flag_table(flags: &[&Flag], command: Option<&str>) -> String {
    let mut rows: Vec<(&str, String, String)> =
        flags.iter().map(|flag| (flag.name, head(flag), described(flag))).collect();
    if let Some(command) = command {
        rows.push(("help", "  -h, --help".into(), format!("help for {command}")));
    }
    rows.sort_by_key(|(name, ..)| *name);
    let width = rows.iter().map(|(_, head, _)| head.len()).max().unwrap_or(0);
    rows.iter().map(|(_, head, about)| format!("{head:width$}   {about}\n")).collect()
}

fn head(flag: &Flag) -> String {
    let short = flag.short.map_or("      ".to_owned(), |short| format!("  -{short}, "));
    let kind = match flag.kind {
        Kind::Bool => "",
        Kind::Text => " string",
        Kind::Integer => " int",
        Kind::Unsigned => " uint",
        Kind::Duration => " duration",
        Kind::List => " strings",
    };
    format!("{short}--{}{kind}", flag.name)
}

fn described(flag: &Flag) -> String {
    match (flag.kind, flag.default) {
        (_, "" | "false" | "0") => flag.about.to_owned(),
        (Kind::Text, default) => format!("{} (default \"{default}\")", flag.about),
        (Kind::List, default) => format!("{} (default [{default}])", flag.about),
        (_, default) => format!("{} (default {default})", flag.about),
    }
}
