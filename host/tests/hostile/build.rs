//! Builds the machines next to it, as the server's build script builds the real one.

#[path = "../../build/component.rs"]
mod component;

fn main() {
    component::build("hostile-machine", &["host/tests/hostile/machine", "wit"]);
    let sources = ["host/tests/hostile/kv", "guest-kv/src", "guest-kv/Cargo.toml", "wit"];
    component::build_into("hostile-kv", &sources, "kv");
}
