//! A secondary index: for every `/users/<id>` with a JSON value that has an `email`, the key
//! `/users-by-email/<email>/<id>` is there, in the same revision. Clients read and watch it like any other key.

use instar_sdk::{Event, Module, Moment, Served, export, kv, log};
use serde::Deserialize;

const PRIMARY: &[u8] = b"/users/";
const INDEX: &[u8] = b"/users-by-email/";

pub struct SecondaryIndex;

#[derive(Deserialize)]
struct User {
    email: Option<String>,
}

impl Module for SecondaryIndex {
    const NAME: &'static str = "secondary-index";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SERVES: Served = Served::REACT;

    fn react(events: &[Event], _moment: Moment) {
        for event in events {
            let Some(id) = event.key.strip_prefix(PRIMARY) else { continue };
            let before = event.previous.as_ref().and_then(|kv| index_key(id, &kv.value));
            let after = event.current.as_ref().and_then(|kv| index_key(id, &kv.value));
            if before == after {
                continue;
            }
            let removed = before.map_or(Ok(()), kv::delete);
            let added = after.map_or(Ok(()), |key| kv::put(key, id));
            if let Err(refusal) = removed.and(added) {
                let id = String::from_utf8_lossy(id);
                log::warn(format!("{id} is not in the index: {refusal:?}; is {INDEX:?} granted?"));
            }
        }
    }
}

/// Where a user is in the index; none if the value says nothing of it.
fn index_key(id: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    let email = serde_json::from_slice::<User>(value).ok()?.email?;
    Some([INDEX, email.as_bytes(), b"/", id].concat())
}

export!(SecondaryIndex);

#[cfg(test)]
mod tests {
    use instar_sdk::testing::Host;

    use super::*;

    fn indexed(host: &Host) -> Vec<String> {
        let keys = host.contents().into_iter().map(|(key, _)| key);
        keys.filter(|key| key.starts_with("/users-by-email/")).collect()
    }

    #[test]
    fn the_index_follows_in_the_same_revision() {
        let mut host = Host::granting(["/users/", "/users-by-email/"]);
        host.put::<SecondaryIndex>("/users/7", r#"{"email":"a@b"}"#).unwrap();
        assert_eq!(indexed(&host), ["/users-by-email/a@b/7"]);
        assert_eq!(host.value("/users-by-email/a@b/7"), Some(&b"7"[..]));
        assert_eq!(host.revision(), 2);
        host.put::<SecondaryIndex>("/users/7", r#"{"email":"c@d","name":"x"}"#).unwrap();
        assert_eq!(indexed(&host), ["/users-by-email/c@d/7"]);
        host.put::<SecondaryIndex>("/users/8", r#"{"email":"c@d"}"#).unwrap();
        assert_eq!(indexed(&host), ["/users-by-email/c@d/7", "/users-by-email/c@d/8"]);
        host.delete::<SecondaryIndex>("/users/7").unwrap();
        host.put::<SecondaryIndex>("/users/8", "no JSON").unwrap();
        assert!(indexed(&host).is_empty());
    }
}
