//! `del`.

use std::time::Duration;

use bytes::Bytes;
use proto::etcdserverpb as pb;

use super::get::{TOO_MANY, exclusive, range};
use super::{ask, connect};
use crate::command_line::Invocation;
use crate::failure::Failure;
use crate::go;
use crate::output::Answer;

/// Time for second thoughts before a range is deleted.
const PAUSE: Duration = Duration::from_secs(2);

pub async fn run(mut invocation: Invocation) -> Result<(), Failure> {
    let request = request(&invocation)?;
    let (client, output) = connect(&mut invocation).await?;
    let response = ask!(client, Never, kv.delete_range(request))?;
    output.print(&Answer::Delete(response))
}

/// Reads the words and flags of `del`, also as a line of a transaction.
pub fn request(invocation: &Invocation) -> Result<pb::DeleteRangeRequest, Failure> {
    let (prefix, from_key) = (invocation.flag("prefix"), invocation.flag("from-key"));
    let (key, end) = match invocation.arguments.as_slice() {
        [key] => (key, None),
        [key, end] => (key, Some(end)),
        _ => {
            return Err(Failure::arguments(
                "del command needs one argument as key and an optional argument as range_end",
            ));
        }
    };
    exclusive(prefix && from_key, "--prefix", "--from-key")?;
    if let Some(end) = end {
        if prefix || from_key {
            return Err(Failure::arguments(TOO_MANY));
        }
        if !invocation.flag("range") {
            eprintln!(
                "Warning: Keys between {} and {} will be deleted. Please interrupt the command within next \
                 2 seconds to cancel. You can provide `--range` flag to avoid the delay.",
                go::quote(key.as_bytes()),
                go::quote(end.as_bytes())
            );
            std::thread::sleep(PAUSE);
        }
    }
    let end = end.map(|end| Bytes::from(end.clone())).unwrap_or_default();
    let (key, range_end) = range(key, end, prefix, from_key);
    Ok(pb::DeleteRangeRequest { key, range_end, prev_kv: invocation.flag("prev-kv") })
}
