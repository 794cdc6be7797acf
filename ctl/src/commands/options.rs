//! `options`.

use crate::command_line::{Flag, Invocation, flag_table};
use crate::failure::Failure;
use crate::output::write_out;

pub async fn run(invocation: Invocation) -> Result<(), Failure> {
    let flags: Vec<&Flag> = invocation.root.shared.iter().collect();
    let table = flag_table(&flags, None);
    write_out(format!("The following options can be passed to any command:\n\n{table}").as_bytes())
}
