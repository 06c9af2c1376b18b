//! `emlab info`: what this build is and what it can run on.

use std::io::Write;

/// Print what this build is and what this machine offers it
#[derive(clap::Args)]
pub struct Args {}

/// Writes the facts to stdout.
///
/// # Errors
/// If stdout cannot be written.
pub fn run(_: &Args) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "emlab {}", env!("CARGO_PKG_VERSION"))?;
    Ok(())
}
