//! Judges histories of concurrent clients.
