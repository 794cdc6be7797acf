//! Programs of the operator's own, inside the transactions of the log: on three members, with clients that know nothing
//! of them.

mod guide;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::instar::v1 as module_pb;
use proto::instar::v1::module_client::ModuleClient;
use tests::case::{Scene, Verdict};
use tests::client::Client;
use tests::cluster::{Cluster, Plan, etcd_programs, instarctl};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tonic::codegen::tokio_stream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

pub use guide::{from_nothing, in_c, templates};

use crate::raw;

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

    async fn activate(
        &mut self,
        name: &str,
        grants: &[&str],
    ) -> Result<module_pb::Modules, Status> {
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

fn expect(
    result: Result<module_pb::CallModuleResponse, Status>,
    code: Code,
    part: &str,
) -> Result<()> {
    match result {
        Err(status) if status.code() == code && status.message().contains(part) => Ok(()),
        other => bail!("expected {code:?} with {part:?}: {other:?}"),
    }
}

async fn cluster_with(
    scene: &Scene,
    component: &'static [u8],
    name: &str,
    grants: &[&str],
) -> Result<(Cluster, Modules)> {
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
    scene.note(format!(
        "a call took {:?} on average, one after the other",
        started.elapsed() / CALLS
    ));
    Ok(Verdict::Passed)
}

/// Whatever a module does wrong fails the one request, the same way on every member; enough of it, and it is out.
pub async fn misbehaving(scene: Scene) -> Result<Verdict> {
    if !scene.is_instar() {
        return Ok(Verdict::Skipped("etcd has no modules".to_owned()));
    }
    let grants = ["/hostile/"];
    let (cluster, mut modules) =
        cluster_with(&scene, ::modules::HOSTILE, "hostile", &grants).await?;
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

fn put_op(key: &str, value: &str) -> pb::RequestOp {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    let put = pb::PutRequest { key, value, ..Default::default() };
    pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
}

async fn txn(client: &Client, success: Vec<pb::RequestOp>) -> Result<pb::TxnResponse, Status> {
    let request = pb::TxnRequest { success, ..Default::default() };
    Ok(client.kv.clone().txn(request).await?.into_inner())
}

async fn delete(client: &Client, key: &str, range_end: &str) -> Result<i64, Status> {
    let (key, range_end) = (key.to_owned().into(), range_end.to_owned().into());
    let request = pb::DeleteRangeRequest { key, range_end, ..Default::default() };
    Ok(client.kv.clone().delete_range(request).await?.into_inner().deleted)
}

async fn keys(client: &Client, prefix: &str) -> Result<Vec<(String, i64)>> {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().context("a prefix")? += 1;
    let key = Bytes::copy_from_slice(prefix.as_bytes());
    let request = pb::RangeRequest { key, range_end: end.into(), ..Default::default() };
    let kvs = client.range(request).await?.kvs;
    Ok(kvs
        .iter()
        .map(|kv| (String::from_utf8_lossy(&kv.key).into_owned(), kv.mod_revision))
        .collect())
}

/// etcd's own clients are held to a quota that they know nothing of.
pub async fn admitting(scene: Scene) -> Result<Verdict> {
    if !scene.is_instar() {
        return Ok(Verdict::Skipped("etcd has no modules".to_owned()));
    }
    let grants = ["/tenants/"];
    let (cluster, mut modules) =
        cluster_with(&scene, ::modules::PREFIX_QUOTA, "prefix-quota", &grants).await?;
    let client = cluster.client(1);
    client.put("/tenants/a/.quota", "2").await?;
    // Many at once, by all members: no batch lets one too many through.
    let mut puts = tokio::task::JoinSet::new();
    for number in 0..30 {
        let client = cluster.client(number % 3);
        puts.spawn(async move { client.put(&format!("/tenants/a/{number}"), "x").await });
    }
    let mut admitted = 0;
    while let Some(done) = puts.join_next().await {
        match done? {
            Ok(_) => admitted += 1,
            Err(status) => {
                let is_quota = status.message() == "/tenants/a/ has 2 keys, of 2 that it may have";
                ensure!(status.code() == Code::FailedPrecondition && is_quota, "{status}");
            }
        }
    }
    ensure!(admitted == 2, "{admitted} keys were admitted, of 2 that may be");
    let two = vec![put_op("/elsewhere", "x"), put_op("/tenants/a/txn", "x")];
    ensure!(txn(&client, two).await.is_err(), "a transaction is a way around the quota");
    ensure!(client.get("/elsewhere").await?.kvs.is_empty(), "half a transaction was done");
    let endpoint = format!("--endpoints={}", cluster.members[2].address);
    let etcdctl = &etcd_programs().map_err(anyhow::Error::msg)?.etcdctl;
    let arguments = [endpoint.as_str(), "put", "/tenants/a/more", "x"];
    let put = Command::new(etcdctl).args(arguments).output().await?;
    let said = String::from_utf8_lossy(&put.stderr).into_owned();
    ensure!(!put.status.success() && said.contains("has 2 keys, of 2"), "{said}");
    ensure!(delete(&client, "/tenants/a/0", "/tenants/a/:").await? == 2);
    client.put("/tenants/a/again", "x").await?;
    ensure!(modules.slot("prefix-quota").await?.failures == 0);
    let disable = module_pb::DisableModuleRequest { name: "prefix-quota".to_owned() };
    modules.0.disable(disable).await?;
    for number in 0..5 {
        client.put(&format!("/tenants/a/{number}"), "x").await?;
    }
    cluster.wait_equal().await?;
    Ok(Verdict::Passed)
}

/// An index follows what etcd's clients write, in the same revision, on every member.
pub async fn reacting(scene: Scene) -> Result<Verdict> {
    if !scene.is_instar() {
        return Ok(Verdict::Skipped("etcd has no modules".to_owned()));
    }
    let grants = ["/users/", "/users-by-email/"];
    let (cluster, _modules) =
        cluster_with(&scene, ::modules::SECONDARY_INDEX, "secondary-index", &grants).await?;
    let client = cluster.client(2);
    let put = client.put("/users/7", r#"{"email":"a@b"}"#).await?;
    let revision = put.header.context("a header")?.revision;
    ensure!(
        keys(&client, "/users-by-email/").await?
            == [("/users-by-email/a@b/7".to_owned(), revision)]
    );
    let moved =
        vec![put_op("/users/7", r#"{"email":"c@d"}"#), put_op("/users/8", r#"{"email":"c@d"}"#)];
    let moved = txn(&client, moved).await?;
    ensure!(moved.responses.len() == 2, "the response tells of what a module did: {moved:?}");
    let revision = revision + 1;
    let indexed = |id| (format!("/users-by-email/c@d/{id}"), revision);
    ensure!(keys(&cluster.client(0), "/users-by-email/").await? == [indexed(7), indexed(8)]);
    ensure!(delete(&client, "/users/7", "").await? == 1);
    ensure!(keys(&client, "/users-by-email/").await? == [indexed(8)]);
    // A key that goes with its lease takes its place in the index with it.
    let lease = client.grant(0, 60).await?.id;
    let value = Bytes::from_static(br#"{"email":"e@f"}"#);
    let leased = pb::PutRequest { key: "/users/9".into(), value, lease, ..Default::default() };
    client.kv.clone().put(leased).await?;
    ensure!(keys(&client, "/users-by-email/e").await?.len() == 1);
    client.revoke(lease).await?;
    ensure!(keys(&client, "/users/9").await?.is_empty());
    ensure!(keys(&client, "/users-by-email/e").await?.is_empty(), "a lease's end is not followed");
    cluster.wait_equal().await?;
    Ok(Verdict::Passed)
}

/// What looks at others' requests fails them one by one, until it is out; a reaction cannot break the rules either.
pub async fn misbehaving_beside_others(scene: Scene) -> Result<Verdict> {
    if !scene.is_instar() {
        return Ok(Verdict::Skipped("etcd has no modules".to_owned()));
    }
    let grants = ["/hostile/"];
    let (cluster, mut modules) =
        cluster_with(&scene, ::modules::HOSTILE, "hostile", &grants).await?;
    for (value, part) in [
        ("admit:panic", "it panicked"),
        ("admit:loop", "limit on computing"),
        ("admit:flood-keys", "only reads"),
        ("react:panic", "it panicked"),
        ("react:loop", "limit on computing"),
        ("react:write-and-panic", "it panicked"),
        ("react:same-key", "the entry itself writes"),
        ("react:lease", "lease not found"),
    ] {
        let client = cluster.client(value.len() % 3);
        let status =
            client.put("/hostile/key", value).await.err().context("it is to be refused")?;
        ensure!(status.message().contains(part), "{value}: {status}");
        ensure!(client.get("/hostile/key").await?.kvs.is_empty(), "{value} was done");
        ensure!(client.get("/hostile/half").await?.kvs.is_empty(), "{value} was done by half");
        client.put("/elsewhere", value).await?;
        client.put("/hostile/other", "good").await?;
    }
    for _ in 0..10 {
        let refused = cluster.client(0).put("/hostile/key", "admit:panic").await;
        ensure!(refused.is_err(), "it panics");
    }
    ensure!(!modules.slot("hostile").await?.enabled, "it is to be disabled");
    cluster.client(1).put("/hostile/key", "admit:panic").await?;
    cluster.wait_equal().await?;
    Ok(Verdict::Passed)
}

/// A queue by the command line and by HTTP.
pub async fn by_command_line_and_http(scene: Scene) -> Result<Verdict> {
    if !scene.is_instar() {
        return Ok(Verdict::Skipped("etcd has no modules".to_owned()));
    }
    let cluster = Plan::new(scene.subject, 3, &scene.directory).start().await?;
    let file = scene.directory.join("fenced-queue.wasm");
    std::fs::write(&file, ::modules::FENCED_QUEUE)?;
    let run = async |arguments: &[&str]| {
        let endpoints = format!("--endpoints={}", cluster.members[1].address);
        let output = Command::new(instarctl()?)
            .arg(endpoints)
            .arg("module")
            .args(arguments)
            .output()
            .await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        anyhow::Ok((output.status.success(), text(&output.stdout), text(&output.stderr)))
    };
    let (done, said, failed) = run(&["put", file.to_str().context("a path")?]).await?;
    ensure!(done && said.starts_with("sha256:"), "{said} {failed}");
    let (done, said, failed) = run(&["activate", "fenced-queue", "--grant", "/queue/"]).await?;
    ensure!(done && said.contains("active, granted /queue/"), "{said} {failed}");
    let pushed = run(&["call", "fenced-queue", "push", r#"{"queue":"q","item":"work"}"#]).await?;
    ensure!(pushed.1 == r#"{"id":"00000000000000000001"}"#, "{pushed:?}");
    let (_, listed, _) = run(&["list", "-w", "json"]).await?;
    let listed: serde_json::Value = serde_json::from_str(&listed)?;
    ensure!(listed["modules"][0]["name"] == "fenced-queue", "{listed}");
    let refused = run(&["call", "fenced-queue", "nothing", "{}"]).await?;
    ensure!(!refused.0 && refused.2.contains("there is no procedure"), "{refused:?}");

    let address = &cluster.members[2].address;
    let post = async |procedure: &str, body: &str| {
        let path = format!("/instar/v1/modules/fenced-queue/{procedure}");
        raw::http_with(address, "POST", &path, &[], body).await
    };
    let taken = post("take", r#"{"queue":"q","for_ms":60000}"#).await?;
    ensure!(taken.status == "200" && taken.body.contains(r#""item":"work""#), "{}", taken.body);
    let taken: serde_json::Value = serde_json::from_str(&taken.body)?;
    let token = taken["token"].as_u64().context("a token")?;
    let finish = |token| format!(r#"{{"queue":"q","id":"00000000000000000001","token":{token}}}"#);
    let late = post("finish", &finish(token - 1)).await?;
    ensure!(late.status == "409" && late.body.contains("does not hold"), "{}", late.body);
    let done = post("finish", &finish(token)).await?;
    ensure!(done.status == "200", "{}", done.body);
    ensure!(cluster.client(0).get("/queue/q/00000000000000000001").await?.kvs.is_empty());
    let (done, said, failed) = run(&["disable", "fenced-queue"]).await?;
    ensure!(done && said.contains("disabled"), "{said} {failed}");
    let refused = post("take", "{}").await?;
    ensure!(refused.status == "400" && refused.body.contains("is disabled"), "{}", refused.body);
    Ok(Verdict::Passed)
}

/// What a module logs can be followed, and what it costs can be seen, on any member.
pub async fn observed(scene: Scene) -> Result<Verdict> {
    if !scene.is_instar() {
        return Ok(Verdict::Skipped("etcd has no modules".to_owned()));
    }
    let (cluster, mut modules) =
        cluster_with(&scene, ::modules::HOSTILE, "hostile", &["/hostile/"]).await?;
    modules.call("hostile", "log", "before").await?;
    let endpoints = format!("--endpoints={}", cluster.members[1].address);
    let module = |arguments: &[&str]| -> Result<Command> {
        let mut command = Command::new(instarctl()?);
        command.args([&endpoints, "module"]).args(arguments);
        Ok(command)
    };
    let mut following = module(&["logs", "-f", "hostile"])?
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(following.stdout.take().context("its output")?).lines();
    ensure!(lines.next_line().await?.as_deref() == Some("INFO  before"), "what was before");
    modules.call("hostile", "log", "after").await?;
    ensure!(lines.next_line().await?.as_deref() == Some("INFO  after"), "what came after");
    // One call logs so much and no more, whatever it tries.
    modules.call("hostile", "flood-log", "").await?;
    modules.call("hostile", "log", "end").await?;
    let mut flood = 0;
    while lines.next_line().await?.context("more lines")? != "INFO  end" {
        flood += 1;
    }
    ensure!(flood == 16, "{flood} lines of one call");
    following.kill().await?;
    let last = module(&["logs", "hostile", "--tail", "2", "-w", "json"])?.output().await?;
    let last = String::from_utf8(last.stdout)?;
    let texts: Result<Vec<_>> = last
        .lines()
        .map(|line| Ok(serde_json::from_str::<serde_json::Value>(line)?["text"].to_string()))
        .collect();
    ensure!(texts? == [r#""flood 15""#, r#""end""#], "{last}");

    // Every member runs what is called on one of them.
    let statistics = modules.0.statistics(module_pb::ModuleStatisticsRequest {}).await?;
    let [work] = &statistics.get_ref().works[..] else { bail!("{statistics:?}") };
    ensure!((work.export.as_str(), work.runs, work.failures) == ("call", 4, 0), "{work:?}");
    ensure!(work.fuel > 0 && work.time_us > 0, "{work:?}");
    let shown = module(&["top", "--count", "1", "--interval", "100ms"])?.output().await?;
    let shown = String::from_utf8(shown.stdout)?;
    ensure!(shown.contains("FUEL/RUN") && shown.contains("hostile"), "{shown}");
    let metrics = raw::http(&cluster.members[2].address, "GET", "/metrics").await?.body;
    let expected = r#"instar_module_runs_total{export="call",module="hostile"} 4"#;
    ensure!(metrics.contains(expected), "{metrics}");
    Ok(Verdict::Passed)
}
