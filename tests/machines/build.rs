//! Builds the machine as the server's build script builds the one that is built in.

#[path = "../../host/build/component.rs"]
mod component;

fn main() {
    let sources = ["guest-kv/src", "guest-kv/Cargo.toml", "wit/machine.wit"];
    component::build_with("guest-kv", &["counters"], &sources, "kv-1.1.0");
}
