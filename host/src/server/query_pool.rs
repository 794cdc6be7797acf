//! Threads for queries that may take long, so that a list of a million keys holds up no other client.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::limits;
use crate::raft::RequestError;
use crate::runtime::{ActiveReader, Answer, Machines, QueryError};
use crate::storage::View;

struct Job {
    view: Arc<View>,
    request: Bytes,
    answer: oneshot::Sender<Result<Answer, QueryError>>,
}

/// A handle to the threads, which end when the last handle is gone.
#[derive(Clone)]
pub struct QueryPool {
    jobs: mpsc::Sender<Job>,
}

impl QueryPool {
    /// Starts `threads` threads, each with a warm instance of the machine.
    pub fn start(machines: &Arc<Machines>, threads: usize) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>(limits::QUERY_POOL_JOBS);
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..threads {
            let reader = machines.reader();
            let queue = queue.clone();
            std::thread::Builder::new()
                .name(format!("query-{number}"))
                .spawn(move || work(reader, &queue))?;
        }
        Ok(Self { jobs })
    }

    /// Runs a query on one of the threads. Refused when too many wait already.
    pub async fn query(
        &self,
        view: Arc<View>,
        request: Bytes,
    ) -> Result<Result<Answer, QueryError>, RequestError> {
        let (answer, answered) = oneshot::channel();
        self.jobs.try_send(Job { view, request, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => RequestError::TooManyRequests,
            mpsc::error::TrySendError::Closed(_) => RequestError::Stopped,
        })?;
        answered.await.map_err(|_| RequestError::Stopped)
    }
}

fn work(mut reader: ActiveReader, queue: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        // Whoever holds the lock waits for the next job; the others wait for the lock.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        let Some(Job { view, request, answer }) = job else { return };
        if answer.is_closed() {
            continue;
        }
        // A client that has gone away meanwhile no longer listens.
        drop(answer.send(reader.query(&view, &request)));
    }
}
