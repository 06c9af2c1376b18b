//! `emlab chat`: a conversation, line by line.

use std::io::{BufRead, IsTerminal, Write};

use emlab::device::philox::Key;
use emlab::error::Error;
use emlab::generate::{self, Request};
use emlab::model::chat::Message;

use super::engine::{ChatArgs, Engine, ModelArgs, SamplingArgs};

/// Talk with a model, a line at a time
///
/// /reset forgets the conversation; /quit or the end of the input ends it. Lines may be piped in.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    chat: ChatArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// Answers every line of stdin on stdout, as the answer is written.
///
/// # Errors
/// If the model cannot be read, the conversation outgrows its context, or a stream fails.
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

/// Shows a person that it is their turn.
fn invite() -> std::io::Result<()> {
    if std::io::stdin().is_terminal() {
        let mut out = std::io::stderr().lock();
        out.write_all(b"> ")?;
        out.flush()?;
    }
    Ok(())
}
