//! Compiles the .proto files, with protox in place of protoc.

use std::path::PathBuf;

const FILES: [&str; 8] = [
    "etcd/api/etcdserverpb/raft_internal.proto",
    "etcd/api/v3electionpb/v3election.proto",
    "etcd/api/v3lockpb/v3lock.proto",
    "grpc/health/health.proto",
    "instar/kv.proto",
    "instar/log.proto",
    "instar/machine.proto",
    "instar/peer.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=protos");
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("protos");
    let files = FILES.map(|file| root.join(file));
    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_imports(true).open_files(files)?;
    let descriptors = compiler.file_descriptor_set();
    // Encoded by the compiler itself, with the HTTP annotations, which prost's own types drop.
    let encoded = compiler.encode_file_descriptor_set();
    std::fs::write(PathBuf::from(std::env::var("OUT_DIR")?).join("descriptors.bin"), encoded)?;

    let mut config = prost_build::Config::new();
    config.bytes(["."]);
    // A comment that is indented in a .proto would be run as a documentation test.
    config.disable_comments(["."]);
    if std::env::var_os("CARGO_FEATURE_SERVICE").is_some() {
        tonic_prost_build::configure().compile_fds_with_config(descriptors, config)?;
    } else {
        config.compile_fds(descriptors)?;
    }
    Ok(())
}
