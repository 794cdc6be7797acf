//! Runs the command lines of `commands.txt` on both sides and compares what they print.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use tests::case::{Scene, Verdict};

use super::runner::{Side, finish, sides};

const SCRIPT: &str = include_str!("commands.txt");
/// So many lines are promised.
const LINES_LEAST: usize = 300;

/// How exactly two outputs have to agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    Bytes,
    /// All but numbers and their units, and the order that hangs on them.
    Shape,
    /// The first line of standard error: help follows it.
    FirstLine,
    /// They are known to differ.
    Differs,
}

struct Line {
    text: &'static str,
    measure: Measure,
    words: Vec<String>,
    input: String,
    /// The name under which the lease in the output is kept.
    keep: Option<&'static str>,
}

/// The lines of the script, which explains itself at its top.
fn lines() -> Vec<Line> {
    let lines = SCRIPT.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|text| {
            let (measure, rest) = match text.split_at_checked(2) {
                Some(("~ ", rest)) => (Measure::Shape, rest),
                Some(("? ", rest)) => (Measure::FirstLine, rest),
                Some(("! ", rest)) => (Measure::Differs, rest),
                _ => (Measure::Bytes, text),
            };
            let (rest, input) = rest.split_once("<<").unwrap_or((rest, ""));
            let input = unescape(input.strip_prefix(' ').unwrap_or(input));
            let (rest, keep) = match rest.split_once("=>") {
                Some((rest, name)) => (rest, Some(name.trim())),
                None => (rest, None),
            };
            Line { text, measure, words: words(rest.trim()), input, keep }
        })
        .collect()
}

/// `\n` and `\t`; two backslashes are one.
fn unescape(text: &str) -> String {
    let mut characters = text.chars();
    let mut result = String::new();
    while let Some(c) = characters.next() {
        match c {
            '\\' => match characters.next() {
                Some('n') => result.push('\n'),
                Some('t') => result.push('\t'),
                Some('\\') => result.push('\\'),
                other => result.extend(['\\'].into_iter().chain(other)),
            },
            c => result.push(c),
        }
    }
    result
}

fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut any) = (Vec::new(), String::new(), false, false);
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' if quoted => word.extend(characters.next()),
            '"' => (quoted, any) = (!quoted, true),
            ' ' if !quoted => {
                if any || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            c => word.push(c),
        }
    }
    if any || !word.is_empty() {
        words.push(word);
    }
    words
}

#[derive(Debug, PartialEq, Eq)]
struct Printed {
    code: Option<i32>,
    out: String,
    error: String,
}

/// Leases that earlier lines have granted, in hexadecimal.
type Leases = BTreeMap<&'static str, String>;

async fn run(side: &Side, line: &Line, leases: &mut Leases) -> Result<Printed> {
    let filled = line.words.iter().map(|word| {
        leases.iter().fold(word.clone(), |word, (name, id)| word.replace(&format!("${name}"), id))
    });
    let command = side.command(&filled.collect::<Vec<_>>());
    let output = finish(command, line.input.as_bytes()).await?;
    let mut out = escaped(&output.stdout);
    if let Some(name) = line.keep
        && let Some(id) = lease_in(&out)
    {
        leases.insert(name, id);
    }
    let mut error = without_logs(&escaped(&output.stderr));
    for text in [&mut out, &mut error] {
        *text = text.replace(side.address(), "ADDRESS");
        for (name, id) in &*leases {
            let decimal = i64::from_str_radix(id, 16).context("a lease")?.to_string();
            *text = text.replace(id.as_str(), name).replace(&decimal, name);
        }
    }
    Ok(match line.measure {
        Measure::Bytes | Measure::Differs => Printed { code: output.status.code(), out, error },
        Measure::Shape => {
            Printed { code: output.status.code(), out: shape(&out), error: shape(&error) }
        }
        Measure::FirstLine => {
            let error = error.lines().next().unwrap_or_default().to_owned();
            Printed { code: output.status.code(), out, error }
        }
    })
}

/// Bytes as text that shows each of them.
fn escaped(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.escape_ascii().to_string(),
    }
}

/// Log lines have times in them, and hints are ours.
fn without_logs(text: &str) -> String {
    let said = |line: &&str| !line.starts_with("{\"level\"") && !line.starts_with("Hint: ");
    text.split_inclusive('\n').filter(|line| said(&line.trim_end())).collect()
}

/// The id of a lease, however it is printed.
fn lease_in(out: &str) -> Option<String> {
    let text = out.split("lease ").nth(1).and_then(|rest| rest.split(' ').next());
    if let Some(id) = text {
        return Some(id.to_owned());
    }
    let after = out.split("\"ID\"").nth(1)?;
    let number: String = after
        .trim_start_matches([' ', ':'])
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric())
        .collect();
    match number.parse::<i64>() {
        Ok(decimal) if number.len() > 16 => Some(format!("{decimal:016x}")),
        _ => Some(number),
    }
}

/// What is left without numbers, their units, and the lines and blanks that are as long as they are.
fn shape(text: &str) -> String {
    let is_border = |c: char| "─┌┐└┘├┤┬┴┼│".contains(c);
    let kept: String = text.chars().filter(|c| !c.is_whitespace() && !is_border(*c)).collect();
    let mut shape = String::new();
    for c in kept.chars() {
        let is_number = c.is_ascii_digit() || c == '.';
        if !is_number {
            shape.push(c);
        } else if !shape.ends_with('0') {
            shape.push('0');
        }
    }
    ["0µs", "0ms", "0s"].iter().fold(shape, |shape, unit| shape.replace(unit, "0T"))
}

/// Every line of the script prints the same on both sides.
pub async fn command_lines_print_the_same(scene: Scene) -> Result<Verdict> {
    let [etcd, ours] = match sides(&scene.directory).await? {
        Ok(sides) => sides,
        Err(reason) => return Ok(Verdict::Skipped(reason)),
    };
    let lines = lines();
    ensure!(lines.len() >= LINES_LEAST, "the script has only {} lines", lines.len());
    let (mut etcds_leases, mut our_leases) = (Leases::new(), Leases::new());
    let mut different = Vec::new();
    for line in &lines {
        let expected = run(&etcd, line, &mut etcds_leases).await?;
        let printed = run(&ours, line, &mut our_leases).await?;
        if (expected == printed) == (line.measure == Measure::Differs) {
            let text = line.text;
            different.push(format!("{text}\n  etcd: {expected:#?}\n  ours: {printed:#?}"));
        }
    }
    scene.note(format!("{} command lines", lines.len()));
    ensure!(different.is_empty(), "{} differ:\n{}", different.len(), different.join("\n"));
    Ok(Verdict::Passed)
}
