//! A quota: at most so many keys under a prefix. Clients know nothing of it; a put too many is refused.
//!
//! The operator grants the module the prefix, and sets the quota with a key under it that is not counted itself:
//! `<prefix>.quota`, with a number. A prefix is what leads up to the first `/` behind the grant: with the grant
//! `/tenants/`, each of `/tenants/a/` and `/tenants/b/` has a quota of its own. Without that key there is none.

use std::collections::{BTreeMap, BTreeSet};

use instar_sdk::{Code, Event, Module, Moment, Operation, Rejection, Served, export, kv, store};

/// Where tenants begin.
const ROOT: &[u8] = b"/tenants/";
const SETTING: &[u8] = b".quota";

/// How many keys each tenant has.
const COUNTS: store::Table<i64> = store::Table::new("count");

pub struct PrefixQuota;

impl Module for PrefixQuota {
    const NAME: &'static str = "prefix-quota";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SERVES: Served = Served::ADMIT.and(Served::REACT);

    fn admit(operations: &[Operation], _moment: Moment) -> Result<(), Rejection> {
        let mut added: BTreeMap<&[u8], BTreeSet<&[u8]>> = BTreeMap::new();
        for operation in operations {
            // A deletion in the same transaction makes no room: it may be in the other branch.
            let Operation::Put { key, .. } = operation else { continue };
            let Some(tenant) = tenant_of(key) else { continue };
            if kv::get(key)?.is_none() {
                added.entry(tenant).or_default().insert(key);
            }
        }
        for (tenant, keys) in added {
            let Some(quota) = quota(tenant)? else { continue };
            let count = COUNTS.get(tenant)?.unwrap_or(0);
            if count + keys.len() as i64 > quota {
                let tenant = String::from_utf8_lossy(tenant);
                let message = format!("{tenant} has {count} keys, of {quota} that it may have");
                return Err(Rejection::new(Code::FailedPrecondition, message));
            }
        }
        Ok(())
    }

    fn react(events: &[Event], _moment: Moment) {
        for event in events {
            let Some(tenant) = tenant_of(&event.key) else { continue };
            let change = match (&event.previous, &event.current) {
                (None, Some(_)) => 1,
                (Some(_), None) => -1,
                _ => continue,
            };
            let counted = COUNTS.get(tenant).ok().flatten().unwrap_or(0);
            COUNTS
                .put(tenant, &(counted + change))
                .expect("an entry has fewer events than rows are allowed");
        }
    }
}

/// The tenant whose quota a key counts for.
fn tenant_of(key: &[u8]) -> Option<&[u8]> {
    let inside = key.strip_prefix(ROOT)?;
    let slash = inside.iter().position(|byte| *byte == b'/')?;
    let tenant = &key[..ROOT.len() + slash + 1];
    (&key[tenant.len()..] != SETTING).then_some(tenant)
}

fn quota(tenant: &[u8]) -> Result<Option<i64>, Rejection> {
    let setting = kv::get([tenant, SETTING].concat())?;
    setting.map(|setting| setting.json()).transpose()
}

export!(PrefixQuota);

#[cfg(test)]
mod tests {
    use instar_sdk::testing::Host;

    use super::*;

    #[test]
    fn keys_up_to_the_quota_and_no_more() {
        let mut host = Host::granting(["/tenants/"]);
        host.put::<PrefixQuota>("/tenants/a/one", "").unwrap();
        host.put::<PrefixQuota>("/tenants/a/.quota", "2").unwrap();
        host.put::<PrefixQuota>("/tenants/a/two", "").unwrap();
        let refused = host.put::<PrefixQuota>("/tenants/a/three", "").unwrap_err();
        assert_eq!(refused.code, Code::FailedPrecondition);
        assert_eq!(refused.message, "/tenants/a/ has 2 keys, of 2 that it may have");
        // A key that is there already may be written again; others are none of its business.
        host.put::<PrefixQuota>("/tenants/a/two", "again").unwrap();
        host.put::<PrefixQuota>("/tenants/b/one", "").unwrap();
        host.delete::<PrefixQuota>("/tenants/a/one").unwrap();
        host.put::<PrefixQuota>("/tenants/a/three", "").unwrap();
    }

    #[test]
    fn a_transaction_is_counted_as_a_whole() {
        let mut host = Host::granting(["/tenants/"]);
        host.put::<PrefixQuota>("/tenants/a/.quota", "1").unwrap();
        let put = |key: &str| Operation::Put { key: key.into(), value: Vec::new(), lease: 0 };
        let both = vec![put("/tenants/a/one"), put("/tenants/a/two")];
        host.request::<PrefixQuota>(both).unwrap_err();
        assert_eq!(host.value("/tenants/a/one"), None);
        host.request::<PrefixQuota>(vec![put("/tenants/a/one")]).unwrap();
    }
}
