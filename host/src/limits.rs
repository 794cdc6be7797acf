//! Every limit of the server that is not an operator's choice, with its unit and its reason.

use std::time::Duration;

// --- runtime ------------------------------------------------------------------------------------------------------

// What a machine may ask for and give back (`runtime`). All of them decide answers, so a change needs a new
// `runtime::ENVIRONMENT`.

/// Linear memory of one instance of a machine, in bytes.
pub const MACHINE_MEMORY_BYTES: usize = 512 << 20;
/// The size of a component.
pub const COMPONENT_BYTES: usize = 16 << 20;
/// Tables of one machine; the contract's limit.
pub const MACHINE_TABLES: usize = 64;
/// Tables of a state: the machine's, and the host's own of machines.
pub const STATE_TABLES: usize = MACHINE_TABLES + 1;
/// Ids of tables from here on are the host's own.
pub const HOST_TABLES_FROM: u32 = 0xffff_0000;
/// Components in the state; the oldest of no use make room.
pub const MACHINE_BLOBS: usize = 8;
/// One piece of a component in the log.
pub const MACHINE_CHUNK_BYTES: usize = 256 << 10;
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

// What a module may ask for in one entry. All of them decide answers, too.

/// Units of fuel of one call, what its reads cost among them: 1 to 40 ms, for which the apply thread stands still
/// (`runtime/fuel.rs`; measured by `raft/machine_tests/module_costs.rs`).
pub const MODULE_FUEL: u64 = 40_000_000;
/// What it may use besides for each operation or event that it is shown: being shown costs it fuel too.
pub const MODULE_EVENT_FUEL: u64 = 50_000;
/// Linear memory of one instance of a module, in bytes.
pub const MODULE_MEMORY_BYTES: usize = 8 << 20;
/// Keys that one call writes, and rows of the module's own: of each so many.
pub const MODULE_WRITES: usize = 1_000;
/// The same in bytes, all together.
pub const MODULE_WRITE_BYTES: usize = 4 << 20;
/// Keys or rows that one read gives. The contract's figure.
pub const MODULE_READ_ROWS: u32 = 1_000;
/// Operations or events of one entry that a module is shown; an entry with more of them is refused.
pub const MODULE_EVENTS: usize = 10_000;
/// The same, of keys and values before and after, in bytes.
pub const MODULE_EVENT_BYTES: usize = 2 << 20;
/// The answer of a call, in bytes.
pub const MODULE_RESULT_BYTES: usize = 2 << 20;
/// The name of a procedure, in bytes.
pub const MODULE_PROCEDURE_BYTES: usize = 256;
/// A prefix that a module is granted, in bytes.
pub const MODULE_PREFIX_BYTES: usize = 1 << 10;
/// Prefixes of one module.
pub const MODULE_PREFIXES: usize = 16;
/// Modules of a cluster, those that are disabled among them.
pub const MODULES: usize = 32;
/// Components of modules in the state; the oldest of no use make room.
pub const MODULE_BLOBS: usize = 64;
/// Failures in a row that disable a module.
pub const MODULE_FAILURES: u32 = 10;
/// Lines that are kept of what a module has logged.
pub const MODULE_LOG_LINES: usize = 1_000;
/// Lines of them in one message.
pub const MODULE_LOG_PAGE_LINES: usize = 64;

// What a machine costs the process; no answer depends on these.

/// Instances of modules at the same time: one that is applied with, and those that say what they are.
pub const MODULE_INSTANCES: u32 = 8;
/// Instances of machines at the same time: one that applies, one a serving thread, and those that check and migrate.
pub const MACHINE_INSTANCES: u32 = 128;
/// Rows that the rehearsal of a migration holds; beyond it the rehearsal ends early.
pub const REHEARSAL_ROWS: usize = 200_000;
/// Calls that a reader's instance serves before it is made anew.
pub const READER_CALLS: u32 = 10_000;
/// How long compiling a component may take that came by the network; one that takes longer is refused.
pub const COMPILE_TIME: Duration = Duration::from_secs(30);
/// Components that wait to be compiled; further ones are refused.
pub const COMPILATIONS: usize = 8;
/// Lines that one call of a machine may log; further ones are dropped.
pub const LOG_LINES_PER_CALL: u32 = 16;
/// A logged line, in bytes; the rest is cut off.
pub const MACHINE_LOG_LINE_BYTES: usize = 1 << 10;

// --- raft ---------------------------------------------------------------------------------------------------------

/// Entries kept in memory behind the log's end, so that followers and the apply thread need not read the disk. Entries
/// that are not on disk yet stay beyond it.
pub const LOG_TAIL_BYTES: usize = 32 << 20;
/// Entries in one message to a follower, or to the apply thread; a single larger entry goes alone.
pub const APPEND_REQUEST_BYTES: usize = 1 << 20;
/// Entries in one message to a follower.
pub const APPEND_REQUEST_ENTRIES: u64 = 1_024;
/// Writes waiting for the log thread. At the bound raft waits, and with it everything that proposes.
pub const LOG_TASKS: usize = 4_096;
/// What one frame of the log takes in before it is written.
pub const LOG_FRAME_BYTES: usize = 2 << 20;
/// Entries kept behind a shortened log for followers that are a little late; etcd's `--snapshot-catchup-entries`.
pub const LOG_KEPT_ENTRIES: u64 = 5_000;
/// Entries that are dropped from the log at once.
pub const LOG_PURGE_ENTRIES: u64 = 1_000;
/// Tasks waiting for the apply thread; raft hands out one at a time.
pub const APPLY_TASKS: usize = 16;
/// Apply commands that raft queues before it waits.
pub const APPLY_COMMANDS: u64 = 65_536;
/// Entries in one run of the machine and one storage transaction.
pub const APPLY_BATCH_ENTRIES: usize = 1_024;
/// Committed entries that may wait to be applied; beyond that requests are refused, as etcd's
/// `maxGapBetweenApplyAndCommitIndex`.
pub const APPLY_LAG_ENTRIES: u64 = 5_000;
/// How many commands are worth a batch of their own while others are under way.
pub const GATHERED_PROPOSALS: usize = 256;
/// How long commands, and reads on a processor that cannot keep up, wait at most for more to go with.
pub const GATHER_TIME: Duration = Duration::from_millis(2);
/// Requests of one client runtime that may wait for their outcome; beyond that they are refused.
pub const PROPOSALS_PER_SHARD: usize = 100_000;
/// Batches of proposals on their way to the proposer. At the bound the client runtimes wait.
pub const PROPOSAL_BATCHES: usize = 1_024;
/// Batches of proposals that a follower has under way to the leader. At the bound they wait at the follower.
pub const FORWARDED_BATCHES: usize = 64;
/// Rounds of reads waiting for their index: one a client runtime.
pub const READ_ROUNDS: usize = 256;
/// Questions of followers about leases that wait for the lease keeper; a follower has one under way at a time.
pub const PEER_LEASE_ROUNDS: usize = 64;
/// Leases in one question to the leader; more have to wait for the next.
pub const LEASE_ROUND_ASKS: usize = 10_000;
/// One message between members. No entry can be larger: `--max-request-bytes` stays below it.
pub const PEER_MESSAGE_BYTES: usize = 64 << 20;
/// What a member sends a peer ahead of its acknowledgement, a stream; a connection has twice that.
pub const PEER_STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// State digests of recent entries that are kept for the comparison with other members.
pub const DIGESTS_KEPT: usize = 8_192;
/// Digests that one comparison asks for.
pub const DIGESTS_COMPARED: usize = 32;
/// One chunk of a snapshot on its way to a member.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;
/// Chunks waiting between the file and the connection.
pub const SNAPSHOT_CHUNKS: usize = 8;
/// How many entries a new voter may lack when it gets its vote; what it lacks then, the leader sends at once.
pub const VOTER_LAG_ENTRIES: u64 = 1_024;
/// Batches that wait to be applied by a machine that is rehearsed; further ones are skipped, and counted.
pub const SHADOW_BATCHES: usize = 256;
/// What these hold: commands, answers and rows, in bytes.
pub const SHADOW_QUEUE_BYTES: usize = 64 << 20;
/// Differences of a rehearsal that are reported in full; all are counted.
pub const SHADOW_DIFFERENCES: usize = 10;
/// One side of such a difference, in bytes; the rest is cut off.
pub const SHADOW_DIFFERENCE_BYTES: usize = 4 << 10;
/// How long a rehearsal may go on.
pub const SHADOW_DURATION: Duration = Duration::from_secs(60 * 60);
/// How long a shadowed machine may take, after that, for what waits for it.
pub const SHADOW_DRAIN: Duration = Duration::from_secs(10);
/// Reports of a rehearsal that wait for its client to read.
pub const SHADOW_REPORTS: usize = 4;
/// How long a snapshot may take to reach a member; a silent connection is noticed much earlier.
pub const SNAPSHOT_TRANSFER_MS: u64 = 3_600_000;

// --- storage ------------------------------------------------------------------------------------------------------

/// Pages of the state that redb keeps in memory; half of it at most are waiting to be written.
pub const STATE_CACHE_BYTES: usize = 128 << 20;
/// What a batch takes at once for the rows that it writes; a row that is longer gets as much as it needs.
pub const OVERLAY_ROOM_BYTES: usize = 64 << 10;
/// What the file of the log grows by, and is written over in.
pub const LOG_SEGMENT_BYTES: u64 = 4 << 20;
/// Segments that are kept to be written over; beyond that the file is cut where its end is free.
pub const LOG_FREE_SEGMENTS: usize = 16;
/// The memory of a written frame that is kept for the next one.
pub const LOG_BUFFER_BYTES: usize = 1 << 20;
/// Rows of a snapshot that are read and written at once.
pub const SNAPSHOT_PORTION_BYTES: usize = 4 << 20;
/// The mark of a snapshot, membership included.
pub const SNAPSHOT_MARK_BYTES: usize = 1 << 20;
/// What redb needs for itself, whatever it holds: its header, and the copies of a few pages. No size counts it.
pub const STATE_OVERHEAD_BYTES: u64 = 128 << 10;
/// Pages of a state's new file that redb keeps in memory while it is made.
pub const DEFRAGMENT_CACHE_BYTES: usize = 32 << 20;
/// Keys that are written while a portion of a defragmentation is copied; beyond that it is given up.
pub const DEFRAGMENT_WRITTEN_BYTES: usize = 128 << 20;
/// Rows that a defragmentation leaves to the apply thread, which applies nothing meanwhile.
pub const DEFRAGMENT_LAST_ROWS: usize = 2_000;
/// A key or a value of a snapshot.
pub const SNAPSHOT_FIELD_BYTES: usize = 64 << 20;

// --- watch --------------------------------------------------------------------------------------------------------

/// Events on their way to one client runtime. Beyond it they are read from the storage later.
pub const WATCH_FEED_BYTES: usize = 64 << 20;
/// Events that a client runtime keeps for watchers that are a little late. All runtimes share their memory.
pub const WATCH_RECENT_BYTES: usize = 16 << 20;
/// The batches that these may come from.
pub const WATCH_RECENT_BATCHES: usize = 16_384;
/// What waits for one stream of watches; beyond it its watchers are caught up later.
pub const WATCH_STREAM_QUEUE_BYTES: usize = 512 << 10;
/// Rows that one query reads for watchers that lag; a single revision may have more.
pub const WATCH_PAGE_BYTES: usize = 256 << 10;
/// Events in one response to a watcher that lags; a single revision may have more.
pub const WATCH_RESPONSE_BYTES: usize = 256 << 10;
/// How long catching up rests after the storage could not be read.
pub const WATCH_RETRY: Duration = Duration::from_millis(100);
/// Watchers of one client runtime; further ones are refused.
pub const WATCHERS: usize = 1_000_000;
/// Keys and ends of ranges of those.
pub const WATCHER_KEYS_BYTES: usize = 256 << 20;

// --- lease --------------------------------------------------------------------------------------------------------

/// Leases that one command revokes because their time is over; it ends earlier if they have many keys.
pub const LEASES_PER_EXPIRY: usize = 500;
/// Leases whose remaining time one command notes; etcd's maxLeaseCheckpointBatchSize.
pub const LEASES_PER_CHECKPOINT: usize = 1_000;
/// How long a leader rests after it could not read the leases, before it tries again.
pub const LEASES_READ_RETRY: Duration = Duration::from_millis(200);
/// How long a leader rests after the machine refused to revoke leases, before it proposes that again.
pub const LEASES_REFUSED_RETRY: Duration = Duration::from_secs(1);
/// Keep-alives and questions about leases of one client runtime that wait for the leader; beyond that they are refused.
pub const LEASE_ASKS_PER_SHARD: usize = 100_000;

// --- server -------------------------------------------------------------------------------------------------------

/// Heavy queries that wait for a thread; beyond that they are refused.
pub const QUERY_POOL_JOBS: usize = 1_024;

/// Snapshots for clients that are written at the same time; beyond that they are refused.
pub const CLIENT_SNAPSHOTS: usize = 4;

// --- api ----------------------------------------------------------------------------------------------------------

// What clients may do to the server (`api`).

/// Client connections at the same time; further ones are closed as soon as they are accepted.
pub const CLIENT_CONNECTIONS: usize = 50_000;
/// Connections that are accepted, and wait for their runtime to take them. Beyond it no more are accepted.
pub const ACCEPTED_CONNECTIONS: usize = 1_024;
/// Connections that the kernel keeps until they are accepted.
pub const LISTEN_BACKLOG: i32 = 4_096;
/// How long accepting rests after it failed, as it does without a free file descriptor.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection may take to say its first bytes, and HTTP/1.1 the headers of its next request. grpc-go's.
pub const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(120);
/// Pings that come too early, and are forgiven before a connection is closed: grpc-go's `maxPingStrikes`.
pub const PING_STRIKES: u32 = 2;
/// How far apart pings have to be while no call is open: grpc-go's `defaultPingTimeout`.
pub const IDLE_PING_INTERVAL: Duration = Duration::from_secs(2 * 60 * 60);
/// What lies between the gateway and the gRPC server in this process, a direction, in bytes.
pub const GATEWAY_PIPE_BYTES: usize = 64 << 10;
/// A JSON value that a client sends the gateway, as a multiple of the largest request: base64 and names take room.
pub const GATEWAY_JSON_FACTOR: usize = 4;
/// Lines of a stream's answer that wait for an HTTP client to read.
pub const GATEWAY_LINES: usize = 4;
/// Silence after which the kernel asks whether the other end of a connection is still there, and how often: Go's.
pub const TCP_KEEPALIVE: Duration = Duration::from_secs(15);
/// One message of a client's snapshot: etcd's.
pub const CLIENT_SNAPSHOT_CHUNK_BYTES: usize = 32 << 10;
/// What is read of a client's snapshot at once.
pub const CLIENT_SNAPSHOT_READ_BYTES: usize = 512 << 10;
/// Calls at the same time on one connection; a client that wants more has to wait.
pub const CONCURRENT_CALLS: u32 = 4_096;
/// All headers of one request, in bytes, as HTTP/2 counts them.
pub const HEADER_LIST_BYTES: u32 = 16 << 10;
/// What HTTP/1.1 keeps of one connection, in bytes; a request's head has to fit.
pub const HTTP1_BUFFER_BYTES: usize = 16 << 10;
/// What a client may send for one call before the server has read any of it, in bytes.
pub const CALL_WINDOW_BYTES: u32 = 64 << 10;
/// The same for all calls of one connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// What the frames of requests that no call has read yet may cost beyond their content, in bytes: HTTP/2's own count,
/// of 256 for a small frame. Each call needs room for its first frames.
pub const SMALL_FRAMES_BYTES: usize = 4 * 256 * CONCURRENT_CALLS as usize;
/// Small writes of a connection that are held back for the next one, in bytes: the head of a frame, and more.
pub const HELD_WRITE_BYTES: usize = 1 << 10;
/// Messages that do not fit a call's window, all those together that are being received or worked on, in KiB.
/// Further ones have to wait.
pub const LARGE_MESSAGES_KIB: usize = 512 << 10;
/// How long a client may make no progress with a message that it sends.
pub const RECEIVE_STALL: Duration = Duration::from_secs(60);
/// How long a client may make no progress with a message that it is sent.
pub const SEND_STALL: Duration = Duration::from_secs(60);
/// What may wait in HTTP/2's buffers for one call, in bytes.
pub const SEND_BUFFER_BYTES: usize = 64 << 10;
/// A message of up to this many bytes is not worth waiting for the client's window.
pub const SMALL_MESSAGE_BYTES: usize = 4 << 10;
/// Answers of one connection that wait for its client to read, in bytes. Beyond it no further call is begun.
pub const UNREAD_ANSWERS_BYTES: usize = 4 << 20;
/// Messages of one stream that wait for its client to read, in bytes. Beyond it the stream is given no more; a single
/// message may be larger.
pub const STREAM_QUEUE_BYTES: usize = 64 << 10;
/// Queries of one connection at the same time that may touch many rows; counted until their answers are sent.
pub const HEAVY_QUERIES: usize = 16;
/// What gRPC may add to a request of --max-request-bytes, in bytes: etcd's grpcOverheadBytes.
pub const GRPC_OVERHEAD_BYTES: usize = 512 << 10;
/// The largest message that gRPC's prefix and its clients can take, in bytes.
pub const ANSWER_MESSAGE_BYTES: usize = i32::MAX as usize;

// --- logging ------------------------------------------------------------------------------------------------------

/// Lines that wait for their output; further ones are dropped and counted.
pub const WAITING_LOG_LINES: usize = 8_192;
/// One line, in bytes; what exceeds it is cut from its fields.
pub const LOG_LINE_BYTES: usize = 16 << 10;
/// How long the process waits, as it ends, for its last lines to be written.
pub const LOG_FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

// --- config -------------------------------------------------------------------------------------------------------

/// A configuration file, in bytes.
pub const CONFIG_FILE_BYTES: u64 = 1 << 20;
