//! What a row must be to come into the machine's tables from a backup: the machine takes its own rows for granted.

use crate::alarm;
use crate::lease;
use crate::revision::Revision;
use crate::row::KeyValue;
use crate::state;
use crate::tables::{ALARM, KEY, LEASE, META, Table};

/// The highest revision that is taken: far from where counting on would overflow.
const REVISION_MAX: i64 = 1 << 62;

/// Checks a row of a durable table. Says the highest revision that it speaks of, 0 if it is none; no revision at all if
/// the row is etcd's own and not for the machine.
///
/// # Errors
/// Says what is wrong with the row.
pub fn check_row(table: Table, key: &[u8], row: &[u8]) -> Result<Option<i64>, &'static str> {
    match table {
        KEY => {
            let (revision, _) = Revision::parse(key).ok_or("its key is no revision")?;
            KeyValue::parse(row).ok_or("its value is no key-value")?;
            below_limit(revision).map(Some)
        }
        META if !state::is_compaction_key(key) => Ok(None),
        META => match Revision::parse(row) {
            Some((revision, false)) => below_limit(revision).map(Some),
            _ => Err("its value is no revision"),
        },
        LEASE if !lease::is_row(key, row) => Err("it is no lease"),
        ALARM if !alarm::is_row(key) => Err("it is no alarm"),
        _ => Ok(Some(0)),
    }
}

fn below_limit(revision: Revision) -> Result<i64, &'static str> {
    match revision.main <= REVISION_MAX {
        true => Ok(revision.main),
        false => Err("its revision is too high"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_could_not_read_is_refused() {
        let revision = |main| Revision { main, sub: 0 }.key();
        let kv = KeyValue { key: b"a", version: 1, ..KeyValue::default() }.encode();
        assert_eq!(check_row(KEY, &revision(7), &kv), Ok(Some(7)));
        assert_eq!(check_row(KEY, &revision(7), b""), Ok(Some(7)));
        assert!(check_row(KEY, &revision(REVISION_MAX + 1), &kv).is_err());
        assert!(check_row(KEY, b"7", &kv).is_err());
        assert!(check_row(KEY, &revision(7), &kv[1..]).is_err());
        assert_eq!(check_row(META, b"finishedCompactRev", &revision(5)), Ok(Some(5)));
        assert!(check_row(META, b"scheduledCompactRev", b"5").is_err());
        assert_eq!(check_row(META, b"consistent_index", b"5"), Ok(None));
        assert_eq!(check_row(META, b"compactionCursor", b"5"), Ok(None));
        let lease = [0x08, 9, 0x10, 60];
        assert_eq!(check_row(LEASE, &9u64.to_be_bytes(), &lease), Ok(Some(0)));
        assert!(check_row(LEASE, &8u64.to_be_bytes(), &lease).is_err());
        assert_eq!(check_row(ALARM, &[0x08, 9, 0x10, 1], b""), Ok(Some(0)));
        assert!(check_row(ALARM, &[0xff], b"").is_err());
    }
}
