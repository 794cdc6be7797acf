//! The machines of a cluster, for people and for programs. Digests are written as the commands take them.

use proto::instar::v1::{Component, Machines, Rehearsal};

use super::json_string;
use crate::commands::machine::{migrating, name_of};

/// What a component is to the cluster.
fn role(machines: &Machines, component: &Component) -> &'static str {
    if component.digest == machines.active {
        "active"
    } else if component.digest == machines.previous {
        "previous"
    } else if component.received_bytes < component.size_bytes {
        "incomplete"
    } else if component.voters.iter().all(|voter| voter.ready) {
        "ready"
    } else {
        "not ready"
    }
}

pub fn text(machines: &Machines) -> String {
    let mut lines = Vec::new();
    if machines.components.iter().all(|it| it.digest != machines.active) {
        lines.push(format!("built in  {}  active", name_of(&machines.active)));
    }
    for component in &machines.components {
        let ready = component.voters.iter().filter(|voter| voter.ready).count();
        let label = match component.name.as_str() {
            "" => "unknown".to_owned(),
            name => format!("{name} {}", component.version),
        };
        lines.push(format!(
            "{label}  {}  {}, ready on {ready} of {}",
            name_of(&component.digest),
            role(machines, component),
            component.voters.len()
        ));
        for voter in component.voters.iter().filter(|voter| !voter.refusal.is_empty()) {
            lines.push(format!("  {:x}: {}", voter.member_id, voter.refusal));
        }
        for voter in component.voters.iter().filter(|_| component.digest != machines.active) {
            if let Some(rehearsal) = &voter.rehearsal {
                lines.push(format!("  {:x}: {}", voter.member_id, rehearsed(rehearsal)));
            }
        }
    }
    let previous = match machines.previous.is_empty() {
        true => "none".to_owned(),
        false => name_of(&machines.previous),
    };
    lines.push(format!("previous: {previous}"));
    if machines.schema_version != 0 {
        lines.push(format!("schema: {}", machines.schema_version));
    }
    if let Some(migration) = &machines.migration {
        lines.push(migrating(machines, migration));
        if !migration.failure.is_empty() {
            lines.push(format!("it has stopped: {}", migration.failure));
        }
    }
    lines.join("\n")
}

fn rehearsed(rehearsal: &Rehearsal) -> String {
    let ms = |us: u64| us as f64 / 1e3;
    let (steps, took, longest) = (rehearsal.steps, ms(rehearsal.took_us), ms(rehearsal.longest_us));
    let end = if rehearsal.is_whole { "" } else { ", not to its end" };
    format!("migration rehearsed in {took:.1} ms, {steps} steps, the longest {longest:.1} ms{end}")
}

pub fn json(machines: &Machines) -> String {
    let string = |text: &str| json_string(text.as_bytes());
    let component = |component: &Component| {
        let voter = |voter: &proto::instar::v1::Readiness| {
            let (id, ready, refusal) = (voter.member_id, voter.ready, string(&voter.refusal));
            let rehearsal = voter.rehearsal.as_ref().map_or("null".to_owned(), |it| {
                let (steps, took, longest) = (it.steps, it.took_us, it.longest_us);
                format!(
                    "{{\"steps\":{steps},\"took_us\":{took},\"longest_us\":{longest},\"is_whole\":{}}}",
                    it.is_whole
                )
            });
            format!(
                "{{\"member_id\":{id},\"ready\":{ready},\"refusal\":{refusal},\"rehearsal\":{rehearsal}}}"
            )
        };
        let voters: Vec<_> = component.voters.iter().map(voter).collect();
        format!(
            "{{\"digest\":{},\"name\":{},\"version\":{},\"schema_version\":{},\"size_bytes\":{},\
             \"received_bytes\":{},\"state\":{},\"voters\":[{}]}}",
            string(&name_of(&component.digest)),
            string(&component.name),
            string(&component.version),
            component.schema_version,
            component.size_bytes,
            component.received_bytes,
            string(role(machines, component)),
            voters.join(",")
        )
    };
    let components: Vec<_> = machines.components.iter().map(component).collect();
    let previous = match machines.previous.is_empty() {
        true => "null".to_owned(),
        false => string(&name_of(&machines.previous)),
    };
    let migration = match &machines.migration {
        None => "null".to_owned(),
        Some(migration) => {
            let (from, steps) = (migration.from_schema, migration.steps);
            let failure = string(&migration.failure);
            format!("{{\"from_schema\":{from},\"steps\":{steps},\"failure\":{failure}}}")
        }
    };
    format!(
        "{{\"active\":{},\"previous\":{previous},\"on_probation\":{},\"schema_version\":{},\
         \"migration\":{migration},\"components\":[{}]}}",
        string(&name_of(&machines.active)),
        machines.on_probation,
        machines.schema_version,
        components.join(",")
    )
}
