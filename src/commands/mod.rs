//! One file a command: its arguments, and the call into the library that they make.

pub mod analyze;
pub mod bench;
pub mod chat;
pub mod demo;
mod engine;
pub mod fetch;
pub mod generate;
pub mod info;
pub mod inspect;
pub mod models;
pub mod power;
pub mod score;
mod steering;
pub mod study;
pub mod train;
