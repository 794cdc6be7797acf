//! Finds the command and its flags among the words of a command line.

use std::collections::BTreeMap;

use super::{Command, Flag, Invocation, Kind, Value};
use crate::go;

/// What a command line asks for.
#[derive(Debug)]
pub enum Parsed {
    Run(Invocation),
    /// Help about the command that the words lead to.
    Help(Vec<&'static Command>),
}

/// A command line that makes no sense.
#[derive(Debug)]
pub struct Refused {
    pub message: String,
    /// The command whose use is shown; without one, the root's help is pointed at.
    pub usage: Option<Vec<&'static Command>>,
}

/// How far a name may be from a command's to be suggested.
const SUGGESTION_DISTANCE_MAX: usize = 2;

/// Reads the words after the program's name.
pub fn parse(root: &'static Command, words: &[String]) -> Result<Parsed, Refused> {
    let (path, rest) = find(root, words);
    // The root knows no arguments: a word that is left is no command.
    let stray = first_word(&rest, &flags_of(&path)).filter(|_| path.len() == 1);
    if let Some(at) = stray {
        return Err(unknown_command(root, &rest[at]));
    }
    let command = *path.last().unwrap_or(&root);
    let flags = flags_of(&path);
    let refused = |message| Refused { message, usage: Some(path.clone()) };
    let mut invocation = Invocation {
        root,
        command,
        path: path.iter().map(|command| command.name).collect(),
        arguments: Vec::new(),
        dash: None,
        flags,
        given: BTreeMap::new(),
    };
    let wants_help = parse_flags(&mut invocation, &rest).map_err(refused)?;
    if wants_help || command.run.is_none() {
        return Ok(Parsed::Help(path));
    }
    Ok(Parsed::Run(invocation))
}

/// Goes down the tree as far as words name commands; returns the way and the words that are left.
fn find(root: &'static Command, words: &[String]) -> (Vec<&'static Command>, Vec<String>) {
    let mut path = vec![root];
    let mut rest = words.to_vec();
    loop {
        let command = path[path.len() - 1];
        let Some(at) = first_word(&rest, &flags_of(&path)) else { break };
        let Some(child) = command.find(&rest[at]) else { break };
        path.push(child);
        rest.remove(at);
    }
    (path, rest)
}

/// The first word that is neither a flag nor a flag's value.
fn first_word(words: &[String], flags: &[&'static Flag]) -> Option<usize> {
    let mut at = 0;
    while at < words.len() {
        let word = words[at].as_str();
        let takes_next = match word.strip_prefix("--") {
            Some("") => return None,
            Some(name) => {
                let known = flags.iter().find(|flag| flag.name == name);
                !name.contains('=') && known.is_none_or(|flag| flag.kind != Kind::Bool)
            }
            None if word.len() == 2 && word.starts_with('-') => {
                let known = flags.iter().find(|flag| flag.short == word.chars().nth(1));
                known.is_none_or(|flag| flag.kind != Kind::Bool) && word != "-h"
            }
            None if word.is_empty() || word.starts_with('-') => false,
            None => return Some(at),
        };
        at += 1 + usize::from(takes_next && word != "--help");
    }
    None
}

fn flags_of(path: &[&'static Command]) -> Vec<&'static Flag> {
    let own = path.last().into_iter().flat_map(|command| command.flags);
    own.chain(path.iter().rev().flat_map(|command| command.shared)).collect()
}

/// Takes the flags out of the words; the others are arguments. Returns whether help is asked for.
pub fn parse_flags(invocation: &mut Invocation, words: &[String]) -> Result<bool, String> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            invocation.dash = Some(invocation.arguments.len());
            invocation.arguments.extend(words.cloned());
            return Ok(false);
        }
        let help = match word.strip_prefix("--") {
            Some(long) => parse_long(invocation, word, long, &mut words)?,
            None if word.len() > 1 && word.starts_with('-') => {
                parse_short(invocation, word, &mut words)?
            }
            None => {
                invocation.arguments.push(word.clone());
                false
            }
        };
        if help {
            return Ok(true);
        }
    }
    Ok(false)
}

fn parse_long<'a>(
    invocation: &mut Invocation,
    word: &str,
    long: &str,
    words: &mut impl Iterator<Item = &'a String>,
) -> Result<bool, String> {
    if long.starts_with(['-', '=']) {
        return Err(format!("bad flag syntax: {word}"));
    }
    let (name, value) = match long.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (long, None),
    };
    let Some(flag) = invocation.flags.iter().copied().find(|flag| flag.name == name) else {
        return match name {
            "help" => Ok(true),
            name => Err(format!("unknown flag: --{name}")),
        };
    };
    let value = match (value, flag.kind) {
        (Some(value), _) => value,
        (None, Kind::Bool) => "true",
        (None, _) => words.next().ok_or_else(|| format!("flag needs an argument: --{name}"))?,
    };
    assign(invocation, flag, value)?;
    Ok(false)
}

/// One or more letters: `-i`, `-wjson`, `-w json`, `-w=json`.
fn parse_short<'a>(
    invocation: &mut Invocation,
    word: &str,
    words: &mut impl Iterator<Item = &'a String>,
) -> Result<bool, String> {
    let mut letters = &word[1..];
    while let Some(letter) = letters.chars().next() {
        let rest = &letters[letter.len_utf8()..];
        let Some(flag) = invocation.flags.iter().copied().find(|flag| flag.short == Some(letter))
        else {
            return match letter {
                'h' => Ok(true),
                letter => Err(format!("unknown shorthand flag: '{letter}' in -{letters}")),
            };
        };
        if let Some(value) = rest.strip_prefix('=').filter(|value| !value.is_empty()) {
            assign(invocation, flag, value)?;
            return Ok(false);
        }
        if flag.kind == Kind::Bool {
            assign(invocation, flag, "true")?;
            letters = rest;
            continue;
        }
        let value = match rest {
            "" => words
                .next()
                .ok_or_else(|| format!("flag needs an argument: '{letter}' in -{letters}"))?,
            rest => rest,
        };
        assign(invocation, flag, value)?;
        return Ok(false);
    }
    Ok(false)
}

fn assign(invocation: &mut Invocation, flag: &'static Flag, text: &str) -> Result<(), String> {
    let value = Value::parse(flag.kind, text).map_err(|why| {
        let short = flag.short.map(|short| format!("-{short}, ")).unwrap_or_default();
        let quoted = go::quote(text.as_bytes());
        format!("invalid argument {quoted} for \"{short}--{}\" flag: {why}", flag.name)
    })?;
    invocation.set(flag.name, value);
    Ok(())
}

fn unknown_command(root: &'static Command, word: &str) -> Refused {
    let mut message =
        format!("unknown command {} for \"{}\"", go::quote(word.as_bytes()), root.name);
    let near: Vec<&str> = root
        .children
        .iter()
        .map(|child| child.name)
        .filter(|name| {
            distance(word, name) <= SUGGESTION_DISTANCE_MAX
                || name.starts_with(&word.to_lowercase())
        })
        .collect();
    if !near.is_empty() {
        let lines: String = near.iter().map(|name| format!("\t{name}\n")).collect();
        message += &format!("\n\nDid you mean this?\n{lines}");
    }
    Refused { message, usage: None }
}

/// How many letters have to be changed, added or taken away.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_lowercase(), b.to_lowercase());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
