//! Where figures were measured: they mean nothing without it.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::cluster::{Program, Subject};
use super::error::BenchError;

/// File systems that keep everything in memory, where an fsync costs nothing.
const NO_DISK: [&str; 2] = ["tmpfs", "ramfs"];

/// One line about processor, kernel, file system of the data directory, and the programs' versions.
///
/// Refuses a data directory that is not on a disk.
pub fn describe(directory: &Path, subjects: &[Subject]) -> Result<String, BenchError> {
    fs::create_dir_all(directory).map_err(BenchError::io("create the data directory"))?;
    let directory = directory.canonicalize().map_err(BenchError::io("find the data directory"))?;
    let mounts = fs::read_to_string("/proc/mounts").map_err(BenchError::io("read /proc/mounts"))?;
    let file_system = file_system_of(&directory, &mounts);
    if NO_DISK.contains(&file_system) {
        let kind = file_system.to_owned();
        return Err(BenchError::NoDisk { path: directory, kind });
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
    let model =
        model.map_or("unknown processor", |model| model.trim_start_matches(['\t', ' ', ':']));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut line = format!("{processors} x {model}, Linux {}, {file_system}", kernel.trim());
    for subject in subjects {
        line += &format!("; {} {}", subject.label, version(subject)?);
    }
    Ok(line)
}

/// The type of the file system whose mount point is the longest that holds the path.
fn file_system_of<'a>(path: &Path, mounts: &'a str) -> &'a str {
    let mount = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        path.starts_with(point).then_some((point.len(), kind))
    });
    // The later of two mounts on one point hides the earlier.
    mount.max_by_key(|(length, _)| *length).map_or("unknown", |(_, kind)| kind)
}

fn version(subject: &Subject) -> Result<String, BenchError> {
    if subject.program == Program::Floor {
        return Ok("(no work)".into());
    }
    if !subject.binary.exists() {
        let (label, path) = (subject.label.clone(), subject.binary.clone());
        return Err(BenchError::NoBinary { label, path });
    }
    let output = Command::new(&subject.binary).arg("--version").output();
    let output = output.map_err(BenchError::io(format!("run {}", subject.binary.display())))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let first = text.lines().next().unwrap_or("unknown");
    Ok(first.rsplit(' ').next().unwrap_or(first).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_is_that_of_the_nearest_mount() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tmp/disk xfs rw 0 0\n";
        let kind = |path: &str| file_system_of(Path::new(path), mounts);
        assert_eq!(
            (kind("/home/x"), kind("/tmp/x"), kind("/tmp/disk/x")),
            ("ext4", "tmpfs", "xfs")
        );
        assert_eq!(file_system_of(Path::new("/x"), ""), "unknown");
    }
}
