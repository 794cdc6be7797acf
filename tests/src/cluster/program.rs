//! The two programs that a member may be, and where their binaries are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail};

use crate::etcd::{self, Programs};

/// A server that speaks etcd's API and takes etcd's flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Program {
    Instar,
    Etcd,
}

impl Program {
    /// The program that the environment variable `INSTAR_TEST_SUBJECT` names; Instar without it.
    pub fn under_test() -> Result<Self> {
        match std::env::var("INSTAR_TEST_SUBJECT").as_deref() {
            Err(_) | Ok("instar") => Ok(Self::Instar),
            Ok("etcd") => Ok(Self::Etcd),
            Ok(other) => bail!("INSTAR_TEST_SUBJECT is {other:?}; it may be instar or etcd"),
        }
    }

    /// The program's binary, built if need be.
    pub fn binary(self) -> Result<PathBuf> {
        match self {
            Self::Instar => built_instar(),
            Self::Etcd => Ok(etcd_programs().map_err(anyhow::Error::msg)?.server.clone()),
        }
    }
}

/// etcd's programs, built once a run; otherwise why there are none.
pub fn etcd_programs() -> Result<&'static Programs, String> {
    static BUILT: OnceLock<Result<Programs, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| etcd::programs().map_err(|error| error.to_string()));
    built.as_ref().map_err(String::clone)
}

/// `INSTAR_BINARY`, or the binary in this test's own target directory, which cargo brings up to date.
fn built_instar() -> Result<PathBuf> {
    match std::env::var_os("INSTAR_BINARY") {
        Some(binary) => Ok(binary.into()),
        None => built("instar"),
    }
}

/// `instarctl` in the same target directory.
pub fn instarctl() -> Result<PathBuf> {
    built("instarctl")
}

fn built(binary: &str) -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let directory = BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    directory.as_ref().map(|directory| directory.join(binary)).map_err(|error| anyhow!("{error}"))
}

/// Builds our programs, once a run and both at once: one by one, cargo would choose other features of what they share,
/// and build it twice.
fn build() -> Result<PathBuf> {
    let this = std::env::current_exe().context("find this program")?;
    let profile =
        this.parent().and_then(Path::parent).context("this program's profile directory")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    build.args(["build", "--quiet", "--package", "host", "--package", "ctl", "--bins"]);
    build.arg("--target-dir").arg(profile.parent().context("the target directory")?);
    if profile.ends_with("release") {
        build.arg("--release");
    }
    if !build.status().context("run cargo")?.success() {
        bail!("cargo build of instar and instarctl failed");
    }
    Ok(profile.to_owned())
}

/// Heartbeats and elections quick enough that a killed leader costs a test half a second, slow enough
/// that a busy machine is not taken for a dead leader.
pub fn timing_flags() -> [String; 2] {
    ["--heartbeat-interval=50".into(), "--election-timeout=500".into()]
}
