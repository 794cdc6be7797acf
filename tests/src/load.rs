//! Concurrent clients that record what they did.
