//! The project's commands. `cargo xtask` lists them.
//!
//! Everything that a fresh machine with Rust lacks is set up here; nothing else has to be installed by hand.

mod cluster;
mod container;
mod dist;
mod setup;

use std::process::{Command, ExitCode};

const USAGE: &str = "\
usage: cargo xtask COMMAND [ARGUMENTS]

  serve [FLAGS]     build what is missing and serve 127.0.0.1:2379 (FLAGS are those of `instar --help`)
  cluster           run three members on 127.0.0.1: 2379, 22379, 32379
  test              everything that CI checks: format, lints, unit tests, end-to-end tests
  bench [OPTIONS]   Instar beside etcd, a table of ratios (OPTIONS: `cargo xtask bench --help`)
  container         make the image, and play the tutorial in three containers (docker or podman)
  dist              an archive of the programs, with completions, man pages, manifests and a checksum
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next();
    let rest: Vec<String> = arguments.filter(|argument| argument != "--").collect();
    let result = match command.as_deref() {
        Some("serve") => serve(&rest),
        Some("cluster") => setup::build_server().and_then(|server| cluster::run(&server)),
        Some("test") => test(),
        Some("bench") => bench(&rest),
        Some("container") => container::run(),
        Some("dist") => dist::run(),
        Some("help" | "--help" | "-h") => {
            print!("{USAGE}");
            Ok(())
        }
        Some(other) => Err(format!("there is no command {other:?}\n\n{USAGE}")),
        None => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn serve(flags: &[String]) -> Result<(), String> {
    let server = setup::build_server()?;
    setup::run(Command::new(server).args(flags))
}

/// What CI runs, in the order in which a mistake is cheapest to find.
fn test() -> Result<(), String> {
    setup::wasm_target()?;
    setup::run(setup::cargo().args(["fmt", "--all", "--check"]))?;
    setup::run(setup::cargo().args([
        "clippy",
        "--release",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ]))?;
    setup::build_programs()?;
    setup::run(setup::cargo().args(["test", "--release", "--workspace"]))
}

fn bench(options: &[String]) -> Result<(), String> {
    let server = setup::build_server_for_users()?;
    setup::run(setup::cargo().args([
        "build",
        "--release",
        "--package",
        "tests",
        "--bin",
        "bench",
    ]))?;
    let mut bench = Command::new(setup::release_directory().join("bench"));
    setup::run(bench.arg("--instar").arg(server).args(options))
}
