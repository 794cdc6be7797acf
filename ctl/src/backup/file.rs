//! A file whose pages are sound, and its rows one by one.

use bolt::{Database, Source};
use guest_kv::tables::{DESCRIPTIONS, KEY, META, Table, TableDescription, TableKind};

use super::error::{BackupError, Fault};
use super::history::{History, Loose};
use super::revision::Revision;
use super::rows::{self, SCHEDULED_COMPACTION};
use super::{Boxed, rows::Meta};

/// What every server's database has, as soon as it was started once.
const REQUIRED: [&str; 2] = ["key", "meta"];
/// The buckets that the machine may have a table for, in the order in which they are handed over.
const BUCKETS: [&str; 7] = ["key", "meta", "lease", "alarm", "auth", "authUsers", "authRoles"];
/// The bytes of a row's key that an error shows.
const SHOWN_BYTES: usize = 40;

type CheckRow = fn(&[u8], &[u8]) -> Result<(), Fault>;

/// Buckets that no machine needs, but which say whether this is what it pretends to be.
const OF_THE_SERVER: [(&str, CheckRow); 2] =
    [("members", rows::check_member), ("members_removed", rows::check_removed_member)];

/// What a file says of authentication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Authentication {
    pub is_enabled: bool,
    pub users: u64,
    pub roles: u64,
}

/// A database file, all of whose pages are sound.
#[derive(Debug)]
pub struct Backup<S> {
    database: Database<S>,
}

impl<S: Source> Backup<S> {
    /// Reads every page, and looks for the buckets that have to be there.
    pub fn open(source: S) -> Result<Self, BackupError> {
        let database = Database::open(source)?;
        database.verify()?;
        let missing = |bucket: &&str| !database.buckets().any(|name| name == bucket.as_bytes());
        if let Some(bucket) = REQUIRED.into_iter().find(missing) {
            return Err(BackupError::NoBucket { bucket });
        }
        Ok(Self { database })
    }

    /// What would be lost without a table for it; nothing, if the machine has one.
    pub fn lost_authentication(&self) -> Result<Authentication, BackupError> {
        let mut found = Authentication::default();
        if table_of("auth").is_some() {
            return Ok(found);
        }
        self.visit("auth", |_, key, value| {
            found.is_enabled |= key == b"authEnabled" && value != [0];
            Ok(())
        })?;
        for (bucket, count) in [("authUsers", &mut found.users), ("authRoles", &mut found.roles)] {
            self.visit(bucket, |_, _, _| {
                *count += 1;
                Ok(())
            })?;
        }
        Ok(found)
    }

    /// Checks every row, and hands over those that the machine has a table for. The latest revision is raised by `bump`,
    /// and all before it are compacted, unless it is 0. Returns the revision that the machine will be at.
    pub fn restore(
        &self,
        bump: u64,
        take: &mut dyn FnMut(Table, &[u8], &[u8]) -> Result<(), Boxed>,
    ) -> Result<u64, BackupError> {
        for (bucket, check) in OF_THE_SERVER {
            self.visit(bucket, |_, key, value| Ok(check(key, value)?))?;
        }
        let leases = self.leases()?;
        let mut latest = 0;
        for bucket in BUCKETS {
            let Some(table) = table_of(bucket) else { continue };
            let mut rows = Checking::new(bucket, &leases);
            self.visit(bucket, |page, key, value| {
                rows.check(page, key, value)?;
                let read = guest_kv::check_row(table, key, value);
                let is_replaced = bump > 0 && table == META && key == SCHEDULED_COMPACTION;
                if let Some(revision) = read.map_err(Fault::Unreadable)?.filter(|_| !is_replaced) {
                    latest = latest.max(revision);
                    take(table, key, value).map_err(Stop::Taker)?;
                }
                Ok(())
            })?;
            rows.finish()?;
            if table == KEY && bump > 0 {
                latest = bumped(latest, bump)?;
                // As etcd does it: a row without a key, which no range comes by.
                take(KEY, &Revision::first_of(latest), b"").map_err(BackupError::Taker)?;
            }
        }
        if bump > 0 {
            let value = Revision::first_of(latest);
            take(META, SCHEDULED_COMPACTION, &value).map_err(BackupError::Taker)?;
        }
        // A store that was never written to is at 1.
        Ok(latest.max(1).unsigned_abs())
    }

    /// The numbers of the leases, which ascend as their keys do.
    fn leases(&self) -> Result<Vec<u64>, BackupError> {
        let mut leases = Vec::new();
        self.visit("lease", |_, key, value| {
            rows::check_lease(key, value)?;
            leases.extend(key.try_into().map(u64::from_be_bytes));
            Ok(())
        })?;
        Ok(leases)
    }

    /// Shows the rows of a bucket, and the page of each; none if there is no such bucket.
    fn visit(
        &self,
        bucket: &'static str,
        mut visit: impl FnMut(u64, &[u8], &[u8]) -> Result<(), Stop>,
    ) -> Result<(), BackupError> {
        let Some(mut rows) = self.database.rows(bucket.as_bytes())? else { return Ok(()) };
        while let Some((page, key, value)) = rows.next_on_page()? {
            visit(page, key, value).map_err(|stop| match stop {
                Stop::Fault(fault) => at_row(bucket, page, key, fault),
                Stop::Taker(error) => BackupError::Taker(error),
            })?;
        }
        Ok(())
    }
}

/// Why a visit ends early.
enum Stop {
    Fault(Fault),
    Taker(Boxed),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// The check of a bucket's rows: each by itself, or as those before it allow.
enum Checking<'a> {
    Alone(CheckRow),
    Meta(Meta),
    History(History<'a>),
}

impl<'a> Checking<'a> {
    fn new(bucket: &str, leases: &'a [u64]) -> Self {
        match bucket {
            "key" => Self::History(History::new(leases)),
            "meta" => Self::Meta(Meta::default()),
            "alarm" => Self::Alone(rows::check_alarm),
            // Leases have been checked, the rest is for the machine to read.
            _ => Self::Alone(|_, _| Ok(())),
        }
    }

    fn check(&mut self, page: u64, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        match self {
            Self::Alone(check) => check(key, value),
            Self::Meta(meta) => meta.check(key, value),
            Self::History(history) => history.check(key, value, page),
        }
    }

    fn finish(self) -> Result<(), BackupError> {
        let Self::History(history) = self else { return Ok(()) };
        match history.finish() {
            None => Ok(()),
            Some(Loose { main, sub, lease, page }) => {
                let row = format!("{main}.{sub}");
                Err(BackupError::Row { bucket: "key", row, page, fault: Fault::NoLease { lease } })
            }
        }
    }
}

fn at_row(bucket: &'static str, page: u64, key: &[u8], fault: Fault) -> BackupError {
    let row = match Revision::decode(key) {
        Some(Revision { main, sub, .. }) if bucket == "key" => format!("{main}.{sub}"),
        _ => format!("\"{}\"", key[..key.len().min(SHOWN_BYTES)].escape_ascii()),
    };
    BackupError::Row { bucket, row, page, fault }
}

/// The machine's table with the rows of a bucket.
fn table_of(bucket: &str) -> Option<Table> {
    let is_it = |description: &&TableDescription| {
        description.kind == TableKind::Durable && description.name == bucket
    };
    DESCRIPTIONS.iter().find(is_it).map(|description| description.table)
}

fn bumped(latest: i64, bump: u64) -> Result<i64, BackupError> {
    let sum = i64::try_from(bump).ok().and_then(|bump| latest.checked_add(bump));
    let is_possible = |sum: &i64| guest_kv::check_row(KEY, &Revision::first_of(*sum), b"").is_ok();
    sum.filter(is_possible).ok_or(BackupError::Bump)
}
