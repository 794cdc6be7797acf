//! `txn`: conditions, then what to do if they hold, then what else, with empty lines in between.

use std::io::BufRead;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request;

use super::{ask, connect_to_stay, delete, get, put};
use crate::command_line::{self, Command, Invocation, Parsed};
use crate::failure::{self, Failure};
use crate::go;
use crate::output::{Answer, line};
use crate::programs;

pub async fn run(mut invocation: Invocation) -> Result<(), Failure> {
    if !invocation.arguments.is_empty() {
        return Err(Failure::arguments("txn command does not accept argument"));
    }
    let (client, output) = connect_to_stay(&mut invocation).await?;
    let prompt = |text: &str| match invocation.flag("interactive") {
        true => line(text),
        false => Ok(()),
    };
    let mut input = std::io::stdin().lock();
    prompt("compares:")?;
    let compare = read_block(&mut input, parse_compare)?;
    prompt("success requests (get, put, del):")?;
    let success = read_block(&mut input, parse_request)?;
    prompt("failure requests (get, put, del):")?;
    let failure = read_block(&mut input, parse_request)?;
    let request = pb::TxnRequest { compare, success, failure };
    let response = ask!(client, Never, kv.txn(request))?;
    output.print(&Answer::Txn(response))
}

/// Reads lines until one is empty.
fn read_block<T>(
    input: &mut impl BufRead,
    parse: impl Fn(&str) -> Result<T, Failure>,
) -> Result<Vec<T>, Failure> {
    let mut block = Vec::new();
    loop {
        let mut text = String::new();
        input.read_line(&mut text)?;
        if !text.ends_with('\n') {
            return Err(Failure::new(failure::INVALID_INPUT, "EOF").with_hint(
                "three parts are expected: conditions, requests if they hold, requests if not; \
                 an empty line ends each",
            ));
        }
        match text.trim() {
            "" => return Ok(block),
            text => block.push(parse(text)?),
        }
    }
}

/// `get`, `put` or `del` with its flags, as on a command line.
fn parse_request(text: &str) -> Result<pb::RequestOp, Failure> {
    let invalid =
        |message: &str| Failure::new(failure::INVALID_INPUT, format!("{message}: {text}"));
    let words = split(text)?;
    if words.len() < 2 {
        return Err(invalid("invalid txn compare request"));
    }
    let Ok(Parsed::Run(invocation)) = command_line::parse(&OPERATIONS, &words) else {
        return Err(invalid("invalid txn request"));
    };
    let request = match invocation.command.name {
        "get" => Request::RequestRange(get::request(&invocation)?),
        "put" => Request::RequestPut(put::request(&invocation)?),
        _ => Request::RequestDeleteRange(delete::request(&invocation)?),
    };
    Ok(pb::RequestOp { request: Some(request) })
}

static OPERATIONS: Command =
    Command::new("", "", "Requests in a transaction").children(&programs::OPERATIONS);

/// Words as a shell has them: plain, or in single or double quotes.
pub fn split(text: &str) -> Result<Vec<String>, Failure> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let after = match first {
            '"' => {
                let (word, after) = go::unquote(rest)
                    .ok_or_else(|| Failure::new(failure::INVALID_INPUT, "invalid syntax"))?;
                words.push(String::from_utf8_lossy(&word).into_owned());
                after
            }
            '\'' => match rest[1..].split_once('\'') {
                Some((word, after)) => {
                    words.push(word.to_owned());
                    after
                }
                None => &rest[1..],
            },
            _ => {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                words.push(rest[..end].to_owned());
                &rest[end..]
            }
        };
        rest = after.trim_start();
    }
    Ok(words)
}

/// `target("key") operator "value"`.
fn parse_compare(text: &str) -> Result<pb::Compare, Failure> {
    let malformed = |why: String| {
        Failure::new(failure::INVALID_INPUT, format!("malformed comparison: {text}{why}"))
    };
    let (target, rest) = text.split_once('(').ok_or_else(|| malformed(String::new()))?;
    let Some((key, operator, value)) = parts(rest) else {
        let (key, operator) = partly(rest);
        let key = go::quote(&key);
        return Err(malformed(format!("; got {target}({key}) {operator} \"\"")));
    };
    let number = || {
        go::parse_signed(&String::from_utf8_lossy(&value), 10).map_err(|_| {
            let message = format!("invalid txn compare request: {text}");
            Failure::new(failure::INVALID_INPUT, message)
        })
    };
    let (target, union) = match target {
        "ver" | "version" => (CompareTarget::Version, TargetUnion::Version(number()?)),
        "c" | "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number()?)),
        "m" | "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number()?)),
        "val" | "value" => (CompareTarget::Value, TargetUnion::Value(value)),
        "lease" => {
            let lease = String::from_utf8_lossy(&value).into_owned();
            let lease = go::parse_signed(&lease, 16).map_err(|_| malformed(String::new()))?;
            (CompareTarget::Lease, TargetUnion::Lease(lease))
        }
        other => return Err(malformed(format!(" (unknown target {other})"))),
    };
    let result = match operator.as_str() {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        ">" => CompareResult::Greater,
        "<" => CompareResult::Less,
        _ => return Err(malformed(" (unknown operator; there are =, !=, > and <)".into())),
    };
    Ok(pb::Compare {
        result: result as i32,
        target: target as i32,
        key,
        range_end: Bytes::new(),
        target_union: Some(union),
    })
}

/// Key, operator and value after the bracket.
fn parts(text: &str) -> Option<(Bytes, String, Bytes)> {
    let (key, rest) = go::unquote(text.trim_start())?;
    let rest = rest.strip_prefix(')')?.trim_start();
    let (operator, rest) = rest.split_once(char::is_whitespace)?;
    let (value, _) = go::unquote(rest.trim_start())?;
    Some((key, operator.to_owned(), value))
}

/// As much of it as can be read, for the message that not all of it can.
fn partly(text: &str) -> (Bytes, String) {
    let Some((key, rest)) = go::unquote(text.trim_start()) else { return Default::default() };
    let operator = rest.strip_prefix(')').and_then(|rest| rest.split_whitespace().next());
    (key, operator.unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_etcdctl_does() {
        let words = split("put 'a b' \"c\\\"d\" e\"f").expect("words");
        assert_eq!(words, ["put", "a b", "c\"d", "e\"f"]);
    }

    #[test]
    fn comparisons_are_read() {
        let compare = parse_compare("mod(\"k\") > \"0\"").expect("one");
        assert_eq!(compare.target_union, Some(TargetUnion::ModRevision(0)));
        assert_eq!(compare.result, CompareResult::Greater as i32);
        for wrong in
            ["mod", "mod(\"k\")", "mod(\"k\") > 0", "x(\"k\") = \"1\"", "mod(\"k\") = \"z\""]
        {
            assert!(parse_compare(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn requests_are_read() {
        let request = parse_request("get a --prefix --limit=3").expect("one");
        let Some(Request::RequestRange(range)) = request.request else { panic!("no range") };
        assert_eq!((&range.key[..], &range.range_end[..], range.limit), (&b"a"[..], &b"b"[..], 3));
        for wrong in ["get", "list x", "put x --lease=z y", "get a --nothing"] {
            assert!(parse_request(wrong).is_err(), "{wrong}");
        }
    }
}
