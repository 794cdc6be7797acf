//! A machine that breaks the contract: the process survives, the entry is rejected, nothing of it is left.

use std::sync::{Arc, OnceLock};

use super::super::*;
use crate::storage::{Overlay, View};

#[test]
fn first() {
    let machine = Runtime::new(None).unwrap().load(hostile::HOSTILE).unwrap();
    println!("{:?}", machine.description());
    let entry =
        |index, command: &[u8]| Entry { index, time_ms: 1, command: command.to_vec().into() };
    let overlay = Overlay::new(Arc::new(View::default()));
    let t = std::time::Instant::now();
    let applied = machine
        .apply(overlay, 0, &[entry(1, b"pab"), entry(2, b"t"), entry(3, b"s"), entry(4, b"pcd")])
        .unwrap();
    println!("{:?}", applied.outcomes);
    println!("{:?}", t.elapsed());
    for c in [&b"l"[..], b"M"] {
        let t = std::time::Instant::now();
        let applied = machine.apply(applied.overlay.view_overlay(), 0, &[entry(1, c)]).unwrap();
        println!("{:?}", applied.outcomes);
        println!("{:?}", t.elapsed());
    }
}
