//! Every limit of the server that is not an operator's choice, with its unit and its reason.

// What a machine may ask for and give back (`runtime`). All of them decide answers, so a change needs a new
// `runtime::ENVIRONMENT`.

/// Linear memory of one instance of a machine, in bytes.
pub const MACHINE_MEMORY_BYTES: usize = 512 << 20;
/// The size of a component.
pub const COMPONENT_BYTES: usize = 16 << 20;
/// Tables of one machine; the contract's limit.
pub const MACHINE_TABLES: usize = 64;
/// Names and versions of machines, and names of tables.
pub const MACHINE_NAME_BYTES: usize = 64;
/// The key of a row. etcd's own limit is that of a request.
pub const ROW_KEY_BYTES: usize = 8 << 20;
/// The value of a row.
pub const ROW_VALUE_BYTES: usize = 64 << 20;
/// Rows that one entry writes or removes.
pub const ENTRY_WRITES: u64 = 16_000_000;
/// Keys and values that one entry writes, in bytes.
pub const ENTRY_WRITE_BYTES: u64 = 256 << 20;
/// Rows that one entry names as events.
pub const ENTRY_EVENTS: usize = 4_000_000;
/// The response to one entry, in bytes.
pub const RESPONSE_BYTES: usize = 64 << 20;
/// The message of a rejection, in bytes.
pub const REJECTION_MESSAGE_BYTES: usize = 4 << 10;
/// What one call passes between a machine and the host at once, in bytes.
pub const MACHINE_CALL_BYTES: usize = 512 << 20;
/// The body of a query's answer, in bytes.
pub const ANSWER_BYTES: usize = 512 << 20;
/// A continuation of a query, a command for the machine's own upkeep, or a cursor, in bytes.
pub const CONTINUATION_BYTES: usize = 16 << 20;
/// Rows of one page of a scan, in bytes: beyond them the page ends. The contract's figure.
pub const PAGE_BYTES: usize = 1 << 20;

// What a machine costs the process; no answer depends on these.

/// Instances of machines at the same time: one that applies, one a serving thread, and those that check and migrate.
pub const MACHINE_INSTANCES: u32 = 128;
/// Calls that a reader's instance serves before it is made anew.
pub const READER_CALLS: u32 = 10_000;
/// A reader's answer buffer that is kept from one call to the next, in bytes.
pub const READER_BUFFER_BYTES: usize = 1 << 20;
/// Lines that one call of a machine may log; further ones are dropped.
pub const LOG_LINES_PER_CALL: u32 = 16;
/// A logged line, in bytes; the rest is cut off.
pub const LOG_LINE_BYTES: usize = 1 << 10;
