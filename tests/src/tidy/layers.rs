//! The order of the host's modules, and the walls around foreign crates.

use super::source::{Source, words};

const HOST: &str = "host/src/";

/// The host's modules from left to right. A module may use those to its right; those of one group may
/// use each other.
const LAYERS: [&[&str]; 11] = [
    &["main"],
    &["server"],
    &["api"],
    &["watch", "lease"],
    &["raft"],
    &["runtime"],
    &["storage"],
    &["metrics"],
    &["logging"],
    &["config"],
    &["limits"],
];

/// Foreign crates, and the modules of the host that may name them. Raft's peer transport is the one
/// other place that speaks gRPC.
const WALLS: [(&[&str], &[&str]); 6] = [
    (
        &["tonic", "hyper", "hyper_util", "h2"],
        &["api", "raft/network", "raft/peer_service", "raft/snapshot_stream", "raft/join"],
    ),
    (&["wasmtime"], &["runtime"]),
    (&["openraft"], &["raft"]),
    (&["prometheus"], &["metrics"]),
    (&["prost_reflect", "tokio_tungstenite"], &["api"]),
    (&["redb", "imbl"], &["storage"]),
];

/// The module of the host that a file belongs to, and its place; `None` for the list of modules.
fn place(path: &str) -> Option<(&str, usize)> {
    let inside = path.strip_prefix(HOST)?;
    let module = inside.split(['/', '.']).next()?;
    (module != "lib").then(|| (module, layer(module)))
}

fn layer(module: &str) -> usize {
    let found = LAYERS.iter().position(|layer| layer.contains(&module));
    found.unwrap_or_else(|| panic!("the host's module `{module}` has no place among the layers"))
}

/// Whether a file holds tests, which may use anything.
fn is_test(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs") || path.contains("/testing")
}

/// The code of a file without the tests at its end.
fn product(source: &Source) -> &str {
    source.code.split("#[cfg(test)]\nmod ").next().unwrap_or_default()
}

/// Uses of a module by one that stands to its right.
pub fn wrong_uses(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources.iter().filter(|source| !is_test(&source.path)) {
        let Some((module, own)) = place(&source.path) else { continue };
        for used in modules_used(product(source)) {
            let known = LAYERS.iter().any(|layer| layer.contains(&used));
            if known && layer(used) < own {
                wrong.push(format!("{}: {module} uses {used}", source.path));
            }
        }
    }
    wrong
}

/// What follows `crate::` (or `host::` in the program), one name or a list of them.
fn modules_used(code: &str) -> Vec<&str> {
    let mut used = Vec::new();
    for start in ["crate::", "host::"] {
        for (at, _) in code.match_indices(start) {
            let rest = &code[at + start.len()..];
            match rest.strip_prefix('{') {
                None => used.extend(words(rest).next()),
                Some(list) => used.extend(first_names(list)),
            }
        }
    }
    used
}

/// The first name of each path in `{a::b, c::{d, e}}`, without the first brace.
fn first_names(list: &str) -> Vec<&str> {
    let (mut depth, mut begin, mut names) = (0, 0, Vec::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                names.extend(words(&list[begin..at]).next());
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.extend(words(&list[begin..at]).next());
                begin = at + 1;
            }
            _ => {}
        }
    }
    names
}

/// Foreign crates that are named where they must not be.
pub fn named_outside(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources.iter().filter(|source| !is_test(&source.path)) {
        let Some(inside) = source.path.strip_prefix(HOST) else { continue };
        for (crates, homes) in WALLS {
            let at_home = homes.iter().any(|home| {
                inside.strip_prefix(home).is_some_and(|rest| rest.starts_with(['/', '.']))
            });
            let named = crates.iter().filter(|name| names_crate(product(source), name));
            wrong.extend(named.filter(|_| !at_home).map(|name| format!("{}: {name}", source.path)));
        }
    }
    wrong
}

/// Whether code names a crate: `name::…`, `use name;`, `use name as …`.
fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let after = &code[at + name.len()..];
        let whole = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
        let used = code[..at].trim_end().ends_with("use");
        whole && (after.starts_with("::") || used && after.starts_with([';', ' ']))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source::new(path.into(), text.into())
    }

    #[test]
    fn a_use_to_the_left_is_found_in_every_form() {
        for text in [
            "use crate::raft::Node;",
            "use crate::{limits, raft::{Node, Other}};",
            "fn f() { crate::raft::f() }",
        ] {
            let wrong = wrong_uses(&[source("host/src/storage/log.rs", text)]);
            assert_eq!(wrong, ["host/src/storage/log.rs: storage uses raft"], "{text}");
            assert!(wrong_uses(&[source("host/src/api/kv.rs", text)]).is_empty());
        }
        let in_test = "#[cfg(test)]\nmod tests { use crate::raft::Node; }";
        assert!(wrong_uses(&[source("host/src/storage/log.rs", in_test)]).is_empty());
    }

    #[test]
    fn a_foreign_crate_is_found_behind_the_wrong_wall() {
        let text = "use redb::Database; // tonic::Status";
        let wrong = named_outside(&[source("host/src/raft/apply.rs", text)]);
        assert_eq!(wrong, ["host/src/raft/apply.rs: redb"]);
        assert!(named_outside(&[source("host/src/storage/log.rs", text)]).is_empty());
        assert!(named_outside(&[source("host/src/raft/apply.rs", "my_redb::f()")]).is_empty());
    }
}
