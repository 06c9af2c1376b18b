//! The command line: parses the arguments, runs one command, turns its error into a message and an exit status.

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
    Bench(commands::bench::Args),
    Chat(commands::chat::Args),
    Demo(commands::demo::Args),
    Fetch(commands::fetch::Args),
    Generate(commands::generate::Args),
    Info(commands::info::Args),
    Inspect(commands::inspect::Args),
    Models(commands::models::Args),
    Power(commands::power::Args),
    Score(commands::score::Args),
    Study(commands::study::Args),
    Train(Box<commands::train::Args>),
}

fn main() -> std::process::ExitCode {
    let run = match Cli::parse().command {
        Command::Analyze(args) => commands::analyze::run(&args),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Chat(args) => commands::chat::run(&args),
        Command::Demo(args) => commands::demo::run(&args),
        Command::Fetch(args) => commands::fetch::run(&args),
        Command::Generate(args) => commands::generate::run(&args),
        Command::Info(args) => commands::info::run(&args),
        Command::Inspect(args) => commands::inspect::run(&args),
        Command::Models(args) => commands::models::run(&args),
        Command::Power(args) => commands::power::run(&args),
        Command::Score(args) => commands::score::run(&args),
        Command::Study(args) => commands::study::run(&args),
        Command::Train(args) => commands::train::run(&args),
    };
    match run {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("emlab: {error:#}");
            match error.downcast_ref() {
                // The status a shell reports for a program ended by SIGINT.
                Some(emlab::Error::Interrupted(_)) => std::process::ExitCode::from(130),
                _ => std::process::ExitCode::FAILURE,
            }
        }
    }
}
