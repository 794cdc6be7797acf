//! `module bench`: what a module costs, found on a server of its own that is started for it and thrown away.

use std::cell::{Cell, RefCell};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::instar::v1 as module_pb;
use tokio::task::LocalSet;

use super::ask;
use super::module::send;
use super::module_project::package_name;
use super::module_work::{rates, statistics, text};
use crate::client::Client;
use crate::command_line::Invocation;
use crate::failure::Failure;
use crate::output::line;
use crate::settings::Settings;

/// How long the server may take to start; the first time, it compiles the state machine.
const START_WITHIN: Duration = Duration::from_secs(60);
/// Where keys are put that do not concern the module.
const ELSEWHERE: &str = "/module-bench-elsewhere/";
const VALUE_BYTES: usize = 64;
/// How often it is looked whether the module is compiled.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

pub async fn bench(mut invocation: Invocation) -> Result<(), Failure> {
    let file = match invocation.arguments.as_slice() {
        [] => format!("{}.wasm", package_name()?),
        [file] => file.clone(),
        _ => {
            return Err(Failure::arguments("module bench command accepts 1 argument, a component"));
        }
    };
    let component = std::fs::read(&file).map_err(|error| {
        Failure::error(format!("cannot read {file}: {error}"))
            .with_hint("`instarctl module build` makes it")
    })?;
    let load = Load {
        key: invocation.text("key"),
        procedure: invocation.text("call"),
        argument: invocation.text("argument").into(),
        clients: usize::try_from(invocation.integer("clients")).unwrap_or(1).max(1),
        within: invocation.duration("time"),
    };
    let mut settings = Settings::read(&mut invocation)?;
    let server = Server::start(&invocation.text("server"))?;
    settings.endpoints = vec![server.endpoint.clone()];
    let client = server.ready(&settings).await?;
    let without = load.puts(&settings, ELSEWHERE).await?;
    line(format!("puts elsewhere              {without}"))?;
    activate(&client, component, &load.key).await?;
    let before = statistics(&client).await?;
    let started = Instant::now();
    let with = load.puts(&settings, &load.key).await?;
    line(format!("puts under {:16} {with}", load.key))?;
    if !load.procedure.is_empty() {
        let calls = load.calls(&settings, &name_of(&client).await?).await?;
        line(format!("calls of {:18} {calls}", load.procedure))?;
    }
    let after = statistics(&client).await?;
    line("")?;
    line(text(&rates(&before, &after, started.elapsed())))
}

/// What is done, again and again, by how many, for how long.
struct Load {
    key: String,
    procedure: String,
    argument: Bytes,
    clients: usize,
    within: Duration,
}

/// What it was like.
struct Report {
    seconds: Vec<f64>,
    failure: Option<String>,
    failures: u64,
    took: Duration,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = |part: f64| {
            let index = (self.seconds.len() as f64 * part) as usize;
            self.seconds.get(index).or(self.seconds.last()).map_or(0.0, |seconds| seconds * 1e3)
        };
        let per_s = self.seconds.len() as f64 / self.took.as_secs_f64();
        write!(f, "{per_s:8.0} a second, p50 {:.2} ms, p99 {:.2} ms", at(0.5), at(0.99))?;
        match &self.failure {
            Some(failure) => write!(f, "; {} failed: {failure}", self.failures),
            None => Ok(()),
        }
    }
}

impl Load {
    async fn puts(&self, settings: &Settings, prefix: &str) -> Result<Report, Failure> {
        let prefix: Rc<str> = prefix.into();
        self.run(settings, move |client, number| {
            let key = format!("{prefix}{:06}", number % 1_000).into();
            let value = Bytes::from(vec![b'v'; VALUE_BYTES]);
            async move {
                let request = pb::PutRequest { key, value, ..Default::default() };
                ask!(client, Never, kv.put(request)).map(drop)
            }
        })
        .await
    }

    async fn calls(&self, settings: &Settings, module: &str) -> Result<Report, Failure> {
        let request = module_pb::CallModuleRequest {
            name: module.to_owned(),
            procedure: self.procedure.clone(),
            argument: self.argument.clone(),
        };
        self.run(settings, move |client, _| {
            let request = request.clone();
            async move { ask!(client, Never, module.call(request)).map(drop) }
        })
        .await
    }

    async fn run<F, A>(&self, settings: &Settings, request: F) -> Result<Report, Failure>
    where
        F: Fn(Rc<Client>, u64) -> A + 'static,
        A: Future<Output = Result<(), Failure>> + 'static,
    {
        let request = Rc::new(request);
        let (seconds, failures) = (Rc::new(RefCell::new(vec![])), Rc::new(RefCell::new(vec![])));
        let numbers = Rc::new(Cell::new(0));
        let tasks = LocalSet::new();
        let started = Instant::now();
        for _ in 0..self.clients {
            let client = Rc::new(Client::connect(settings, None).await?);
            let (request, numbers, within) = (request.clone(), numbers.clone(), self.within);
            let (seconds, failures) = (seconds.clone(), failures.clone());
            tasks.spawn_local(async move {
                while started.elapsed() < within {
                    let begun = Instant::now();
                    let number = numbers.replace(numbers.get() + 1);
                    match request(client.clone(), number).await {
                        Ok(()) => seconds.borrow_mut().push(begun.elapsed().as_secs_f64()),
                        Err(failure) => failures.borrow_mut().push(failure.message),
                    }
                }
            });
        }
        tasks.await;
        let mut seconds = seconds.take();
        seconds.sort_by(f64::total_cmp);
        let failures = failures.take();
        let count = failures.len() as u64;
        let failure = failures.into_iter().next();
        Ok(Report { seconds, failure, failures: count, took: started.elapsed() })
    }
}

/// A server that lives as long as this does, and its data no longer.
struct Server {
    process: Child,
    endpoint: String,
    _directory: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has nothing worth an orderly end.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Server {
    fn start(program: &str) -> Result<Self, Failure> {
        let program = match program {
            "" => beside_this_program()?,
            program => PathBuf::from(program),
        };
        let directory = tempfile::tempdir()?;
        let [client, peer] = [free_address()?, free_address()?];
        let endpoint = format!("http://{client}");
        let peer = format!("http://{peer}");
        let process = Command::new(&program)
            .arg("--data-dir")
            .arg(directory.path().join("data"))
            .args(["--name", "bench", "--log-level", "error"])
            .args(["--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .arg("--initial-cluster")
            .arg(format!("bench={peer}"))
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| {
                Failure::error(format!("cannot start {}: {error}", program.display()))
                    .with_hint("name the program `instar` with --server")
            })?;
        Ok(Self { process, endpoint, _directory: directory })
    }

    async fn ready(&self, settings: &Settings) -> Result<Client, Failure> {
        let settings = Settings { dial_timeout: START_WITHIN, ..settings.clone() };
        let client = Client::connect(&settings, Some(START_WITHIN)).await?;
        ask!(
            client,
            Reading,
            kv.range(pb::RangeRequest { key: "x".into(), ..Default::default() })
        )?;
        Client::connect(&settings, None).await
    }
}

fn beside_this_program() -> Result<PathBuf, Failure> {
    let own = std::env::current_exe()?;
    let beside = own.canonicalize()?.parent().map(|directory| directory.join("instar"));
    Ok(beside.filter(|path| path.is_file()).unwrap_or_else(|| Path::new("instar").to_owned()))
}

fn free_address() -> Result<std::net::SocketAddr, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

async fn activate(client: &Client, component: Vec<u8>, grant: &str) -> Result<(), Failure> {
    let put = send(client, &component.into()).await?;
    let name = name_of(client).await?;
    let grants = vec![grant.to_owned().into()];
    let request = module_pb::ActivateModuleRequest { name, digest: put.digest, grants };
    ask!(client, Never, module.activate(request)).map(drop)
}

/// The name of the only component that the server has, as soon as it has compiled it.
async fn name_of(client: &Client) -> Result<String, Failure> {
    let deadline = Instant::now() + START_WITHIN;
    loop {
        let modules = ask!(client, Reading, module.list(module_pb::ListModulesRequest {}))?;
        match modules.components.into_iter().next() {
            Some(component) if !component.refusal.is_empty() => {
                return Err(Failure::error(component.refusal));
            }
            Some(component) if !component.name.is_empty() => return Ok(component.name),
            _ if Instant::now() > deadline => {
                return Err(Failure::error("the server has not compiled the module"));
            }
            _ => tokio::time::sleep(LOOK_INTERVAL).await,
        }
    }
}
