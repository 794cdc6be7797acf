//! The library against the naive model. `INSTAR_SEED` and `INSTAR_OPERATIONS` choose another campaign.

use guest_kv::model::{self, NativeSubject};

use crate::number;

fn campaign(seed_offset: u64, operations_share: u64, page_rows: u32) {
    let seed = number("INSTAR_SEED", 20_261_123).wrapping_add(seed_offset);
    let operations = number("INSTAR_OPERATIONS", 200_000) / operations_share;
    println!("seed {seed}, {operations} operations");
    if let Err(failure) = model::run(seed, operations, || NativeSubject::new(page_rows)) {
        panic!("{failure}");
    }
}

#[test]
fn library_is_the_model() {
    campaign(0, 2, 1000);
}

/// Pages of few rows: every loop over pages turns.
#[test]
fn library_is_the_model_with_small_pages() {
    campaign(1 << 32, 2, 3);
}
