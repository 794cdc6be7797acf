//! `compaction`.

use proto::etcdserverpb as pb;

use super::{ask, connect};
use crate::command_line::Invocation;
use crate::failure::Failure;
use crate::go;
use crate::output::line;

pub async fn run(mut invocation: Invocation) -> Result<(), Failure> {
    let [revision] = invocation.arguments.as_slice() else {
        return Err(Failure::arguments("compaction command needs 1 argument"));
    };
    let revision = go::parse_signed(revision, 10).map_err(Failure::error)?;
    let physical = invocation.flag("physical");
    let (client, _) = connect(&mut invocation).await?;
    ask!(client, Never, kv.compact(pb::CompactionRequest { revision, physical }))?;
    line(format!("compacted revision {revision}"))
}
