//! etcd's services as their .proto files describe them: the methods that metrics count and the gateway leads to.

use std::sync::{Arc, LazyLock};

use prost_reflect::{DescriptorPool, MethodDescriptor};

use crate::metrics::{Method, MethodKind, MethodTable};

/// The packages whose services clients may call.
const PACKAGES: [&str; 4] = ["etcdserverpb", "v3lockpb", "v3electionpb", "grpc.health.v1"];

/// All that `proto` knows. It is this program's own, and a test reads it: it cannot be wrong.
pub(super) fn pool() -> &'static DescriptorPool {
    static POOL: LazyLock<DescriptorPool> =
        LazyLock::new(|| DescriptorPool::decode(proto::DESCRIPTORS).unwrap_or_default());
    &POOL
}

/// The methods of all services.
pub(super) fn all() -> impl Iterator<Item = MethodDescriptor> {
    let services = pool().services();
    let ours = services.filter(|service| PACKAGES.contains(&service.parent_file().package_name()));
    ours.flat_map(|service| service.methods().collect::<Vec<_>>())
}

/// The methods as the metrics name them.
pub(super) fn methods() -> Arc<MethodTable> {
    static TABLE: LazyLock<Arc<MethodTable>> = LazyLock::new(|| {
        let method = |method: MethodDescriptor| Method {
            service: method.parent_service().full_name().to_owned(),
            name: method.name().to_owned(),
            kind: match (method.is_client_streaming(), method.is_server_streaming()) {
                (false, false) => MethodKind::Unary,
                (false, true) => MethodKind::ServerStream,
                (true, false) => MethodKind::ClientStream,
                (true, true) => MethodKind::BidiStream,
            },
        };
        Arc::new(MethodTable::new(all().map(method).collect()))
    });
    TABLE.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_services_are_etcds() {
        let names: Vec<String> = all().map(|method| method.full_name().to_owned()).collect();
        for name in [
            "etcdserverpb.KV.Put",
            "etcdserverpb.Watch.Watch",
            "etcdserverpb.Auth.RoleDelete",
            "grpc.health.v1.Health.Check",
        ] {
            assert!(names.iter().any(|known| known == name), "{name}: {names:?}");
        }
        assert!(!names.iter().any(|name| name.starts_with("instar.")));
        assert!(methods().find("/etcdserverpb.KV/Put").is_some());
    }
}
