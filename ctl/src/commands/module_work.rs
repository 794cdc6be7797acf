//! `module logs` and `top`: what modules do on the member that is asked.

use std::io::IsTerminal as _;
use std::time::Duration;

use comfy_table::{CellAlignment, Table};
use proto::instar::v1 as pb;

use super::session::interrupted;
use super::{ask, connect_to_stay};
use crate::client::Client;
use crate::command_line::Invocation;
use crate::failure::Failure;
use crate::output::{Format, json_string, line};

/// Puts the cursor at the top of an empty screen.
const CLEAR: &str = "\x1b[H\x1b[2J";

pub async fn logs(mut invocation: Invocation) -> Result<(), Failure> {
    let [name] = invocation.arguments.as_slice() else {
        let message = "module logs command needs 1 argument, the module's name";
        return Err(
            Failure::arguments(message).with_hint("`module list` shows those that are there")
        );
    };
    let request = pb::ModuleLogsRequest {
        name: name.clone(),
        follow: invocation.flag("follow"),
        tail: u32::try_from(invocation.integer("tail"))
            .map_err(|_| Failure::arguments("--tail is a number of lines"))?,
    };
    let (client, output) = connect_to_stay(&mut invocation).await?;
    let mut pages = ask!(client, Reading, module.logs(request))?;
    loop {
        let page = tokio::select! {
            page = pages.message() => page?,
            ended = interrupted() => return ended,
        };
        let Some(page) = page else { return Ok(()) };
        if page.dropped > 0 {
            eprintln!("{} lines are lost: they came faster than they were read", page.dropped);
        }
        for logged in &page.lines {
            let pb::ModuleLogLine { level, text, index } = logged;
            match output.format {
                Format::Json => {
                    let (level, text) =
                        (json_string(level.as_bytes()), json_string(text.as_bytes()));
                    line(format!("{{\"level\":{level},\"text\":{text},\"index\":{index}}}"))?;
                }
                _ => line(format!("{:5} {text}", level.to_uppercase()))?,
            }
        }
    }
}

pub async fn top(mut invocation: Invocation) -> Result<(), Failure> {
    if !invocation.arguments.is_empty() {
        return Err(Failure::arguments("module top command accepts no arguments"));
    }
    let interval = invocation.duration("interval").max(Duration::from_millis(100));
    let mut rounds = invocation.integer("count");
    let (client, output) = connect_to_stay(&mut invocation).await?;
    let mut before = statistics(&client).await?;
    let clears = output.format != Format::Json && std::io::stdout().is_terminal();
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            ended = interrupted() => return ended,
        }
        let after = statistics(&client).await?;
        let rates = rates(&before, &after, interval);
        match output.format {
            Format::Json => line(json(&rates))?,
            _ => line(format!("{}{}", if clears { CLEAR } else { "" }, text(&rates)))?,
        }
        before = after;
        rounds -= 1;
        if rounds == 0 {
            return Ok(());
        }
    }
}

pub(super) async fn statistics(client: &Client) -> Result<Vec<pb::ModuleWork>, Failure> {
    Ok(ask!(client, Reading, module.statistics(pb::ModuleStatisticsRequest {}))?.works)
}

/// What one export of a module did in a while.
#[derive(Debug, PartialEq)]
pub(super) struct Rate {
    name: String,
    export: String,
    runs: u64,
    failures: u64,
    runs_per_s: f64,
    /// Of the thread that applies entries.
    busy_percent: f64,
    us_per_run: f64,
    fuel_per_run: f64,
}

pub(super) fn rates(
    before: &[pb::ModuleWork],
    after: &[pb::ModuleWork],
    took: Duration,
) -> Vec<Rate> {
    let seconds = took.as_secs_f64().max(1e-3);
    let rate = |now: &pb::ModuleWork| {
        let is_same = |it: &&pb::ModuleWork| it.name == now.name && it.export == now.export;
        let then = before.iter().find(is_same).cloned().unwrap_or_default();
        // A member that was restarted begins again.
        let since = |now: u64, then: u64| now.checked_sub(then).unwrap_or(now);
        let runs = since(now.runs, then.runs);
        let time_us = since(now.time_us, then.time_us) as f64;
        let of_each = |sum: f64| if runs == 0 { 0.0 } else { sum / runs as f64 };
        Rate {
            name: now.name.clone(),
            export: now.export.clone(),
            runs,
            failures: since(now.failures, then.failures),
            runs_per_s: runs as f64 / seconds,
            busy_percent: time_us / 1e4 / seconds,
            us_per_run: of_each(time_us),
            fuel_per_run: of_each(since(now.fuel, then.fuel) as f64),
        }
    };
    after.iter().map(rate).collect()
}

pub(super) fn text(rates: &[Rate]) -> String {
    if rates.is_empty() {
        return "no module has run on this member since it started".to_owned();
    }
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header([
        "MODULE", "EXPORT", "RUNS/S", "BUSY %", "US/RUN", "FUEL/RUN", "RUNS", "FAILURES",
    ]);
    for rate in rates {
        table.add_row([
            rate.name.clone(),
            rate.export.clone(),
            format!("{:.1}", rate.runs_per_s),
            format!("{:.1}", rate.busy_percent),
            format!("{:.0}", rate.us_per_run),
            format!("{:.0}", rate.fuel_per_run),
            rate.runs.to_string(),
            rate.failures.to_string(),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

fn json(rates: &[Rate]) -> String {
    let rate = |rate: &Rate| {
        format!(
            "{{\"name\":{},\"export\":{},\"runs\":{},\"failures\":{},\"runs_per_s\":{:.3},\"busy_percent\":{:.3},\
             \"us_per_run\":{:.3},\"fuel_per_run\":{:.1}}}",
            json_string(rate.name.as_bytes()),
            json_string(rate.export.as_bytes()),
            rate.runs,
            rate.failures,
            rate.runs_per_s,
            rate.busy_percent,
            rate.us_per_run,
            rate.fuel_per_run
        )
    };
    format!("[{}]", rates.iter().map(rate).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(runs: u64, fuel: u64, time_us: u64) -> pb::ModuleWork {
        let (name, export) = ("m".to_owned(), "call".to_owned());
        pb::ModuleWork { name, export, runs, failures: 1, fuel, time_us }
    }

    #[test]
    fn rates_are_of_the_time_between() {
        let two = Duration::from_secs(2);
        let found = rates(&[work(10, 100, 1_000)], &[work(30, 500, 21_000)], two);
        let [rate] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((rate.runs, rate.failures, rate.runs_per_s), (20, 0, 10.0));
        assert_eq!((rate.us_per_run, rate.fuel_per_run, rate.busy_percent), (1000.0, 20.0, 1.0));
        // The member was restarted meanwhile: its counts began again.
        assert_eq!(rates(&[work(10, 100, 1_000)], &[work(4, 8, 40)], two)[0].runs, 4);
        assert!(text(&found).contains("1000"), "{}", text(&found));
    }
}
