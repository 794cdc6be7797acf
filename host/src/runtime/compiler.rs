//! Compiles what came by the network: one component after the other, on a thread of its own, in a bounded time.
//!
//! Compiling cannot be stopped. One that takes too long is not waited for: it goes on, holds up whatever is to be
//! compiled next, and nothing else; what it gives is kept in the cache.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use super::RuntimeError;
use crate::limits::COMPILATIONS;

type Job = Box<dyn FnOnce() + Send>;

pub(super) struct Compiler {
    jobs: Option<SyncSender<Job>>,
    within: Duration,
}

impl Compiler {
    /// The thread ends when this is dropped, and it is done with what it has begun.
    pub fn start(within: Duration) -> Self {
        let (jobs, queue) = sync_channel::<Job>(COMPILATIONS);
        let run = move || {
            for job in queue {
                // Who waits learns of it by the channel that is gone.
                drop(catch_unwind(AssertUnwindSafe(job)));
            }
        };
        let thread = std::thread::Builder::new().name("compiler".to_owned()).spawn(run);
        if let Err(error) = &thread {
            tracing::error!(%error, "no component can be compiled while this member runs");
        }
        Self { jobs: thread.is_ok().then_some(jobs), within }
    }

    /// Runs what compiles, and waits for it.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::CompileTime`]: it is not done in time, or has to wait for others that are not.
    pub fn run<T: Send + 'static>(
        &self,
        compile: impl FnOnce() -> Result<T, RuntimeError> + Send + 'static,
    ) -> Result<T, RuntimeError> {
        let late = || RuntimeError::CompileTime { seconds: self.within.as_secs() };
        let jobs = self.jobs.as_ref().ok_or_else(late)?;
        let (sender, result) = sync_channel(1);
        let waiting = Arc::new(());
        let is_awaited = Arc::downgrade(&waiting);
        let job = move || {
            // Whoever no longer waits has been told why, and it is not even begun.
            if is_awaited.strong_count() > 0 {
                drop(sender.send(compile()));
            }
        };
        jobs.try_send(Box::new(job)).map_err(|_| late())?;
        match result.recv_timeout(self.within) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => Err(late()),
            Err(RecvTimeoutError::Disconnected) => {
                Err(RuntimeError::Invalid("the compiler gave up on it".to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn what_takes_too_long_is_not_waited_for() {
        let compiler = Compiler::start(Duration::from_millis(50));
        let (release, held) = sync_channel::<()>(0);
        let slow = compiler.run(move || {
            // Until the other end is gone.
            Ok(held.iter().count())
        });
        assert!(matches!(slow, Err(RuntimeError::CompileTime { .. })), "{slow:?}");
        let behind = compiler.run(|| Ok(2));
        assert!(matches!(behind, Err(RuntimeError::CompileTime { .. })), "{behind:?}");
        for _ in 0..2 * COMPILATIONS {
            let refused = compiler.run(|| Ok(3));
            assert!(matches!(refused, Err(RuntimeError::CompileTime { .. })), "{refused:?}");
        }
        drop(release);
        let patient = Compiler { within: Duration::from_secs(20), ..compiler };
        let deadline = Instant::now() + patient.within;
        let mut after = patient.run(|| Ok(4)).ok();
        while after.is_none() && Instant::now() < deadline {
            std::thread::yield_now();
            after = patient.run(|| Ok(4)).ok();
        }
        assert_eq!(after, Some(4));
    }

    #[test]
    fn a_panic_is_a_refusal() {
        let compiler = Compiler::start(Duration::from_secs(20));
        let refused =
            compiler.run(|| -> Result<(), RuntimeError> { panic!("a defect of the compiler") });
        assert!(matches!(refused, Err(RuntimeError::Invalid(_))), "{refused:?}");
        assert_eq!(compiler.run(|| Ok(5)).ok(), Some(5));
    }
}
