//! `completion`.

use crate::command_line::{Invocation, completions};
use crate::failure::Failure;
use crate::go;
use crate::output::write_out;

pub async fn run(invocation: Invocation) -> Result<(), Failure> {
    let [shell] = invocation.arguments.as_slice() else {
        let given = invocation.arguments.len();
        return Err(Failure::error(format!("accepts 1 arg(s), received {given}"))
            .with_hint("name a shell: bash, zsh, fish or powershell"));
    };
    let script = completions(invocation.root, shell).ok_or_else(|| {
        let path = invocation.path.join(" ");
        let quoted = go::quote(shell.as_bytes());
        Failure::error(format!("invalid argument {quoted} for \"{path}\""))
            .with_hint("name a shell: bash, zsh, fish or powershell")
    })?;
    write_out(&script)
}
