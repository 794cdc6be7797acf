//! `lock`.

use std::io;

use super::session::{Place, Session, interrupted};
use super::{connect_to_stay, watch};
use crate::command_line::Invocation;
use crate::failure::{self, Failure};
use crate::go;
use crate::output::{Answer, Output};

pub async fn run(mut invocation: Invocation) -> Result<(), Failure> {
    let words = invocation.arguments.clone();
    let [name, command @ ..] = words.as_slice() else {
        let message = "lock takes a lock name argument and an optional command to execute";
        return Err(Failure::arguments(message));
    };
    let ttl = invocation.integer("ttl");
    let (client, output) = connect_to_stay(&mut invocation).await?;
    let session = Session::begin(client, ttl).await?;
    let mut place = session.queue(name, "").await?;
    tokio::select! {
        turn = session.wait_for_turn(name, &mut place) => turn?,
        () = session.keep() => return Err(expired()),
        signal = interrupted() => {
            signal?;
            session.leave(&place).await?;
            return Err(Failure::error("context canceled"));
        }
    }
    match command {
        [] => hold(&session, &place, &output).await,
        command => run_command(&session, &place, command).await,
    }
}

fn expired() -> Failure {
    Failure::error("session expired")
}

/// Shows the lock's key, and holds it until interrupted.
async fn hold(session: &Session, place: &Place, output: &Output) -> Result<(), Failure> {
    let response = session.get(place.key.clone()).await?;
    if response.kvs.is_empty() {
        return Err(Failure::error("lock lost on init"));
    }
    output.print(&Answer::Get(response))?;
    tokio::select! {
        signal = interrupted() => {
            signal?;
            session.leave(place).await
        }
        () = session.keep() => Err(expired()),
    }
}

/// Holds the lock while a command runs, and ends as that does.
async fn run_command(session: &Session, place: &Place, command: &[String]) -> Result<(), Failure> {
    let mut process = tokio::process::Command::new(&command[0]);
    process.args(&command[1..]).stdin(std::process::Stdio::null());
    process.env("ETCD_LOCK_KEY", String::from_utf8_lossy(&place.key).into_owned());
    process.env("ETCD_LOCK_REV", place.known_at.to_string());
    let ended = async {
        let running = process.status();
        tokio::pin!(running);
        tokio::select! {
            status = &mut running => status,
            // The command is not told that the lock is lost: as with etcdctl, it runs on.
            () = session.keep() => running.await,
        }
    };
    let status = ended.await;
    let left = session.leave(place).await;
    match status {
        Ok(status) if status.success() => left,
        Ok(status) => {
            let code = status.code().unwrap_or(-1);
            Err(Failure::new(code, watch::exit_text(status)))
        }
        Err(error) => Err(Failure::new(failure::ERROR, cannot_run(&command[0], &error))),
    }
}

/// Why a program was not started, in Go's words.
pub fn cannot_run(program: &str, error: &io::Error) -> String {
    let quoted = go::quote(program.as_bytes());
    match error.kind() {
        io::ErrorKind::NotFound if !program.contains('/') => {
            format!("exec: {quoted}: executable file not found in $PATH")
        }
        _ => go::path_error("fork/exec", program, error),
    }
}
