//! `version`.

use crate::command_line::Invocation;
use crate::failure::Failure;
use crate::output::write_out;

/// The version of etcd's programs that these are a drop-in for.
const EMULATED: &str = "3.7.1";
const API: &str = "3.7";

pub async fn run(invocation: Invocation) -> Result<(), Failure> {
    let name = invocation.root.name;
    let own = match name {
        "instarctl" => format!("instarctl version: {}\n", env!("CARGO_PKG_VERSION")),
        _ => String::new(),
    };
    let name = if own.is_empty() { name } else { "etcdctl" };
    write_out(format!("{own}{name} version: {EMULATED}\nAPI version: {API}\n").as_bytes())
}
