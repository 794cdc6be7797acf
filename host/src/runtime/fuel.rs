//! What computation may cost, in units of fuel. Pinned: every replica must find the same entries too expensive.
//!
//! Fuel is a circuit breaker against machines that would never end. It is in no response and in no digest. Nothing here
//! may change without a new [`super::ENVIRONMENT`].
//!
//! One unit is about one WebAssembly instruction; the engine executes 5 to 30 thousand million a second. What the
//! host does for a machine is charged at what it takes in the same measure, so that no machine can buy hours of the
//! host's time with a loop of a few instructions. Charges depend on what a call gets, never on how it is stored.

use wasmtime::{OperatorCost, VariableOperatorCost};

/// For every call of an import.
pub(super) const PER_IMPORT: u64 = 500;
/// For every row that an import reads, counts or removes.
pub(super) const PER_ROW_READ: u64 = 1_000;
/// For every row that an import writes or removes.
pub(super) const PER_ROW_WRITTEN: u64 = 5_000;

/// What one call may use of the machine it runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// In units of fuel.
    pub fuel: u64,
    /// The most linear memory, in bytes.
    pub memory_bytes: usize,
}

/// The budgets of all kinds of calls.
///
/// Batches differ between replicas, so what an entry may use must not depend on them. In a batch, where instances are
/// shared, an entry therefore gets less than it is due. One that fails there is run again on its own with all it is
/// due, and only that decides. For the two to agree, whatever passes in a batch must pass alone too: the gap between
/// them is wide enough for what a fresh instance has to do first, and for whatever entries before have left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budgets {
    /// For an entry that shares its instance.
    pub shared: Budget,
    /// For an entry that is alone in its instance, and for one step of `rebuild`.
    pub alone: Budget,
    /// For one step of `migrate`, for which the apply thread stands still.
    pub step: Budget,
    /// For a query, and for one step of `check`.
    pub query: Budget,
    /// For `describe`, `admit` and `next-task`.
    pub brief: Budget,
}

const MIB: usize = 1 << 20;

impl Budgets {
    /// What a test can use up in some milliseconds.
    #[cfg(test)]
    pub const SMALL: Budgets = {
        const fn budget(fuel: u64, mebibytes: usize) -> Budget {
            Budget { fuel, memory_bytes: mebibytes << 20 }
        }
        Budgets {
            shared: budget(10_000_000, 16),
            alone: budget(300_000_000, 128),
            step: budget(50_000_000, 32),
            query: budget(50_000_000, 32),
            brief: budget(10_000_000, 16),
        }
    };

    /// The budgets that replicas run with. An entry that removes a million keys at once needs about a fifth of what it
    /// may use; one that never ends is stopped after 7 to 40 seconds, and a step of a migration after 5 to 30 milliseconds.
    pub const PINNED: Self = Self {
        shared: Budget { fuel: 20_000_000_000, memory_bytes: 256 * MIB },
        alone: Budget { fuel: 200_000_000_000, memory_bytes: 512 * MIB },
        step: Budget { fuel: 150_000_000, memory_bytes: 512 * MIB },
        query: Budget { fuel: 200_000_000_000, memory_bytes: 512 * MIB },
        brief: Budget { fuel: 4_000_000_000, memory_bytes: 256 * MIB },
    };
}

/// The cost of each instruction. What differs from one unit an instruction (none for those that generate no code) is
/// stated here; a test pins the whole table, so that an update of the engine cannot change it unseen.
pub(super) fn operator_cost() -> OperatorCost {
    let mut cost = OperatorCost::new();
    cost.Call = 2;
    cost.CallIndirect = 4;
    cost.ReturnCall = 2;
    cost.ReturnCallIndirect = 4;
    cost.I32DivS = 4;
    cost.I32DivU = 4;
    cost.I32RemS = 4;
    cost.I32RemU = 4;
    cost.I64DivS = 8;
    cost.I64DivU = 8;
    cost.I64RemS = 8;
    cost.I64RemU = 8;
    cost.MemoryGrow = 200;
    cost.variable =
        VariableOperatorCost { memory_grow_per_page: 200, ..VariableOperatorCost::new() };
    cost
}

/// The cost of each instruction of a module: apply waits for it, so an instruction costs what it can take at worst, some
/// nanoseconds' worth. A load takes a hundred where no cache has the line; a division or a root waits for the one before.
pub(super) fn module_operator_cost() -> OperatorCost {
    let mut cost = operator_cost();
    macro_rules! costs {
        ($units:literal: $($operator:ident),*) => {
            $(cost.$operator = $units;)*
        };
    }
    costs!(100:
        I32Load, I64Load, F32Load, F64Load, I32Load8S, I32Load8U, I32Load16S, I32Load16U, I64Load8S,
        I64Load8U, I64Load16S, I64Load16U, I64Load32S, I64Load32U, V128Load, V128Load8x8S, V128Load8x8U,
        V128Load16x4S, V128Load16x4U, V128Load32x2S, V128Load32x2U, V128Load8Splat, V128Load16Splat,
        V128Load32Splat, V128Load64Splat, V128Load32Zero, V128Load64Zero, V128Load8Lane, V128Load16Lane,
        V128Load32Lane, V128Load64Lane
    );
    costs!(8:
        I32Store, I64Store, F32Store, F64Store, I32Store8, I32Store16, I64Store8, I64Store16,
        I64Store32, V128Store, V128Store8Lane, V128Store16Lane, V128Store32Lane, V128Store64Lane, BrTable
    );
    costs!(12:
        I32DivS, I32DivU, I32RemS, I32RemU, I64DivS, I64DivU, I64RemS, I64RemU
    );
    costs!(16:
        F32Sqrt, F64Sqrt, F32Div, F64Div, F32x4Sqrt, F64x2Sqrt, F32x4Div, F64x2Div
    );
    cost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_table_is_the_pinned_one() {
        // A module's differs from it in what is written above, and in nothing else.
        let table = format!("{:?}", operator_cost());
        let digest = xxhash_rust::xxh3::xxh3_64(table.as_bytes());
        assert_eq!(
            format!("{digest:016x}"),
            "c8a8ae857ce0a79d",
            "a new table needs a new ENVIRONMENT"
        );
    }

    #[test]
    fn an_entry_alone_gets_at_least_twice_what_it_gets_in_a_batch() {
        let Budgets { shared, alone, .. } = Budgets::PINNED;
        assert!(alone.fuel >= 2 * shared.fuel && alone.memory_bytes >= 2 * shared.memory_bytes);
    }
}
