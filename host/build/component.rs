//! Builds a package of this workspace for WebAssembly and makes a component of it.
//!
//! The same sources and the same toolchain give the same bytes wherever the workspace lies, because all members of a
//! cluster must run the same ones: no path of the machine reaches the compiler's output, and nothing of the
//! surrounding build's environment leaks in.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, exit},
};

const TARGET: &str = "wasm32-unknown-unknown";

/// The stack that the guest gets in its linear memory, in bytes. The linker's default of 1 MiB makes every fresh
/// instance 17 pages larger; this makes it 3 pages.
const GUEST_STACK_BYTES: u32 = 131_072;

/// Variables of the surrounding build that would change the guest's.
const FOREIGN_VARIABLES: [&str; 14] = [
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_MAKEFLAGS",
    "CARGO_TARGET_DIR",
    "DEBUG",
    "MAKEFLAGS",
    "OPT_LEVEL",
    "OUT_DIR",
    "PROFILE",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTFLAGS",
    "RUSTDOCFLAGS",
    "TARGET",
];

/// Leaves the component of `package` in `OUT_DIR/machine.wasm`; `sources` are the paths, from the workspace's root,
/// that it depends on. Ends the build script, with a sentence for the developer, if it cannot.
#[allow(dead_code, reason = "each build script needs one of the three")]
pub fn build(package: &str, sources: &[&str]) {
    build_into(package, sources, "machine");
}

/// As `build`, into `OUT_DIR/<name>.wasm`.
#[allow(dead_code, reason = "each build script needs one of the three")]
pub fn build_into(package: &str, sources: &[&str], name: &str) {
    build_with(package, &[], sources, name);
}

/// As `build_into`, with features of the package.
pub fn build_with(package: &str, features: &[&str], sources: &[&str], name: &str) {
    let out = PathBuf::from(variable("OUT_DIR"));
    let root = workspace_root(Path::new(&variable("CARGO_MANIFEST_DIR")));
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", root.join("host/build").display());
    for source in ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml"].iter().chain(sources) {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }

    let rustc = variable("RUSTC");
    require_target(&rustc);
    let target_dir = out.join("guest");
    let mut cargo = Command::new(variable("CARGO"));
    cargo
        .current_dir(&root)
        .args(["build", "--locked", "--profile", "guest", "--target", TARGET, "--package", package])
        .args(features.iter().flat_map(|feature| ["--features", feature]))
        // A directory of its own: the surrounding build holds the lock of the usual one.
        .arg("--target-dir")
        .arg(&target_dir);
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        let foreign = ["CARGO_CFG_", "CARGO_FEATURE_", "CARGO_PROFILE_", "DEP_"];
        if FOREIGN_VARIABLES.contains(&&*name) || foreign.iter().any(|it| name.starts_with(it)) {
            cargo.env_remove(&*name);
        }
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", rust_flags(&rustc, &root, &target_dir));
    match cargo.status() {
        Ok(status) if status.success() => {}
        Ok(_) => fail(&format!("the component `{package}` did not build; see above")),
        Err(error) => fail(&format!("cannot run cargo for the state machine: {error}")),
    }

    let file = format!("{}.wasm", package.replace('-', "_"));
    let module = target_dir.join(TARGET).join("guest").join(file);
    if let Err(error) = componentize(&module, &out.join(format!("{name}.wasm"))) {
        fail(&format!("cannot make a component of {}: {error}", module.display()));
    }
}

fn componentize(module: &Path, component: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let module = fs::read(module)?;
    let bytes = wit_component::ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| format!("{error:#}"))?;
    fs::write(component, bytes)?;
    Ok(())
}

/// The compiler's flags, in cargo's encoding: separated by the byte 0x1f, so that paths may hold blanks.
fn rust_flags(rustc: &OsString, root: &Path, target_dir: &Path) -> OsString {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let sysroot = PathBuf::from(rustc_prints(rustc, &["--print", "sysroot"]));
    let version = rustc_prints(rustc, &["--verbose", "--version"]);
    let commit = version.lines().find_map(|line| line.strip_prefix("commit-hash: "));

    // The last matching prefix wins: from the most general to the most special.
    let mut prefixes = vec![(root.to_path_buf(), "/instar".to_owned())];
    prefixes.push((target_dir.to_path_buf(), "/target".to_owned()));
    prefixes.extend(home.map(|home| (home, "/cargo".to_owned())));
    prefixes.push((sysroot.clone(), "/rust".to_owned()));
    // Whether the standard library's sources are installed must make no difference.
    let library = format!("/rustc/{}", commit.unwrap_or("unknown"));
    prefixes.push((sysroot.join("lib/rustlib/src/rust"), library));

    let mut flags = OsString::from(format!("-Clink-arg=-zstack-size={GUEST_STACK_BYTES}"));
    for (from, to) in prefixes {
        flags.push("\x1f--remap-path-prefix=");
        flags.push(from);
        flags.push("=");
        flags.push(to);
    }
    flags
}

/// Ends the build with the command that helps if the compiler has no standard library for the guest's target.
fn require_target(rustc: &OsString) {
    let libraries = rustc_prints(rustc, &["--print", "target-libdir", "--target", TARGET]);
    if !Path::new(&libraries).is_dir() {
        fail(&format!(
            "the state machine is compiled to WebAssembly, and this Rust toolchain lacks that target: run `rustup target add {TARGET}`"
        ));
    }
}

fn rustc_prints(rustc: &OsString, arguments: &[&str]) -> String {
    match Command::new(rustc).args(arguments).output() {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        Ok(output) => {
            fail(&format!("rustc {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)))
        }
        Err(error) => fail(&format!("cannot run rustc: {error}")),
    }
}

/// The nearest folder above that holds the lock file.
fn workspace_root(package: &Path) -> PathBuf {
    match package.ancestors().find(|folder| folder.join("Cargo.lock").is_file()) {
        Some(root) => root.to_path_buf(),
        None => fail("no Cargo.lock above the package: run `cargo generate-lockfile`"),
    }
}

fn variable(name: &str) -> OsString {
    env::var_os(name).unwrap_or_else(|| fail(&format!("{name} is not set: cargo runs this")))
}

fn fail(sentence: &str) -> ! {
    println!("cargo::error={}", sentence.replace('\n', " "));
    exit(1)
}
