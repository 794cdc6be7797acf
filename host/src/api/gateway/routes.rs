//! The gateway's paths, from the `google.api.http` annotations of etcd's services.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost_reflect::{DynamicMessage, MethodDescriptor, Value};

use super::super::descriptors;

/// Where a path leads.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) method: MethodDescriptor,
    /// The method's path in gRPC.
    pub(super) grpc_path: String,
}

impl Route {
    pub(super) fn streams_responses(&self) -> bool {
        self.method.is_server_streaming()
    }
}

/// The route of a path. All are reached by POST, with the whole message as the body.
pub(super) fn find(path: &str) -> Option<&'static Route> {
    static ROUTES: LazyLock<HashMap<String, Route>> = LazyLock::new(|| {
        let route = |method: MethodDescriptor| {
            let grpc_path = format!("/{}/{}", method.parent_service().full_name(), method.name());
            Route { method, grpc_path }
        };
        let routes = descriptors::all().flat_map(|method| {
            let paths = paths(&method).into_iter();
            paths.map(|path| (path, route(method.clone()))).collect::<Vec<_>>()
        });
        routes.collect()
    });
    ROUTES.get(path)
}

/// The paths that are annotated to a method: the first one, and those beside it.
fn paths(method: &MethodDescriptor) -> Vec<String> {
    let Some(annotation) = descriptors::pool().get_extension_by_name("google.api.http") else {
        return Vec::new();
    };
    let options = method.options();
    let Value::Message(rule) = options.get_extension(&annotation).into_owned() else {
        return Vec::new();
    };
    let mut paths: Vec<String> = post(&rule).into_iter().collect();
    if let Some(Value::List(others)) = rule.get_field_by_name("additional_bindings").as_deref() {
        paths.extend(others.iter().filter_map(|other| post(other.as_message()?)));
    }
    paths
}

fn post(rule: &DynamicMessage) -> Option<String> {
    match rule.get_field_by_name("post")?.as_ref() {
        Value::String(path) if !path.is_empty() => Some(path.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paths_are_etcds() {
        for (path, grpc_path) in [
            ("/v3/kv/range", "/etcdserverpb.KV/Range"),
            ("/v3/watch", "/etcdserverpb.Watch/Watch"),
            ("/v3/lease/keepalive", "/etcdserverpb.Lease/LeaseKeepAlive"),
            ("/v3/lease/leases", "/etcdserverpb.Lease/LeaseLeases"),
            ("/v3/kv/lease/leases", "/etcdserverpb.Lease/LeaseLeases"),
            ("/v3/kv/lease/revoke", "/etcdserverpb.Lease/LeaseRevoke"),
            ("/v3/cluster/member/promote", "/etcdserverpb.Cluster/MemberPromote"),
            ("/v3/maintenance/transfer-leadership", "/etcdserverpb.Maintenance/MoveLeader"),
            ("/v3/auth/role/grant", "/etcdserverpb.Auth/RoleGrantPermission"),
        ] {
            assert_eq!(find(path).expect(path).grpc_path, grpc_path);
        }
        // RangeStream and the health service have none.
        for path in ["", "/", "/v3/", "/v3/kv/rangestream", "/v3/kv/range/"] {
            assert!(find(path).is_none(), "{path}");
        }
    }
}
