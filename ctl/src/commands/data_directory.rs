//! `defrag --data-dir`, etcdutl's `migrate`, and how other commands read a member that does not run.

use std::path::Path;

use guest_kv::tables::{DESCRIPTIONS, TableKind};
use host::server::{OfflineError, OfflineState};
use host::storage::{TableKind as StoredKind, TableSpec};

use crate::command_line::Invocation;
use crate::failure::Failure;
use crate::go;
use crate::logging;
use crate::output::line;

/// Versions of etcd, major and minor: the storage that Instar has, and the oldest that etcdutl migrates to.
const STORAGE: (i64, i64) = (3, 7);
const OLDEST: (i64, i64) = (3, 5);

pub async fn defragment(invocation: Invocation) -> Result<(), Failure> {
    let data_dir = invocation.text("data-dir");
    if data_dir.is_empty() {
        return Err(Failure::error("required flag(s) \"data-dir\" not set"));
    }
    let done = open(Path::new(&data_dir)).and_then(OfflineState::defragment);
    done.map_err(|why| {
        Failure::error(format!("Failed to defragment etcd data[{data_dir}] ({why})"))
    })?;
    line(format!("Finished defragmenting etcd data[{data_dir}]"))
}

/// etcdutl's `migrate`. A data directory of Instar's has one form, whichever version of etcd it is to be compatible with:
/// there is nothing to change, or no way.
pub async fn migrate(invocation: Invocation) -> Result<(), Failure> {
    let missing: Vec<String> = ["data-dir", "target-version"]
        .into_iter()
        .filter(|name| !invocation.is_given(name))
        .map(|name| format!("{name:?}"))
        .collect();
    if !missing.is_empty() {
        let message = format!("required flag(s) {} not set", missing.join(", "));
        return Err(Failure::error(message));
    }
    let target = target_version(&invocation.text("target-version")).map_err(Failure::arguments)?;
    let data_dir = invocation.text("data-dir");
    open(Path::new(&data_dir)).map_err(|why| Failure::error(why.to_string()))?;
    let (major, minor) = target;
    if target == STORAGE {
        let version = format!("{major}.{minor}");
        logging::log("info", "storage version up-to-date", &[("storage-version", &version)]);
        return Ok(());
    }
    let plan = match major == STORAGE.0 {
        true => format!("version \"{major}.{minor}.0\" is not supported"),
        false => "changing major storage version is not supported".to_owned(),
    };
    let hint = "a data directory of Instar's has one form; an older etcd takes its data from a snapshot: restore that \
                with etcd 3.7's etcdutl, and migrate what it makes";
    let failure = Failure::error(format!("cannot create migration plan: {plan}"));
    Err(if target < STORAGE { failure.with_hint(hint) } else { failure })
}

fn target_version(text: &str) -> Result<(i64, i64), String> {
    let parts: Vec<&str> = text.split('.').collect();
    let [major, minor] = parts[..] else {
        let quoted = go::quote(text.as_bytes());
        return Err(format!("wrong target version format, expected \"X.Y\", got {quoted}"));
    };
    let number = |part| {
        go::parse_signed(part, 10).map_err(|why| format!("failed to parse target version: {why}"))
    };
    match (number(major)?, number(minor)?) {
        target if target < OLDEST => {
            let (major, minor) = target;
            Err(format!("target version \"{major}.{minor}\" not supported. Minimal \"3.5\""))
        }
        target => Ok(target),
    }
}

/// Takes a member's data directory for this process.
pub fn open(path: &Path) -> Result<OfflineState, OfflineError> {
    let durable = DESCRIPTIONS.iter().filter(|table| table.kind == TableKind::Durable);
    let tables: Vec<TableSpec> = durable
        .map(|table| TableSpec {
            id: table.table,
            name: table.name.to_owned(),
            kind: StoredKind::Durable,
        })
        .collect();
    OfflineState::open(path, &tables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_versions_are_etcds() {
        assert_eq!(target_version("3.7"), Ok((3, 7)));
        assert_eq!(target_version("4.0"), Ok((4, 0)));
        let (major, minor) = STORAGE;
        assert_eq!(format!("{major}.{minor}.0"), host::config::ETCD_CLUSTER_VERSION);
        for (text, reason) in [
            ("3", "wrong target version format, expected \"X.Y\", got \"3\""),
            ("3.6.1", "wrong target version format, expected \"X.Y\", got \"3.6.1\""),
            (
                "x.6",
                "failed to parse target version: strconv.ParseInt: parsing \"x\": invalid syntax",
            ),
            ("3.4", "target version \"3.4\" not supported. Minimal \"3.5\""),
        ] {
            assert_eq!(target_version(text), Err(reason.to_owned()));
        }
    }
}
