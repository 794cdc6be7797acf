//! The component: a module's functions as the contract's exports, and its imports as the functions of `kv`, `store` and
//! `log`. Nothing here decides anything.

#![allow(unsafe_code, reason = "the generated export glue")]

pub mod bindings {
    #![allow(clippy::all, missing_debug_implementations, reason = "generated code")]
    wit_bindgen::generate!({
        path: "../wit/module",
        world: "module",
        pub_export_macro: true,
        runtime_path: "instar_sdk::component::runtime",
        default_bindings_module: "instar_sdk::component::bindings",
    });
}

/// What the generated glue calls, under the path that it looks for.
pub mod runtime {
    pub use wit_bindgen::rt::*;
}

use bindings as wit;
use bindings::instar::module as imports;

use crate::kv::{self, KeyValue};
use crate::log::Level;
use crate::module::{Event, Module, Moment, Operation};
use crate::{Rejection, store};

pub fn get(key: &[u8]) -> Result<Option<KeyValue>, kv::Refusal> {
    Ok(imports::kv::get(key).map_err(kv_refusal)?.map(key_value))
}

pub fn range(start: &[u8], end: &[u8], limit: u32) -> Result<Vec<KeyValue>, kv::Refusal> {
    let found = imports::kv::range(start, end, limit).map_err(kv_refusal)?;
    Ok(found.into_iter().map(key_value).collect())
}

pub fn put(key: &[u8], value: &[u8], lease: i64) -> Result<(), kv::Refusal> {
    imports::kv::put(key, value, lease).map_err(kv_refusal)
}

pub fn delete(key: &[u8]) -> Result<(), kv::Refusal> {
    imports::kv::delete(key).map_err(kv_refusal)
}

pub fn stored(key: &[u8]) -> Option<Vec<u8>> {
    imports::store::get(key)
}

pub fn stored_rows(start: &[u8], end: &[u8], limit: u32) -> Vec<(Vec<u8>, Vec<u8>)> {
    imports::store::scan(start, end, limit).into_iter().map(|row| (row.key, row.value)).collect()
}

pub fn store(key: &[u8], value: Option<&[u8]>) -> Result<(), store::Refusal> {
    let written = match value {
        Some(value) => imports::store::put(key, value),
        None => imports::store::delete(key),
    };
    written.map_err(|refusal| match refusal {
        imports::store::Refusal::TooMuch => store::Refusal::TooMuch,
        imports::store::Refusal::ReadOnly => store::Refusal::ReadOnly,
    })
}

pub fn log(level: Level, message: &str) {
    let level = match level {
        Level::Debug => imports::log::Level::Debug,
        Level::Info => imports::log::Level::Info,
        Level::Warn => imports::log::Level::Warn,
        Level::Error => imports::log::Level::Error,
    };
    imports::log::write(level, message);
}

fn kv_refusal(refusal: imports::kv::Refusal) -> kv::Refusal {
    match refusal {
        imports::kv::Refusal::NotGranted => kv::Refusal::NotGranted,
        imports::kv::Refusal::TooMuch => kv::Refusal::TooMuch,
        imports::kv::Refusal::ReadOnly => kv::Refusal::ReadOnly,
        imports::kv::Refusal::NoKey => kv::Refusal::NoKey,
    }
}

fn key_value(kv: wit::KeyValue) -> KeyValue {
    let wit::KeyValue { key, value, create_revision, mod_revision, version, lease } = kv;
    KeyValue { key, value, create_revision, mod_revision, version, lease }
}

fn moment(moment: wit::Moment) -> Moment {
    Moment { index: moment.index, time_ms: moment.time_ms, revision: moment.revision }
}

fn rejection(rejection: Rejection) -> wit::Rejection {
    wit::Rejection { code: rejection.code as u32, message: rejection.message }
}

/// Makes a panic's message reach the operators: the trap itself does not carry it.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| log(Level::Error, &panic.to_string())));
}

pub fn describe<M: Module>() -> wit::Description {
    let mut serves = wit::Served::empty();
    serves.set(wit::Served::CALL, M::SERVES.call);
    serves.set(wit::Served::ADMIT, M::SERVES.admit);
    serves.set(wit::Served::REACT, M::SERVES.react);
    wit::Description { name: M::NAME.to_owned(), version: M::VERSION.to_owned(), serves }
}

pub fn call<M: Module>(
    procedure: &str,
    argument: &[u8],
    at: wit::Moment,
) -> Result<Vec<u8>, wit::Rejection> {
    report_panics();
    M::call(procedure, argument, moment(at)).map_err(rejection)
}

pub fn admit<M: Module>(
    operations: Vec<wit::Operation>,
    at: wit::Moment,
) -> Result<(), wit::Rejection> {
    report_panics();
    let operation = |operation| match operation {
        wit::Operation::Put(wit::PutOperation { key, value, lease }) => {
            Operation::Put { key, value, lease }
        }
        wit::Operation::Delete(wit::DeleteOperation { key, range_end }) => {
            Operation::Delete { key, range_end }
        }
    };
    let operations: Vec<_> = operations.into_iter().map(operation).collect();
    M::admit(&operations, moment(at)).map_err(rejection)
}

pub fn react<M: Module>(events: Vec<wit::Event>, at: wit::Moment) {
    report_panics();
    let event = |event: wit::Event| Event {
        key: event.key,
        current: event.current.map(key_value),
        previous: event.previous.map(key_value),
    };
    let events: Vec<_> = events.into_iter().map(event).collect();
    M::react(&events, moment(at));
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_component {
    ($module:ty) => {
        #[allow(unsafe_code, clippy::all, reason = "the generated export glue")]
        mod __instar_component {
            use super::*;
            use $crate::component::{self, bindings};

            struct Component;

            impl bindings::Guest for Component {
                fn describe() -> bindings::Description {
                    component::describe::<$module>()
                }

                fn call(
                    procedure: String,
                    argument: Vec<u8>,
                    moment: bindings::Moment,
                ) -> Result<Vec<u8>, bindings::Rejection> {
                    component::call::<$module>(&procedure, &argument, moment)
                }

                fn admit(
                    operations: Vec<bindings::Operation>,
                    moment: bindings::Moment,
                ) -> Result<(), bindings::Rejection> {
                    component::admit::<$module>(operations, moment)
                }

                fn react(events: Vec<bindings::Event>, moment: bindings::Moment) {
                    component::react::<$module>(events, moment)
                }
            }

            bindings::export!(Component with_types_in bindings);
        }
    };
}
