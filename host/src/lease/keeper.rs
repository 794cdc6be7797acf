//! Keeps the timers while this member leads: follows the leadership, proposes what is due, and answers for the leader.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};

use super::command;
use super::row::LeaseTables;
use super::timers::{Renewal, Timers};
use crate::limits;
use crate::metrics::metrics;
use crate::raft::{
    Leadership, LeaseAsk, LeaseTime, LeaseTimes, Observer, PeerLeaseRound, Progress, RequestError,
    Shard,
};
use crate::runtime::Outcome;
use crate::storage::{StorageError, TableSpec, View, Views};

/// How long to wait after a proposal that did not come through.
const RETRY_DELAY: Duration = Duration::from_millis(50);
/// The longest pause between two expiries: as long as the last one took, so that writes have half of the time.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// The timers of the member that leads; none on any other.
pub struct Keeper {
    tables: Option<LeaseTables>,
    minimum_ttl_s: i64,
    /// On top of the time that a lease has when another leader begins: at least that of an election.
    extension: Duration,
    timers: Mutex<Option<Timers>>,
    /// The term of the timers; 0 while there are none.
    term: watch::Sender<u64>,
    /// Told when something may be due earlier than before.
    due: Notify,
}

/// What the keeper needs of raft.
#[derive(Clone)]
pub struct KeeperLinks {
    pub shard: Arc<Shard>,
    pub progress: Arc<Progress>,
    pub views: Views,
}

impl Observer for Keeper {
    fn applied(&self, view: &Arc<View>, outcomes: &[Outcome]) {
        let Some(tables) = self.tables else { return };
        let changes = outcomes.iter().flat_map(|outcome| &outcome.events);
        let mut changes = changes.filter(|event| event.table == tables.leases).peekable();
        if changes.peek().is_none() {
            return;
        }
        let mut timers = self.timers();
        let Some(timers) = timers.as_mut() else { return };
        let now = Instant::now();
        for change in changes {
            let id = change.key.as_ref().try_into().map(i64::from_be_bytes);
            match (tables.get(view, &change.key), id) {
                (Ok(Some(row)), _) => timers.written(&row, now),
                (Ok(None), Ok(id)) => timers.removed(id),
                (Ok(None), Err(_)) => {}
                (Err(error), _) => {
                    tracing::error!(error = %error, "cannot read a lease; its time goes on as it was");
                }
            }
        }
        self.due.notify_one();
    }
}

impl Keeper {
    pub fn new(tables: &[TableSpec], minimum_ttl_s: i64, extension: Duration) -> Self {
        Self {
            tables: LeaseTables::find(tables),
            minimum_ttl_s,
            extension,
            timers: Mutex::default(),
            term: watch::Sender::new(0),
            due: Notify::new(),
        }
    }

    fn timers(&self) -> MutexGuard<'_, Option<Timers>> {
        self.timers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs until raft is gone.
    pub async fn run(self: Arc<Self>, links: KeeperLinks, peers: mpsc::Receiver<PeerLeaseRound>) {
        tokio::select! {
            () = self.follow_leadership(&links) => {}
            () = self.propose_due(&links) => {}
            () = self.clone().answer_peers(&links, peers) => {}
        }
    }

    async fn follow_leadership(&self, links: &KeeperLinks) {
        let mut changes = links.progress.subscribe_leadership();
        loop {
            let Leadership { term, leads } = *changes.borrow_and_update();
            let known = *self.term.borrow();
            if known != 0 && (known, true) != (term, leads) {
                self.end();
            }
            if leads && known != term {
                tokio::select! {
                    () = self.begin(term, links) => continue,
                    changed = changes.changed() => if changed.is_err() { return },
                }
            } else if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Makes the timers of a term, once everything of earlier terms is applied here: then what an earlier leader had
    /// decided, renewed or noted is either in the state, or will never be.
    async fn begin(&self, term: u64, links: &KeeperLinks) {
        let Some(tables) = self.tables else { return std::future::pending().await };
        while links.shard.read_index().await.is_err() {
            tokio::time::sleep(RETRY_DELAY).await;
        }
        self.make_timers(tables, term, &links.views).await;
    }

    /// Does not end before there are timers: as long as this member leads, nobody else has any.
    pub(super) async fn make_timers(&self, tables: LeaseTables, term: u64, views: &Views) {
        while let Err(error) = self.try_make_timers(tables, term, views) {
            tracing::error!(error = %error, "cannot read the leases; none of them expires");
            tokio::time::sleep(limits::LEASES_READ_RETRY).await;
        }
        self.term.send_replace(term);
        self.due.notify_one();
    }

    fn try_make_timers(
        &self,
        tables: LeaseTables,
        term: u64,
        views: &Views,
    ) -> Result<(), StorageError> {
        let mut timers = self.timers();
        // While the timers are locked, no further batch is told: what is not in this view will be.
        let rows = tables.all(&views.latest())?;
        let now = Instant::now();
        *timers = Some(Timers::begin(term, self.minimum_ttl_s, &rows, now, self.extension));
        tracing::info!(term, leases = rows.len(), "keeping the time of leases");
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn keeps_time_of(&self) -> Option<u64> {
        self.timers().as_ref().map(|timers| timers.term)
    }

    fn end(&self) {
        *self.timers() = None;
        self.term.send_replace(0);
    }

    /// Proposes what is due, one command at a time: however many leases are over at once, writes have their share.
    async fn propose_due(&self, links: &KeeperLinks) {
        loop {
            let began = Instant::now();
            let done = self.expire(links).await.and(self.checkpoint(links).await);
            match done {
                Ok(true) => tokio::time::sleep(began.elapsed().min(PAUSE_MAX)).await,
                Ok(false) => self.wait_due().await,
                Err(error) => {
                    tracing::warn!(error = %error, "what is due for leases has to wait");
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            }
        }
    }

    async fn wait_due(&self) {
        let next = self.timers().as_ref().and_then(Timers::next);
        match next {
            Some(next) => {
                tokio::select! {
                    () = tokio::time::sleep_until(next.into()) => {}
                    () = self.due.notified() => {}
                }
            }
            None => self.due.notified().await,
        }
    }

    /// Revokes leases whose time is over; false if there are none.
    async fn expire(&self, links: &KeeperLinks) -> Result<bool, RequestError> {
        let (expired, term) = {
            let mut timers = self.timers();
            let Some(timers) = timers.as_mut() else { return Ok(false) };
            (timers.take_expired(Instant::now(), limits::LEASES_PER_EXPIRY), timers.term)
        };
        if expired.is_empty() {
            return Ok(false);
        }
        let outcome = match links.shard.submit(command::expiry(&expired), term) {
            Ok(outcome) => outcome.await,
            Err(error) => Err(error),
        };
        let handled = match &outcome {
            Ok(outcome) => outcome.response.as_ref().ok().and_then(command::handled).unwrap_or(0),
            Err(_) => 0,
        };
        if let Some(timers) = self.timers().as_mut() {
            timers.put_back(&expired[handled.min(expired.len())..], Instant::now());
        }
        match outcome.map(|outcome| outcome.response) {
            Ok(Ok(_)) => {
                metrics().leases.expired.inc_by(handled as u64);
                tracing::debug!(leases = handled, "revoked leases whose time was over");
                Ok(true)
            }
            Ok(Err(rejection)) => {
                tracing::warn!(reason = rejection.message, "the machine revokes no leases");
                tokio::time::sleep(limits::LEASES_REFUSED_RETRY).await;
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// Notes what leases have left, of which that was not noted for long; false if there are none.
    async fn checkpoint(&self, links: &KeeperLinks) -> Result<bool, RequestError> {
        let submitted = {
            let mut timers = self.timers();
            let Some(timers) = timers.as_mut() else { return Ok(false) };
            let due = timers.take_checkpoints(Instant::now(), limits::LEASES_PER_CHECKPOINT);
            if due.is_empty() {
                return Ok(false);
            }
            // Handed over before the lock is: whoever takes it back comes into the log behind it.
            links.shard.submit(command::checkpoint(&due), timers.term)
        };
        // One that does not come through leaves a lease with more time than it has left.
        submitted?.await.map(|_| true)
    }

    /// Answers while this member leads in `term`; none once it does not. `index` is what has to be applied to know all
    /// leases.
    pub async fn times(
        &self,
        asks: &[LeaseAsk],
        (term, index): (u64, u64),
        links: &KeeperLinks,
    ) -> Option<LeaseTimes> {
        self.wait_begun(term, links).await?;
        let mut times = vec![LeaseTime::Unknown; asks.len()];
        let mut open: Vec<usize> = (0..asks.len()).collect();
        let mut applied = false;
        loop {
            let (unknown, submitted) = self.look(asks, &open, &mut times, term, links)?;
            if let Some((checkpointed, taken_back)) = submitted {
                taken_back.await.ok()?;
                let mut timers = self.timers();
                let timers = timers.as_mut().filter(|timers| timers.term == term)?;
                for (place, checkpoint) in &checkpointed {
                    timers.checkpoint_taken_back(asks[*place].id, *checkpoint);
                }
                open = checkpointed.into_iter().map(|(place, _)| place).collect();
                open.extend(unknown);
            } else if !applied && !unknown.is_empty() {
                // A lease may have been granted, and not be applied here yet.
                links.progress.wait_applied(index).await;
                applied = true;
                open = unknown;
            } else {
                return Some(LeaseTimes { times, applied_index: links.progress.applied_index() });
            }
        }
    }

    /// Answers what can be answered at once. Gives the places of unknown leases, and those of leases whose checkpoints
    /// are being taken back.
    #[allow(clippy::type_complexity, reason = "said once, and taken apart at once")]
    fn look(
        &self,
        asks: &[LeaseAsk],
        open: &[usize],
        times: &mut [LeaseTime],
        term: u64,
        links: &KeeperLinks,
    ) -> Option<(
        Vec<usize>,
        Option<(
            Vec<(usize, u64)>,
            impl Future<Output = Result<Outcome, RequestError>> + Send + 'static,
        )>,
    )> {
        let (mut unknown, mut checkpointed, mut renewed) = (Vec::new(), Vec::new(), 0);
        let now = Instant::now();
        let mut timers = self.timers();
        let timers = timers.as_mut().filter(|timers| timers.term == term)?;
        for place in open {
            let LeaseAsk { id, renew } = asks[*place];
            let renewal = match renew {
                true => timers.renew(id, now),
                false => timers.remaining_s(id, now).map_or(Renewal::Unknown, Renewal::Renewed),
            };
            times[*place] = match renewal {
                Renewal::Renewed(seconds) => {
                    renewed += u64::from(renew);
                    LeaseTime::Seconds(seconds)
                }
                Renewal::Expired => LeaseTime::Pending,
                Renewal::Unknown => {
                    unknown.push(*place);
                    LeaseTime::Unknown
                }
                Renewal::Checkpointed(checkpoint) => {
                    checkpointed.push((*place, checkpoint));
                    LeaseTime::Pending
                }
            };
        }
        if renewed > 0 {
            metrics().leases.renewed.inc_by(renewed);
        }
        if checkpointed.is_empty() {
            return Some((unknown, None));
        }
        let leases: Vec<(i64, i64)> =
            checkpointed.iter().map(|(place, _)| (asks[*place].id, 0)).collect();
        let submitted = links.shard.submit(command::checkpoint(&leases), term).ok()?;
        Some((unknown, Some((checkpointed, submitted))))
    }

    /// Waits until there are timers of this term; none if the term is over.
    async fn wait_begun(&self, term: u64, links: &KeeperLinks) -> Option<()> {
        let mut begun = self.term.subscribe();
        let mut leadership = links.progress.subscribe_leadership();
        loop {
            if *begun.borrow_and_update() == term {
                return Some(());
            }
            if leadership.borrow_and_update().term > term {
                return None;
            }
            tokio::select! {
                changed = begun.changed() => changed.ok()?,
                changed = leadership.changed() => changed.ok()?,
            }
        }
    }

    async fn answer_peers(
        self: Arc<Self>,
        links: &KeeperLinks,
        mut rounds: mpsc::Receiver<PeerLeaseRound>,
    ) {
        while let Some(PeerLeaseRound { asks, term, index, reply }) = rounds.recv().await {
            let (keeper, links) = (self.clone(), links.clone());
            tokio::spawn(async move {
                // A peer that has given up asks again.
                drop(reply.send(keeper.times(&asks, (term, index), &links).await));
            });
        }
    }
}
