//! Changes of the membership beside etcd's: what is refused and how, and what etcdctl prints.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use proto::etcdserverpb as pb;
use tests::case::{Scene, Verdict};
use tests::client::Client;
use tests::cluster::{Cluster, POLL_EVERY, Plan, Program, READY_WITHIN, etcd_programs};
use tokio::process::Command;
use tonic::{Code, Status};

const FORMATS: [&str; 4] = ["simple", "json", "table", "fields"];
/// An id that nobody has.
const NOBODY: u64 = 0x1234;

type Told = Result<String, (Code, String)>;

fn told(answer: Result<String, Status>) -> Told {
    answer.map_err(|status| (status.code(), status.message().to_owned()))
}

/// Whether they have names, how many URLs, and whether they learn: ids and URLs differ, and with them the order.
fn shape(members: &[pb::Member]) -> String {
    let mut rows: Vec<String> = members
        .iter()
        .map(|member| {
            let (urls, clients) = (member.peer_ur_ls.len(), member.client_ur_ls.len());
            format!("{} {urls} {clients} {}", member.name.is_empty(), member.is_learner)
        })
        .collect();
    rows.sort();
    rows.join("; ")
}

async fn add(client: &Client, urls: &[&str], is_learner: bool) -> (Told, u64) {
    let peer_ur_ls = urls.iter().map(|url| (*url).to_owned()).collect();
    let request = pb::MemberAddRequest { peer_ur_ls, is_learner };
    let answer = client.cluster.clone().member_add(request).await.map(tonic::Response::into_inner);
    let member = answer.as_ref().ok().and_then(|answer| answer.member.clone()).unwrap_or_default();
    let has_revision = |header: &Option<pb::ResponseHeader>| {
        header.as_ref().map(|header| (header.revision, header.raft_term > 0))
    };
    let answer = answer.map(|answer| {
        let (urls, header) = (&member.peer_ur_ls, has_revision(&answer.header));
        format!("{urls:?} {} {header:?}: {}", member.is_learner, shape(&answer.members))
    });
    (told(answer), member.id)
}

async fn remove(client: &Client, id: u64) -> Told {
    told(client.member_remove(id).await.map(|members| shape(&members)))
}

async fn promote(client: &Client, id: u64) -> Told {
    told(client.member_promote(id).await.map(|members| shape(&members)))
}

async fn update(client: &Client, id: u64, url: &str) -> Told {
    let updated = client.member_update(id, vec![url.to_owned()]).await;
    told(updated.map(|members| shape(&members)))
}

async fn move_leader(client: &Client, id: u64) -> Told {
    told(client.move_leader(id).await.map(|()| String::new()))
}

/// What a cluster of one answers to each change.
async fn alone(cluster: &Cluster) -> Result<Vec<(&'static str, Told)>> {
    let client = cluster.client(0);
    let own = client.members().await?[0].clone();
    let own_url = own.peer_ur_ls[0].as_str();
    let mut answers = Vec::new();
    for (what, urls) in [
        ("add: no URLs", &[][..]),
        ("add: no URL", &["nonsense"][..]),
        ("add: another scheme", &["ftp://127.0.0.1:1"][..]),
        ("add: no port", &["http://127.0.0.1"][..]),
        ("add: a path", &["http://127.0.0.1:1/path"][..]),
        ("add: one of two is wrong", &["http://127.0.0.1:1", "x"][..]),
        ("add: own URL", &[own_url][..]),
        ("add: own URL and another", &["http://127.0.0.1:1", own_url][..]),
    ] {
        answers.push((what, add(&client, urls, false).await.0));
    }
    answers.push(("remove: nobody", remove(&client, NOBODY).await));
    answers.push(("remove: the last one", remove(&client, own.id).await));
    answers.push(("promote: nobody", promote(&client, NOBODY).await));
    answers.push(("promote: a voter", promote(&client, own.id).await));
    answers.push(("update: nobody", update(&client, NOBODY, "http://127.0.0.1:1").await));
    answers.push(("update: as it was", update(&client, own.id, own_url).await));
    answers.push(("move: to nobody", move_leader(&client, NOBODY).await));
    answers.push(("move: to itself", move_leader(&client, own.id).await));

    let (added, learner) = add(&client, &["http://127.0.0.1:4", " http://127.0.0.1:3"], true).await;
    answers.push(("add: a learner", added));
    answers.push(("add: a second learner", add(&client, &["http://127.0.0.1:5"], true).await.0));
    answers.push(("add: its URL", add(&client, &["http://127.0.0.1:3"], false).await.0));
    answers.push(("promote: one that is not there", promote(&client, learner).await));
    answers.push(("update: the URL of another", update(&client, learner, own_url).await));
    answers.push(("update: a learner", update(&client, learner, "http://127.0.0.1:6").await));
    answers.push(("move: to a learner", move_leader(&client, learner).await));
    answers.push(("remove: a learner", remove(&client, learner).await));
    answers.push(("remove: again", remove(&client, learner).await));
    answers.push(("promote: a removed one", promote(&client, learner).await));
    answers.push(("update: a removed one", update(&client, learner, "http://127.0.0.1:7").await));
    answers.push(("put", told(client.put("k", "v").await.map(|_| String::new()))));
    Ok(answers)
}

/// Repeats a request until it is not answered with what says "not yet".
async fn until_settled(mut ask: impl AsyncFnMut() -> Told, not_yet: &str) -> Result<Told> {
    let started = Instant::now();
    loop {
        let answer = ask().await;
        if answer.as_ref().err().is_none_or(|(_, text)| text != not_yet) {
            return Ok(answer);
        }
        ensure!(started.elapsed() < READY_WITHIN, "still {not_yet:?}");
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// What a cluster of three answers when one member is down.
async fn one_down(cluster: &mut Cluster) -> Result<Vec<(&'static str, Told)>> {
    const UNHEALTHY: &str = "etcdserver: unhealthy cluster";
    let leader = cluster.leader().await?;
    let (follower, down) = ((leader + 1) % 3, (leader + 2) % 3);
    let client = cluster.client(leader);
    let [follower_id, down_id] =
        [cluster.id(leader, follower).await?, cluster.id(leader, down).await?];
    // Only then has etcd been in touch for long enough.
    let learner = async || add(&client, &["http://127.0.0.1:1"], true).await.0;
    let mut answers = vec![("add: all are there", until_settled(learner, UNHEALTHY).await?)];
    let members = client.members().await?;
    let id = members.iter().find(|member| member.is_learner).context("a learner")?.id;
    answers.push(("remove: the learner", remove(&client, id).await));
    let asked_follower = move_leader(&cluster.client(follower), follower_id).await;
    answers.push(("move: asked a follower", asked_follower));

    cluster.members[down].kill();
    let unhealthy = async || {
        let (answer, id) = add(&client, &["http://127.0.0.1:2"], true).await;
        if answer.is_ok() {
            // Nobody has noticed yet.
            drop(remove(&client, id).await);
            tokio::time::sleep(Duration::from_millis(1_100)).await;
            return Err((Code::Ok, "not yet".to_owned()));
        }
        answer
    };
    answers.push(("add: a learner, one is down", until_settled(unhealthy, "not yet").await?));
    answers.push(("add: one is down", add(&client, &["http://127.0.0.1:8"], false).await.0));
    answers.push(("remove: one that is up", remove(&client, follower_id).await));
    answers.push(("remove: the one that is down", remove(&client, down_id).await));
    answers.push(("put", told(client.put("k", "v").await.map(|_| String::new()))));
    Ok(answers)
}

fn compare(etcd: &[(&'static str, Told)], subject: &[(&'static str, Told)]) -> Result<()> {
    let differ: Vec<String> = etcd
        .iter()
        .zip(subject)
        .filter(|(etcd, subject)| etcd != subject)
        .map(|(etcd, here)| format!("{}\n  etcd: {:?}\n  here: {:?}", etcd.0, etcd.1, here.1))
        .collect();
    ensure!(differ.is_empty() && etcd.len() == subject.len(), "{}", differ.join("\n"));
    Ok(())
}

/// Each change that is refused, and some that are not.
pub async fn refusals_are_etcds(scene: Scene) -> Result<Verdict> {
    if let Err(reason) = etcd_programs() {
        return Ok(Verdict::Skipped(reason));
    }
    let mut answers = Vec::new();
    for (program, name) in [(Program::Etcd, "etcd"), (scene.subject, "subject")] {
        let (directory, started) = (scene.directory.join(name), Instant::now());
        let single = Plan::new(program, 1, &directory.join("one")).start().await?;
        let mut all = alone(&single).await.with_context(|| name.to_owned())?;
        let mut three = Plan::new(program, 3, &directory.join("three")).start().await?;
        all.extend(one_down(&mut three).await.with_context(|| name.to_owned())?);
        scene.note(format!("{name}: {:?}", started.elapsed()));
        answers.push(all);
    }
    compare(&answers[0], &answers[1])?;
    scene.note(format!("{} changes", answers[0].len()));
    Ok(Verdict::Passed)
}

/// One cluster, and what is known of it by other names in what etcdctl prints.
struct Spoken<'a> {
    etcdctl: &'a Path,
    cluster: Cluster,
    /// Ids, the latest member first.
    ids: Vec<u64>,
    lines: Vec<(String, String)>,
}

impl Spoken<'_> {
    async fn run(&mut self, command: &str) -> Result<()> {
        let latest = self.ids.first().copied().unwrap_or_default();
        let first = self.ids.last().copied().unwrap_or_default();
        let own_url = self.cluster.members[0].peer_url();
        let filled = command
            .replace("LATEST", &format!("{latest:x}"))
            .replace("FIRST", &format!("{first:x}"))
            .replace("OWN", &own_url);
        let output = Command::new(self.etcdctl)
            .arg(format!("--endpoints={}", self.addresses(command)))
            .args(filled.split(' '))
            .output()
            .await
            .context("etcdctl")?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        // Not its own log.
        let error = error.lines().rfind(|line| !line.starts_with('{')).unwrap_or_default();
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        // Of whoever was added or removed by this command, too.
        let known = self.cluster.client(0).cluster.clone();
        let list = known.clone().member_list(pb::MemberListRequest { linearizable: false }).await?;
        let list = list.into_inner();
        for member in &list.members {
            if !self.ids.contains(&member.id) {
                self.ids.insert(0, member.id);
            }
        }
        let header = list.header.unwrap_or_default();
        let said = format!("{:?}\n{out}\n{error}", output.status.code());
        self.lines.push((command.to_owned(), self.settle(&said, &header)));
        Ok(())
    }

    /// Of the first member; of all where the leader is looked for.
    fn addresses(&self, command: &str) -> String {
        let count = if command.starts_with("move-leader") { usize::MAX } else { 1 };
        let members = self.cluster.members.iter().take(count);
        let addresses = members.map(|member| member.address.clone());
        addresses.collect::<Vec<_>>().join(",")
    }

    /// Replaces what two clusters may differ in, and sorts what is in the order of ids.
    fn settle(&self, said: &str, header: &pb::ResponseHeader) -> String {
        let mut said = said.to_owned();
        for (number, id) in self.ids.iter().rev().enumerate() {
            said = said.replace(&format!("{id:x}"), &format!("ID{number}"));
            said = said.replace(&id.to_string(), &format!("ID{number}"));
        }
        said = said
            .replace(&format!("{:x}", header.cluster_id), "CLUSTER")
            .replace(&header.cluster_id.to_string(), "CLUSTER")
            .replace(&format!("\"raft_term\":{}", header.raft_term), "\"raft_term\":TERM")
            .replace(&format!("\"RaftTerm\" : {}", header.raft_term), "\"RaftTerm\" : TERM");
        for member in &self.cluster.members {
            said = said.replace(&member.address, "ADDRESS").replace(&member.peer_url(), "PEER");
        }
        let is_end = |character: char| "\n,;[]{}".contains(character);
        let mut parts: Vec<String> = said
            .split(is_end)
            .map(|part| {
                part.split([' ', '-', '"', '+', '─', '┌', '├']).filter(|word| !word.is_empty())
            })
            .map(|words| words.collect::<Vec<_>>().join(" ").replace("ETCD_INITIAL_CLUSTER=", ""))
            .map(|part| part.trim().to_owned())
            .collect();
        parts.sort();
        parts.retain(|part| !part.is_empty());
        parts.join("\n")
    }
}

async fn speak(
    etcdctl: &Path,
    program: Program,
    directory: &Path,
) -> Result<Vec<(String, String)>> {
    let cluster = Plan::new(program, 1, directory).start().await?;
    let first = cluster.client(0).members().await?[0].id;
    let mut spoken = Spoken { etcdctl, cluster, ids: vec![first], lines: Vec::new() };
    for (at, format) in FORMATS.iter().enumerate() {
        for command in [
            format!("member add new --learner --peer-urls=http://127.0.0.1:{}", at + 1),
            "member list".to_owned(),
            "member list --consistency=s".to_owned(),
            "member list --hex".to_owned(),
            format!("member update LATEST --peer-urls=http://127.0.0.1:{}", at + 101),
            "member promote LATEST".to_owned(),
            "member remove LATEST".to_owned(),
            "member remove LATEST".to_owned(),
        ] {
            spoken.run(&format!("{command} -w {format}")).await?;
        }
    }
    for command in [
        "member add new --learner --peer-urls=OWN",
        "member add new --peer-urls=nonsense",
        "member add new",
        "member promote FIRST",
        "member remove FIRST",
        "member remove nonsense",
        "member update FIRST --peer-urls=OWN",
        "move-leader 1234",
    ] {
        spoken.run(command).await?;
    }
    spoken.cluster.grow(0, true).await?;
    spoken.run("member list").await?;
    spoken.run("member list -w json").await?;
    let client = spoken.cluster.client(0);
    let in_sync = async || {
        let put = client.put("k", "v").await;
        put.map(|_| ())
    };
    spoken.cluster.members[0].wait_answer(in_sync).await?;
    spoken.run("member promote LATEST").await?;
    spoken.run("member list -w fields").await?;
    spoken.run("move-leader LATEST").await?;
    Ok(spoken.lines)
}

/// etcdctl's `member` and `move-leader` print the same with both servers.
pub async fn etcdctl_prints_the_same(scene: Scene) -> Result<Verdict> {
    let etcdctl = match etcd_programs() {
        Ok(programs) => programs.etcdctl.clone(),
        Err(reason) => return Ok(Verdict::Skipped(reason)),
    };
    let etcd = speak(&etcdctl, Program::Etcd, &scene.directory.join("etcd")).await?;
    let here = speak(&etcdctl, scene.subject, &scene.directory.join("subject")).await?;
    ensure!(etcd.len() == here.len(), "{} and {} commands", etcd.len(), here.len());
    for (etcd, here) in etcd.iter().zip(&here) {
        ensure!(etcd == here, "{}\n-- etcd:\n{}\n-- here:\n{}", etcd.0, etcd.1, here.1);
    }
    scene.note(format!("{} commands", etcd.len()));
    Ok(Verdict::Passed)
}
