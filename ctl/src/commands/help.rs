//! `help`, and what every program's help ends with.

use crate::command_line::{self, Command, Invocation};
use crate::failure::Failure;
use crate::output::write_out;

pub async fn run(invocation: Invocation) -> Result<(), Failure> {
    let mut path: Vec<&'static Command> = vec![invocation.root];
    for word in &invocation.arguments {
        let found = path.last().and_then(|command| command.find(word));
        let Some(child) = found else {
            let words: Vec<String> =
                invocation.arguments.iter().map(|word| format!("`{word}`")).collect();
            eprintln!("Unknown help topic [{}]", words.join(" "));
            eprint!("{}", command_line::usage(&path[..1]));
            return Ok(());
        };
        path.push(child);
    }
    write_out(text(&path).as_bytes())
}

pub fn text(path: &[&'static Command]) -> String {
    let mut text = command_line::help(path);
    let root = path.first().map_or("", |root| root.name);
    if path.first().is_some_and(|root| root.find("options").is_some()) {
        text += &format!(
            "Use \"{root} options\" for a list of global command-line options (applies to all commands).\n"
        );
    }
    text
}
