//! `move-leader`.

use proto::etcdserverpb as pb;

use super::{ask, endpoint};
use crate::command_line::Invocation;
use crate::failure::Failure;
use crate::go;
use crate::output::Answer;
use crate::settings::Settings;

pub async fn run(mut invocation: Invocation) -> Result<(), Failure> {
    let [target] = invocation.arguments.as_slice() else {
        return Err(Failure::arguments("move-leader command needs 1 argument"));
    };
    let target_id = go::parse_unsigned(target, 16).map_err(Failure::arguments)?;
    let settings = Settings::read(&mut invocation)?;
    // Only the leader can hand leadership over.
    for address in &settings.endpoints {
        let client = endpoint::connect(&invocation, &settings, address).await?;
        let status = ask!(client, Reading, maintenance.status(pb::StatusRequest {}))?;
        let id = status.header.map_or(0, |header| header.member_id);
        if id != status.leader {
            continue;
        }
        let request = pb::MoveLeaderRequest { target_id };
        let response = ask!(client, Never, maintenance.move_leader(request))?;
        return settings.output.print(&Answer::MoveLeader { from: id, to: target_id, response });
    }
    let endpoints = settings.endpoints.join(" ");
    Err(Failure::arguments(format!("no leader endpoint given at [{endpoints}]"))
        .with_hint("give the endpoints of all members"))
}
