//! The command line: arguments → one call into the library.

mod commands;

use clap::{Parser, Subcommand};

/// An embedded LLM engine and the emergent-misalignment study it exists for.
#[derive(Parser)]
#[command(version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Analyze(commands::analyze::Args),
    Fetch(commands::fetch::Args),
    Info(commands::info::Args),
    Models(commands::models::Args),
}

fn main() -> std::process::ExitCode {
    let run = match Cli::parse().command {
        Command::Analyze(args) => commands::analyze::run(&args),
        Command::Fetch(args) => commands::fetch::run(&args),
        Command::Info(args) => commands::info::run(&args),
        Command::Models(args) => commands::models::run(&args),
    };
    match run {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("emlab: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
