//! `watch`: prints changes, runs a command at each, or takes what to watch from standard input.

use std::process::Command;
use std::rc::Rc;

use proto::etcdserverpb as pb;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;

use super::get::range;
use super::watching::{Watching, progress_request};
use super::{connect_to_stay, txn};
use crate::client::Client;
use crate::command_line::{self, Command as Known, Invocation, Parsed};
use crate::failure::{self, Failure};
use crate::go;
use crate::output::{Answer, Output, line};
use crate::programs;

const BAD_NUMBER: &str = "bad number of arguments";

/// What to watch, and what to run.
#[derive(Debug)]
struct Plan {
    request: pb::WatchCreateRequest,
    run: Vec<String>,
}

/// `ETCDCTL_WATCH_KEY` and `ETCDCTL_WATCH_RANGE_END`.
fn from_environment() -> Result<Vec<String>, Failure> {
    let read = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    match (read("ETCDCTL_WATCH_KEY"), read("ETCDCTL_WATCH_RANGE_END")) {
        (None, None) => Ok(Vec::new()),
        (None, Some(end)) => Err(Failure::arguments(format!(
            "ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END={}",
            go::quote(end.as_bytes())
        ))),
        (Some(key), end) => Ok([key].into_iter().chain(end).collect()),
    }
}

pub async fn run(mut invocation: Invocation) -> Result<(), Failure> {
    let environment = from_environment()?;
    if invocation.flag("interactive") {
        return interactive(invocation, &environment).await;
    }
    let words = words(&invocation, &environment)?;
    let (client, output) = connect_to_stay(&mut invocation).await?;
    let plan = plan(&invocation, words)?;
    let mut watching = Watching::begin(&client, plan.request).await?;
    follow(&client, &output, &mut watching, &plan.run).await?;
    Err(Failure::new(failure::INTERRUPTED, "watch is canceled by the server"))
}

/// The key and the end of a range, and after `--` the command.
fn words(
    invocation: &Invocation,
    environment: &[String],
) -> Result<(Vec<String>, Vec<String>), Failure> {
    let all = &invocation.arguments;
    let (keys, run) = all.split_at(invocation.dash.unwrap_or(all.len()));
    if invocation.dash.is_some() && run.is_empty() {
        let message = format!("{BAD_NUMBER} (found separator --, but no commands)");
        return Err(Failure::arguments(message));
    }
    if !keys.is_empty() && !environment.is_empty() {
        let message = format!("{BAD_NUMBER} (found conflicting environment key)");
        return Err(Failure::arguments(message));
    }
    let keys = if environment.is_empty() { keys } else { environment };
    if keys.is_empty() {
        return Err(Failure::arguments(BAD_NUMBER));
    }
    Ok((keys.to_vec(), run.to_vec()))
}

fn plan(invocation: &Invocation, (keys, run): (Vec<String>, Vec<String>)) -> Result<Plan, Failure> {
    let prefix = invocation.flag("prefix");
    let end = match keys.as_slice() {
        [_, _, ..] if prefix => {
            let message = "`range_end` and `--prefix` are mutually exclusive";
            return Err(Failure::arguments(message));
        }
        [_, end] => end.clone(),
        _ => String::new(),
    };
    let (key, range_end) = range(&keys[0], end.into(), prefix, false);
    let request = pb::WatchCreateRequest {
        key,
        range_end,
        start_revision: invocation.integer("rev"),
        progress_notify: invocation.flag("progress-notify"),
        prev_kv: invocation.flag("prev-kv"),
        ..Default::default()
    };
    Ok(Plan { request, run })
}

/// Prints what comes until there is no more.
async fn follow(
    client: &Client,
    output: &Output,
    watching: &mut Watching,
    run: &[String],
) -> Result<(), Failure> {
    while let Some(response) = watching.next(client).await? {
        let ended = response.canceled;
        if ended {
            eprintln!("watch was canceled ({})", why_canceled(&response));
        } else if response.events.is_empty() {
            let revision = response.header.map_or(0, |header| header.revision);
            line(format!("progress notify: {revision}"))?;
        }
        output.print(&Answer::Watch(response.clone()))?;
        run_at_each(run, &response)?;
        if ended {
            return Ok(());
        }
    }
    Ok(())
}

fn why_canceled(response: &pb::WatchResponse) -> String {
    match response.cancel_reason.as_str() {
        _ if response.compact_revision != 0 => {
            "etcdserver: mvcc: required revision has been compacted".into()
        }
        "" => "etcdserver: mvcc: required revision is a future revision".into(),
        reason => reason.to_owned(),
    }
}

fn run_at_each(run: &[String], response: &pb::WatchResponse) -> Result<(), Failure> {
    let [program, arguments @ ..] = run else { return Ok(()) };
    let revision = response.header.map_or(0, |header| header.revision);
    for event in &response.events {
        let pair = event.kv.clone().unwrap_or_default();
        let kind = if event.r#type == 0 { "PUT" } else { "DELETE" };
        let status = Command::new(program)
            .args(arguments)
            .env("ETCD_WATCH_REVISION", revision.to_string())
            .env("ETCD_WATCH_EVENT_TYPE", go::quote(kind.as_bytes()))
            .env("ETCD_WATCH_KEY", go::quote(&pair.key))
            .env("ETCD_WATCH_VALUE", go::quote(&pair.value))
            .status();
        let why = match status {
            Ok(status) if status.success() => continue,
            Ok(status) => exit_text(status),
            Err(error) => super::lock::cannot_run(program, &error),
        };
        eprintln!("command [{}] error ({why})", quoted(run));
        return Err(Failure::silent(failure::ERROR));
    }
    Ok(())
}

fn quoted(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| go::quote(word.as_bytes())).collect();
    words.join(" ")
}

/// How a process ended, in Go's words.
pub fn exit_text(status: std::process::ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("signal: {}", signal.unwrap_or_default()),
    }
}

static INTERACTIVE: Known = Known::new("", "", "What can be watched").children(&programs::WATCHES);

/// A line for each watch: `watch [options] key [end] [-- command]`; `progress` asks for the revision.
async fn interactive(mut invocation: Invocation, environment: &[String]) -> Result<(), Failure> {
    let (client, output) = connect_to_stay(&mut invocation).await?;
    let (client, output) = (Rc::new(client), Rc::new(output));
    let tasks = tokio::task::LocalSet::new();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut senders: Vec<mpsc::Sender<pb::WatchRequest>> = Vec::new();
    tasks
        .run_until(async {
            while let Some(text) = lines.next_line().await? {
                let words = txn::split(&text)?;
                match words.first().map(String::as_str) {
                    Some("watch") => {
                        let Some(plan) = planned(&text, &words, environment)? else { continue };
                        let begun = Watching::begin(&client, plan.request).await;
                        let mut watching = begun?;
                        senders.push(watching.sender());
                        let (client, output) = (client.clone(), output.clone());
                        tokio::task::spawn_local(async move {
                            let followed = follow(&client, &output, &mut watching, &plan.run).await;
                            if let Err(failure) = followed {
                                eprintln!("watch was canceled ({failure})");
                            }
                        });
                    }
                    Some("progress") => {
                        for sender in &senders {
                            // One that has ended has no progress.
                            drop(sender.try_send(progress_request()));
                        }
                    }
                    Some(_) => eprintln!("Invalid command {text} (only support watch)"),
                    None => {
                        eprintln!("Invalid command: {text} (watch and progress supported)");
                    }
                }
            }
            let message = "error reading watch request line: EOF";
            Err(Failure::new(failure::INVALID_INPUT, message))
        })
        .await
}

fn planned(text: &str, given: &[String], environment: &[String]) -> Result<Option<Plan>, Failure> {
    if given.len() < 2 && environment.is_empty() {
        eprintln!("Invalid command {text} (command type or key is not provided)");
        return Ok(None);
    }
    let invocation = match command_line::parse(&INTERACTIVE, given) {
        Ok(Parsed::Run(invocation)) => invocation,
        Ok(Parsed::Help(_)) => return Err(Failure::arguments("pflag: help requested")),
        Err(refused) => return Err(Failure::arguments(refused.message)),
    };
    let words = words(&invocation, environment)?;
    match plan(&invocation, words) {
        Ok(plan) => Ok(Some(plan)),
        Err(failure) => {
            eprintln!("Invalid command {text} ({failure})");
            Ok(None)
        }
    }
}
