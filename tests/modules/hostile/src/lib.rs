//! A module that does whatever a module must not: the name of the procedure, or the value of a key, says what.

mod costly;

use std::sync::atomic::{AtomicU64, Ordering};

use instar_sdk::{Event, Module, Moment, Operation, Rejection, Served, export, kv, log, store};

pub struct Hostile;

/// What would be kept from one call to the next, if anything were.
static CALLS: AtomicU64 = AtomicU64::new(0);

impl Module for Hostile {
    const NAME: &'static str = "hostile";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SERVES: Served = Served::CALL.and(Served::ADMIT).and(Served::REACT);

    fn call(procedure: &str, argument: &[u8], _moment: Moment) -> Result<Vec<u8>, Rejection> {
        misbehave(procedure, argument)
    }

    fn admit(operations: &[Operation], _moment: Moment) -> Result<(), Rejection> {
        for operation in operations {
            if let Operation::Put { value, .. } = operation
                && let Some(how) =
                    std::str::from_utf8(value).ok().and_then(|it| it.strip_prefix("admit:"))
            {
                misbehave(how, b"")?;
            }
        }
        Ok(())
    }

    fn react(events: &[Event], _moment: Moment) {
        for event in events {
            let value = event.current.as_ref().map(|kv| kv.value.clone()).unwrap_or_default();
            let Some(how) =
                std::str::from_utf8(&value).ok().and_then(|it| it.strip_prefix("react:"))
            else {
                continue;
            };
            match how {
                "same-key" => kv::put(&event.key, "mine").expect("it is granted"),
                "lease" => kv::put_with_lease("/hostile/leased", "", 4711).expect("it is granted"),
                how => drop(misbehave(how, &event.key)),
            }
        }
    }
}

fn misbehave(how: &str, argument: &[u8]) -> Result<Vec<u8>, Rejection> {
    match how {
        "loop" => loop {
            std::hint::black_box(argument);
        },
        "panic" => panic!("on demand"),
        "recurse" => Ok(vec![recurse(1) as u8]),
        "memory" => {
            let mut hoard: Vec<Vec<u8>> = Vec::new();
            loop {
                hoard.push(vec![1; 1 << 20]);
                std::hint::black_box(&hoard);
            }
        }
        "huge-answer" => Ok(vec![b'x'; 3 << 20]),
        "huge-rejection" => Err(Rejection::failed_precondition("x".repeat(1 << 20))),
        "flood-keys" => {
            for number in 0.. {
                kv::put(format!("/hostile/flood/{number}"), "x")?;
            }
            Ok(Vec::new())
        }
        "flood-rows" => {
            for number in 0_u32.. {
                store::put(number.to_be_bytes(), "x")?;
            }
            Ok(Vec::new())
        }
        "flood-bytes" => {
            for number in 0.. {
                kv::put(format!("/hostile/bytes/{number}"), vec![0; 1 << 20])?;
            }
            Ok(Vec::new())
        }
        "log" => {
            log::info(String::from_utf8_lossy(argument));
            Ok(Vec::new())
        }
        "flood-log" => {
            for number in 0..1_000 {
                log::warn(format!("flood {number}"));
            }
            Ok(Vec::new())
        }
        "foreign-read" => Ok(kv::get("/foreign")?.map(|kv| kv.value).unwrap_or_default()),
        "foreign-write" => {
            kv::put("/foreign", "mine").map(|()| Vec::new()).map_err(Rejection::from)
        }
        "foreign-range" => Ok(vec![kv::range("/", "0", 10)?.len() as u8]),
        "storm" => loop {
            store::get(b"nothing");
        },
        "write-and-panic" => {
            kv::put("/hostile/half", "done")?;
            store::put("half", "done")?;
            panic!("after writing");
        }
        "write-and-reject" => {
            kv::put("/hostile/half", "done")?;
            store::put("half", "done")?;
            Err(Rejection::failed_precondition("after writing"))
        }
        "half" => Ok(store::get("half").unwrap_or_else(|| b"nothing".to_vec())),
        "remember" => Ok(CALLS.fetch_add(1, Ordering::Relaxed).to_string().into_bytes()),
        "echo" => Ok(argument.to_vec()),
        how => costly::run(how).unwrap_or_else(|| Ok(Vec::new())),
    }
}

#[inline(never)]
#[allow(unconditional_recursion, reason = "that is what it is for")]
fn recurse(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 16]);
    recurse(depth + 1) + frame[(depth % 16) as usize]
}

export!(Hostile);
