//! `emlab inspect`: looks into models and adapters. One file a subcommand.

mod diff;

/// Look into a model, or at what an adapter changes
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Diff(diff::Args),
}

/// Runs the command.
///
/// # Errors
/// Those of the subcommand.
pub fn run(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::Diff(args) => diff::run(args),
    }
}
