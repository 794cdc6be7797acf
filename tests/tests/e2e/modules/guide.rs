//! What the guide (docs/modules.md) has its readers do, done by the same commands: in Rust from each template, and in C.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use proto::etcdserverpb as pb;
use tests::case::{Scene, Verdict};
use tests::client::Client;
use tests::cluster::{Plan, instarctl};
use tokio::process::Command;
use tonic::Code;

/// The root of the sources.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sdk() -> Result<String> {
    Ok(root().join("sdk").to_str().context("a path")?.to_owned())
}

/// Where the commands ask.
struct Cli<'a> {
    endpoint: &'a str,
}

impl Cli<'_> {
    /// Runs `instarctl module` in a directory, and gives what it says.
    async fn module(&self, directory: &Path, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(instarctl()?);
        command.current_dir(directory).arg(format!("--endpoints={}", self.endpoint)).arg("module");
        let output = command.args(arguments).output().await?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let failed = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{arguments:?}: {said} {failed}");
        Ok(said)
    }
}

async fn value(client: &Client, key: &str) -> Result<Option<String>> {
    let found = client.get(key).await?.kvs.into_iter().next();
    Ok(found.map(|kv| String::from_utf8_lossy(&kv.value).into_owned()))
}

async fn refused(client: &Client, key: &str, value: &str, code: Code, reason: &str) -> Result<()> {
    match client.put(key, value).await {
        Err(status) if status.code() == code && status.message() == reason => Ok(()),
        other => anyhow::bail!("{key} = {value} is to be refused since {reason}: {other:?}"),
    }
}

/// From nothing to serving, by following the guide; and from an edit to running.
pub async fn from_nothing(scene: Scene) -> Result<Verdict> {
    if !scene.is_instar() {
        return Ok(Verdict::Skipped("etcd has no modules".to_owned()));
    }
    let cluster = Plan::new(scene.subject, 3, &scene.directory).start().await?;
    let run = Cli { endpoint: &cluster.members[0].address };
    let started = Instant::now();
    run.module(&scene.directory, &["new", "counter", "--template", "call", "--sdk", &sdk()?])
        .await?;
    let directory = scene.directory.join("counter");
    run.module(&directory, &["build"]).await?;
    let load =
        ["bench", "--call", "add", "--argument", "1", "--key", "/counter/", "--time", "300ms"];
    let measured = run.module(&directory, &load).await?;
    ensure!(measured.contains("calls of add") && !measured.contains("failed:"), "{measured}");
    scene.note(measured);
    run.module(&directory, &["put", "counter.wasm"]).await?;
    run.module(&directory, &["activate", "counter", "--grant", "/counter/"]).await?;
    ensure!(run.module(&directory, &["call", "counter", "add", "2"]).await? == "2");
    scene.note(format!("from nothing to serving: {:?}", started.elapsed()));

    let started = Instant::now();
    let source = directory.join("src/lib.rs");
    let edited = std::fs::read_to_string(&source)?.replace("before + by", "before + 10 * by");
    std::fs::write(&source, edited)?;
    run.module(&directory, &["build"]).await?;
    run.module(&directory, &["put", "counter.wasm"]).await?;
    run.module(&directory, &["activate", "counter", "--grant", "/counter/"]).await?;
    ensure!(run.module(&directory, &["call", "counter", "add", "3"]).await? == "32");
    scene.note(format!("from an edit to running: {:?}", started.elapsed()));
    cluster.wait_equal().await?;
    Ok(Verdict::Passed)
}

/// Each template is a module whose own tests pass, and that serves what it says as it stands.
pub async fn templates(scene: Scene) -> Result<Verdict> {
    if !scene.is_instar() {
        return Ok(Verdict::Skipped("etcd has no modules".to_owned()));
    }
    let cluster = Plan::new(scene.subject, 3, &scene.directory).start().await?;
    let run = Cli { endpoint: &cluster.members[1].address };
    // What the three have in common is built once.
    let built = scene.directory.join("target");
    std::fs::create_dir(&built)?;
    for (template, grants) in [
        ("call", &["--grant", "/call/"][..]),
        ("admit", &["--grant", "/admit/"]),
        ("react", &["--grant", "/react/", "--grant", "/react-before/"]),
    ] {
        let started = Instant::now();
        let new = ["new", template, "--template", template, "--sdk", &sdk()?];
        run.module(&scene.directory, &new).await?;
        let directory = scene.directory.join(template);
        std::os::unix::fs::symlink(&built, directory.join("target"))?;
        let tested = run.module(&directory, &["test"]).await?;
        ensure!(tested.contains("1 passed"), "{tested}");
        run.module(&directory, &["build"]).await?;
        run.module(&directory, &["put", &format!("{template}.wasm")]).await?;
        run.module(&directory, &[&["activate", template], grants].concat()).await?;
        scene.note(format!("{template}: made, tested, built, serving: {:?}", started.elapsed()));
    }
    let client = cluster.client(2);
    ensure!(run.module(&scene.directory, &["call", "call", "add", "5"]).await? == "5");
    ensure!(value(&client, "/call/count").await?.as_deref() == Some("5"));
    client.put("/admit/a", "7").await?;
    let reason = "/admit/a takes numbers only";
    refused(&client, "/admit/a", "seven", Code::FailedPrecondition, reason).await?;
    client.put("/react/a", "1").await?;
    ensure!(value(&client, "/react-before/a").await?.is_none());
    client.put("/react/a", "2").await?;
    ensure!(value(&client, "/react-before/a").await?.as_deref() == Some("1"));
    cluster.wait_equal().await?;
    Ok(Verdict::Passed)
}

/// A module in C: the contract is WIT, and not Rust. Where there is no clang, what it once built is used.
pub async fn in_c(scene: Scene) -> Result<Verdict> {
    if !scene.is_instar() {
        return Ok(Verdict::Skipped("etcd has no modules".to_owned()));
    }
    let cluster = Plan::new(scene.subject, 3, &scene.directory).start().await?;
    let run = Cli { endpoint: &cluster.members[0].address };
    let directory = scene.directory.join("json-shape");
    std::fs::create_dir(&directory)?;
    for file in std::fs::read_dir(root().join("examples/json-shape"))? {
        let path = file?.path();
        if path.is_file() {
            std::fs::copy(&path, directory.join(path.file_name().context("a name")?))?;
        }
    }
    let there = |program: &str| std::process::Command::new(program).arg("--version").output();
    match (there("clang"), there("wasm-ld"), there("cc")) {
        (Ok(_), Ok(_), Ok(_)) => {
            let tested = run.module(&directory, &["test"]).await?;
            ensure!(tested.contains("0 failed"), "{tested}");
            std::fs::remove_file(directory.join("json-shape.wasm"))?;
            run.module(&directory, &["build"]).await?;
        }
        _ => scene.note("there is no clang: the component is the one in the sources"),
    }
    run.module(&directory, &["put", "json-shape.wasm"]).await?;
    run.module(&directory, &["activate", "json-shape", "--grant", "/config/"]).await?;

    let client = cluster.client(1);
    client.put("/config/db/main", "anything, as long as there is no shape").await?;
    client
        .put("/config/db/.shape", r#"{"host":"string","port":"integer","tls":"boolean?"}"#)
        .await?;
    client.put("/config/db/main", r#"{"host":"a","port":5432}"#).await?;
    client.put("/config/db/deep/er", r#"{"host":"a","port":5432,"tls":true}"#).await?;
    client.put("/config/other", "no shape here").await?;
    for (key, value, reason) in [
        ("/config/db/main", r#"{"host":"a"}"#, r#"the field "port" is missing"#),
        ("/config/db/x/y", "[]", "it is no JSON object"),
        ("/config/db/.shape", r#"{"a":"txt"}"#, r#"the field "a" has a type that is not known"#),
        ("/config/db/n\u{e9}", "{", "it is no valid JSON"),
    ] {
        // What is not ASCII is told as question marks.
        let reason = format!("{}: {reason}", key.replace('\u{e9}', "??"));
        refused(&client, key, value, Code::InvalidArgument, &reason).await?;
    }
    let txn = pb::TxnRequest {
        success: [("/elsewhere", "x"), ("/config/db/main", "{}")].map(put_operation).into(),
        ..Default::default()
    };
    let status = client.kv.clone().txn(txn).await.err().context("a value has not the shape")?;
    ensure!(status.message() == r#"/config/db/main: the field "host" is missing"#, "{status}");
    ensure!(value(&client, "/elsewhere").await?.is_none(), "half a transaction was done");
    // A nearer shape counts instead, and a deleted one no longer.
    client.put("/config/db/deep/.shape", r#"{"n":"number"}"#).await?;
    client.put("/config/db/deep/er", r#"{"n":1e3}"#).await?;
    let delete = pb::DeleteRangeRequest { key: "/config/db/.shape".into(), ..Default::default() };
    client.kv.clone().delete_range(delete).await?;
    client.put("/config/db/main", "anything again").await?;
    cluster.wait_equal().await?;
    Ok(Verdict::Passed)
}

fn put_operation((key, value): (&'static str, &'static str)) -> pb::RequestOp {
    let put = pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() };
    pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
}
