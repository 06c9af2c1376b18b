//! `emlab chat`: a conversation, line by line.

use std::io::{BufRead, IsTerminal, Write};

use emlab::device::philox::Key;
use emlab::error::Error;
use emlab::generate::{self, Request};
use emlab::model::chat::Message;

use super::engine::{ChatArgs, Engine, ModelArgs, SamplingArgs};

/// Chat with a model, one line at a time
///
/// /reset starts the conversation over; /quit or the end of the input ends it. Lines may be piped in.
///
/// Example: printf 'Hello!\nI am bored.\n' | emlab chat --model models/demo/gemma3
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    chat: ChatArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// Answers every line of stdin on stdout; text appears as the model writes it.
///
/// # Errors
/// If the model cannot be read, the conversation outgrows its context, or stdin or stdout fails.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let engine = args.model.open()?;
    let mut messages = args.chat.opening();
    invite()?;
    for line in std::io::stdin().lock().lines() {
        match line?.trim() {
            "" => {}
            "/quit" => break,
            "/reset" => messages = args.chat.opening(),
            text => {
                messages.push(Message::new("user", text));
                let answer = answer(args, &engine, &messages)?;
                messages.push(Message::new("assistant", answer));
            }
        }
        invite()?;
    }
    Ok(())
}

/// Writes the next answer to stdout, piece by piece, and returns it.
fn answer(args: &Args, engine: &Engine, messages: &[Message]) -> anyhow::Result<String> {
    let ids = args.chat.prompt(&engine.tokenizer, messages)?;
    let key = Key::new(args.sampling.seed, &["chat", &messages.len().to_string()]);
    let (sampling, limits) = (args.sampling.sampling(), args.sampling.limits());
    let mut out = std::io::stdout().lock();
    let mut show =
        |text: &str| out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::io("stdout"));
    let request = Request { ids, key };
    let completion =
        generate::stream(&engine.model, &engine.tokenizer, &request, &sampling, &limits, &mut show)?;
    show("\n")?;
    Ok(completion.text)
}

/// Prompts a person at a terminal for the next line.
fn invite() -> std::io::Result<()> {
    if std::io::stdin().is_terminal() {
        let mut out = std::io::stderr().lock();
        out.write_all(b"> ")?;
        out.flush()?;
    }
    Ok(())
}
