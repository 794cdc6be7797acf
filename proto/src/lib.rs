//! The wire formats and their generated types, one Rust module a protobuf package.
//!
//! `protos/etcd` is etcd's API as upstream publishes it (v3.7.1; without its OpenAPI annotations), `protos/instar` is
//! our own. Nothing but generated code lives here.

/// The descriptors of everything below, with the HTTP annotations of etcd's services: a `FileDescriptorSet`.
pub static DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

macro_rules! package {
    ($($module:ident = $file:literal),* $(,)?) => {$(
        #[allow(clippy::all, clippy::allow_attributes_without_reason, reason = "generated code")]
        pub mod $module {
            include!(concat!(env!("OUT_DIR"), "/", $file, ".rs"));
        }
    )*};
}

package! {
    authpb = "authpb",
    etcdserverpb = "etcdserverpb",
    membershippb = "membershippb",
    mvccpb = "mvccpb",
    v3electionpb = "v3electionpb",
    v3lockpb = "v3lockpb",
}

pub mod grpc {
    pub mod health {
        package! { v1 = "grpc.health.v1" }
    }
}

pub mod instar {
    package! {
        kv = "instar.kv",
        log = "instar.log",
        peer = "instar.peer",
        v1 = "instar.v1",
    }
}
