//! Answers queries, in an instance that stays warm from one to the next.
//!
//! A warm instance saves the 10 to 20 µs of a fresh one. It keeps nothing that an answer may depend on: it is thrown
//! away after a failure, and now and then without one, so that a machine that did keep something is found out.

use std::sync::Arc;

use bytes::Bytes;
use wasmtime::component::TypedFunc;

use super::{
    Admission, Answer, Budget, CallError, Fault, LocalFailure, QueryError, Rejection, Route, abi,
    host_state::Source, instance::Instance, machine::Machine, outcome::check_rejection,
};
use crate::{
    limits::{CONTINUATION_BYTES, READER_CALLS},
    storage::View,
};

type Replied<T> = Result<T, abi::Rejection>;

/// Asks a machine; one for each thread that does so. It holds no view of the storage between calls.
pub struct Reader {
    machine: Machine,
    warm: Option<Warm>,
}

struct Warm {
    instance: Instance,
    admit: TypedFunc<(Vec<u8>, abi::RequestLimits), (Replied<abi::Admission>,)>,
    query: TypedFunc<(Vec<u8>,), (Replied<abi::Answered>,)>,
    next_task: TypedFunc<(), (Option<Vec<u8>>,)>,
    calls: u32,
}

impl Reader {
    pub(super) fn new(machine: Machine) -> Self {
        Reader { machine, warm: None }
    }

    /// Asks how a request is to be served. `max_txn_ops` is the operator's limit on the operations of a transaction.
    ///
    /// # Errors
    ///
    /// [`QueryError::Rejected`] if the request is refused without looking at any state.
    pub fn admit(&mut self, request: &[u8], max_txn_ops: u32) -> Result<Admission, QueryError> {
        let budget = self.machine.budgets().brief;
        let limits = abi::RequestLimits { operations: max_txn_ops };
        let reply = self.call(Source::Nothing, budget, |warm| {
            let (reply,) = warm.instance.call(&warm.admit, (request.to_vec(), limits))?;
            Ok(reply)
        })?;
        let abi::Admission { route, heavy } = accepted(reply)?;
        let route = match route {
            abi::Route::Write => Route::Write,
            abi::Route::Read => Route::Read,
            abi::Route::LocalRead => Route::LocalRead,
        };
        Ok(Admission { route, heavy })
    }

    /// Answers a request on a view, which it holds no longer than the call takes.
    ///
    /// # Errors
    ///
    /// [`QueryError::Rejected`] if the machine refuses; nothing of what it had appended is in any answer then.
    pub fn query(&mut self, view: &Arc<View>, request: &[u8]) -> Result<Answer, QueryError> {
        self.answer(view, request, self.machine.budgets().query)
    }

    fn answer(
        &mut self,
        view: &Arc<View>,
        request: &[u8],
        budget: Budget,
    ) -> Result<Answer, QueryError> {
        let (reply, body) = self.call(Source::View(view.clone()), budget, |warm| {
            warm.instance.state().answer = Some(Vec::new());
            let (reply,) = warm.instance.call(&warm.query, (request.to_vec(),))?;
            let body = warm.instance.state().answer.take().unwrap_or_default();
            Ok((reply, body))
        })?;
        let abi::Answered { revision, next } = accepted(reply)?;
        let next = next.map(continuation).transpose().map_err(CallError::Fault)?;
        Ok(Answer { revision, body: Bytes::from(body), next })
    }

    /// As [`Self::query`], with so much fuel at most. Gives what it used, too.
    pub fn query_within(
        &mut self,
        view: &Arc<View>,
        request: &[u8],
        fuel: u64,
    ) -> Result<(Answer, u64), QueryError> {
        let before = self.warm.as_ref().map_or(0, |warm| warm.instance.fuel_used());
        let memory_bytes = self.machine.budgets().query.memory_bytes;
        let answer = self.answer(view, request, Budget { fuel, memory_bytes })?;
        let after = self.warm.as_ref().map_or(before, |warm| warm.instance.fuel_used());
        Ok((answer, after - before))
    }

    /// Asks for the command that the leader is to propose for the machine's own upkeep; none if there is nothing to do.
    pub fn next_task(&mut self, view: &Arc<View>) -> Result<Option<Bytes>, QueryError> {
        let budget = self.machine.budgets().brief;
        let task = self.call(Source::View(view.clone()), budget, |warm| {
            let (task,) = warm.instance.call(&warm.next_task, ())?;
            Ok(task)
        })?;
        Ok(task.map(continuation).transpose().map_err(CallError::Fault)?)
    }

    fn call<R>(
        &mut self,
        source: Source,
        budget: Budget,
        call: impl FnOnce(&mut Warm) -> Result<R, CallError>,
    ) -> Result<R, CallError> {
        let mut warm = match self.warm.take() {
            Some(warm) => warm,
            None => self.warm_up(budget)?,
        };
        let state = warm.instance.state();
        state.source = source;
        state.budget = budget;
        // After an error the instance is gone, and with it all that stood behind it.
        let result = call(&mut warm)?;
        warm.instance.state().source = Source::Nothing;
        warm.calls += 1;
        if warm.calls < READER_CALLS {
            self.warm = Some(warm);
        }
        Ok(result)
    }

    fn warm_up(&self, budget: Budget) -> Result<Warm, CallError> {
        let state = self.machine.state(Source::Nothing, budget);
        let mut instance = self.machine.instance(state)?;
        let exports = self.machine.exports();
        Ok(Warm {
            admit: instance.export(&exports.admit)?,
            query: instance.export(&exports.query)?,
            next_task: instance.export(&exports.next_task)?,
            instance,
            calls: 0,
        })
    }
}

fn accepted<T>(reply: Replied<T>) -> Result<T, QueryError> {
    reply.map_err(|rejection| {
        let rejection = Rejection::from(rejection);
        match check_rejection(&rejection) {
            Ok(()) => QueryError::Rejected(rejection),
            Err(fault) => CallError::Fault(fault).into(),
        }
    })
}

/// Checks bytes that will come back to the machine, or go to the log.
pub(super) fn continuation(bytes: Vec<u8>) -> Result<Bytes, Fault> {
    if bytes.len() > CONTINUATION_BYTES {
        let limit = CONTINUATION_BYTES;
        return Err(Fault::new(format!("it returned more than {limit} bytes to go on with")));
    }
    Ok(bytes.into())
}

impl From<LocalFailure> for QueryError {
    fn from(failure: LocalFailure) -> Self {
        QueryError::Failed(failure.into())
    }
}
