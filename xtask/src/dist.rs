//! A release archive: the programs with their links, completions, man pages, manifests, and a checksum.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::setup;

const PROGRAMS: [&str; 2] = ["instar", "instarctl"];
/// Names that scripts know the programs by.
const LINKS: [(&str, &str); 3] =
    [("instar", "etcd"), ("instarctl", "etcdctl"), ("instarctl", "etcdutl")];
const SHELLS: [&str; 4] = ["bash", "zsh", "fish", "powershell"];
/// What is copied as it is.
const DOCUMENTS: [&str; 5] = ["LICENSE", "README.md", "docs", "compose", "Dockerfile"];

/// The programs, built for others to run.
pub struct Programs {
    pub directory: PathBuf,
    /// Whether they need no library of the system.
    pub is_static: bool,
}

/// Builds the programs, without a need for libraries if that can be had here; says so if not.
pub fn build() -> Result<Programs, String> {
    setup::wasm_target()?;
    let mut build = setup::cargo();
    build.args([
        "build",
        "--profile",
        "shipped",
        "--locked",
        "--package",
        "host",
        "--package",
        "ctl",
    ]);
    let found = setup::static_target();
    let directory = match &found {
        Ok(target) => {
            build.args(["--target", target]);
            setup::target_directory().join(target).join("shipped")
        }
        Err(why) => {
            eprintln!("the programs will be dynamic, for systems with this one's C library: {why}");
            setup::target_directory().join("shipped")
        }
    };
    setup::run(&mut build)?;
    let is_static = found.is_ok();
    for program in PROGRAMS.iter().filter(|_| is_static) {
        check_static(&directory.join(program))?;
    }
    Ok(Programs { directory, is_static })
}

/// A static program names no loader.
pub fn check_static(program: &Path) -> Result<(), String> {
    let headers = Command::new("readelf").arg("--program-headers").arg(program).output();
    let headers = headers.map_err(|error| format!("cannot start readelf: {error}"))?;
    match String::from_utf8_lossy(&headers.stdout).contains("INTERP") {
        true => Err(format!("{} is not static", program.display())),
        false => Ok(()),
    }
}

/// Copies the programs without what only debuggers need, and links them under etcd's names.
pub fn install(programs: &Programs, to: &Path) -> Result<(), String> {
    make(to)?;
    for program in PROGRAMS {
        let stripped = to.join(program);
        copy(&programs.directory.join(program), &stripped)?;
        setup::run(Command::new("strip").arg(&stripped))?;
    }
    for (program, link) in LINKS {
        let link = to.join(link);
        symlink(program, &link).map_err(|error| said(&link, &error))?;
    }
    Ok(())
}

/// Builds everything, and leaves the archive in `target/dist`.
pub fn run() -> Result<(), String> {
    let programs = build()?;
    let version = env!("CARGO_PKG_VERSION");
    let (system, machine) = (std::env::consts::OS, std::env::consts::ARCH);
    let kind = if programs.is_static { "static" } else { "dynamic" };
    let name = format!("instar-{version}-{system}-{machine}-{kind}");
    let dist = setup::workspace().join("target").join("dist");
    let root = dist.join(&name);
    fs::remove_dir_all(&root).ok();
    for part in ["completions", "man"] {
        make(&root.join(part))?;
    }
    install(&programs, &root.join("bin"))?;
    for shell in SHELLS {
        for program in ["instarctl", "etcdctl", "etcdutl"] {
            let script = output(&root.join("bin").join(program), &["completion", shell])?;
            write(&root.join("completions").join(format!("{program}.{shell}")), &script)?;
        }
    }
    for (program, section) in [("instar", 8), ("instarctl", 1)] {
        let help = output(&root.join("bin").join(program), &["--help"])?;
        let page = man_page(program, section, version, &help);
        write(&root.join("man").join(format!("{program}.{section}")), &page)?;
    }
    for document in DOCUMENTS {
        let from = setup::workspace().join(document);
        setup::run(Command::new("cp").arg("-r").arg(from).arg(&root))?;
    }
    pack(&dist, &name)
}

fn pack(dist: &Path, name: &str) -> Result<(), String> {
    let archive = format!("{name}.tar.gz");
    // The same content gives the same archive.
    let same = ["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0"];
    let mut tar = Command::new("tar");
    tar.current_dir(dist).args(same).args(["-czf", &archive, name]);
    setup::run(&mut tar)?;
    let sum = Command::new("sha256sum")
        .current_dir(dist)
        .arg(&archive)
        .output()
        .map_err(|error| format!("cannot start sha256sum: {error}"))?;
    if !sum.status.success() {
        return Err("sha256sum failed".to_owned());
    }
    let sums = dist.join(format!("{archive}.sha256"));
    write(&sums, &String::from_utf8_lossy(&sum.stdout))?;
    println!("{}", dist.join(&archive).display());
    println!("{}", sums.display());
    Ok(())
}

/// A help text as a page of the manual.
fn man_page(program: &str, section: u8, version: &str, help: &str) -> String {
    let title = program.to_uppercase();
    let mut page =
        format!(".TH {title} {section} \"\" \"Instar {version}\"\n.SH NAME\n{program}\n");
    page.push_str(".SH DESCRIPTION\n.nf\n");
    for line in help.lines() {
        // What begins with a dot or a quote would be a request.
        let guard = if line.starts_with(['.', '\'']) { "\\&" } else { "" };
        page.push_str(&format!("{guard}{}\n", line.replace('\\', "\\e").replace('-', "\\-")));
    }
    page.push_str(".fi\n");
    page
}

fn output(program: &PathBuf, words: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(words).output();
    let output = output.map_err(|error| said(program, &error))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{} {words:?} ended with {}", program.display(), output.status)),
    }
}

pub fn make(path: &Path) -> Result<(), String> {
    fs::create_dir_all(path).map_err(|error| said(path, &error))
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    fs::copy(from, to).map(drop).map_err(|error| said(from, &error))
}

pub fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| said(path, &error))
}

fn said(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}
