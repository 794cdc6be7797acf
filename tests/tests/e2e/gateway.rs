//! The JSON gateway beside etcd's: the same requests to both, status and body compared.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::case::{Scene, Verdict};
use tests::cluster::{Cluster, Plan, Program, etcd_programs};

use crate::raw;

/// One request.
struct Ask {
    method: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
}

const fn post(path: &'static str, body: &'static str) -> Ask {
    Ask { method: "POST", path, headers: &[], body }
}

/// In order: later ones find what earlier ones left.
const ASKS: &[Ask] = &[
    post("/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#),
    post("/v3/kv/put", r#"{"key":"Zm9v","value":"YmF6","prev_kv":true}"#),
    post("/v3/kv/put", r#"{"key":"Zm9w","value":"/w==","prevKv":true}"#),
    post("/v3beta/kv/put", r#"{"key":"Zm9x"}"#),
    post("/v3alpha/kv/put", r#"{"key":"Zm9v"}"#),
    post("/v3/kv/range", r#"{"key":"Zm9v"}"#),
    post("/v3/kv/range", r#"{"key":"Zm9v","rangeEnd":"Zm-_","limit":"2"}"#),
    post(
        "/v3/kv/range",
        r#"{"key":"Zm9v","range_end":"Zn","sort_order":"DESCEND","sort_target":1}"#,
    ),
    post("/v3/kv/range", r#"{"key":"Zm9v","range_end":"Zn","count_only":true}"#),
    post("/v3/kv/range", r#"{"key":"Zm9v","sort_order":"UP","nobody":[{"a":1}]}"#),
    post("/v3/kv/range", r#"{"key":"Zm9v","revision":"2"} and more"#),
    post("/v3/kv/range", r#"{"key":"Zm9v","revision":1000}"#),
    post("/v3/kv/range", r#"{"key":"Zm9v","limit":1e1,"revision":null}"#),
    post("/v3/kv/range", ""),
    post("/v3/kv/range", "{}"),
    post("/v3/kv/range", "{"),
    post("/v3/kv/range", "[]"),
    post("/v3/kv/range", "xx"),
    post("/v3/kv/range", r#"{"key":1}"#),
    post("/v3/kv/range", r#"{"key":"!!"}"#),
    post("/v3/kv/range", r#"{"key":"Zm9v","limit":"x"}"#),
    post("/v3/kv/range", r#"{"key":"Zm9v","limit":1.5}"#),
    post("/v3/kv/range", r#"{"key":"Zm9v","limit":99999999999999999999}"#),
    post("/v3/kv/range", r#"{"key":"Zm9v","keys_only":1}"#),
    post("/v3/kv/range?key=Zm9v", "{}"),
    post("/v3/kv/range/", r#"{"key":"Zm9v"}"#),
    post("/v3/kv/nothing", "{}"),
    post("/v3/", "{}"),
    post("/v3", "{}"),
    Ask { method: "GET", path: "/v3", headers: &[], body: "" },
    Ask { method: "GET", path: "/v3/kv/range", headers: &[], body: "" },
    Ask { method: "PUT", path: "/v3/kv/range", headers: &[], body: "{}" },
    Ask { method: "DELETE", path: "/v3/kv/nothing", headers: &[], body: "" },
    Ask { method: "OPTIONS", path: "/v3/kv/range", headers: &[], body: "" },
    Ask {
        method: "POST",
        path: "/v3/kv/range",
        headers: &[
            ("X-HTTP-Method-Override", "PUT"),
            ("Content-Type", "application/x-www-form-urlencoded"),
        ],
        body: r#"{"key":"Zm9v"}"#,
    },
    Ask {
        method: "POST",
        path: "/v3/kv/range",
        headers: &[("Grpc-Timeout", "1n")],
        body: r#"{"key":"Zm9v"}"#,
    },
    Ask {
        method: "POST",
        path: "/v3/kv/range",
        headers: &[("Grpc-Timeout", "soon")],
        body: r#"{"key":"Zm9v"}"#,
    },
    Ask {
        method: "POST",
        path: "/v3/kv/range",
        headers: &[("Grpc-Metadata-Hasleader", "true"), ("Origin", "http://elsewhere")],
        body: r#"{"key":"Zm9v"}"#,
    },
    post(
        "/v3/kv/txn",
        r#"{"compare":[{"key":"Zm9v","target":"VERSION","version":"2"}],"success":[{"request_range":{"key":"Zm9v"}},{"requestPut":{"key":"Zm9y","value":"AA=="}}]}"#,
    ),
    post(
        "/v3/kv/txn",
        r#"{"compare":[{"result":"GREATER","target":"MOD","key":"Zm9v","mod_revision":"900"}]}"#,
    ),
    post("/v3/kv/txn", r#"{"success":[{"request_range":{},"request_put":{}}]}"#),
    post("/v3/kv/deleterange", r#"{"key":"Zm9v","prev_kv":true}"#),
    post("/v3/kv/deleterange", r#"{"key":"Zm9v"}"#),
    post("/v3/kv/compaction", r#"{"revision":"3","physical":true}"#),
    post("/v3/kv/compaction", r#"{"revision":"3"}"#),
    post("/v3/kv/range", r#"{"key":"Zm9v","revision":"2"}"#),
    post("/v3/cluster/member/list", "{}"),
    post("/v3/cluster/member/list", r#"{"linearizable":true}"#),
    post("/v3/maintenance/status", "{}"),
    post("/v3/maintenance/alarm", "{}"),
    post("/v3/maintenance/alarm", r#"{"action":"NOTHING"}"#),
    post("/v3/maintenance/hashkv", r#"{"revision":"5"}"#),
    post("/v3/lease/grant", r#"{"TTL":"100","ID":77}"#),
    post("/v3/lease/grant", r#"{"TTL":100,"ID":"77"}"#),
    post("/v3/lease/timetolive", r#"{"ID":77,"keys":true}"#),
    post("/v3/kv/lease/timetolive", r#"{"ID":78}"#),
    post("/v3/lease/keepalive", r#"{"ID":77}{"ID":"78"}"#),
    post("/v3/lease/leases", ""),
    post("/v3/kv/lease/leases", "{}"),
    post("/v3/kv/lease/revoke", r#"{"ID":"77"}"#),
    post("/v3/lease/revoke", r#"{"ID":"77"}"#),
    post("/v3/lock/lock", r#"{"name":"bG9jaw=="}"#),
    post("/v3/election/leader", r#"{"name":"bm9ib2R5"}"#),
    post("/v3/auth/enable", "{}"),
    post("/v3/auth/status", "{}"),
    post("/v3/auth/role/get", r#"{"role":"nobody"}"#),
];

/// Answers but for what has to differ between two clusters.
#[derive(PartialEq, Debug)]
struct Told {
    status: String,
    headers: Vec<String>,
    /// One a line.
    values: Vec<Value>,
    /// What is no JSON.
    text: String,
}

impl Told {
    fn new(answer: &raw::Headed) -> Told {
        let values: Result<Vec<Value>, _> = answer.body.lines().map(serde_json::from_str).collect();
        let mut values = values.unwrap_or_default();
        values.iter_mut().for_each(level);
        let text = if values.is_empty() { answer.body.clone() } else { String::new() };
        let mut headers: Vec<String> = answer
            .headers
            .iter()
            .filter(|(name, _)| !["date", "content-length", "connection"].contains(&name.as_str()))
            .filter(|(name, _)| name != "transfer-encoding")
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        headers.sort();
        Told { status: answer.status.clone(), headers, values, text }
    }
}

/// Takes ids, terms and addresses out of an answer; where JSON is wrong, only the beginning of the
/// text is promised.
fn level(value: &mut Value) {
    const OWN: [&str; 14] = [
        "cluster_id",
        "member_id",
        "raft_term",
        "ID",
        "peerURLs",
        "clientURLs",
        "leader",
        "raftTerm",
        "raftIndex",
        "raftAppliedIndex",
        "dbSize",
        "dbSizeInUse",
        "hash",
        "key",
    ];
    match value {
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                if OWN.contains(&name.as_str()) && field.as_str() != Some("Zm9v") {
                    *field = Value::Null;
                }
                if name == "message" && field.as_str().is_some_and(is_about_json) {
                    *field = Value::from("what is wrong with the JSON");
                }
                level(field);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(level),
        _ => {}
    }
}

fn is_about_json(message: &str) -> bool {
    message.starts_with("proto:") || message.starts_with("invalid character")
}

async fn both(scene: &Scene) -> Result<[Cluster; 2]> {
    let start = |program, name| Plan::new(program, 1, &scene.directory.join(name)).start();
    let (etcd, subject) =
        tokio::try_join!(start(Program::Etcd, "etcd"), start(scene.subject, "subject"))?;
    Ok([etcd, subject])
}

/// Every request is answered as by etcd.
pub async fn answers_as_etcds(scene: Scene) -> Result<Verdict> {
    if let Err(reason) = etcd_programs() {
        return Ok(Verdict::Skipped(reason));
    }
    let clusters = both(&scene).await?;
    let mut to_come = Vec::new();
    for ask in ASKS {
        let told = [0, 1].map(|at| {
            let address = &clusters[at].members[0].address;
            raw::http_with(address, ask.method, ask.path, ask.headers, ask.body)
        });
        let [etcd, subject] = told;
        let (etcd, subject) = tokio::try_join!(etcd, subject)?;
        let (etcd, subject) = (Told::new(&etcd), Told::new(&subject));
        // Auth is not there yet, and says so, here as in gRPC.
        if ask.path.starts_with("/v3/auth/") && subject.status == "501" {
            to_come.push(ask.path);
            continue;
        }
        ensure!(
            etcd == subject,
            "{} {} {:?} {}\n  etcd: {etcd:#?}\n  here: {subject:#?}",
            ask.method,
            ask.path,
            ask.headers,
            ask.body
        );
    }
    if !to_come.is_empty() {
        scene.note(format!("not served yet: {}", to_come.join(" ")));
    }
    Ok(Verdict::Passed)
}

/// An ordinary client of HTTP/1.1 is served: curl, with what it does by itself.
pub async fn curl_is_served(scene: Scene) -> Result<Verdict> {
    let cluster = Plan::new(scene.subject, 1, &scene.directory).start().await?;
    let address = cluster.members[0].address.clone();
    let curl = async |arguments: Vec<String>| -> Result<String> {
        let output =
            tokio::process::Command::new("curl").arg("-sS").args(arguments).output().await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    if tokio::process::Command::new("curl").arg("--version").output().await.is_err() {
        return Ok(Verdict::Skipped("curl is not installed".into()));
    }
    let url = |path: &str| format!("http://{address}{path}");
    let put = r#"{"key":"Zm9v","value":"YmFy"}"#.to_owned();
    let told = curl(vec![url("/v3/kv/put"), "-d".into(), put]).await?;
    ensure!(told.contains(r#""revision":"2""#), "{told}");
    let get = r#"{"key":"Zm9v"}"#.to_owned();
    // A body above a kilobyte makes curl ask first (Expect: 100-continue).
    let large = format!(r#"{{"key":"Zm9v","value":"{}"}}"#, "AAAA".repeat(300_000));
    let file = scene.directory.join("large.json");
    std::fs::write(&file, large)?;
    let told = curl(vec![
        url("/v3/kv/put"),
        "-H".into(),
        "Expect: 100-continue".into(),
        "--data-binary".into(),
        format!("@{}", file.display()),
    ]);
    ensure!(told.await?.contains(r#""revision":"3""#), "the large value was not written");
    // Two requests on one connection.
    let told = curl(vec!["-d".into(), get, url("/v3/kv/range"), url("/v3/kv/range")]).await?;
    ensure!(told.matches(r#""count":"1""#).count() == 2, "{}", &told[..told.len().min(500)]);
    Ok(Verdict::Passed)
}

/// Names and origins that are not listed are told so as by etcd.
pub async fn hosts_and_origins_are_checked(scene: Scene) -> Result<Verdict> {
    if let Err(reason) = etcd_programs() {
        return Ok(Verdict::Skipped(reason));
    }
    let start = |program, name| {
        let plan = Plan::new(program, 1, &scene.directory.join(name));
        plan.flag("cors", "http://a:1").flag("host-whitelist", "localhost,a").start()
    };
    let (etcd, subject) =
        tokio::try_join!(start(Program::Etcd, "etcd"), start(scene.subject, "subject"))?;
    for (host, origin) in
        [("localhost:1", "http://a:1"), ("a", "http://b:1"), ("b:1", "http://a:1"), ("[::1]:1", "")]
    {
        let told = [&etcd, &subject].map(|cluster| async {
            let headers = [("Host", host), ("Origin", origin)];
            let address = &cluster.members[0].address;
            let answer = raw::http_with(address, "GET", "/health", &headers, "").await;
            answer.map(|answer| Told::new(&answer)).context("ask")
        });
        let [etcd, subject] = told;
        let (etcd, subject) = tokio::try_join!(etcd, subject)?;
        ensure!(etcd == subject, "{host} {origin}\n  etcd: {etcd:#?}\n  here: {subject:#?}");
    }
    Ok(Verdict::Passed)
}
