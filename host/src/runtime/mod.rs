//! Stand-in until the real runtime is merged: the types that the API shares with it.

/// How a request is to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Through the log.
    Write,
    /// By `query`, on a state as new as the cluster's.
    Read,
    /// By `query`, on the member's own state.
    LocalRead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    pub route: Route,
    /// Whether a query may touch many rows.
    pub heavy: bool,
}

/// A refusal: an answer like any other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// A gRPC status code, never 0.
    pub code: u32,
    pub message: String,
}
