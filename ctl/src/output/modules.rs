//! The modules of a cluster, for people and for programs.

use proto::instar::v1::{ModuleComponent, ModuleStatus, Modules};

use super::json_string;
use crate::commands::machine::name_of;

/// Components that no module is made of.
fn waiting(modules: &Modules) -> impl Iterator<Item = &ModuleComponent> {
    modules
        .components
        .iter()
        .filter(|component| modules.modules.iter().all(|it| it.digest != component.digest))
}

fn version<'a>(modules: &'a Modules, digest: &[u8]) -> &'a str {
    let component = modules.components.iter().find(|it| it.digest == digest);
    component.map_or("", |it| it.version.as_str())
}

fn grants(module: &ModuleStatus) -> Vec<String> {
    module.grants.iter().map(|grant| String::from_utf8_lossy(grant).into_owned()).collect()
}

pub fn text(modules: &Modules) -> String {
    let mut lines = Vec::new();
    for module in &modules.modules {
        let state = if module.enabled { "active" } else { "disabled" };
        let grants = match module.grants.is_empty() {
            true => "no keys".to_owned(),
            false => grants(module).join(" "),
        };
        let (name, digest) = (&module.name, name_of(&module.digest));
        let version = version(modules, &module.digest);
        lines.push(format!("{name} {version}  {digest}  {state}, granted {grants}"));
        if module.failures > 0 {
            let (failures, reason) = (module.failures, &module.last_failure);
            lines.push(format!("  failed {failures} times in a row: {reason}"));
        }
    }
    for component in waiting(modules) {
        let (ready, voters) = (component.ready_voters, component.voters);
        let state = match component.received_bytes < component.size_bytes {
            true => "incomplete".to_owned(),
            false => format!("not activated, ready on {ready} of {voters}"),
        };
        let (name, version) = (&component.name, &component.version);
        lines.push(format!("{name} {version}  {}  {state}", name_of(&component.digest)));
        if !component.refusal.is_empty() {
            lines.push(format!("  {}", component.refusal));
        }
    }
    if lines.is_empty() {
        lines.push("no modules".to_owned());
    }
    lines.join("\n")
}

pub fn json(modules: &Modules) -> String {
    let string = |text: &str| json_string(text.as_bytes());
    let module = |module: &ModuleStatus| {
        let grants: Vec<_> = grants(module).iter().map(|grant| string(grant)).collect();
        format!(
            "{{\"name\":{},\"version\":{},\"digest\":{},\"enabled\":{},\"grants\":[{}],\"failures\":{},\
             \"last_failure\":{}}}",
            string(&module.name),
            string(version(modules, &module.digest)),
            string(&name_of(&module.digest)),
            module.enabled,
            grants.join(","),
            module.failures,
            string(&module.last_failure)
        )
    };
    let component = |component: &ModuleComponent| {
        format!(
            "{{\"name\":{},\"version\":{},\"digest\":{},\"size_bytes\":{},\"received_bytes\":{},\
             \"ready_voters\":{},\"voters\":{},\"refusal\":{}}}",
            string(&component.name),
            string(&component.version),
            string(&name_of(&component.digest)),
            component.size_bytes,
            component.received_bytes,
            component.ready_voters,
            component.voters,
            string(&component.refusal)
        )
    };
    let active: Vec<_> = modules.modules.iter().map(module).collect();
    let components: Vec<_> = modules.components.iter().map(component).collect();
    format!("{{\"modules\":[{}],\"components\":[{}]}}", active.join(","), components.join(","))
}
