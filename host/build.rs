//! Builds the KV machine as a component and leaves it in `OUT_DIR/machine.wasm`, which the server embeds.

#[path = "build/component.rs"]
mod component;

fn main() {
    component::build(
        "guest-kv",
        &[
            "guest-kv/src",
            "guest-kv/Cargo.toml",
            "proto/src",
            "proto/protos",
            "proto/build.rs",
            "wit",
        ],
    );
}
