//! What a module tells its operators. It is no part of the replicated state, and may be dropped under load.

#[cfg(target_arch = "wasm32")]
use crate::component as host;
#[cfg(not(target_arch = "wasm32"))]
use crate::testing::current as host;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

pub fn write(level: Level, message: &str) {
    host::log(level, message);
}

pub fn info(message: impl AsRef<str>) {
    write(Level::Info, message.as_ref());
}

pub fn warn(message: impl AsRef<str>) {
    write(Level::Warn, message.as_ref());
}
