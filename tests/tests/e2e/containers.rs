//! The image: three containers from nothing become the tutorial's cluster, play it, lose one by force, and are taken down.
//!
//! `INSTAR_IMAGE` names the image, `INSTAR_ENGINE` the program that runs it (docker or podman). The containers are on a
//! network of their own, with addresses that are chosen here: so that names need no resolver of the engine's.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{Resource, getrlimit};
use tests::case::{Scene, Verdict};
use tests::client::Client;
use tests::cluster::{POLL_EVERY, READY_WITHIN};

use super::tutorial::{Members, play};

pub const IMAGE: &str = "INSTAR_IMAGE";
const ENGINE: &str = "INSTAR_ENGINE";
/// Unlikely to be anybody's.
const SUBNET: &str = "10.213.77";
const MEMBERS: usize = 3;
/// Where the tutorial's leader is among the members.
const LEADER: usize = 1;
/// What podman starts containers with; its own defaults are not there, or not allowed, everywhere.
const PODMAN: [&str; 2] = ["--runtime", "runc"];
/// What a member may have, where this process may have as much.
const FILES: u64 = 65_536;
const TASKS: u64 = 4_096;

/// The program that runs containers.
#[derive(Clone)]
struct Engine(String);

impl Engine {
    /// Runs a command of it to its end.
    fn run(&self, words: &[&str]) -> Result<String> {
        let global: &[&str] = if self.is_podman() { &PODMAN } else { &[] };
        let output = std::process::Command::new(&self.0).args(global).args(words).output();
        let output = output.with_context(|| format!("start {}", self.0))?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} {words:?}: {error}", self.0);
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// The last lines that a container has logged.
    fn log(&self, container: &str) -> String {
        let output =
            std::process::Command::new(&self.0).args(["logs", "--tail=12", container]).output();
        let text = output.map(|output| [output.stdout, output.stderr].concat());
        String::from_utf8_lossy(&text.unwrap_or_default()).into_owned()
    }

    /// The engine as bash calls it.
    fn line(&self) -> String {
        let global: &[&str] = if self.is_podman() { &PODMAN } else { &[] };
        [&[self.0.as_str()][..], global].concat().join(" ")
    }

    fn is_podman(&self) -> bool {
        self.0.ends_with("podman")
    }
}

/// Containers, their volumes and their network: gone when this is dropped.
struct Containers {
    engine: Engine,
    /// What all names here begin with.
    prefix: String,
}

fn name(at: usize) -> String {
    format!("etcd{}", at + 1)
}

fn ip(at: usize) -> String {
    format!("{SUBNET}.{}", 11 + at)
}

impl Containers {
    fn up(&self, image: &str) -> Result<()> {
        let subnet = format!("{SUBNET}.0/24");
        self.engine.run(&["network", "create", "--subnet", &subnet, &self.prefix])?;
        for at in 0..MEMBERS {
            self.run(image, at)?;
        }
        Ok(())
    }

    /// Starts a member as `compose/compose.yaml` does.
    fn run(&self, image: &str, at: usize) -> Result<()> {
        let own = name(at);
        let cluster: Vec<String> =
            (0..MEMBERS).map(|at| format!("{0}=http://{0}:2380", name(at))).collect();
        let settings = [
            ("NAME", own.clone()),
            ("LISTEN_CLIENT_URLS", "http://0.0.0.0:2379".to_owned()),
            ("LISTEN_PEER_URLS", "http://0.0.0.0:2380".to_owned()),
            ("ADVERTISE_CLIENT_URLS", format!("http://{own}:2379")),
            ("INITIAL_ADVERTISE_PEER_URLS", format!("http://{own}:2380")),
            ("INITIAL_CLUSTER", cluster.join(",")),
            ("INITIAL_CLUSTER_TOKEN", self.prefix.clone()),
        ];
        let settings = settings.map(|(name, value)| format!("--env=ETCD_{name}={value}"));
        let hosts = (0..MEMBERS).map(|at| format!("--add-host={}:{}", name(at), ip(at)));
        let mut words = vec![
            "run".to_owned(),
            "--detach".to_owned(),
            format!("--name={}-{own}", self.prefix),
            format!("--hostname={own}"),
            format!("--network={}", self.prefix),
            format!("--ip={}", ip(at)),
            format!("--volume={}-{own}:/var/lib/instar", self.prefix),
        ];
        words.extend(hosts.chain(settings));
        let limits =
            [("nofile", Resource::RLIMIT_NOFILE, FILES), ("nproc", Resource::RLIMIT_NPROC, TASKS)];
        for (name, resource, wanted) in limits {
            let limit = wanted.min(getrlimit(resource)?.1);
            words.push(format!("--ulimit={name}={limit}:{limit}"));
        }
        words.push(image.to_owned());
        self.engine.run(&words.iter().map(String::as_str).collect::<Vec<_>>()).map(drop)
    }

    fn member(&self, at: usize) -> Client {
        Client::new(&format!("{}:2379", ip(at)))
    }

    fn container(&self, at: usize) -> String {
        format!("{}-{}", self.prefix, name(at))
    }

    /// Waits until all members follow the same one, and makes it the tutorial's.
    async fn lead(&self) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < READY_WITHIN {
            let mut statuses = Vec::new();
            for at in 0..MEMBERS {
                statuses.extend(self.member(at).status().await);
            }
            let ids: Vec<u64> = statuses
                .iter()
                .map(|status| status.header.as_ref().map_or(0, |header| header.member_id))
                .collect();
            let leader = statuses.first().and_then(|status| {
                let is_followed = statuses.iter().all(|other| other.leader == status.leader);
                ids.iter().position(|id| is_followed && *id == status.leader)
            });
            match leader {
                Some(leader) if statuses.len() == MEMBERS => {
                    if leader != LEADER {
                        self.member(leader).move_leader(ids[LEADER]).await?;
                    }
                    return Ok(());
                }
                _ => tokio::time::sleep(POLL_EVERY).await,
            }
        }
        bail!("no leader within {} s", READY_WITHIN.as_secs())
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        // What was never made cannot be removed.
        for at in 0..MEMBERS {
            self.engine.run(&["rm", "--force", &self.container(at)]).ok();
            self.engine.run(&["volume", "rm", "--force", &self.container(at)]).ok();
        }
        self.engine.run(&["network", "rm", &self.prefix]).ok();
    }
}

impl Members for Containers {
    fn script(&self) -> String {
        let mut script = String::from("docker() { shift; local input=();\n");
        script.push_str("[ \"$1\" = -it ] && { input=(-i); shift; }; local at=$1; shift\n");
        _ = writeln!(
            script,
            "{} exec \"${{input[@]}}\" {}-$at \"$@\"; }}",
            self.engine.line(),
            self.prefix
        );
        script
    }

    fn named_here(&self, line: &str) -> String {
        line.to_owned()
    }

    fn named_as_there(&self, text: &str) -> String {
        text.to_owned()
    }

    async fn stop(&mut self, name: &str) -> Result<()> {
        let at = (0..MEMBERS).find(|at| self::name(*at) == name).context("no such member")?;
        let stopped = self.member(at).status().await?.header.unwrap_or_default().member_id;
        self.engine.run(&["stop", &self.container(at)])?;
        // Whoever follows it still would try to reach it, and tell of that.
        let began = Instant::now();
        for other in (0..MEMBERS).filter(|other| *other != at) {
            let client = self.member(other);
            while client.status().await.is_ok_and(|status| status.leader == stopped) {
                ensure!(began.elapsed() < READY_WITHIN, "{} follows {name}", self::name(other));
                tokio::time::sleep(POLL_EVERY).await;
            }
        }
        Ok(())
    }

    async fn start(&mut self, name: &str) -> Result<()> {
        self.engine.run(&["start", &format!("{}-{name}", self.prefix)]).map(drop)
    }

    fn client(&self) -> Client {
        self.member(0)
    }
}

/// From nothing to a cluster, through the tutorial, through the death of a container, to nothing.
pub async fn an_image_is_a_cluster(scene: Scene) -> Result<Verdict> {
    let variable = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));
    let (image, engine) = (variable(IMAGE)?, variable(ENGINE)?);
    let engine = Engine(engine);
    let version = engine.run(&["--version"])?;
    let prefix = format!("instar-{}", std::process::id());
    let mut containers = Containers { engine: engine.clone(), prefix };
    scene.note(format!("{image} with {version}"));
    let began = Instant::now();
    containers.up(&image)?;
    containers.lead().await?;
    scene.note(format!("three containers serve after {:.1} s", began.elapsed().as_secs_f64()));
    let user =
        containers.engine.run(&["image", "inspect", "--format", "{{.Config.User}}", &image])?;
    ensure!(!matches!(user.as_str(), "" | "0" | "root"), "the image runs as {user:?}");
    is_healthy(&containers)?;
    if let Err(error) = be_used(&scene, &mut containers).await {
        for at in 0..MEMBERS {
            scene.note(format!("{}\n{}", name(at), engine.log(&containers.container(at))));
        }
        return Err(error);
    }
    let names: Vec<String> = (0..MEMBERS).map(|at| containers.container(at)).collect();
    drop(containers);
    let left = engine.run(&["ps", "--all", "--format", "{{.Names}}"])?;
    ensure!(!names.iter().any(|name| left.lines().any(|line| line == name)), "left: {left}");
    Ok(Verdict::Passed)
}

async fn be_used(scene: &Scene, containers: &mut Containers) -> Result<()> {
    let commands = play(containers).await?;
    scene.note(format!("{commands} commands of the tutorial"));
    survive_a_kill(containers).await
}

/// The image's own health check.
fn is_healthy(containers: &Containers) -> Result<()> {
    let health = ["instarctl", "endpoint", "health", "--command-timeout=2s"];
    for at in 0..MEMBERS {
        let container = containers.container(at);
        containers.engine.run(&[&["exec", &container][..], &health].concat())?;
        if containers.engine.is_podman() {
            containers.engine.run(&["healthcheck", "run", &container])?;
        }
    }
    Ok(())
}

/// A container that is killed misses writes, and has them soon after it was started again.
async fn survive_a_kill(containers: &Containers) -> Result<()> {
    let killed = containers.container(0);
    containers.engine.run(&["kill", &killed])?;
    let put = |at: usize| async move { containers.member(at).put("killed", "missed").await };
    let began = Instant::now();
    while put(1).await.is_err() {
        ensure!(began.elapsed() < READY_WITHIN, "no write without the killed one");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    containers.engine.run(&["start", &killed])?;
    loop {
        let found = containers.member(0).get_serializable("killed").await;
        if found.is_ok_and(|found| found.kvs.first().is_some_and(|pair| pair.value == "missed")) {
            return Ok(());
        }
        ensure!(began.elapsed() < READY_WITHIN, "the killed one lacks what it missed");
        tokio::time::sleep(POLL_EVERY).await;
    }
}
