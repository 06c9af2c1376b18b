//! `emlab inspect`: looks inside models, adapters and kernels. One file a subcommand.

mod compare;
mod diff;
mod direction;
mod gradients;
mod influence;
mod kernel;
mod patch;
mod project;
mod texts;
mod trace;

/// Look inside a model or a kernel, or at what an adapter changes
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Trace(trace::Args),
    Diff(diff::Args),
    Compare(compare::Args),
    Patch(patch::Args),
    Direction(direction::Args),
    Project(project::Args),
    Gradients(gradients::Args),
    Influence(influence::Args),
    Kernel(kernel::Args),
}

/// Runs the command.
///
/// # Errors
/// Those of the subcommand.
pub fn run(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::Trace(args) => trace::run(args),
        Command::Diff(args) => diff::run(args),
        Command::Compare(args) => compare::run(args),
        Command::Patch(args) => patch::run(args),
        Command::Direction(args) => direction::run(args),
        Command::Project(args) => project::run(args),
        Command::Gradients(args) => gradients::run(args),
        Command::Influence(args) => influence::run(args),
        Command::Kernel(args) => kernel::run(args),
    }
}
