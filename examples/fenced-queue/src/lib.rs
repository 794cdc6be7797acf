//! A work queue whose workers are fenced: whoever takes an item gets a token, higher than all before, and only the
//! latest one can finish it. An item whose worker is silent for too long goes to the next one.
//!
//! Items are keys that any client can list and watch: `/queue/<name>/<number>`. Time is replicated time, so that all
//! members agree on who was too late, whatever their clocks say.

use instar_sdk::{Code, Module, Moment, Rejection, Served, export, json, kv, store};
use serde::{Deserialize, Serialize};

const ROOT: &str = "/queue/";
/// Items that are looked at for one that is free.
const LOOKED_AT: u32 = 1_000;
/// Digits of a number, so that items are in its order.
const DIGITS: usize = 20;

/// The last number of each queue.
const LAST: store::Table<u64> = store::Table::new("last");
const CLAIMS: store::Table<Claim> = store::Table::new("claim");

pub struct FencedQueue;

#[derive(Serialize, Deserialize)]
struct Claim {
    token: u64,
    until_ms: u64,
}

#[derive(Deserialize)]
struct Push {
    queue: String,
    item: String,
}

#[derive(Serialize)]
struct Pushed {
    id: String,
}

#[derive(Deserialize)]
struct Take {
    queue: String,
    /// How long nobody else gets it.
    for_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct Taken {
    id: String,
    item: String,
    token: u64,
}

#[derive(Deserialize)]
struct Held {
    queue: String,
    id: String,
    token: u64,
    #[serde(default)]
    for_ms: u64,
}

impl Module for FencedQueue {
    const NAME: &'static str = "fenced-queue";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SERVES: Served = Served::CALL;

    fn call(procedure: &str, argument: &[u8], moment: Moment) -> Result<Vec<u8>, Rejection> {
        match procedure {
            "push" => json(argument, push),
            "take" => json(argument, |take| self::take(&take, moment)),
            "extend" => json(argument, |held| extend(&held, moment)),
            "finish" => json(argument, |held| finish(&held, moment)),
            _ => Err(Rejection::no_procedure(procedure)),
        }
    }
}

fn push(push: Push) -> Result<Pushed, Rejection> {
    let prefix = items(&push.queue)?;
    let number = LAST.get(&push.queue)?.unwrap_or(0) + 1;
    LAST.put(&push.queue, &number)?;
    let id = format!("{number:0DIGITS$}");
    kv::put(format!("{prefix}{id}"), push.item)?;
    Ok(Pushed { id })
}

/// The first item that nobody holds; none if there is none.
fn take(take: &Take, moment: Moment) -> Result<Option<Taken>, Rejection> {
    let prefix = items(&take.queue)?;
    for kv in kv::prefix(&prefix, LOOKED_AT)? {
        let held = CLAIMS.get(&kv.key)?.is_some_and(|claim| claim.until_ms > moment.time_ms);
        if held {
            continue;
        }
        // The entry's place in the log: nobody had a higher one.
        let token = moment.index;
        let until_ms = moment.time_ms.saturating_add(take.for_ms);
        CLAIMS.put(&kv.key, &Claim { token, until_ms })?;
        let id = String::from_utf8_lossy(&kv.key[prefix.len()..]).into_owned();
        let item = String::from_utf8_lossy(&kv.value).into_owned();
        return Ok(Some(Taken { id, item, token }));
    }
    Ok(None)
}

fn extend(held: &Held, moment: Moment) -> Result<(), Rejection> {
    let key = check(held, moment)?;
    let until_ms = moment.time_ms.saturating_add(held.for_ms);
    CLAIMS.put(key, &Claim { token: held.token, until_ms })
}

fn finish(held: &Held, moment: Moment) -> Result<(), Rejection> {
    let key = check(held, moment)?;
    CLAIMS.delete(&key)?;
    Ok(kv::delete(key)?)
}

/// The item's key, if the token is the latest and its time is not over.
fn check(held: &Held, moment: Moment) -> Result<String, Rejection> {
    let key = format!("{}{}", items(&held.queue)?, held.id);
    let claim = CLAIMS.get(&key)?;
    let is_held = claim.is_some_and(|it| it.token == held.token && it.until_ms > moment.time_ms);
    if !is_held || kv::get(&key)?.is_none() {
        let message = format!("token {} does not hold {} any more", held.token, held.id);
        return Err(Rejection::new(Code::Aborted, message));
    }
    Ok(key)
}

fn items(queue: &str) -> Result<String, Rejection> {
    if queue.is_empty() || queue.contains('/') {
        return Err(Rejection::invalid_argument(format!("{queue:?} is no name of a queue")));
    }
    Ok(format!("{ROOT}{queue}/"))
}

export!(FencedQueue);

#[cfg(test)]
mod tests {
    use instar_sdk::testing::Host;

    use super::*;

    fn take(host: &mut Host) -> Option<Taken> {
        let argument = r#"{"queue":"jobs","for_ms":1000}"#;
        let answer = host.call::<FencedQueue>("take", argument).unwrap();
        serde_json::from_slice(&answer).unwrap()
    }

    fn finish(host: &mut Host, taken: &Taken) -> Result<Vec<u8>, Rejection> {
        let (id, token) = (&taken.id, taken.token);
        let argument = format!(r#"{{"queue":"jobs","id":"{id}","token":{token}}}"#);
        host.call::<FencedQueue>("finish", &argument)
    }

    #[test]
    fn whoever_is_late_is_fenced() {
        let mut host = Host::granting([ROOT]);
        for item in ["a", "b"] {
            let argument = format!(r#"{{"queue":"jobs","item":"{item}"}}"#);
            host.call::<FencedQueue>("push", &argument).unwrap();
        }
        let first = take(&mut host).unwrap();
        let second = take(&mut host).unwrap();
        assert_eq!((first.item.as_str(), second.item.as_str()), ("a", "b"));
        assert!(take(&mut host).is_none());
        finish(&mut host, &second).unwrap();

        host.pass_ms(1_001);
        let again = take(&mut host).unwrap();
        assert_eq!(again.id, first.id);
        assert!(again.token > first.token);
        assert_eq!(finish(&mut host, &first).unwrap_err().code, Code::Aborted);
        finish(&mut host, &again).unwrap();
        assert!(host.contents().is_empty());
        assert_eq!(finish(&mut host, &again).unwrap_err().code, Code::Aborted);
    }
}
