//! handsd: the daemon that gives AI agents their hands.
//!
//! It keeps sandboxes on this machine, runs commands in them, reads and writes their files, and streams everything back
//! over gRPC. This page is its architecture.
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | sandbox | one container and its lifecycle |
//! | guest | our small static program, PID 1 of every sandbox; speaks to the daemon over a unix socket |
//! | session | one durable conversation: event log, status, turns |
//! | turn | from one input to one yield |
//! | runtime | the brain of a session, a long-lived process |
//! | run | one bounded command in a sandbox, with a deadline and an output |
//! | spool | the output of a run, on disk; a position in it is a cursor |
//! | engine | what makes containers |
//! | zygote | the single-threaded process from which the native engine clones sandboxes |
//!
//! # The line
//!
//! A request goes down this line and its answer comes back up it. Nothing jumps a floor, and nothing on a lower floor
//! imports a higher one.
//!
//! ```text
//! main ─ daemon                     wiring, start-up order, the way down
//!         │
//!        api        grpc/ http      decode, call a handle, encode
//!         │
//!      session                      the durable conversation: status, turns, queue of messages
//!         │
//!      runtime ─ gateway            brains: how each is started and spoken to · their door to a model
//!         │
//!      sandbox                      lifecycle: one task per sandbox owns its state
//!     ┌───┴────┬─────────┬───────┐
//!   hands    engine   network  store  runs and files · containers · what it reaches, and how it is reached · SQLite
//!     │        │         │
//!     │      image       │            from a reference to directories that can be stacked
//!     └───┬────┴─────────┘
//!       guest                       wire, client, and the agent that is PID 1
//! ```
//!
//! A `Bash` call, for example: `api::grpc::hands` decodes it with [`api::convert`] and asks the sandbox for its
//! [`hands::Hands`]; a task of its own makes pipes and a cgroup and has the guest start the command in it; from then on
//! the kernel moves output from the pipes to the spool (`splice`), and the caller's stream follows the spool from its
//! cursor. The guest reaps the command and says how it ended; when the pipes are drained, `exited` is published.
//!
//! The daemon may die at any moment. Sandboxes are not its children, and the guest keeps the other ends of all pipes and
//! terminals. The next daemon reads the records in the [`store`], asks the engine what there is, decides with
//! [`sandbox::recovery`], connects to the guests, and takes up each run where its journal and its spool end. To end well
//! and to be killed are the same to it.
//!
//! # Map
//!
//! | room | what is in it |
//! |---|---|
//! | [`daemon`], [`health`] | start, serve, stop; whether the node can do what it is asked |
//! | [`config`], [`check`], [`telemetry`] | what was configured, what this host can do; logs, error chains, and spans of calls for a collector |
//! | [`api`] | the gRPC services and the HTTP surface; `convert` and `status` are the only maps to and from the domain |
//! | [`session`] | the durable conversation: `state` (pure), the task of each session (`driver`), where it lives (`house`), its tools |
//! | [`runtime`] | brains: the adapters between a session and a process that thinks (`script`, `claude`, `codex`, `acp`), and what their sandboxes hold (`cage`) |
//! | [`gateway`] | the door of a brain to its model: what passes (`provider`, pure), whose tokens are counted (`usage`, pure) |
//! | [`webhook`] | events of sessions, sent to where somebody waits for them: retries (`plan`, pure), body and signature (`envelope`), one task per destination (`outbox`) |
//! | [`sandbox`] | phases (`state`, pure), the task of each sandbox (`driver`, with what is alive of it in `live`), who uses it (`idle`), the table of them (`registry`), what is stored of it (`record`), what the next daemon makes of that (`recovery`, pure), when what crashed is started again (`policy`, pure), what nobody owns (`reconcile`), what is made before anybody asks (`reserve`), what the engine tells unasked (`happenings`), the process that it keeps running (`runtime`, with `state`, pure), sleep while memory is short (`pressure`) |
//! | [`hands`] | a run's life (`task`), its processes (`reach`), its end (`outcome`, pure), its output (`output`), what the next daemon has to know of it (`journal`) and does with it (`resume`), files (`files`) |
//! | [`engine`] | the trait; `cgroup` for all engines; `nat` for addresses of their own; `native` with its zygote, mounts, first process and jail; `docker` |
//! | [`network`] | what a sandbox may reach (`policy`, pure), the proxy that holds it to that (`proxy`, `outside`) and puts in its secrets (`secrets`), how fast (`pace`), the resolver (`dns`), connections to its ports (`dial`, `ports`) |
//! | [`image`] | references, archives, registries, layers, and the hostile part, `unpack` |
//! | [`store`] | what outlives the daemon, in SQLite: sandboxes, sessions, webhooks, and the events of each and of the node; one writer thread |
//! | [`guest`] | `wire` (the frames), `agent` (PID 1), `client` (the daemon's side), `binary` (the guest's bytes); `trunk` and `relay` where no socket leads in |
//! | [`auth`] | who calls and what they may (`policy`, pure), certificates, tokens, limits, the audit log |
//! | [`metrics`] | what is counted and measured, by whoever sees it |
//! | [`notify`] | what systemd is told: ready, reloading, and that the daemon does not hang |
//! | [`credential`] | keys of model providers, sealed: what a brain's model is paid with |
//! | [`seal`] | secrets at rest: sealed by the node's key before they reach the store |
//! | [`crash`] | where a daemon under test dies between two steps |
//! | [`client`] | connecting to a node, for the command line and for tests |
//! | [`ids`] | names of sandboxes, runs, sessions and what belongs to them |
//!
//! # Invariants
//!
//! Those marked (tidy) are checked by `tests/tidy.rs`.
//!
//! 1. `state.rs`, `policy.rs`, `recovery.rs`, `outcome.rs`, `layout.rs`, `convert` and `status.rs` are pure: no tokio, no files, no clock (tidy). They
//!    hold the decisions; the drivers carry them out.
//! 2. Only `api` and what wires or tests it names generated services and `tonic::Status`; `unsafe` lives only in
//!    `engine/native` and `guest` (tidy).
//! 3. One task writes one sandbox's state, one task writes one run's. Others hold a handle: a watch and a bounded channel.
//!    A table of handles is a leaf with a lock that is never held across an await.
//! 4. Phases are observed, not assumed: `Running` is recorded once the guest has answered, `Crashed` once it is gone.
//!    What is about to be done to a sandbox is on the disk before it is begun, but for what the next daemon undoes or sees
//!    by itself: a making that was cut off, and a wake.
//! 5. Output is drained whether or not anyone listens. A slow reader falls behind; it stalls neither the process nor
//!    another reader.
//! 6. A client that hangs up cancels its stream, never a lifecycle step and never a run: those are tasks of their own.
//! 7. Every task has an owner that joins it; every wait for another process has a deadline, a constant with its reason
//!    (tidy).
//! 8. To destroy has its own channel and wins.
//! 9. An exit code comes only from waitid(2). What was lost is `SANDBOX_LOST`, never code 0.
//! 10. Bytes from a sandbox, an image or a client are hostile: bounded before allocation, never trusted.

pub mod guest;

#[cfg(feature = "daemon")]
pub mod api;
#[cfg(feature = "daemon")]
pub mod auth;
#[cfg(feature = "daemon")]
pub mod check;
#[cfg(feature = "daemon")]
pub mod client;
#[cfg(feature = "daemon")]
pub mod config;
#[cfg(feature = "daemon")]
pub mod crash;
#[cfg(feature = "daemon")]
pub mod credential;
#[cfg(feature = "daemon")]
pub mod daemon;
#[cfg(feature = "daemon")]
pub mod engine;
#[cfg(feature = "daemon")]
pub mod gateway;
#[cfg(feature = "daemon")]
pub mod hands;
#[cfg(feature = "daemon")]
pub mod health;
#[cfg(feature = "daemon")]
pub mod ids;
#[cfg(feature = "daemon")]
pub mod image;
#[cfg(feature = "daemon")]
pub mod metrics;
#[cfg(feature = "daemon")]
pub mod network;
#[cfg(feature = "daemon")]
pub mod notify;
#[cfg(feature = "daemon")]
pub mod runtime;
#[cfg(feature = "daemon")]
pub mod sandbox;
#[cfg(feature = "daemon")]
pub mod seal;
#[cfg(feature = "daemon")]
pub mod session;
#[cfg(feature = "daemon")]
pub mod store;
#[cfg(feature = "daemon")]
pub mod telemetry;
#[cfg(feature = "daemon")]
pub mod webhook;
