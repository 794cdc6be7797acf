//! The real etcd programs: built from the module in `tests/etcd`, which pins their version.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The programs' packages, and what their binaries are called here.
const PACKAGES: [(&str, &str); 4] = [
    ("go.etcd.io/etcd/server/v3", "etcd"),
    ("go.etcd.io/etcd/etcdctl/v3", "etcdctl"),
    ("go.etcd.io/etcd/etcdutl/v3", "etcdutl"),
    ("go.etcd.io/etcd/v3/tools/benchmark", "benchmark"),
];

/// Where the built programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    pub server: PathBuf,
    pub etcdctl: PathBuf,
    pub etcdutl: PathBuf,
    pub benchmark: PathBuf,
}

/// Why there are no programs.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// Go is not installed.
    #[error("go cannot be run ({0}); install Go 1.26 or later")]
    NoGo(std::io::Error),
    /// The build failed; Go's own message.
    #[error("go build of {package} failed: {message}")]
    Build { package: &'static str, message: String },
}

/// Builds the programs into the target directory (a fraction of a second when they are there already).
pub fn programs() -> Result<Programs, EtcdError> {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("etcd");
    let target = target_dir().join("etcd-3.7.1");
    for (package, name) in PACKAGES {
        let mut build = Command::new("go");
        build.current_dir(&module).arg("build").arg("-o").arg(target.join(name)).arg(package);
        let output = build.output().map_err(EtcdError::NoGo)?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(EtcdError::Build { package, message });
        }
    }
    let [server, etcdctl, etcdutl, benchmark] = PACKAGES.map(|(_, name)| target.join(name));
    Ok(Programs { server, etcdctl, etcdutl, benchmark })
}

/// Cargo's target directory: the running program's, which stands in `<target>/<profile>`.
fn target_dir() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let above = program.ancestors().find(|path| path.join("CACHEDIR.TAG").exists());
    let fallback = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    above.map_or_else(fallback, Path::to_path_buf)
}
