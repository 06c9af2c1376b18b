//! The tests of the whole: of the library as others use it, and of the program. One binary, so that the crate is linked
//! once; a module a subject. `cargo test --test suite gradcheck::` runs one of them.
#![allow(clippy::unwrap_used)]

mod bad_checkpoints;
mod browser;
mod chat_golden;
mod cli_engine;
mod cli_files;
mod cuda_vs_cpu;
mod demo;
mod directions;
mod files;
mod generate;
mod golden;
mod gradcheck;
mod gradients;
mod inference;
mod inspect;
mod inspect_kernel;
mod inspect_page;
mod inspect_patch;
mod inspect_trace;
mod kernels_compile;
mod layers;
mod mock;
mod model_golden;
mod needs;
mod probes;
mod report_browser;
mod resume;
mod small_model;
mod statistics_coverage;
mod statistics_golden;
mod steering;
mod study_cells;
mod study_cli;
mod study_driver;
mod study_faults;
mod study_full;
mod study_import;
mod study_judge;
mod study_published;
mod study_server;
mod tiny;
mod train_golden;
mod transformer_walk;
