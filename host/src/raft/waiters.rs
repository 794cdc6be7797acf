//! Who waits for the outcome of which command.
//!
//! A command carries the name of its waiter through the log (`Origin`); when it is applied on the member that it came
//! from, its outcome is handed back here. Waiters are kept in the order of their numbers, which is also the order of
//! their deadlines, so neither completing nor expiring has to search.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use super::RequestError;
use crate::runtime::Outcome;

/// What became of a command.
pub type Completion = Result<Outcome, RequestError>;

/// The waiters of one client runtime.
#[derive(Default)]
pub struct Waiters {
    ring: Mutex<Ring>,
}

#[derive(Default)]
struct Ring {
    /// The number of the first slot.
    first: u64,
    slots: VecDeque<Option<Waiter>>,
}

struct Waiter {
    deadline: Instant,
    completion: oneshot::Sender<Completion>,
}

impl Waiters {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a waiter, and gives its number. Deadlines must not decrease from call to call.
    pub fn register(&self, deadline: Instant) -> (u64, oneshot::Receiver<Completion>) {
        let (completion, receiver) = oneshot::channel();
        let mut ring = self.ring();
        ring.slots.push_back(Some(Waiter { deadline, completion }));
        (ring.first + ring.slots.len() as u64 - 1, receiver)
    }

    /// How many requests are under way at most (those that were answered out of order count until their turn).
    pub fn len(&self) -> usize {
        self.ring().slots.len()
    }

    /// Completes the waiters named; one that has expired, or was answered before, is passed over.
    pub fn complete(&self, completions: Vec<(u64, Completion)>) {
        let mut ring = self.ring();
        for (number, completion) in completions {
            ring.complete(number, completion);
        }
        ring.pop_answered();
    }

    /// Gives up on the waiters whose deadline has passed: what became of their commands is unknown.
    pub fn expire(&self, now: Instant) {
        let mut ring = self.ring();
        loop {
            ring.pop_answered();
            let Some(Some(waiter)) = ring.slots.front() else { return };
            if waiter.deadline > now {
                return;
            }
            let number = ring.first;
            ring.complete(number, Err(RequestError::TimedOut));
        }
    }
}

impl Ring {
    fn complete(&mut self, number: u64, completion: Completion) {
        let slot = number.checked_sub(self.first).and_then(|at| self.slots.get_mut(at as usize));
        if let Some(waiter) = slot.and_then(Option::take) {
            // The client may have gone away meanwhile; then nobody is left to be told.
            drop(waiter.completion.send(completion));
        }
    }

    fn pop_answered(&mut self) {
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn outcome(revision: u64) -> Completion {
        Ok(Outcome {
            is_fault: false,
            response: Ok(bytes::Bytes::new()),
            revision,
            events: Vec::new(),
            task_pending: false,
            digest: 0,
        })
    }

    #[test]
    fn completions_in_any_order_reach_their_waiters() {
        let waiters = Waiters::default();
        let deadline = Instant::now() + Duration::from_secs(1);
        let (first, mut first_receiver) = waiters.register(deadline);
        let (second, mut second_receiver) = waiters.register(deadline);

        waiters.complete(vec![(second, outcome(2))]);
        assert_eq!(second_receiver.try_recv().unwrap().unwrap().revision, 2);
        assert_eq!(waiters.len(), 2, "the first slot still waits");

        waiters.complete(vec![(first, outcome(1)), (first, outcome(9)), (77, outcome(9))]);
        assert_eq!(first_receiver.try_recv().unwrap().unwrap().revision, 1);
        assert_eq!(waiters.len(), 0);
    }

    #[test]
    fn a_waiter_expires_with_its_deadline_and_not_before() {
        let waiters = Waiters::default();
        let now = Instant::now();
        let (_, mut early) = waiters.register(now);
        let (late_number, mut late) = waiters.register(now + Duration::from_secs(5));

        waiters.expire(now);
        assert!(matches!(early.try_recv().unwrap(), Err(RequestError::TimedOut)));
        assert!(late.try_recv().is_err());

        waiters.complete(vec![(late_number, outcome(3))]);
        assert_eq!(late.try_recv().unwrap().unwrap().revision, 3);
    }
}
