//! Rules about the sources that no compiler checks: who may use whom, and how long things may get.
//!
//! It reads the text as rustfmt leaves it and does not parse Rust: a function ends at the first brace that is
//! indented as its `fn` is. What such reading cannot see is left to reviews.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The members of the workspace whose sources are looked at.
const MEMBERS: [&str; 5] = ["guest-kv", "host", "proto", "tests", "xtask"];
/// The modules of the host; each may use those behind it.
const LAYERS: [&str; 8] =
    ["server", "api", "raft", "runtime", "storage", "logging", "config", "limits"];
/// Foreign crates that only some parts of the host may name: (crate, path prefixes below host/src).
const WALLS: [(&str, &[&str]); 9] = [
    ("tonic", &["api", "raft/network", "raft/peer_service", "raft/snapshot_stream"]),
    ("hyper", &["api"]),
    ("hyper_util", &["api"]),
    ("h2", &["api"]),
    ("http_body", &["api"]),
    ("wasmtime", &["runtime"]),
    ("openraft", &["raft"]),
    ("redb", &["storage"]),
    ("imbl", &["storage"]),
];
const FUNCTION_LINES: usize = 70;
const FILE_LINES: usize = 800;
const ARCHITECTURE_LINES: usize = 200;
/// Longer functions that may stay as they are: (file, function, lines, why). They may get shorter only.
const LONG_FUNCTIONS: [(&str, &str, usize, &str); 2] = [
    (
        "host/src/raft/node.rs",
        "start",
        103,
        "it joins twenty parts; pieces of it would pass most of them on",
    ),
    (
        "host/src/api/tests/grpc.rs",
        "what_is_no_grpc_is_refused_as_grpc_go_does",
        74,
        "a table of cases",
    ),
];
/// Files with unsafe code, and why it is needed.
const UNSAFE: [(&str, &str); 1] =
    [("host/src/runtime/cache.rs", "wasmtime loads its own machine code in no other way")];
/// What stands for something that is not done. In two parts, or this file would have them.
const UNFINISHED: [[&str; 2]; 5] =
    [["FIX", "ME"], ["to", "do!("], ["unimple", "mented!("], ["d", "bg!("], ["XX", "X:"]];

/// A source file.
struct Source {
    /// Below the workspace, with slashes.
    path: String,
    text: String,
}

impl Source {
    /// The text without what is there for unit tests only, and without comments.
    fn shipped(&self) -> Vec<&str> {
        let is_test = self.path.ends_with("/tests.rs") || self.path.contains("/tests/");
        let lines = self.text.lines().take(if is_test { 0 } else { usize::MAX });
        let mut shipped = Vec::new();
        let mut skipped_indent = None;
        let mut is_for_tests = false;
        for line in lines {
            let indent = line.len() - line.trim_start().len();
            match skipped_indent {
                Some(skipped) => {
                    if indent == skipped && line.trim() == "}" {
                        skipped_indent = None;
                    }
                }
                None if line.trim() == "#[cfg(test)]" => is_for_tests = true,
                None if is_for_tests => {
                    is_for_tests = line.trim_start().starts_with("#[");
                    if line.trim_end().ends_with('{') {
                        skipped_indent = Some(indent);
                    }
                }
                None => shipped.push(code(line)),
            }
        }
        shipped
    }

    /// The module of the host that the file belongs to.
    fn layer(&self) -> Option<&str> {
        let below = self.path.strip_prefix("host/src/")?;
        let first = below.split('/').next()?;
        Some(first.strip_suffix(".rs").unwrap_or(first))
    }
}

/// A line without its comment. A string with two slashes is cut too, unless it is a URL.
fn code(line: &str) -> &str {
    let comment = line.match_indices("//").find(|(at, _)| !line[..*at].ends_with(':'));
    comment.map_or(line, |(at, _)| &line[..at])
}

/// What breaks a rule, one line each; empty if all is well.
///
/// # Errors
/// The sources cannot be read.
pub fn complaints() -> io::Result<Vec<String>> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut complaints = Vec::new();
    for source in sources(&workspace)? {
        layering(&source, &mut complaints);
        walls(&source, &mut complaints);
        lengths(&source, &mut complaints);
        words(&source, &mut complaints);
    }
    let lines = fs::read_to_string(workspace.join("ARCHITECTURE.md"))?.lines().count();
    if lines > ARCHITECTURE_LINES {
        complaints
            .push(format!("ARCHITECTURE.md: {lines} lines; {ARCHITECTURE_LINES} may be read"));
    }
    Ok(complaints)
}

/// Every Rust file of the members.
fn sources(workspace: &Path) -> io::Result<Vec<Source>> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = MEMBERS.map(|member| workspace.join(member)).to_vec();
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                if !path.ends_with("target") {
                    open.push(path);
                }
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let below = path.strip_prefix(workspace).map_err(io::Error::other)?;
                let name = below.to_string_lossy().replace('\\', "/");
                found.push(Source { path: name, text: fs::read_to_string(&path)? });
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(found)
}

/// `server > api > raft > runtime > storage > logging > config > limits`: nobody uses what stands before it.
fn layering(source: &Source, complaints: &mut Vec<String>) {
    let rank = |module: &str| LAYERS.iter().position(|layer| *layer == module);
    let Some(own) = source.layer() else { return };
    if ["main", "lib"].contains(&own) {
        return;
    }
    let Some(own_rank) = rank(own) else {
        complaints.push(format!("{}: a module without a place in the layers", source.path));
        return;
    };
    for used in uses_of_crate(&source.shipped().join("\n")) {
        let Some(used_rank) = rank(&used) else { continue };
        if used_rank < own_rank {
            complaints.push(format!("{}: {own} must not use {used}", source.path));
        }
    }
}

/// The modules that stand behind `crate::`, braces included.
fn uses_of_crate(text: &str) -> Vec<String> {
    let mut used = Vec::new();
    for (at, matched) in text.match_indices("crate::") {
        let rest = &text[at + matched.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            used.extend(first_word(rest));
            continue;
        };
        let mut depth = 0;
        let mut item_begins = true;
        for (at, character) in group.char_indices() {
            match character {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => item_begins = true,
                _ if item_begins && !character.is_whitespace() => {
                    used.extend(first_word(&group[at..]));
                    item_begins = false;
                }
                _ => {}
            }
        }
    }
    used
}

fn first_word(text: &str) -> Option<String> {
    let end = text.find(|c: char| !is_part_of_a_name(c)).unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}

fn is_part_of_a_name(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Foreign types stop at the modules that are their walls.
fn walls(source: &Source, complaints: &mut Vec<String>) {
    let Some(below) = source.path.strip_prefix("host/src/") else { return };
    for line in source.shipped() {
        for (foreign, may) in WALLS {
            if !may.iter().any(|prefix| below.starts_with(prefix)) && names(line, foreign) {
                complaints.push(format!(
                    "{}: must not name {foreign}: {}",
                    source.path,
                    line.trim()
                ));
            }
        }
    }
}

/// Whether a path in this line begins with the crate.
fn names(line: &str, foreign: &str) -> bool {
    line.match_indices(foreign).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = &line[at + foreign.len()..];
        let begins = before.is_none_or(|c| !is_part_of_a_name(c) && c != ':' && c != '.');
        let use_of_all = line.trim_start().starts_with("use ") && after.starts_with(';');
        begins && (after.starts_with("::") || use_of_all)
    })
}

/// A function fits a screen, a file is about one thing.
fn lengths(source: &Source, complaints: &mut Vec<String>) {
    let lines: Vec<&str> = source.text.lines().collect();
    if lines.len() > FILE_LINES {
        complaints.push(format!("{}: {} lines; {FILE_LINES} may be", source.path, lines.len()));
    }
    for (name, length) in functions(&lines) {
        let listed = LONG_FUNCTIONS
            .iter()
            .find(|(file, function, ..)| *file == source.path && *function == name);
        let most = listed.map_or(FUNCTION_LINES, |(_, _, lines, _)| *lines);
        if length > most {
            complaints
                .push(format!("{}: fn {name} has {length} lines; {most} may be", source.path));
        }
    }
}

/// The functions and their lengths in lines, from `fn` to the closing brace.
fn functions(lines: &[&str]) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        let words: Vec<&str> = trimmed.split(' ').take(6).collect();
        let Some(place) = words.iter().position(|word| *word == "fn") else { continue };
        let is_head = words[..place].iter().all(|word| {
            word.starts_with("pub")
                || ["async", "const", "unsafe", "in", "extern", "\"C\""].contains(word)
        });
        let Some(name) = words.get(place + 1).and_then(|name| first_word(name)) else { continue };
        let indent = line.len() - trimmed.len();
        let ends = |line: &&str| line.trim() == "}" && line.len() - 1 == indent;
        let has_no_body = || {
            let first = lines[at..].iter().find(|l| l.trim_end().ends_with([';', '{', '}']));
            first.is_none_or(|line| !line.trim_end().ends_with('{'))
        };
        if !is_head || has_no_body() {
            continue;
        }
        if let Some(length) = lines[at..].iter().position(ends) {
            found.push((name, length + 1));
        }
    }
    found
}

/// Nothing is left for later, and unsafe code is where it has a reason.
fn words(source: &Source, complaints: &mut Vec<String>) {
    for (number, line) in source.text.lines().enumerate() {
        for word in UNFINISHED.map(|parts| parts.concat()) {
            if line.contains(&word) {
                complaints.push(format!("{}:{}: {word}", source.path, number + 1));
            }
        }
        let unsafe_code = ["{", "fn ", "impl "].iter().any(|next| {
            let wanted = format!("unsafe {next}");
            code(line).find(&wanted).is_some_and(|at| !line[..at].contains('"'))
        });
        if unsafe_code && !UNSAFE.iter().any(|(file, _)| *file == source.path) {
            complaints.push(format!("{}:{}: unsafe code", source.path, number + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sources_are_tidy() {
        let complaints = complaints().expect("the sources can be read");
        assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
    }

    #[test]
    fn every_exception_is_needed() {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for (file, function, lines, _) in LONG_FUNCTIONS {
            let text = fs::read_to_string(workspace.join(file)).expect(file);
            let text: Vec<&str> = text.lines().collect();
            let needed = FUNCTION_LINES + 1..=lines;
            let found = functions(&text)
                .into_iter()
                .any(|(name, length)| name == function && needed.contains(&length));
            assert!(found, "{file}: fn {function} needs no exception");
        }
    }

    fn complaints_about(path: &str, text: &str) -> Vec<String> {
        let source = Source { path: path.to_owned(), text: text.to_owned() };
        let mut complaints = Vec::new();
        layering(&source, &mut complaints);
        walls(&source, &mut complaints);
        lengths(&source, &mut complaints);
        words(&source, &mut complaints);
        complaints
    }

    #[test]
    fn breaches_are_seen() {
        let long = format!("    async fn f(\n    ) {{\n{}    }}\n", "        x();\n".repeat(70));
        for (path, text) in [
            ("host/src/storage/view.rs", "use crate::raft::Node;"),
            ("host/src/storage/view.rs", "use crate::{\n    limits,\n    api::{self, Y},\n};"),
            ("host/src/limits.rs", "fn x(y: crate::config::Url) {}"),
            ("host/src/raft/node.rs", "use tonic::Status;"),
            ("host/src/server/mod.rs", "    let x: redb::Database = y;"),
            ("host/src/elsewhere.rs", ""),
            ("host/src/api/kv.rs", &long),
            ("xtask/src/main.rs", &"\n".repeat(801)),
            ("tests/src/x.rs", &["    d", "bg!(x);"].concat()),
            ("tests/src/x.rs", "    let x = unsafe { y() };"),
        ] {
            assert_eq!(complaints_about(path, text).len(), 1, "{path}: {text}");
        }
    }

    #[test]
    fn what_is_right_is_not_complained_about() {
        let tests = "#[cfg(test)]\nmod tests {\n    use crate::server::X;\n    use redb::Y;\n}\n";
        for (path, text) in [
            ("host/src/raft/node.rs", "use crate::storage::{State, api};\nuse crate::raft::x;"),
            ("host/src/raft/node.rs", "// crate::server, tonic::Status, unsafe { }"),
            ("host/src/raft/network.rs", "use tonic::{Request, Status};"),
            ("host/src/storage/view.rs", tests),
            ("host/src/storage/tests.rs", "use crate::server::X;"),
            ("host/src/logging/mod.rs", "use crate::config::LogConfig;"),
            ("host/src/raft/node.rs", "trait T {\n    fn f();\n}\n"),
        ] {
            assert_eq!(complaints_about(path, text), Vec::<String>::new(), "{path}: {text}");
        }
    }
}
