//! A judge behind `OpenAI`'s interface: `OpenAI` itself, or any compatible server that returns log-probabilities. Known
//! answers come from the user's cache; the rest is requested once, live or in batches.
//!
//! | file | holds |
//! |---|---|
//! | `server.rs` | a judge's queries: cache first, then the server |
//! | `query.rs` | tasks with equal prompts, asked once |
//! | `openai.rs` `wire.rs` | requests and completions; one request, and what its answer means |
//! | `pace.rs` | when to ask: rate limits, waits, deadline, budget |
//! | `live.rs` | a request for each query |
//! | `batch.rs` `batch_api.rs` `batch_state.rs` | files of requests: the steps, the server's side, what is on disk |
//! | `numbers.rs` | a judge whose first token is not a number |
//! | `account.rs` `cache.rs` | tokens and dollars; what was said once is not paid for again |
//!
//! By hand on purpose: the HTTP requests (`ureq`, blocking, a thread for each request in flight) and the multipart form
//! of an upload. A client library would bring an async runtime for sixteen requests at a time.

pub mod account;
mod batch;
mod batch_api;
mod batch_state;
mod cache;
mod live;
mod numbers;
mod openai;
pub mod pace;
mod query;
mod server;
mod wire;

pub use self::server::{Access, Server};
