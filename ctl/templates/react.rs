//! A module that keeps the value before, to begin with.

use instar_sdk::{Event, Module, Moment, Served, export, kv, log};

pub struct Own;

const PREFIX: &[u8] = b"/{name}/";
const BEFORE: &[u8] = b"/{name}-before/";

impl Module for Own {
    const NAME: &'static str = "{name}";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SERVES: Served = Served::REACT;

    fn react(events: &[Event], _moment: Moment) {
        for event in events {
            let Some(name) = event.key.strip_prefix(PREFIX) else { continue };
            let Some(previous) = &event.previous else { continue };
            if let Err(refusal) = kv::put([BEFORE, name].concat(), &previous.value) {
                log::warn(format!("the value before is not kept: {refusal:?}"));
            }
        }
    }
}

export!(Own);

#[cfg(test)]
mod tests {
    use instar_sdk::testing::Host;

    use super::*;

    #[test]
    fn the_value_before_is_kept() {
        let mut host = Host::granting(["/{name}/", "/{name}-before/"]);
        host.put::<Own>("/{name}/a", "1").unwrap();
        assert_eq!(host.value("/{name}-before/a"), None);
        host.put::<Own>("/{name}/a", "2").unwrap();
        assert_eq!(host.value("/{name}-before/a"), Some(&b"1"[..]));
    }
}
