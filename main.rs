#![allow(clippy::unwrap_used)] mod layers;
