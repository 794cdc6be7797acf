//! A release archive: the programs with their links, completions, man pages, manifests, and a checksum.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::setup;

/// Names that scripts know the programs by.
const LINKS: [(&str, &str); 3] =
    [("instar", "etcd"), ("instarctl", "etcdctl"), ("instarctl", "etcdutl")];
const SHELLS: [&str; 4] = ["bash", "zsh", "fish", "powershell"];
/// What is copied as it is.
const DOCUMENTS: [&str; 5] = ["LICENSE", "README.md", "docs", "compose", "Dockerfile"];

/// Builds everything, and leaves the archive in `target/dist`.
pub fn run() -> Result<(), String> {
    setup::wasm_target()?;
    let mut build = setup::cargo();
    setup::run(build.args([
        "build",
        "--release",
        "--locked",
        "--package",
        "host",
        "--package",
        "ctl",
    ]))?;
    let version = env!("CARGO_PKG_VERSION");
    let (system, machine) = (std::env::consts::OS, std::env::consts::ARCH);
    let name = format!("instar-{version}-{system}-{machine}");
    let dist = setup::workspace().join("target").join("dist");
    let root = dist.join(&name);
    fs::remove_dir_all(&root).ok();
    for part in ["bin", "completions", "man"] {
        make(&root.join(part))?;
    }
    for program in ["instar", "instarctl"] {
        let to = root.join("bin").join(program);
        copy(&setup::release_directory().join(program), &to)?;
        setup::run(Command::new("strip").arg(&to))?;
    }
    for (program, link) in LINKS {
        let link = root.join("bin").join(link);
        symlink(program, &link).map_err(|error| said(&link, &error))?;
    }
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

fn make(path: &Path) -> Result<(), String> {
    fs::create_dir_all(path).map_err(|error| said(path, &error))
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    fs::copy(from, to).map(drop).map_err(|error| said(from, &error))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| said(path, &error))
}

fn said(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}
