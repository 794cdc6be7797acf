//! Rules about the sources that no compiler checks: who may use whom, who may name which crate, and how
//! long things may be. Each rule stands with its reason; an exception stands with its own.

mod deployment;
mod functions;
mod layers;
mod source;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use source::Source;

/// The longest a file of Rust may be. Those that are longer are listed with the reason.
const FILE_LINES_MAX: usize = 800;
const LONG_FILES: [(&str, &str); 0] = [];
/// A function must fit a screen.
const FUNCTION_LINES_MAX: usize = 70;
const LONG_FUNCTIONS: [(&str, &str); 1] = [(
    "host/src/api/tests/grpc.rs::what_is_no_grpc_is_refused_as_grpc_go_does",
    "one table of requests and the answers to them",
)];
/// The map of the project is read in one sitting.
const ARCHITECTURE_LINES_MAX: usize = 200;
/// Where `unsafe` is, and why it has to be.
const UNSAFE_FILES: [(&str, &str); 2] = [
    (
        "host/src/runtime/cache.rs",
        "wasmtime cannot check a compiled artefact; its digest is checked",
    ),
    ("host/tests/hostile/kv/src/lib.rs", "a machine that breaks the contract breaks Rust's rules"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// The files that git knows, relative to the root; without git (a source archive), every file that is
/// not built.
fn tracked() -> Vec<PathBuf> {
    let mut git = Command::new("git");
    let listed = git.current_dir(root()).args(["ls-files", "-z"]).output();
    match listed {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let names = text.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from);
            names.filter(|name| root().join(name).is_file()).collect()
        }
        _ => walked(),
    }
}

fn walked() -> Vec<PathBuf> {
    let (mut files, mut open) = (Vec::new(), vec![root()]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).expect("a directory").flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
                open.push(path);
            } else if path.is_file() {
                files.push(path.strip_prefix(root()).expect("below the root").to_owned());
            }
        }
    }
    files
}

/// Every file of Rust, by its path from the root.
fn sources() -> Vec<Source> {
    let rust = tracked().into_iter().filter(|path| path.extension().is_some_and(|e| e == "rs"));
    let sources: Vec<Source> = rust
        .map(|path| {
            let text = fs::read_to_string(root().join(&path)).expect("a source file");
            Source::new(path.to_string_lossy().into_owned(), text)
        })
        .collect();
    assert!(sources.len() > 50, "the sources were not found");
    sources
}

/// Fails with everything that breaks a rule.
fn expect_none(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

/// docs/track-record.md says of each of etcd's bugs which test would find it here.
#[test]
fn the_track_record_names_tests_that_exist() {
    let record = fs::read_to_string(root().join("docs/track-record.md")).expect("the record");
    let rows = record.lines().filter(|line| line.starts_with("| ")).skip(1);
    let sources = sources();
    let mut missing = Vec::new();
    let mut count = 0;
    for row in rows {
        let found_by = row.trim_end_matches('|').rsplit('|').next().expect("a column");
        let names: Vec<&str> = found_by.split('`').skip(1).step_by(2).collect();
        count += 1;
        if names.is_empty() && !found_by.contains("it cannot occur") {
            missing.push(row.to_owned());
        }
        for name in names {
            let definition = format!("fn {name}(");
            if !sources.iter().any(|source| source.text.contains(&definition)) {
                missing.push(name.to_owned());
            }
        }
    }
    assert_eq!(count, 17, "rows");
    expect_none("tests that the track record names, and nobody wrote", &missing);
}

#[test]
fn modules_use_only_what_stands_to_their_right() {
    expect_none("a module uses one to its left", &layers::wrong_uses(&sources()));
}

#[test]
fn foreign_crates_are_named_behind_their_walls_only() {
    expect_none("a crate is named outside of its wall", &layers::named_outside(&sources()));
}

#[test]
fn nothing_is_left_to_do_in_the_code() {
    let marks = [["FIX", "ME"], ["XX", "X:"], ["HA", "CK:"]].map(|parts| parts.concat());
    let calls = ["todo!(", "unimplemented!(", "dbg!("];
    let mut broken = Vec::new();
    for source in sources() {
        for (number, line) in source.text.lines().enumerate() {
            let code = source.code_line(number);
            let left = marks.iter().any(|mark| line.contains(mark.as_str()))
                || calls.iter().any(|call| code.contains(call));
            if left {
                broken.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    expect_none("something is left to do", &broken);
}

#[test]
fn unsafe_code_is_where_it_has_to_be() {
    let allowed = |path: &str| UNSAFE_FILES.iter().any(|(file, _)| *file == path);
    let broken: Vec<String> = sources()
        .iter()
        .filter(|source| source.has_word("unsafe") && !allowed(&source.path))
        .map(|source| source.path.clone())
        .collect();
    expect_none("unsafe code without a reason in the list", &broken);
}

#[test]
fn files_and_functions_fit() {
    let mut broken = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        let excused =
            |list: &[(&str, &str)], name: &str| list.iter().any(|(known, _)| *known == name);
        if lines > FILE_LINES_MAX && !excused(&LONG_FILES, &source.path) {
            broken.push(format!("{}: {lines} lines, {FILE_LINES_MAX} at most", source.path));
        }
        for function in functions::functions(&source) {
            let name = format!("{}::{}", source.path, function.name);
            if function.lines > FUNCTION_LINES_MAX && !excused(&LONG_FUNCTIONS, &name) {
                let lines = function.lines;
                broken.push(format!("{name}: {lines} lines, {FUNCTION_LINES_MAX} at most"));
            }
        }
    }
    expect_none("too long", &broken);
}

/// An exception that is no longer needed is taken out: the lists may only get shorter.
#[test]
fn exceptions_are_needed() {
    let sources = sources();
    let find = |path: &str| sources.iter().find(|source| source.path == path);
    for (path, _) in LONG_FILES {
        let long = find(path).is_some_and(|source| source.text.lines().count() > FILE_LINES_MAX);
        assert!(long, "{path} is not too long any more");
    }
    for (name, _) in LONG_FUNCTIONS {
        let (path, function) = name.rsplit_once("::").expect("path::function");
        let all = find(path).map(functions::functions).unwrap_or_default();
        let long =
            all.iter().any(|known| known.name == function && known.lines > FUNCTION_LINES_MAX);
        assert!(long, "{name} is not too long any more");
    }
    for (path, _) in UNSAFE_FILES {
        assert!(
            find(path).is_some_and(|source| source.has_word("unsafe")),
            "{path} has no unsafe code"
        );
    }
}

#[test]
fn every_module_says_what_it_is() {
    let opens = |source: &&Source| source.text.starts_with("//!") || source.text.starts_with("#!");
    let broken: Vec<String> =
        sources().iter().filter(|source| !opens(source)).map(|s| s.path.clone()).collect();
    expect_none("a file does not open with //!", &broken);
}

#[test]
fn the_map_is_short() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let lines = map.lines().count();
    assert!(lines <= ARCHITECTURE_LINES_MAX, "{lines} lines, {ARCHITECTURE_LINES_MAX} at most");
}

/// A path that one machine has means nothing on another.
#[test]
fn no_path_of_a_machine_is_written_down() {
    let places =
        [["/ro", "ot/"], ["/wo", "rk/"], ["/Use", "rs/"], ["/tmp/", "wt"], ["/tmp/tar", "get"]];
    let places = places.map(|parts| parts.concat());
    let mut broken = Vec::new();
    for path in tracked() {
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        for (number, line) in text.lines().enumerate() {
            // What follows a letter is a part of something longer, an address or a module's name.
            let names = |place: &String| {
                line.match_indices(place.as_str()).any(|(at, _)| {
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || ".-_}$/".contains(c))
                })
            };
            if places.iter().any(names) {
                broken.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    expect_none("a path of one machine", &broken);
}

#[test]
fn what_is_deployed_names_what_is_there() {
    let text = |path: &str| fs::read_to_string(root().join(path)).expect(path);
    let (flags, metrics) = (text("docs/flags.md"), text("docs/metrics.md"));
    for path in [
        "Dockerfile",
        "compose/compose.yaml",
        "compose/systemd/instar.service",
        "compose/kubernetes/instar.yaml",
    ] {
        let unknown = deployment::unknown_flags(&text(path), &flags);
        assert!(unknown.is_empty(), "{path}: {unknown:?}");
    }
    for path in ["etcd", "instar"].map(|name| format!("compose/grafana/dashboards/{name}.json")) {
        let unknown = deployment::unknown_metrics(&text(&path), &metrics);
        assert!(unknown.is_empty(), "{path}: {unknown:?}");
    }
    assert_eq!(deployment::unknown_flags("ETCD_NAMED: x", &flags), ["ETCD_NAMED"]);
    assert_eq!(deployment::unknown_metrics("etcd_no_such_bucket", &metrics).len(), 1);
}
