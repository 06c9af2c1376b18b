//! `emlab inspect`: looks into models and adapters. One file a subcommand.

mod diff;
mod kernel;

/// Look into a kernel, or at what an adapter changes
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Diff(diff::Args),
    Kernel(kernel::Args),
}

/// Runs the command.
///
/// # Errors
/// Those of the subcommand.
pub fn run(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::Diff(args) => diff::run(args),
        Command::Kernel(args) => kernel::run(args),
    }
}
