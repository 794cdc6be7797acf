//! Alarms, the quota, defragmentation, backups, and a member that goes another way: beside the real etcd where etcd does
//! the same.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;
use tests::case::{Scene, Verdict};
use tests::client::{Client, everything};
use tests::cluster::{Cluster, POLL_EVERY, Plan, Program, READY_WITHIN, etcd_programs};
use tests::load::Ledger;
use tokio::process::Command;
use tonic::Status;

/// Longer than a test takes.
const LEASE_TTL_S: i64 = 600;

/// What a program answered: as text, with its own ids taken out.
fn told<T: std::fmt::Debug>(id: u64, answer: Result<T, Status>) -> String {
    match answer {
        Ok(answer) => format!("{answer:?}").replace(&id.to_string(), "ID"),
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
    }
}

/// etcd prints an alarm with spaces at random.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn without_header(mut response: pb::AlarmResponse) -> (i64, Vec<pb::AlarmMember>) {
    let revision = response.header.take().unwrap_or_default().revision;
    response.alarms.sort_by_key(|alarm| (alarm.alarm, alarm.member_id));
    (revision, response.alarms)
}

async fn alarm(
    client: &Client,
    action: i32,
    member_id: u64,
    kind: i32,
) -> Result<pb::AlarmResponse, Status> {
    let request = pb::AlarmRequest { action, member_id, alarm: kind };
    Ok(client.maintenance.clone().alarm(request).await?.into_inner())
}

async fn delete(client: &Client, key: &str) -> Result<i64, Status> {
    let request = pb::DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() };
    Ok(client.kv.clone().delete_range(request).await?.into_inner().deleted)
}

async fn compact(client: &Client, revision: i64) -> Result<(), Status> {
    let request = pb::CompactionRequest { revision, physical: true };
    client.kv.clone().compact(request).await.map(|_| ())
}

async fn defragment(client: &Client) -> Result<(), Status> {
    client.maintenance.clone().defragment(pb::DefragmentRequest {}).await.map(|_| ())
}

fn txn(success: Vec<Request>, failure: Vec<Request>) -> pb::TxnRequest {
    let ops = |requests: Vec<Request>| {
        requests.into_iter().map(|request| pb::RequestOp { request: Some(request) }).collect()
    };
    pb::TxnRequest { success: ops(success), failure: ops(failure), ..Default::default() }
}

fn put_op(key: &str) -> Request {
    Request::RequestPut(pb::PutRequest { key: key.to_owned().into(), ..Default::default() })
}

fn range_op(key: &str) -> Request {
    Request::RequestRange(pb::RangeRequest { key: key.to_owned().into(), ..Default::default() })
}

/// Everything that an alarm has a say in, and what was answered.
async fn everything_under_alarms(client: &Client) -> Result<Vec<String>> {
    let id = client.status().await?.header.unwrap_or_default().member_id;
    let mut told_all = Vec::new();
    for (kind, other) in [(1, 0x77), (2, id)] {
        client.put("a", "1").await?;
        client.grant(1, LEASE_TTL_S).await?;
        let revision = client.put("a", "2").await?.header.unwrap_or_default().revision;
        for (action, member, kind) in [
            (0, 0, 0),
            (1, id, 0),
            (1, other, kind),
            (1, other, kind),
            (0, 0, kind),
            (0, 0, 3 - kind),
        ] {
            let answer = alarm(client, action, member, kind).await.map(without_header);
            told_all.push(told(id, answer));
        }
        told_all.push(told(id, client.put("a", "3").await.map(|_| ())));
        for request in [
            txn(vec![put_op("b")], vec![]),
            txn(vec![range_op("a")], vec![put_op("b")]),
            txn(vec![range_op("a")], vec![]),
            txn(vec![Request::RequestDeleteRange(Default::default())], vec![]),
            txn(vec![Request::RequestTxn(txn(vec![], vec![put_op("b")]))], vec![]),
        ] {
            told_all.push(told(id, client.txn(request).await.map(|response| response.succeeded)));
        }
        told_all.push(told(id, client.get("a").await.map(|response| response.kvs)));
        told_all.push(told(id, client.get_serializable("a").await.map(|response| response.kvs)));
        told_all.push(told(id, delete(client, "a").await));
        told_all.push(told(id, compact(client, revision).await));
        told_all.push(told(id, client.grant(2, LEASE_TTL_S).await.map(|_| ())));
        told_all.push(told(id, client.revoke(1).await.map(|_| ())));
        told_all.push(told(id, client.hash_kv(0).await.map(|hash| hash.compact_revision)));
        let status = client.status().await;
        let errors = |status: &pb::StatusResponse| {
            let mut errors: Vec<String> = status.errors.iter().map(|it| words(it)).collect();
            errors.sort();
            errors
        };
        told_all.push(told(id, status.map(|status| (errors(&status), status.db_size_quota))));
        for (action, member, kind) in
            [(2, other + 1, kind), (2, other, 0), (2, other, kind), (2, other, kind), (0, 0, 0)]
        {
            let answer = alarm(client, action, member, kind).await.map(without_header);
            told_all.push(told(id, answer));
        }
        told_all.push(told(id, client.put("a", "4").await.map(|_| ())));
        told_all.push(told(id, client.grant(3, LEASE_TTL_S).await.map(|_| ())));
        for lease in [1, 2, 3] {
            told_all.push(told(id, client.revoke(lease).await.map(|_| ())));
        }
    }
    for (action, version) in
        [(0, ""), (0, "x"), (1, "3.x"), (0, "3.7"), (1, "4.0.0"), (2, ""), (9, "")]
    {
        let request = pb::DowngradeRequest { action, version: version.to_owned() };
        let answer = client.maintenance.clone().downgrade(request).await;
        told_all.push(told(id, answer.map(|answer| answer.into_inner().version)));
    }
    Ok(told_all)
}

async fn both(scene: &Scene, flag: &str, value: &str) -> Result<[Cluster; 2]> {
    let start = |program, name| {
        Plan::new(program, 1, &scene.directory.join(name)).flag(flag, value).start()
    };
    let (etcd, subject) =
        tokio::try_join!(start(Program::Etcd, "etcd"), start(scene.subject, "subject"))?;
    Ok([etcd, subject])
}

/// Alarms and what is refused under them, and downgrades, are answered as by etcd.
pub async fn alarms_are_etcds(scene: Scene) -> Result<Verdict> {
    if let Err(reason) = etcd_programs() {
        return Ok(Verdict::Skipped(reason));
    }
    let [etcd, subject] = both(&scene, "quota-backend-bytes", "0").await?;
    let expected = everything_under_alarms(&etcd.client(0)).await?;
    let told = everything_under_alarms(&subject.client(0)).await?;
    for (number, (expected, told)) in expected.iter().zip(&told).enumerate() {
        ensure!(expected == told, "answer {number}\n  etcd: {expected}\n  here: {told}");
    }
    scene.note(format!("{} answers are equal", told.len()));
    Ok(Verdict::Passed)
}

const QUOTA_BYTES: i64 = 4 << 20;
const VALUE_BYTES: usize = 32 << 10;

/// Fills a store until it is refused, and makes room again. Gives what was answered after the first refusal, and how
/// many values fitted.
async fn fill_and_make_room(client: &Client) -> Result<(Vec<String>, usize)> {
    let value = "v".repeat(VALUE_BYTES);
    let mut fitted = 0;
    let refused = loop {
        match client.put(&format!("fill/{fitted}"), &value).await {
            Ok(_) => fitted += 1,
            Err(status) => break status,
        }
        ensure!(fitted * VALUE_BYTES < 4 * QUOTA_BYTES as usize, "there is no quota");
    };
    let id = client.status().await?.header.unwrap_or_default().member_id;
    let mut answers = vec![told::<()>(id, Err(refused))];
    // The alarm makes no difference between small and large.
    answers.push(told(id, client.put("small", "").await.map(|_| ())));
    answers.push(told(id, client.txn(txn(vec![put_op("b")], vec![])).await.map(|_| ())));
    answers.push(told(id, client.txn(txn(vec![range_op("b")], vec![])).await.map(|_| ())));
    answers.push(told(id, client.grant(1, LEASE_TTL_S).await.map(|_| ())));
    answers.push(told(id, alarm(client, 0, 0, 0).await.map(|answer| answer.alarms)));
    let status = client.status().await?;
    ensure!(status.db_size > QUOTA_BYTES / 2, "the size is {}", status.db_size);
    ensure!(status.db_size_in_use <= status.db_size, "{status:?}");
    ensure!(status.db_size_quota == QUOTA_BYTES, "{status:?}");
    let all = everything();
    let request = pb::DeleteRangeRequest { key: all.key, range_end: all.range_end, prev_kv: false };
    let deleted = client.kv.clone().delete_range(request).await?.into_inner();
    ensure!(deleted.deleted == fitted as i64, "{} were deleted", deleted.deleted);
    compact(client, deleted.header.unwrap_or_default().revision).await?;
    defragment(client).await?;
    let after = client.status().await?;
    ensure!(after.db_size < status.db_size / 4, "from {} to {}", status.db_size, after.db_size);
    answers.push(told(id, client.put("small", "").await.map(|_| ())));
    answers.push(told(id, alarm(client, 2, id, 1).await.map(|answer| answer.alarms)));
    answers.push(told(id, client.put("small", "").await.map(|_| ())));
    answers.push(told(id, alarm(client, 0, 0, 0).await.map(|answer| answer.alarms)));
    Ok((answers, fitted))
}

/// A full database refuses as etcd's does, and takes writes again when there is room and the alarm is disarmed.
pub async fn a_full_database(scene: Scene) -> Result<Verdict> {
    if let Err(reason) = etcd_programs() {
        return Ok(Verdict::Skipped(reason));
    }
    let [etcd, subject] = both(&scene, "quota-backend-bytes", &QUOTA_BYTES.to_string()).await?;
    let (expected, etcd_fitted) = fill_and_make_room(&etcd.client(0)).await?;
    let (told, fitted) = fill_and_make_room(&subject.client(0)).await?;
    ensure!(expected == told, "  etcd: {expected:#?}\n  here: {told:#?}");
    scene.note(format!("{fitted} values fitted, and {etcd_fitted} in etcd"));
    ensure!(fitted * 2 > etcd_fitted, "the quota is much sooner reached than etcd's");
    Ok(Verdict::Passed)
}

/// The sizes that a fresh member reports are etcd's own order.
pub async fn a_fresh_member_is_small(scene: Scene) -> Result<Verdict> {
    let cluster = Plan::new(scene.subject, 1, &scene.directory).start().await?;
    let client = cluster.client(0);
    for number in 0..20 {
        client.put("key", &number.to_string()).await?;
    }
    let before = client.status().await?;
    ensure!(before.db_size < 53_248, "{} bytes", before.db_size);
    defragment(&client).await?;
    let after = client.status().await?;
    ensure!(after.db_size <= before.db_size, "from {} to {}", before.db_size, after.db_size);
    ensure!(after.storage_version == "3.7.0" && after.db_size_quota == 2 << 30, "{after:?}");
    Ok(Verdict::Passed)
}

/// Defragmentations under load, in each of which a member is killed at some point: nothing is lost, and the others do
/// not notice.
pub async fn kills_while_defragmenting(scene: Scene) -> Result<Verdict> {
    let mut cluster = Plan::new(scene.subject, 3, &scene.directory).start().await?;
    let addresses: Vec<String> = cluster.members.iter().map(|it| it.address.clone()).collect();
    let client = cluster.client(0);
    let value = "v".repeat(20_000);
    for number in 0..400 {
        client.put(&format!("bulk/{}", number % 50), &value).await?;
    }
    let ledger = Ledger::start("defragment", &addresses, 16);
    for round in 0..8 * scene.campaign {
        let victim = (round % 3) as usize;
        let victims_client = cluster.client(victim);
        let work = tokio::spawn(async move { defragment(&victims_client).await });
        // From "hardly begun" to "over".
        tokio::time::sleep(Duration::from_millis(round % 8 * 12)).await;
        cluster.members[victim].kill();
        drop(work.await.context("the request's task")?);
        cluster.members[victim].start().await?;
        ledger.wait_progress(100).await?;
    }
    for at in 0..3 {
        let before = cluster.client(at).status().await?;
        defragment(&cluster.client(at)).await?;
        let after = cluster.client(at).status().await?;
        scene.note(format!("{} -> {} bytes", before.db_size, after.db_size));
    }
    ledger.wait_progress(100).await?;
    ledger.settle(&cluster.client(0)).await?;
    cluster.wait_equal().await?;
    Ok(Verdict::Passed)
}

async fn run(program: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().await;
    let output = output.with_context(|| format!("run {}", program.display()))?;
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} {arguments:?}: {out}{error}", program.display());
    Ok(out)
}

/// A backup taken under load is a database of etcd's: etcd's tools accept it, and the real etcd serves what was in it.
pub async fn a_backup_is_etcds(scene: Scene) -> Result<Verdict> {
    let programs = match etcd_programs() {
        Ok(programs) => programs,
        Err(reason) => return Ok(Verdict::Skipped(reason)),
    };
    let cluster = Plan::new(scene.subject, 1, &scene.directory.join("here")).start().await?;
    let client = cluster.client(0);
    for number in 0..2_000 {
        client.put(&format!("key/{}", number % 700), &format!("value {number}")).await?;
    }
    for id in [1, i64::MAX] {
        client.grant(id, LEASE_TTL_S).await?;
    }
    client.put_leased("leased", 1).await?;
    delete(&client, "key/5").await?;
    compact(&client, 900).await?;
    let addresses = [cluster.members[0].address.clone()];
    let ledger = Ledger::start("backup", &addresses, 8);
    ledger.wait_progress(200).await?;
    let file = scene.directory.join("backup.db");
    let path = file.to_str().context("a path in UTF-8")?;
    let endpoint = format!("--endpoints={}", addresses[0]);
    run(&programs.etcdctl, &[&endpoint, "snapshot", "save", path]).await?;
    ledger.wait_progress(200).await?;
    ledger.settle(&client).await?;

    let status = run(&programs.etcdutl, &["snapshot", "status", path, "-w", "json"]).await?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    scene.note(format!("the backup: {status}"));
    let revision = status["revision"].as_i64().context("a revision")?;
    ensure!(revision > 2_200 && status["version"] == "3.7.0", "{status}");

    let restored = scene.directory.join("restored");
    let data = restored.to_str().context("a path in UTF-8")?;
    let mut plan = Plan::new(Program::Etcd, 1, &scene.directory.join("there")).prepare()?;
    let member = &mut plan.members[0];
    let flag = |name: &str| {
        let prefix = format!("--{name}=");
        member.flags.iter().find(|flag| flag.starts_with(&prefix)).cloned()
    };
    let names = ["name", "initial-cluster", "initial-advertise-peer-urls"];
    let kept: Vec<String> = names.iter().filter_map(|name| flag(name)).collect();
    let mut arguments = vec!["snapshot", "restore", path, "--data-dir", data];
    arguments.extend(kept.iter().map(String::as_str));
    run(&programs.etcdutl, &arguments).await?;
    for flag in &mut member.flags {
        if flag.starts_with("--data-dir=") {
            *flag = format!("--data-dir={data}");
        }
    }
    plan.start_all().await?;
    let there = plan.client(0);
    let hash = there.hash_kv(revision).await?;
    let own = client.hash_kv(revision).await?;
    ensure!(
        (hash.hash, hash.compact_revision) == (own.hash, own.compact_revision),
        "HashKV at {revision}: {hash:?} there, {own:?} here"
    );
    ensure!(there.leases().await? == [1, i64::MAX], "the leases are {:?}", there.leases().await?);
    let lease = there.time_to_live(1).await?;
    ensure!(lease.granted_ttl == LEASE_TTL_S && lease.keys == ["leased"], "{lease:?}");
    there.put("and", "it takes writes").await?;
    Ok(Verdict::Passed)
}

/// The commands of the real etcdctl for all of this.
pub async fn etcdctl_maintains(scene: Scene) -> Result<Verdict> {
    let etcdctl = match etcd_programs() {
        Ok(programs) => &programs.etcdctl,
        Err(reason) => return Ok(Verdict::Skipped(reason)),
    };
    let cluster = Plan::new(scene.subject, 3, &scene.directory).start().await?;
    let endpoints: Vec<&str> = cluster.members.iter().map(|it| it.address.as_str()).collect();
    let endpoints = format!("--endpoints={}", endpoints.join(","));
    let ask = async |line: &str| {
        let arguments: Vec<&str> =
            std::iter::once(endpoints.as_str()).chain(line.split(' ')).collect();
        run(etcdctl, &arguments).await
    };
    ensure!(ask("alarm list").await?.is_empty(), "there is an alarm");
    let client = cluster.client(1);
    let id = client.status().await?.header.unwrap_or_default().member_id;
    alarm(&client, 1, id, 1).await?;
    let listed = format!("memberID:{id} alarm:NOSPACE");
    ensure!(words(&ask("alarm list").await?) == listed, "{}", ask("alarm list").await?);
    ensure!(client.put("a", "1").await.is_err(), "it takes a put without space");
    let table = ask("endpoint status -w json").await?;
    ensure!(table.matches("alarm:NOSPACE").count() == 3, "{table}");
    ensure!(words(&ask("alarm disarm").await?) == listed, "it is not disarmed");
    client.put("a", "1").await?;
    let defragmented = ask("defrag").await?;
    ensure!(defragmented.matches("Finished defragmenting").count() == 3, "{defragmented}");
    let cluster_wide = ask("defrag --cluster").await?;
    ensure!(cluster_wide.matches("Finished defragmenting").count() == 3, "{cluster_wide}");
    cluster.wait_equal().await?;
    let hashes: serde_json::Value = serde_json::from_str(&ask("endpoint hashkv -w json").await?)?;
    let hashes: Vec<_> = hashes.as_array().context("a list")?.iter().collect();
    ensure!(hashes.len() == 3, "{hashes:?}");
    ensure!(
        hashes.windows(2).all(|it| it[0]["HashKV"]["hash"] == it[1]["HashKV"]["hash"]),
        "{hashes:?}"
    );
    Ok(Verdict::Passed)
}

/// Writes other versions into the rows of a member that does not run, as a bad disk might.
fn corrupt(directory: &Path) -> Result<()> {
    use host::storage::{State, TableKind, TableSpec, Tables, files};
    use prost::Message;
    // The one table that has to be known: the others keep what they have.
    const KEY: u32 = 1;
    let key = TableSpec { id: KEY, name: "key".to_owned(), kind: TableKind::Durable };
    let mut state = State::open(&directory.join("member"), &files(), &[key])?;
    let view = state.view();
    let mut rows = Vec::new();
    view.scan(KEY, b"", b"", false, &mut |key, row| {
        rows.push((key.to_vec(), row.to_vec()));
        std::ops::ControlFlow::Continue(())
    })?;
    let mut overlay = state.overlay();
    for (key, row) in rows {
        let mut kv = proto::mvccpb::KeyValue::decode(&row[..])?;
        kv.version += 1;
        overlay.put(KEY, &key, &kv.encode_to_vec())?;
    }
    state.commit(overlay.into_writes(), view.mark().clone())?;
    state.persist()?;
    Ok(())
}

async fn wait_until(
    what: &str,
    mut condition: impl AsyncFnMut() -> Result<bool, Status>,
) -> Result<()> {
    let began = Instant::now();
    loop {
        if let Ok(true) = condition().await {
            return Ok(());
        }
        if began.elapsed() > READY_WITHIN {
            bail!("waited in vain until {what}");
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// A member whose state goes another way finds out, serves nobody, and takes over the leader's state when it is told to.
pub async fn a_member_that_goes_another_way(scene: Scene) -> Result<Verdict> {
    if !scene.is_instar() {
        return Ok(Verdict::Skipped("etcd compares its members in another way".to_owned()));
    }
    let mut cluster = Plan::new(scene.subject, 3, &scene.directory).start().await?;
    let leader = cluster.leader().await?;
    let (wrong, right) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.client(leader).put("a", "1").await?;
    cluster.wait_equal().await?;
    cluster.members[wrong].terminate().await?;
    corrupt(&cluster.members[wrong].data_directory)?;
    cluster.members[wrong].start().await?;
    let client = cluster.client(right);
    // From here on the members differ.
    client.put("a", "2").await?;
    let wrong_client = cluster.client(wrong);
    let id = wrong_client.status().await?.header.unwrap_or_default().member_id;
    wait_until("the alarm is raised", async || {
        let alarms = alarm(&client, 0, 0, 0).await?.alarms;
        Ok(alarms == [pb::AlarmMember { member_id: id, alarm: 2 }])
    })
    .await?;
    let refused = wrong_client.get_serializable("a").await.err().context("it serves reads")?;
    ensure!(refused.message() == "etcdserver: corrupt cluster", "{refused}");
    let errors = wrong_client.status().await?.errors;
    ensure!(errors.iter().any(|error| error.contains("CORRUPT")), "{errors:?}");
    let refused = client.put("a", "3").await.err().context("the cluster takes writes")?;
    ensure!(refused.code() == tonic::Code::DataLoss, "{refused}");
    ensure!(client.get("a").await?.kvs[0].value == "2", "the others do not serve reads");

    let said = "the alarm CORRUPT is raised for this member";
    wait_until("the member knows that", async || Ok(cluster.members[wrong].log().contains(said)))
        .await?;
    alarm(&client, 2, id, 2).await?;
    client.put("a", "4").await?;
    wait_until("it serves again", async || Ok(wrong_client.get("a").await?.kvs[0].value == "4"))
        .await?;
    cluster.wait_equal().await?;
    // It is so after a restart, too.
    cluster.members[wrong].terminate().await?;
    cluster.members[wrong].start().await?;
    cluster.client(wrong).put("a", "5").await?;
    cluster.wait_equal().await?;
    ensure!(alarm(&client, 0, 0, 0).await?.alarms.is_empty(), "there is an alarm again");
    Ok(Verdict::Passed)
}

/// Pages of the database are damaged while the member is down: it serves what is right, or stops with one sentence.
pub async fn damaged_pages(scene: Scene) -> Result<Verdict> {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    if !scene.is_instar() {
        return Ok(Verdict::Skipped("etcd's own files are damaged in etcd's own tests".to_owned()));
    }
    let mut cluster = Plan::new(scene.subject, 1, &scene.directory).start().await?;
    let client = cluster.client(0);
    for number in 0..300 {
        client.put(&format!("key/{number}"), &"v".repeat(300)).await?;
    }
    cluster.members[0].terminate().await?;
    let file = cluster.members[0].data_directory.join("member/state.redb");
    let whole = std::fs::read(&file)?;
    let mut random = StdRng::seed_from_u64(scene.seed);
    let (mut served, mut stopped) = (0, 0);
    for _ in 0..12 * scene.campaign {
        let mut damaged = whole.clone();
        let page = random.random_range(1..whole.len() / 4096) * 4096;
        random.fill(&mut damaged[page..page + 4096]);
        std::fs::write(&file, &damaged)?;
        let member = &mut cluster.members[0];
        member.spawn()?;
        let serves = member.wait_ready().await.is_ok();
        let client = member.client();
        let answered = serves
            && client.put("key/1", "another").await.is_ok()
            && client.range(everything()).await.is_ok()
            && member.terminate().await.is_ok_and(|exit| exit.status.success());
        if answered {
            served += 1;
        } else {
            let exit = member.wait_exit(READY_WITHIN).await?;
            ensure!(exit.status.code() == Some(1), "it ended with {}", exit.status);
            let log = member.log();
            ensure!(log.contains("is damaged"), "there is no sentence in {log}");
            stopped += 1;
        }
        let log = cluster.members[0].log();
        ensure!(!log.contains("panicked"), "a panic: {log}");
    }
    scene.note(format!("{served} times it served, {stopped} times it said why not"));
    Ok(Verdict::Passed)
}

/// Automatic compaction by time: what is older than that cannot be read any more.
pub async fn automatic_compaction(scene: Scene) -> Result<Verdict> {
    let plan = Plan::new(scene.subject, 3, &scene.directory)
        .flag("auto-compaction-mode", "periodic")
        .flag("auto-compaction-retention", "1s");
    let cluster = plan.start().await?;
    let client = cluster.client(0);
    let revision = client.put("a", "1").await?.header.unwrap_or_default().revision;
    let began = Instant::now();
    wait_until("the revision is compacted", async || {
        client.put("a", "2").await?;
        let request = pb::RangeRequest { key: "a".into(), revision, ..Default::default() };
        match client.range(request).await {
            Err(status) if status.message().contains("has been compacted") => Ok(true),
            _ => Ok(false),
        }
    })
    .await?;
    ensure!(began.elapsed() >= Duration::from_millis(900), "after {:?}", began.elapsed());
    cluster.wait_equal().await?;
    Ok(Verdict::Passed)
}
