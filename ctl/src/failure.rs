//! How a command fails: with one line on standard error and one of etcd's exit codes.

use tonic::{Code, Status};

/// etcd's exit codes.
pub const ERROR: i32 = 1;
pub const BAD_CONNECTION: i32 = 2;
pub const INVALID_INPUT: i32 = 3;
pub const BAD_FEATURE: i32 = 4;
pub const INTERRUPTED: i32 = 5;
pub const BAD_ARGUMENTS: i32 = 128;

/// The end of a command that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub code: i32,
    /// What follows `Error: `; empty if everything has been said.
    pub message: String,
    /// A second line, where etcd's message leaves a person without help.
    pub hint: String,
}

impl Failure {
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: String::new() }
    }

    pub fn error(message: impl Into<String>) -> Self {
        Self::new(ERROR, message)
    }

    pub fn arguments(message: impl Into<String>) -> Self {
        Self::new(BAD_ARGUMENTS, message)
    }

    /// Ends with a code and no further word.
    pub fn silent(code: i32) -> Self {
        Self::new(code, "")
    }

    #[must_use]
    pub fn with_code(mut self, code: i32) -> Self {
        self.code = code;
        self
    }

    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// The same, with the message put into another.
    #[must_use]
    pub fn map(mut self, message: impl FnOnce(&str) -> String) -> Self {
        self.message = message(&self.message);
        self
    }

    pub fn deadline() -> Self {
        Self::error("context deadline exceeded")
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::error(crate::go::io_error(&error))
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let hint = hint(&status);
        Self::error(text(&status)).with_hint(hint)
    }
}

/// A status as etcd's client prints it: its own errors by their message, others as gRPC's.
pub fn text(status: &Status) -> String {
    let message = status.message();
    // What etcd says itself begins with its name.
    if message.starts_with("etcdserver: ") {
        return message.to_owned();
    }
    format!("rpc error: code = {} desc = {message}", code_name(status.code()))
}

fn hint(status: &Status) -> String {
    let message = status.message();
    let known = [
        ("user name is empty", "authentication is on: give --user NAME[:PASSWORD]"),
        ("not leader", "give the leader in --endpoints: `endpoint status --cluster` names it"),
        (
            "database space exceeded",
            "compact, defragment, and then `alarm disarm`; `alarm list` names the members",
        ),
    ];
    let found = known.iter().find(|(part, _)| message.ends_with(part));
    match found {
        Some((_, hint)) => (*hint).to_owned(),
        None if status.code() == Code::Unimplemented => {
            "the server does not know this request: see its version with `endpoint status`".into()
        }
        None => String::new(),
    }
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}
