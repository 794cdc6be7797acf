//! Builds the machine next to it, as the server's build script builds the real one.

#[path = "../../build/component.rs"]
mod component;

fn main() {
    component::build("hostile-machine", &["host/tests/hostile/machine", "wit"]);
}
