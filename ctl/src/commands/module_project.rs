//! `module new`, `build` and `test`: a module's way from nothing to a component, in a directory of its own. One with a
//! `Cargo.toml` is Rust's; one with files of C is built as [`module_c`] says.

use std::path::Path;
use std::process::Command;

use super::module_c;
use crate::command_line::Invocation;
use crate::failure::Failure;
use crate::output::line;

const MANIFEST: &str = include_str!("../../templates/manifest.toml");
const TEMPLATES: [(&str, &str); 3] = [
    ("call", include_str!("../../templates/call.rs")),
    ("admit", include_str!("../../templates/admit.rs")),
    ("react", include_str!("../../templates/react.rs")),
];

const MANIFEST_FILE: &str = "Cargo.toml";
/// Where what is built goes.
pub(super) const BUILD: &str = "target/module";
const TARGET: &str = "wasm32-unknown-unknown";
/// The stack in the module's memory, in bytes; the linker's default makes every instance a MiB larger.
const STACK: &str = "-Clink-arg=-zstack-size=131072";

pub fn new(invocation: &Invocation) -> Result<(), Failure> {
    let [name] = invocation.arguments.as_slice() else {
        return Err(Failure::arguments("module new command needs 1 argument, the module's name"));
    };
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(is_name) {
        let message = format!("{name:?} is no name of a module: letters, digits and hyphens");
        return Err(Failure::arguments(message));
    }
    let asked = invocation.text("template");
    let template = TEMPLATES.iter().find(|(known, _)| *known == asked);
    let (_, source) =
        template.ok_or_else(|| Failure::arguments("templates are call, admit and react"))?;
    let sdk = invocation.text("sdk");
    let sdk = std::path::absolute(&sdk)
        .ok()
        .filter(|sdk| sdk.join("Cargo.toml").is_file())
        .ok_or_else(|| {
            Failure::arguments(format!("{sdk:?} is no directory of Instar's SDK"))
                .with_hint("give the directory `sdk` of Instar's sources with --sdk")
        })?;
    let directory = Path::new(name);
    if directory.exists() {
        return Err(Failure::error(format!("{name} is there already")));
    }
    // A path with quotes in it is written as TOML wants it, which is as Rust does.
    let sdk = format!("{:?}", sdk.to_string_lossy());
    let manifest = MANIFEST.replace("{name}", name).replace("{sdk}", &sdk);
    let source = source.replace("{name}", name);
    let written = std::fs::create_dir_all(directory.join("src"))
        .and_then(|()| std::fs::write(directory.join("Cargo.toml"), manifest))
        .and_then(|()| std::fs::write(directory.join("src/lib.rs"), source))
        .and_then(|()| std::fs::write(directory.join(".gitignore"), "target\n*.wasm\n"));
    written.map_err(|error| Failure::error(format!("cannot write {name}: {error}")))?;
    line(format!("Next: cd {name} && instarctl module test && instarctl module build"))
}

/// Runs the tests in the directory that it is called in.
pub fn test(invocation: &Invocation) -> Result<(), Failure> {
    if !invocation.arguments.is_empty() {
        return Err(Failure::arguments("module test command accepts no arguments"));
    }
    match Path::new(MANIFEST_FILE).is_file() {
        true => cargo(Command::new("cargo").arg("test")),
        false => module_c::test(&module_c::Sources::here()?),
    }
}

/// Builds the module of the directory that it is called in, as `<name>.wasm`.
pub fn build(invocation: &Invocation) -> Result<(), Failure> {
    if !invocation.arguments.is_empty() {
        return Err(Failure::arguments("module build command accepts no arguments"));
    }
    let name = package_name()?;
    let built = match Path::new(MANIFEST_FILE).is_file() {
        true => build_rust(&name)?,
        false => module_c::build(&module_c::Sources::here()?)?,
    };
    let failed = |error: String| Failure::error(format!("no component came of {built}: {error}"));
    let core = std::fs::read(&built).map_err(|error| failed(error.to_string()))?;
    let component = wit_component::ComponentEncoder::default()
        .validate(true)
        .module(&core)
        .and_then(|encoder| encoder.encode())
        .map_err(|error| failed(format!("{error:#}")))?;
    let file = format!("{name}.wasm");
    std::fs::write(&file, component).map_err(|error| failed(error.to_string()))?;
    line(format!("Next: instarctl module bench, or instarctl module put {file}"))
}

/// Builds the core module, and says where it is.
fn build_rust(name: &str) -> Result<String, Failure> {
    let arguments = ["build", "--release", "--lib", "--target", TARGET, "--target-dir", BUILD];
    cargo(Command::new("cargo").args(arguments).env("RUSTFLAGS", STACK))?;
    Ok(format!("{BUILD}/{TARGET}/release/{}.wasm", name.replace('-', "_")))
}

/// The name of the package of the directory that this is called in; of what is not in Rust, the directory's own.
pub(super) fn package_name() -> Result<String, Failure> {
    if !Path::new(MANIFEST_FILE).is_file() {
        let here = std::env::current_dir()?;
        let name = here.file_name().map(|name| name.to_string_lossy().into_owned());
        return name.ok_or_else(|| Failure::error("this directory has no name"));
    }
    let manifest = std::fs::read_to_string(MANIFEST_FILE)
        .map_err(|error| Failure::error(format!("cannot read Cargo.toml: {error}")))?;
    manifest
        .lines()
        .find_map(|line| Some(line.strip_prefix("name = \"")?.strip_suffix('"')?.to_owned()))
        .ok_or_else(|| Failure::error("Cargo.toml names no package"))
}

fn cargo(command: &mut Command) -> Result<(), Failure> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(Failure::error("cargo failed; see above")),
        Err(error) => Err(Failure::error(format!("cannot run cargo: {error}"))
            .with_hint("modules in Rust need Rust, with the target wasm32-unknown-unknown")),
    }
}
