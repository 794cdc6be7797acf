//! `defrag`.

use std::time::Instant;

use proto::etcdserverpb as pb;

use super::{ask, data_directory, endpoint};
use crate::command_line::Invocation;
use crate::failure::{self, Failure};
use crate::go;
use crate::output::line;
use crate::settings::Settings;

pub async fn run(mut invocation: Invocation) -> Result<(), Failure> {
    // instarctl has both programs' commands under one name.
    if invocation.is_given("data-dir") {
        return data_directory::defragment(invocation).await;
    }
    let settings = Settings::read(&mut invocation)?;
    let mut failed = false;
    for address in endpoint::endpoints(&invocation, &settings).await? {
        let started = Instant::now();
        let asked = async {
            let client = endpoint::connect(&invocation, &settings, &address).await?;
            ask!(client, Never, maintenance.defragment(pb::DefragmentRequest {}))
        };
        let answer = asked.await;
        let took = go::duration(started.elapsed());
        match answer {
            Ok(_) => line(format!("Finished defragmenting etcd member[{address}]. took {took}"))?,
            Err(why) => {
                eprintln!("Failed to defragment etcd member[{address}]. took {took}. ({why})");
                failed = true;
            }
        }
    }
    match failed {
        true => Err(Failure::silent(failure::ERROR)),
        false => Ok(()),
    }
}
