//! How the rehearsal of a machine went, for people and for programs.

use std::time::Duration;

use proto::instar::v1::{Difference, MachineCost, ShadowReport};

use super::json_string;
use crate::go;

/// Whether the two machines did the same, as far as they were compared.
pub fn is_equal(report: &ShadowReport) -> bool {
    report.differing_entries == 0 && report.differing_batches == 0
}

/// One line, while it goes on.
pub fn progress(report: &ShadowReport) -> String {
    let elapsed = go::duration(Duration::from_secs(report.elapsed_ms / 1000));
    let differences = report.differing_entries + report.differing_batches;
    format!(
        "{elapsed}: {} entries compared, {} skipped, {differences} differences",
        report.entries, report.skipped_entries
    )
}

pub fn text(report: &ShadowReport) -> String {
    let mut lines = vec![
        format!("compared: {} entries in {} batches", report.entries, report.batches),
        format!(
            "skipped: {} entries in {} batches",
            report.skipped_entries, report.skipped_batches
        ),
        format!(
            "different: {} entries, and the rows of {} batches",
            report.differing_entries, report.differing_batches
        ),
    ];
    for (name, cost) in [("active", &report.active), ("shadow", &report.shadow)] {
        let cost = cost.unwrap_or_default();
        let time = go::duration(Duration::from_micros(cost.time_us));
        lines.push(format!("{name}: {time}, {} units of fuel", cost.fuel));
    }
    for difference in &report.differences {
        lines.push(place(difference));
        lines.push(format!("  active: {}", difference.active));
        lines.push(format!("  shadow: {}", difference.shadow));
        if !difference.command.is_empty() {
            lines.push(format!("  command: \"{}\"", difference.command));
        }
    }
    lines.join("\n")
}

fn place(difference: &Difference) -> String {
    let Difference { first_index, last_index, part, .. } = difference;
    match first_index == last_index {
        true => format!("entry {first_index}, {part}:"),
        false => format!("entries {first_index} to {last_index}, {part}:"),
    }
}

pub fn json(report: &ShadowReport) -> String {
    let string = |text: &str| json_string(text.as_bytes());
    let difference = |it: &Difference| {
        format!(
            "{{\"first_index\":{},\"last_index\":{},\"part\":{},\"active\":{},\"shadow\":{},\"command\":{}}}",
            it.first_index,
            it.last_index,
            string(&it.part),
            string(&it.active),
            string(&it.shadow),
            string(&it.command)
        )
    };
    let cost = |cost: &Option<MachineCost>| {
        let cost = cost.unwrap_or_default();
        format!("{{\"time_us\":{},\"fuel\":{}}}", cost.time_us, cost.fuel)
    };
    let differences: Vec<_> = report.differences.iter().map(difference).collect();
    format!(
        "{{\"elapsed_ms\":{},\"entries\":{},\"batches\":{},\"skipped_entries\":{},\"skipped_batches\":{},\
         \"differing_entries\":{},\"differing_batches\":{},\"active\":{},\"shadow\":{},\"aborted\":{},\
         \"differences\":[{}]}}",
        report.elapsed_ms,
        report.entries,
        report.batches,
        report.skipped_entries,
        report.skipped_batches,
        report.differing_entries,
        report.differing_batches,
        cost(&report.active),
        cost(&report.shadow),
        string(&report.aborted),
        differences.join(",")
    )
}
