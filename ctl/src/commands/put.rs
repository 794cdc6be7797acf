//! `put`.

use std::io::Read;

use bytes::Bytes;
use proto::etcdserverpb as pb;

use super::{ask, connect};
use crate::command_line::Invocation;
use crate::failure::Failure;
use crate::go;
use crate::output::Answer;

pub async fn run(mut invocation: Invocation) -> Result<(), Failure> {
    let request = request(&invocation)?;
    let (client, output) = connect(&mut invocation).await?;
    let response = ask!(client, Never, kv.put(request))?;
    output.print(&Answer::Put(response))
}

/// Reads the words and flags of `put`, also as a line of a transaction.
pub fn request(invocation: &Invocation) -> Result<pb::PutRequest, Failure> {
    let missing = "put command needs 1 argument and input from stdin or 2 arguments";
    let ignore_value = invocation.flag("ignore-value");
    let words = &invocation.arguments;
    let key = words.first().ok_or_else(|| Failure::arguments(missing))?;
    if ignore_value && words.len() > 1 {
        let message = "put command needs only 1 argument when 'ignore-value' is set";
        return Err(Failure::arguments(message));
    }
    let value = match words.get(1) {
        _ if ignore_value => Bytes::new(),
        Some(value) => value.clone().into(),
        None => from_standard_input().ok_or_else(|| Failure::arguments(missing))?,
    };
    let lease = go::parse_signed(&invocation.text("lease"), 16)
        .map_err(|why| Failure::arguments(format!("bad lease ID ({why}), expecting ID in Hex")))?;
    Ok(pb::PutRequest {
        key: key.clone().into(),
        value,
        lease,
        prev_kv: invocation.flag("prev-kv"),
        ignore_value,
        ignore_lease: invocation.flag("ignore-lease"),
    })
}

/// All of standard input, unless there is none.
fn from_standard_input() -> Option<Bytes> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().read_to_end(&mut bytes);
    read.ok().filter(|_| !bytes.is_empty()).map(|_| bytes.into())
}
