//! Sets up what is missing, and runs programs.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const WASM_TARGET: &str = "wasm32-unknown-unknown";

/// The cargo that runs this.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    root
}

/// Where release builds end up.
pub fn release_directory() -> PathBuf {
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    target.join("release")
}

/// Runs a program to its end; fails if it does.
pub fn run(command: &mut Command) -> Result<(), String> {
    let status = command
        .status()
        .map_err(|error| format!("cannot start {}: {error}", command.get_program().display()))?;
    if status.success() {
        return Ok(());
    }
    Err(format!("{} ended with {status}", command.get_program().display()))
}

/// Builds the server, and whatever it needs, and says where it is.
pub fn build_server() -> Result<PathBuf, String> {
    wasm_target()?;
    run(cargo().args(["build", "--release", "--package", "host"]))?;
    Ok(release_directory().join("instar"))
}

/// Builds what the end-to-end tests start, as they do.
pub fn build_programs() -> Result<(), String> {
    wasm_target()?;
    run(cargo().args(["build", "--release", "--package", "host", "--package", "ctl", "--bins"]))
}

/// Adds the Wasm target if this toolchain lacks it: the state machine is compiled to it.
pub fn wasm_target() -> Result<(), String> {
    let output = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", WASM_TARGET])
        .current_dir(workspace())
        .output()
        .map_err(|error| format!("cannot start rustc: {error}"))?;
    let directory = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if output.status.success() && directory.is_dir() {
        return Ok(());
    }
    eprintln!("adding the target {WASM_TARGET}, which the state machine is compiled to");
    run(Command::new("rustup").args(["target", "add", WASM_TARGET]).current_dir(workspace())).map_err(
        |error| format!("{error}\nthe target {WASM_TARGET} is missing and could not be added; without rustup, install it with your Rust"),
    )
}
