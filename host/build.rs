//! Builds the KV machine as a component and leaves it in `OUT_DIR/machine.wasm`, which the server embeds.

#[path = "build/component.rs"]
mod component;

fn main() {
    // The platform that the server is built for, for the engine's settings.
    let target = std::env::var("TARGET").unwrap_or_default();
    println!("cargo::rustc-env=INSTAR_TARGET={target}");
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
