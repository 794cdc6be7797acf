//! Ports for members.

use std::collections::HashSet;
use std::net::TcpListener;
use std::ops::Range;
use std::sync::Mutex;

use rand::Rng;

/// Below the range that the kernel takes ports for outgoing connections from: a member that is down
/// must find its port free when it is started again.
const PORTS: Range<u16> = 11_000..32_000;

static TAKEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A port that nothing listens on and that this process never gives out again. Another process may
/// still take it, which whoever starts a member has to expect.
pub fn free_port() -> u16 {
    let mut taken = TAKEN.lock().expect("nothing panics while it holds this lock");
    let taken = taken.get_or_insert_default();
    loop {
        let port = rand::rng().random_range(PORTS);
        if taken.insert(port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
