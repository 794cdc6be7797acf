//! Our tutorial, `docs/tutorial.md`: every command of it, in order, with what it says that is printed; once with
//! `instarctl`, once with the real etcdctl.
//!
//! A block ```` ```console ```` has commands behind `$ ` and below each its output. Lines behind `> ` are typed in, one behind
//! `! ` is what standard error has, and a command without output may print what it likes. A block `background` goes on
//! while the next ones run; with `first` those wait until it has printed its first line. `docker` stands for the members
//! of a cluster of processes. Nothing sleeps: after a `sleep` the next command is repeated until it prints what it should.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::case::{Scene, Verdict};
use tests::client::Client;
use tests::cluster::{Cluster, POLL_EVERY, Plan, etcd_programs, instarctl};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

const TUTORIAL: &str = include_str!("../../../docs/tutorial.md");
/// How many commands the tutorial has at least; so that one that is not found is missed.
const COMMANDS_LEAST: usize = 45;
/// The longest until a command prints what it should.
const PRINTED_WITHIN: Duration = Duration::from_secs(60);
/// Where the tutorial's leader is among the members.
const LEADER: usize = 1;
/// Commands whose output has times, ids and sizes.
const WITH_NUMBERS: [&str; 3] = ["endpoint", "member", "lease"];

const PATIENCE: &str = "context deadline exceeded";
const SERVERS_PATIENCE: &str = "etcdserver: request timed out";

/// A command of the page.
#[derive(Debug, Default, PartialEq)]
struct Step {
    command: String,
    typed: String,
    printed: String,
    error: String,
    is_background: bool,
    /// Whether the next one waits until it has printed a line.
    is_first: bool,
}

fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut block: Option<&str> = None;
    for line in page.lines() {
        if line.starts_with("```") {
            block = line.strip_prefix("```console").filter(|_| block.is_none());
            continue;
        }
        let Some(words) = block else { continue };
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step {
                command: command.to_owned(),
                is_background: words.contains("background"),
                is_first: words.contains("first"),
                ..Step::default()
            });
            continue;
        }
        let Some(step) = steps.last_mut() else { continue };
        let (text, line) = match (line.strip_prefix('>'), line.strip_prefix("! ")) {
            (Some(typed), _) => (&mut step.typed, typed.trim_start()),
            (_, Some(error)) => (&mut step.error, error),
            _ => (&mut step.printed, line),
        };
        text.push_str(line);
        text.push('\n');
    }
    steps
}

/// What is left of an output without numbers, borders, and the order of a table's rows.
fn shape(text: &str) -> String {
    let is_word = |c: char| c.is_alphanumeric() || c == '.';
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with(['┌', '├', '└', '+'])) {
        let mut shape = String::new();
        let spaced: String = line.chars().map(|c| if c == '│' { ' ' } else { c }).collect();
        for word in spaced.split_inclusive(|c| !is_word(c)) {
            let (word, rest) = word.split_at(word.find(|c| !is_word(c)).unwrap_or(word.len()));
            let is_id = word.len() >= 8 && word.chars().all(|c| c.is_ascii_hexdigit());
            shape.push_str(match word.starts_with(|c: char| c.is_ascii_digit()) || is_id {
                true => "0",
                false => word,
            });
            shape.push_str(rest);
        }
        lines.push(shape.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    lines.sort();
    lines.join("\n")
}

/// The members that a page is played on.
pub(super) trait Members {
    /// What makes `docker` of a line that bash runs do what it means here.
    fn script(&self) -> String;
    /// A line with the names that files and members have here, and an output with those of the page.
    fn named_here(&self, line: &str) -> String;
    fn named_as_there(&self, text: &str) -> String;
    async fn stop(&mut self, name: &str) -> Result<()>;
    async fn start(&mut self, name: &str) -> Result<()>;
    fn client(&self) -> Client;
}

/// Members that are processes, and a program that is called with the address of one of them.
struct Processes {
    cluster: Cluster,
    etcdctl: PathBuf,
    /// Where files go that the tutorial has in `/tmp`.
    directory: PathBuf,
}

impl Processes {
    async fn start(scene: &Scene, name: &str, etcdctl: &Path) -> Result<Self> {
        let directory = scene.directory.join(name);
        let cluster = Plan::new(scene.subject, 3, &directory).start().await?;
        let leader = cluster.leader().await?;
        let id = cluster.id(leader, LEADER).await?;
        if leader != LEADER {
            cluster.client(leader).move_leader(id).await?;
        }
        Ok(Self { cluster, etcdctl: etcdctl.to_owned(), directory })
    }
}

impl Members for Processes {
    fn script(&self) -> String {
        let mut script = format!("ETCDCTL='{}'\n", self.etcdctl.display());
        for (at, member) in self.cluster.members.iter().enumerate() {
            _ = writeln!(script, "etcd{}={}", at + 1, member.address);
        }
        script.push_str("docker() { shift; [ \"$1\" = -it ] && shift; local at=$1; shift 2\n");
        script + "\"$ETCDCTL\" --endpoints=\"${!at}\" \"$@\"; }\n"
    }

    fn named_here(&self, line: &str) -> String {
        line.replace("/tmp/", &format!("{}/", self.directory.display()))
    }

    fn named_as_there(&self, text: &str) -> String {
        let mut text = text.replace(&format!("{}/", self.directory.display()), "/tmp/");
        for (at, member) in self.cluster.members.iter().enumerate() {
            let name = format!("etcd{}", at + 1);
            text = text.replace(&member.address, &format!("{name}:2379"));
            text = text.replace(&member.peer_url(), &format!("http://{name}:2380"));
            text = text.replace(&format!(" {} ", member.name), &format!(" {name} "));
        }
        text
    }

    async fn stop(&mut self, name: &str) -> Result<()> {
        self.cluster.members[member_named(name)?].terminate().await.map(drop)
    }

    async fn start(&mut self, name: &str) -> Result<()> {
        self.cluster.members[member_named(name)?].spawn()
    }

    fn client(&self) -> Client {
        self.cluster.client(0)
    }
}

/// The tutorial while it is played.
struct Play<'a, M> {
    members: &'a mut M,
    variables: BTreeMap<String, String>,
    background: Vec<(Child, String)>,
}

/// Plays the whole page; says how many commands it has.
pub(super) async fn play(members: &mut impl Members) -> Result<usize> {
    let steps = steps(TUTORIAL);
    ensure!(steps.len() >= COMMANDS_LEAST, "only {} commands were found", steps.len());
    let mut play = Play { members, variables: BTreeMap::new(), background: Vec::new() };
    let mut is_repeated = false;
    for step in &steps {
        if step.command.starts_with("sleep ") {
            is_repeated = true;
            continue;
        }
        play.step(step, is_repeated).await?;
        is_repeated = false;
    }
    play.end().await.context("in the background")?;
    Ok(steps.len())
}

impl<M: Members> Play<'_, M> {
    /// A line as bash runs it: `docker` is what the members make of it.
    fn bash(&self, line: &str) -> Command {
        let mut script = self.members.script();
        for (name, value) in &self.variables {
            _ = writeln!(script, "{name}={value}");
        }
        script.push_str(&self.members.named_here(line));
        let mut command = Command::new("bash");
        command.arg("-c").arg(script).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    async fn run(&mut self, line: &str, typed: &str) -> Result<(String, String)> {
        let mut child = self.bash(line).spawn().context("start bash")?;
        let mut stdin = child.stdin.take().context("standard input")?;
        // It may end without reading.
        drop(stdin.write_all(typed.as_bytes()).await);
        drop(stdin);
        let ended = tokio::time::timeout(PRINTED_WITHIN, child.wait_with_output()).await;
        let output = ended.with_context(|| format!("{line} does not end"))??;
        let text = |bytes: &[u8]| self.members.named_as_there(&String::from_utf8_lossy(bytes));
        Ok((text(&output.stdout), text(&output.stderr)))
    }

    /// Plays a step. One that may take its time is repeated until it prints what it should.
    async fn step(&mut self, step: &Step, is_repeated: bool) -> Result<()> {
        let words: Vec<&str> = step.command.split(' ').collect();
        match words.as_slice() {
            ["docker", "stop", names @ ..] => {
                for name in names {
                    self.members.stop(name).await?;
                }
                return Ok(());
            }
            ["docker", "start", name] => return self.members.start(name).await,
            _ if step.is_background => return self.start_background(step).await,
            _ => {}
        }
        if let Some((name, value)) = step.command.split_once("=$(") {
            let value = format!("printf %s \"$({value}\"");
            let (value, error) = self.run(&value, "").await?;
            ensure!(!value.is_empty(), "{name} is empty: {error}");
            self.variables.insert(name.to_owned(), value);
            return Ok(());
        }
        let began = Instant::now();
        loop {
            let (printed, error) = self.run(&step.command, &step.typed).await?;
            if matches(step, &printed, &error) {
                return Ok(());
            }
            let may_repeat = is_repeated && began.elapsed() < PRINTED_WITHIN;
            let Step { command, printed: expected, .. } = step;
            ensure!(
                may_repeat,
                "$ {command}\n{printed}{error}instead of\n{expected}{}",
                step.error
            );
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    async fn start_background(&mut self, step: &Step) -> Result<()> {
        let mut line = step.command.clone();
        if line.contains(" watch ") {
            // From the next revision on, so that it does not matter when the watch is there.
            let revision = self.members.client().status().await?.header.unwrap_or_default();
            _ = write!(line, " --rev={}", revision.revision + 1);
        }
        let mut child = self.bash(&line).spawn().context("start bash")?;
        if step.is_first {
            read_until(&mut child, &step.printed).await?;
        } else {
            self.background.push((child, step.printed.clone()));
            return Ok(());
        }
        // It ends by itself, and those that follow wait for it.
        self.background.push((child, String::new()));
        Ok(())
    }

    /// Those in the background have printed what they should.
    async fn end(mut self) -> Result<()> {
        for (child, expected) in &mut self.background {
            read_until(child, expected).await?;
        }
        Ok(())
    }
}

async fn read_until(child: &mut Child, expected: &str) -> Result<()> {
    let out = child.stdout.as_mut().context("standard output")?;
    let mut printed = vec![0; expected.len()];
    let read = tokio::time::timeout(PRINTED_WITHIN, out.read_exact(&mut printed)).await;
    let read = read.with_context(|| format!("this is not printed: {expected}"))?;
    read.with_context(|| format!("it ends before it has printed: {expected}"))?;
    let printed = String::from_utf8_lossy(&printed);
    ensure!(printed == expected, "{printed}\ninstead of\n{expected}");
    Ok(())
}

fn matches(step: &Step, printed: &str, error: &str) -> bool {
    let is_same = match WITH_NUMBERS.iter().any(|word| step.command.contains(&format!(" {word} ")))
    {
        true => step.printed.is_empty() || shape(printed) == shape(&step.printed),
        false => printed == step.printed,
    };
    let expected = step.error.trim_end();
    // Whoever loses patience first: the client, or the server with the connection to a leader that is gone.
    let timed_out = expected == PATIENCE && error.contains(SERVERS_PATIENCE);
    is_same && (error.contains(expected) || timed_out)
}

fn member_named(name: &str) -> Result<usize> {
    let number: Option<usize> = name.strip_prefix("etcd").and_then(|number| number.parse().ok());
    number.and_then(|number| number.checked_sub(1)).with_context(|| format!("no member {name}"))
}

/// Every command of the page prints what the page says, with either program.
pub async fn every_command_prints_what_it_says(scene: Scene) -> Result<Verdict> {
    let etcdctl = match etcd_programs() {
        Ok(programs) => programs.etcdctl.clone(),
        Err(reason) => return Ok(Verdict::Skipped(reason)),
    };
    let link = scene.directory.join("link");
    std::os::unix::fs::symlink(instarctl()?, &link).context("link instarctl")?;
    for (name, program) in [("instarctl", &link), ("etcdctl", &etcdctl)] {
        let mut members = Processes::start(&scene, name, program).await?;
        let commands = play(&mut members).await.with_context(|| format!("with {name}"))?;
        scene.note(format!("{commands} commands with {name}"));
    }
    Ok(Verdict::Passed)
}
