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

/// Where builds end up.
pub fn target_directory() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// Where release builds end up.
pub fn release_directory() -> PathBuf {
    target_directory().join("release")
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

/// Builds the server as users are given it, and says where it is.
pub fn build_server_for_users() -> Result<PathBuf, String> {
    wasm_target()?;
    run(cargo().args(["build", "--profile", "shipped", "--package", "host"]))?;
    Ok(target_directory().join("shipped").join("instar"))
}

/// Builds what the end-to-end tests start, as they do.
pub fn build_programs() -> Result<(), String> {
    wasm_target()?;
    run(cargo().args(["build", "--release", "--package", "host", "--package", "ctl", "--bins"]))
}

/// Adds the Wasm target if this toolchain lacks it: the state machine is compiled to it.
pub fn wasm_target() -> Result<(), String> {
    add_target(WASM_TARGET, "the state machine is compiled to it")
}

/// The target whose programs need no library of the system; or why there is none here.
pub fn static_target() -> Result<String, String> {
    if std::env::consts::OS != "linux" {
        return Err(format!("programs of {} use its libraries", std::env::consts::OS));
    }
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    add_target(&target, "static programs are made with it")?;
    let compiler = Command::new("musl-gcc").arg("--version").output();
    match compiler.is_ok_and(|output| output.status.success()) {
        true => Ok(target),
        false => Err("there is no musl-gcc: it is in Debian's package musl-tools".to_owned()),
    }
}

fn add_target(target: &str, why: &str) -> Result<(), String> {
    let output = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", target])
        .current_dir(workspace())
        .output()
        .map_err(|error| format!("cannot start rustc: {error}"))?;
    let directory = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if output.status.success() && directory.is_dir() {
        return Ok(());
    }
    eprintln!("adding the target {target}: {why}");
    run(Command::new("rustup").args(["target", "add", target]).current_dir(workspace())).map_err(
        |error| format!("{error}\nthe target {target} is missing and could not be added; without rustup, install it with your Rust"),
    )
}
