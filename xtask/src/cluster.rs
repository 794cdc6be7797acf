//! Three members on this machine, to play with.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::setup;

const INITIAL_CLUSTER: &str =
    "infra1=http://127.0.0.1:2380,infra2=http://127.0.0.1:22380,infra3=http://127.0.0.1:32380";
const MEMBERS: [(&str, u16, u16); 3] =
    [("infra1", 2379, 2380), ("infra2", 22379, 22380), ("infra3", 32379, 32380)];
const READY: &str = "ready to serve client requests";
const START_PATIENCE: Duration = Duration::from_secs(30);

struct Member {
    name: &'static str,
    client_port: u16,
    process: Child,
    log: PathBuf,
}

/// Starts the members, says how to reach and how to stop each, and stays until all have ended.
pub fn run(server: &Path) -> Result<(), String> {
    let directory = setup::workspace().join("target").join("cluster");
    fs::create_dir_all(&directory)
        .map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
    let mut members = Vec::new();
    for (name, client_port, peer_port) in MEMBERS {
        members.push(start(server, &directory, name, client_port, peer_port)?);
    }
    for member in &mut members {
        wait_until_ready(member)?;
    }
    println!("\nthree members serve; their data and logs are in {}\n", directory.display());
    println!("{:<8} {:<24} {:<12} LOG", "MEMBER", "CLIENT URL", "STOP IT WITH");
    for member in &members {
        println!(
            "{:<8} {:<24} {:<12} {}",
            member.name,
            format!("http://127.0.0.1:{}", member.client_port),
            format!("kill {}", member.process.id()),
            member.log.display()
        );
    }
    println!(
        "\nall of them: Ctrl-C; `kill -9` instead of `kill` to see a crash; start one again with"
    );
    println!("  {} {}\n", server.display(), flags(&directory, "infra1", 2379, 2380).join(" "));
    println!(
        "etcdctl --endpoints=127.0.0.1:2379,127.0.0.1:22379,127.0.0.1:32379 endpoint status -w table"
    );
    for member in &mut members {
        let status = member.process.wait().map_err(|error| error.to_string())?;
        println!("{} ended with {status}", member.name);
    }
    Ok(())
}

fn flags(directory: &Path, name: &str, client_port: u16, peer_port: u16) -> Vec<String> {
    let client_url = format!("http://127.0.0.1:{client_port}");
    let peer_url = format!("http://127.0.0.1:{peer_port}");
    vec![
        format!("--name={name}"),
        format!("--data-dir={}", directory.join(format!("{name}.etcd")).display()),
        format!("--listen-client-urls={client_url}"),
        format!("--advertise-client-urls={client_url}"),
        format!("--listen-peer-urls={peer_url}"),
        format!("--initial-advertise-peer-urls={peer_url}"),
        format!("--initial-cluster={INITIAL_CLUSTER}"),
        "--initial-cluster-state=new".to_owned(),
    ]
}

fn start(
    server: &Path,
    directory: &Path,
    name: &'static str,
    client_port: u16,
    peer_port: u16,
) -> Result<Member, String> {
    let log = directory.join(format!("{name}.log"));
    let file =
        File::create(&log).map_err(|error| format!("cannot write {}: {error}", log.display()))?;
    let process = Command::new(server)
        .args(flags(directory, name, client_port, peer_port))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file)
        .spawn()
        .map_err(|error| format!("cannot start {}: {error}", server.display()))?;
    Ok(Member { name, client_port, process, log })
}

/// Follows the member's log until it says that it serves.
fn wait_until_ready(member: &mut Member) -> Result<(), String> {
    let deadline = Instant::now() + START_PATIENCE;
    let unreadable =
        |error: std::io::Error| format!("cannot read the log of {}: {error}", member.name);
    let mut log = BufReader::new(File::open(&member.log).map_err(unreadable)?);
    while Instant::now() < deadline {
        let mut line = String::new();
        if log.read_line(&mut line).map_err(unreadable)? == 0 {
            if let Some(status) = member.process.try_wait().map_err(unreadable)? {
                let mut text = String::new();
                log.rewind().and_then(|()| log.read_to_string(&mut text)).map_err(unreadable)?;
                return Err(format!("{} ended with {status}:\n{text}", member.name));
            }
            std::thread::sleep(Duration::from_millis(20));
        } else if line.contains(READY) {
            return Ok(());
        }
    }
    Err(format!("{} was not ready in time; see {}", member.name, member.log.display()))
}
