//! gRPC statuses, and what they look like in trailers.

use std::fmt::Write;

use http::HeaderValue;

use super::coordinator::RequestError;
use crate::raft::ChangeRefused;

/// The codes that this server gives of its own accord. The state machine may give others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
}

/// How a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) code: u32,
    pub(super) message: String,
}

impl Status {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Status {
        Status { code: code as u32, message: message.into() }
    }

    /// The value of `grpc-status`.
    pub(super) fn code_header(&self) -> HeaderValue {
        HeaderValue::from(self.code)
    }

    /// The value of `grpc-message`: every byte that is not printable ASCII is percent-encoded.
    pub(super) fn message_header(&self) -> Option<HeaderValue> {
        let mut encoded = String::with_capacity(self.message.len());
        for byte in self.message.bytes() {
            match byte {
                b'%' => encoded.push_str("%25"),
                b' '..=b'~' => encoded.push(char::from(byte)),
                // Writing to a String cannot fail.
                _ => drop(write!(encoded, "%{byte:02X}")),
            }
        }
        HeaderValue::try_from(encoded).ok()
    }
}

impl From<RequestError> for Status {
    fn from(error: RequestError) -> Status {
        let code = match error {
            RequestError::Rejected(rejection) => {
                return Status { code: rejection.code, message: rejection.message };
            }
            // etcd's server takes the client's form of this error, which gRPC does not recognise.
            RequestError::Corrupt => Code::DataLoss,
            RequestError::TooManyRequests
            | RequestError::Membership(ChangeRefused::NotEnoughStarted)
            | RequestError::TimeoutLeaderTransfer => Code::Unknown,
            RequestError::NotLeader | RequestError::BadLeaderTransferee => Code::FailedPrecondition,
            RequestError::Membership(ChangeRefused::MemberNotFound) => Code::NotFound,
            RequestError::Membership(ChangeRefused::Unhealthy) => Code::Unavailable,
            RequestError::Membership(_) => Code::FailedPrecondition,
            RequestError::NoLeader
            | RequestError::LeaderChanged
            | RequestError::Timeout
            | RequestError::TimeoutLeaderFailed
            | RequestError::TimeoutConnectionLost
            | RequestError::TimeoutAppliedIndex
            | RequestError::Stopped
            | RequestError::Unavailable(_) => Code::Unavailable,
        };
        Status::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_percent_encoded() {
        let encoded = |message: &str| Status::new(Code::Unknown, message).message_header().unwrap();
        assert_eq!(encoded("etcdserver: no leader"), "etcdserver: no leader");
        assert_eq!(encoded("100%\n\u{e4}"), "100%25%0A%C3%A4");
        assert_eq!(encoded(""), "");
    }

    #[test]
    fn codes_are_those_of_etcd() {
        for (error, code, message) in [
            (RequestError::NoLeader, 14, "etcdserver: no leader"),
            (RequestError::LeaderChanged, 14, "etcdserver: leader changed"),
            (RequestError::Timeout, 14, "etcdserver: request timed out"),
            (RequestError::TooManyRequests, 2, "etcdserver: too many requests"),
            (RequestError::Stopped, 14, "etcdserver: server stopped"),
            (RequestError::NotLeader, 9, "etcdserver: not leader"),
            (RequestError::BadLeaderTransferee, 9, "etcdserver: bad leader transferee"),
            (ChangeRefused::MemberNotFound.into(), 5, "etcdserver: member not found"),
            (ChangeRefused::Unhealthy.into(), 14, "etcdserver: unhealthy cluster"),
            (ChangeRefused::PeerUrlExists.into(), 9, "etcdserver: Peer URLs already exists"),
        ] {
            let status = Status::from(error);
            assert_eq!((status.code, status.message.as_str()), (code, message));
        }
    }
}
