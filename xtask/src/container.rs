//! The image, made of programs that are built here, and its test. A registry is not needed: the image has no base.
//!
//! What the image is, is said once, in the last stage of `Dockerfile`; only where its files come from is another place.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::{dist, setup};

const ENGINES: [&str; 2] = ["docker", "podman"];
const IMAGE: &str = "instar:test";
/// The largest that the image may be.
const IMAGE_BYTES_MOST: u64 = 60_000_000;
const BUSYBOX: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];
const SHELL_NAMES: [&str; 5] = ["sh", "cat", "echo", "ls", "sleep"];
const LAST_STAGE: &str = "FROM scratch\n";
/// How the last stage names what the first has made, and how it is named here.
const FILES: [(&str, &str); 2] = [("--from=build ", ""), (" /image/", " ")];

/// Makes the image and tests it.
pub fn run() -> Result<(), String> {
    let engine = engine()?;
    let programs = dist::build()?;
    if !programs.is_static {
        return Err("an image without a base needs static programs".to_owned());
    }
    let context = setup::workspace().join("target").join("dist").join("image");
    fs::remove_dir_all(&context).ok();
    dist::install(&programs, &context.join("programs/usr/local/bin"))?;
    install_shell(&context.join("programs/bin"))?;
    for directory in ["writable/tmp", "writable/var/lib/instar"] {
        dist::make(&context.join(directory))?;
    }
    dist::write(&context.join("Dockerfile"), &last_stage()?)?;
    build(engine, &context)?;
    let size = output(engine, &["image", "inspect", "--format", "{{.Size}}", IMAGE])?;
    println!("{IMAGE}: {size} bytes, made by {engine}");
    if size.parse::<u64>().is_ok_and(|bytes| bytes > IMAGE_BYTES_MOST) {
        return Err(format!("the image is larger than {IMAGE_BYTES_MOST} bytes"));
    }
    let mut test = setup::cargo();
    test.args(["test", "--release", "--package", "tests", "--test", "e2e", "--", "containers"]);
    setup::run(test.env("INSTAR_IMAGE", IMAGE).env("INSTAR_ENGINE", engine))
}

/// A shell for who looks in, and what the tutorial runs with it, all of them one static program.
fn install_shell(to: &Path) -> Result<(), String> {
    let found = BUSYBOX.iter().map(Path::new).find(|path| path.is_file());
    let found = found.ok_or("there is no busybox: it is in Debian's package busybox-static")?;
    dist::check_static(found)?;
    dist::make(to)?;
    let said = |error: std::io::Error| format!("{}: {error}", to.display());
    fs::copy(found, to.join("busybox")).map_err(said)?;
    SHELL_NAMES.iter().try_for_each(|name| symlink("busybox", to.join(name)).map_err(said))
}

/// The first engine that answers.
fn engine() -> Result<&'static str, String> {
    let answers = |engine: &&&str| output(engine, &["info"]).is_ok();
    let found = ENGINES.iter().find(answers);
    found.copied().ok_or_else(|| format!("none of {} runs containers here", ENGINES.join(", ")))
}

/// The image's own stage, with files from beside it.
fn last_stage() -> Result<String, String> {
    let path = setup::workspace().join("Dockerfile");
    let text = fs::read_to_string(&path).map_err(|error| format!("Dockerfile: {error}"))?;
    let (_, stage) = text.split_once(LAST_STAGE).ok_or("Dockerfile has no last stage")?;
    let stage =
        FILES.iter().fold(stage.to_owned(), |stage, (there, here)| stage.replace(there, here));
    Ok(format!("{LAST_STAGE}{stage}"))
}

fn build(engine: &str, context: &Path) -> Result<(), String> {
    let mut build = Command::new(engine);
    if engine == "podman" {
        // A health check is none of the other format's.
        build.args(["--runtime", "runc", "build", "--format=docker"]);
    } else {
        build.arg("build");
    }
    setup::run(build.args(["--tag", IMAGE]).arg(context))
}

fn output(program: &str, words: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(words).output();
    let output = output.map_err(|error| format!("cannot start {program}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
