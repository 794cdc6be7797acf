//! `elect`.

use super::connect_to_stay;
use super::session::{Session, interrupted, observe};
use crate::command_line::Invocation;
use crate::failure::Failure;
use crate::output::Answer;

/// Seconds until a candidate that is lost has left the election.
const SESSION_TTL_SECONDS: i64 = 60;

pub async fn run(mut invocation: Invocation) -> Result<(), Failure> {
    let listen = invocation.flag("listen");
    let words = invocation.arguments.clone();
    let (name, proposal) = match words.as_slice() {
        [name] if listen => (name, None),
        [_] => return Err(Failure::arguments("no proposal argument but -l not set")),
        [_, _] if listen => return Err(Failure::arguments("proposal given but -l is set")),
        [name, proposal] => (name, Some(proposal)),
        _ => {
            let message =
                "elect takes one election name argument and an optional proposal argument";
            return Err(Failure::arguments(message));
        }
    };
    let (client, output) = connect_to_stay(&mut invocation).await?;
    let Some(proposal) = proposal else {
        return tokio::select! {
            observed = observe(&client, name, |leader| output.print(&Answer::Get(leader))) => observed,
            signal = interrupted() => signal,
        };
    };
    let session = Session::begin(client, SESSION_TTL_SECONDS).await?;
    let mut place = session.queue(name, proposal).await?;
    let expired = || Failure::error("elect: session expired");
    tokio::select! {
        turn = session.wait_for_turn(name, &mut place) => turn?,
        () = session.keep() => return Err(expired()),
        signal = interrupted() => {
            signal?;
            session.leave(&place).await?;
            return Err(Failure::error("context canceled"));
        }
    }
    output.print(&Answer::Get(session.get(place.key.clone()).await?))?;
    tokio::select! {
        signal = interrupted() => {
            signal?;
            session.leave(&place).await
        }
        () = session.keep() => Err(expired()),
    }
}
