//! Programs of the operator's own, inside the transactions of the log: on three members, with clients that know nothing
//! of them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use proto::instar::v1 as module_pb;
use proto::instar::v1::module_client::ModuleClient;
use tests::case::{Scene, Verdict};
use tests::cluster::{Cluster, Plan};
use tonic::codegen::tokio_stream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

const CHUNK_BYTES: usize = 256 << 10;

struct Modules(ModuleClient<Channel>);

impl Modules {
    async fn of(cluster: &Cluster, at: usize) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{}", cluster.members[at].address))?;
        Ok(Self(ModuleClient::new(endpoint.connect().await?)))
    }

    async fn put(&mut self, component: &'static [u8]) -> Result<Bytes, Status> {
        let chunks = component.chunks(CHUNK_BYTES);
        let requests: Vec<_> = chunks
            .map(|chunk| module_pb::PutModuleRequest { data: Bytes::from_static(chunk) })
            .collect();
        Ok(self.0.put(tokio_stream::iter(requests)).await?.into_inner().digest)
    }

    async fn activate(&mut self, name: &str, grants: &[&str]) -> Result<module_pb::Modules, Status> {
        let request = module_pb::ActivateModuleRequest {
            name: name.to_owned(),
            digest: Bytes::new(),
            grants: grants.iter().map(|grant| Bytes::copy_from_slice(grant.as_bytes())).collect(),
        };
        Ok(self.0.activate(request).await?.into_inner())
    }

    async fn call(
        &mut self,
        name: &str,
        procedure: &str,
        argument: &str,
    ) -> Result<module_pb::CallModuleResponse, Status> {
        let request = module_pb::CallModuleRequest {
            name: name.to_owned(),
            procedure: procedure.to_owned(),
            argument: Bytes::copy_from_slice(argument.as_bytes()),
        };
        Ok(self.0.call(request).await?.into_inner())
    }

    async fn slot(&mut self, name: &str) -> Result<module_pb::ModuleStatus> {
        let listed = self.0.list(module_pb::ListModulesRequest {}).await?.into_inner();
        listed.modules.into_iter().find(|it| it.name == name).context("there is no such module")
    }
}

fn expect(result: Result<module_pb::CallModuleResponse, Status>, code: Code, part: &str) -> Result<()> {
    match result {
        Err(status) if status.code() == code && status.message().contains(part) => Ok(()),
        other => bail!("expected {code:?} with {part:?}: {other:?}"),
    }
}

async fn cluster_with(scene: &Scene, component: &'static [u8], name: &str, grants: &[&str]) -> Result<(Cluster, Modules)> {
    let cluster = Plan::new(scene.subject, 3, &scene.directory).start().await?;
    let mut modules = Modules::of(&cluster, 0).await?;
    modules.put(component).await?;
    let activated = modules.activate(name, grants).await?;
    let is_active = activated.modules.iter().any(|it| it.name == name && it.enabled);
    ensure!(is_active, "it was activated, and is not active: {activated:?}");
    Ok((cluster, modules))
}

/// A rate limiter is called by way of every member; what it counts is the same on all, and survives a restart.
pub async fn called(scene: Scene) -> Result<Verdict> {
    if !scene.is_instar() {
        return Ok(Verdict::Skipped("etcd has no modules".to_owned()));
    }
    let grants = ["/limits/"];
    let (mut cluster, mut modules) =
        cluster_with(&scene, ::modules::RATE_LIMIT, "rate-limit", &grants).await?;
    let take = r#"{"key":"api","n":1}"#;
    expect(modules.call("rate-limit", "take", take).await, Code::NotFound, "no bucket")?;
    // An unchanged client configures it.
    let put = cluster.client(1).put("/limits/api", r#"{"capacity":3,"per_second":0}"#).await?;
    let revision = put.header.context("a header")?.revision;
    for (at, left) in [(0, 2), (1, 1), (2, 0)] {
        let taken = Modules::of(&cluster, at).await?.call("rate-limit", "take", take).await?;
        let expected = format!(r#"{{"allowed":true,"left":{left},"retry_after_ms":0}}"#);
        ensure!(taken.result == expected, "{:?}", taken.result);
        ensure!(taken.revision == revision, "what no client sees made a revision");
    }
    let empty = r#"{"allowed":false,"left":0,"retry_after_ms":null}"#;
    ensure!(modules.call("rate-limit", "take", take).await?.result == empty);
    // A procedure that writes keys makes one revision, which is a key like any other.
    let configured = r#"{"key":"web","capacity":1,"per_second":1}"#;
    let called = modules.call("rate-limit", "configure", configured).await?;
    ensure!(called.revision == revision + 1, "{} after {revision}", called.revision);
    let got = cluster.client(2).get("/limits/web").await?;
    ensure!(got.kvs[0].mod_revision == called.revision, "{got:?}");
    ensure!(got.kvs[0].value == r#"{"capacity":1,"per_second":1}"#, "{got:?}");
    cluster.wait_equal().await?;

    for member in &mut cluster.members {
        member.kill();
    }
    for member in &mut cluster.members {
        member.spawn()?;
    }
    cluster.wait_ready().await?;
    for at in 0..3 {
        let taken = Modules::of(&cluster, at).await?.call("rate-limit", "take", take).await?;
        ensure!(taken.result == empty, "member {at} has forgotten: {:?}", taken.result);
    }
    let started = Instant::now();
    const CALLS: u32 = 500;
    let mut modules = Modules::of(&cluster, 0).await?;
    for _ in 0..CALLS {
        modules.call("rate-limit", "take", take).await?;
    }
    scene.note(format!("a call took {:?} on average, one after the other", started.elapsed() / CALLS));
    Ok(Verdict::Passed)
}

/// Whatever a module does wrong fails the one request, the same way on every member; enough of it, and it is out.
pub async fn misbehaving(scene: Scene) -> Result<Verdict> {
    if !scene.is_instar() {
        return Ok(Verdict::Skipped("etcd has no modules".to_owned()));
    }
    let grants = ["/hostile/"];
    let (cluster, mut modules) = cluster_with(&scene, ::modules::HOSTILE, "hostile", &grants).await?;
    let mut longest = Duration::ZERO;
    for (procedure, code, part) in [
        ("loop", Code::Internal, "limit on computing"),
        ("panic", Code::Internal, "it panicked"),
        ("recurse", Code::Internal, "out of bounds"),
        ("memory", Code::Internal, "more memory"),
        ("huge-answer", Code::Internal, "longer than"),
        ("huge-rejection", Code::Internal, "longer than"),
        ("storm", Code::Internal, "limit on computing"),
        ("flood-keys", Code::ResourceExhausted, "so much"),
        ("flood-rows", Code::ResourceExhausted, "so much"),
        ("flood-bytes", Code::ResourceExhausted, "so much"),
        ("foreign-read", Code::PermissionDenied, "not granted"),
        ("foreign-write", Code::PermissionDenied, "not granted"),
        ("foreign-range", Code::PermissionDenied, "not granted"),
        ("write-and-panic", Code::Internal, "it panicked"),
        ("write-and-reject", Code::FailedPrecondition, "after writing"),
    ] {
        let started = Instant::now();
        let result = modules.call("hostile", procedure, "").await;
        longest = longest.max(started.elapsed());
        expect(result, code, part).with_context(|| procedure.to_owned())?;
        let at = longest.subsec_nanos() as usize % 3;
        cluster.client(at).put("/elsewhere", procedure).await.context("others go on")?;
        // What failed is counted until it does not.
        let half = Modules::of(&cluster, at).await?.call("hostile", "half", "").await?;
        ensure!(half.result == "nothing", "{procedure} left something behind");
        ensure!(cluster.client(at).get("/hostile/half").await?.kvs.is_empty(), "{procedure}");
        ensure!(cluster.client(at).get("/foreign").await?.kvs.is_empty(), "{procedure}");
    }
    for at in 0..3 {
        let remembered = Modules::of(&cluster, at).await?.call("hostile", "remember", "").await?;
        ensure!(remembered.result == "0", "an instance outlived its call");
    }
    scene.note(format!("the longest of them took {longest:?}"));
    ensure!(modules.slot("hostile").await?.failures == 0, "a call that did not fail forgives");
    for _ in 0..10 {
        expect(modules.call("hostile", "panic", "").await, Code::Internal, "it panicked")?;
    }
    for at in 0..3 {
        let mut modules = Modules::of(&cluster, at).await?;
        let refused = modules.call("hostile", "echo", "").await;
        expect(refused, Code::FailedPrecondition, "failed 10 times in a row: it panicked")?;
        ensure!(!modules.slot("hostile").await?.enabled, "it is to be disabled");
    }
    // Its keys are keys like any others now.
    cluster.client(1).put("/hostile/key", "admit:panic").await?;
    cluster.wait_equal().await?;
    Ok(Verdict::Passed)
}
