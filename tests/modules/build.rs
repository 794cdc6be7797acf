//! Builds the modules as the server's build script builds the machine.

#[path = "../../host/build/component.rs"]
mod component;

fn main() {
    let example = |name: &str| {
        component::build_into(name, &[&format!("examples/{name}"), "sdk", "wit/module"], name);
    };
    for name in ["fenced-queue", "prefix-quota", "rate-limit", "secondary-index"] {
        example(name);
    }
    component::build_into(
        "hostile-module",
        &["tests/modules/hostile", "sdk", "wit/module"],
        "hostile",
    );
}
