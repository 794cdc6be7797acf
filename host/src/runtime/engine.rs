//! How WebAssembly is executed: the engine's settings. Those that can show in a result are pinned by [`ENVIRONMENT`].

use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
    RegallocAlgorithm, Strategy, WasmFeatures,
};

use super::{fuel, fuel::Budgets};
use crate::limits::{
    MACHINE_INSTANCES, MACHINE_MEMORY_BYTES, MODULE_INSTANCES, MODULE_MEMORY_BYTES,
};

/// The version of the execution environment: whatever may make two hosts disagree about what a machine does. Replicas
/// of a cluster run the same one. It names the engine and its settings below, the fuel table, the budgets, and the
/// limits on what a machine returns; raise the number at the end whenever any of them changes.
pub const ENVIRONMENT: &str = "wasmtime-48/2";

/// The stack that guest code may use, in bytes. Whoever calls a machine does so on a thread with at least twice as
/// much left. How deep a recursion gets in it depends on the compiled code, and so on the engine's version and the
/// processor's architecture, but not on its model: code is generated for the architecture's baseline.
const GUEST_STACK_BYTES: usize = 512 << 10;

/// Function tables of a guest hold its indirectly called functions.
const TABLE_ELEMENTS: usize = 20_000;

/// Memory that a slot of the pool keeps from one use to the next, in bytes: cheaper to clear than to fault in again.
const KEEP_RESIDENT_BYTES: usize = 4 << 20;
/// The same where the kernel cannot tell which pages were written, so that all of it is cleared every time.
const KEEP_RESIDENT_UNSCANNED_BYTES: usize = 256 << 10;

/// What runs on an engine. There is one of each kind a process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Guests {
    Machines,
    /// Whoever wrote them, apply waits for them: what may take long costs them more.
    Modules,
}

pub(super) fn engine(guests: Guests) -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config
        // Named, it is the architecture as such, without what this processor has beyond it: all members of one
        // architecture run the same instructions, in frames of the same size.
        .target(env!("INSTAR_TARGET"))?
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_regalloc_algorithm(RegallocAlgorithm::Backtracking)
        .cranelift_nan_canonicalization(true)
        .consume_fuel(true)
        .operator_cost(match guests {
            Guests::Machines => fuel::operator_cost(),
            Guests::Modules => fuel::module_operator_cost(),
        })
        .max_wasm_stack(GUEST_STACK_BYTES)
        .concurrency_support(false)
        .shared_memory(false)
        // A trace of frames costs time at every trap, and says nothing once names are stripped.
        .wasm_backtrace_max_frames(None)
        .generate_address_map(false)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool(guests)));
    for (feature, enabled) in features() {
        config.wasm_features(feature, enabled);
    }
    Engine::new(&config)
}

/// What guests may use of WebAssembly, stated in full where an engine's default could change: nothing that is not
/// deterministic, and nothing that the engine's maintainers do not support in the first tier.
fn features() -> [(WasmFeatures, bool); 20] {
    [
        (WasmFeatures::BULK_MEMORY, true),
        (WasmFeatures::EXTENDED_CONST, true),
        (WasmFeatures::MULTI_VALUE, true),
        (WasmFeatures::SIGN_EXTENSION, true),
        (WasmFeatures::SATURATING_FLOAT_TO_INT, true),
        (WasmFeatures::SIMD, true),
        (WasmFeatures::COMPONENT_MODEL, true),
        (WasmFeatures::RELAXED_SIMD, false),
        (WasmFeatures::THREADS, false),
        (WasmFeatures::SHARED_EVERYTHING_THREADS, false),
        (WasmFeatures::MEMORY64, false),
        (WasmFeatures::MULTI_MEMORY, false),
        (WasmFeatures::CUSTOM_PAGE_SIZES, false),
        (WasmFeatures::GC, false),
        (WasmFeatures::GC_TYPES, false),
        (WasmFeatures::FUNCTION_REFERENCES, false),
        (WasmFeatures::EXCEPTIONS, false),
        (WasmFeatures::STACK_SWITCHING, false),
        (WasmFeatures::WIDE_ARITHMETIC, false),
        (WasmFeatures::CM_ASYNC, false),
    ]
}

/// Slots for instances, made once: taking one costs some microseconds.
fn pool(guests: Guests) -> PoolingAllocationConfig {
    let (instances, memory_bytes) = match guests {
        Guests::Machines => (MACHINE_INSTANCES, MACHINE_MEMORY_BYTES),
        Guests::Modules => (MODULE_INSTANCES, MODULE_MEMORY_BYTES),
    };
    let mut pool = PoolingAllocationConfig::new();
    let scanned = PoolingAllocationConfig::is_pagemap_scan_available();
    let keep = if scanned { KEEP_RESIDENT_BYTES } else { KEEP_RESIDENT_UNSCANNED_BYTES };
    pool.total_component_instances(instances)
        // A component as wit-component makes it is three core modules with two tables.
        .total_core_instances(3 * instances)
        .total_tables(2 * instances)
        .total_memories(instances)
        .max_memories_per_component(1)
        .max_core_instances_per_component(3)
        .max_tables_per_component(2)
        .table_elements(TABLE_ELEMENTS)
        .max_memory_size(memory_bytes)
        .linear_memory_keep_resident(keep)
        .table_keep_resident(4 << 10)
        .pagemap_scan(if scanned { Enabled::Yes } else { Enabled::No });
    pool
}

const _: () = {
    let Budgets { shared, alone, step, query, brief } = Budgets::PINNED;
    assert!(shared.memory_bytes <= MACHINE_MEMORY_BYTES);
    assert!(alone.memory_bytes <= MACHINE_MEMORY_BYTES);
    assert!(step.memory_bytes <= MACHINE_MEMORY_BYTES);
    assert!(query.memory_bytes <= MACHINE_MEMORY_BYTES);
    assert!(brief.memory_bytes <= MACHINE_MEMORY_BYTES);
};
