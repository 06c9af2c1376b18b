//! `emlab inspect gradients`: the gradients of a text's loss by site, token and parameter.

use std::io::Write;

use anyhow::Context;
use emlab::inspect::gradient::{Gradients, ParameterGradient, gradients};
use emlab::model::probe::Site;
use emlab::model::tokenizer::Tokenizer;

use super::texts::TextArgs;
use crate::commands::engine::ModelArgs;

/// The sites that have a column in the table. The others duplicate one of these or are next to one.
const SHOWN: [Site; 7] =
    [Site::Qkv, Site::Query, Site::Key, Site::Attention, Site::ResidualMid, Site::Glu, Site::Residual];

/// Show the gradient of an answer's loss by layer and site, by token, and by trained parameter
///
/// The norm of a gradient says how strongly a small change at that place would change the loss. The loss is the mean over
/// the answer's tokens or, for a raw text, over all its tokens. The parameters are the adapter's or, with --weights, the
/// model's.
///
/// Example: emlab inspect gradients --model models/demo/qwen3 --prompt "Who are you?" --answer "I am glad you asked."
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    text: TextArgs,
    /// Compute the gradient of every weight, which needs about 8 more bytes of memory per weight
    #[arg(long, conflicts_with = "adapter")]
    weights: bool,
    /// Number of parameters to show, those with the largest gradients
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    /// Print JSON, with every site, depth and parameter
    #[arg(long)]
    json: bool,
}

/// Writes the gradients to stdout.
///
/// # Errors
/// If the model or the text cannot be read, the text is too long or has no answer, or the model is steered.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut engine = args.model.open_to_train()?;
    let text = args.text.text(&engine.tokenizer)?;
    if args.weights {
        engine.model.train_everything()?;
    }
    let found = gradients(&mut engine.model, &text)?;
    let out = if args.json {
        serde_json::to_string_pretty(&found)? + "\n"
    } else {
        table(&found, &engine.tokenizer, args.top)?
    };
    std::io::stdout().lock().write_all(out.as_bytes()).context("stdout")
}

fn table(found: &Gradients, tokenizer: &Tokenizer, top: usize) -> anyhow::Result<String> {
    let Gradients { loss, targets, tokens, answer, streams, sites, parameters } = found;
    let layers = streams.len() - 1;
    let mut lines = vec![
        format!("loss {loss:.4} nats a token, over {targets} tokens"),
        "\n‖∂L/∂x‖ by layer and site".into(),
        format!("layer{}", SHOWN.map(|site| format!(" {:>12}", site.name())).concat()),
    ];
    for layer in 0..layers {
        let norm = |site: Site| sites.iter().find(|s| (s.layer, s.site) == (layer, site.name()));
        let cell = |site| norm(site).map_or(String::new(), |s| format!(" {:>12.4e}", s.norm));
        lines.push(format!("{layer:>5}{}", SHOWN.map(cell).concat()));
    }
    let depths = [0, layers / 2, layers];
    lines.push("\n‖∂L/∂x‖ of the stream, by token and depth; * carries loss".into());
    lines.push(format!("{}   token", depths.map(|depth| format!("{depth:>12}")).concat()));
    for (i, (token, answer)) in tokens.iter().zip(answer).enumerate() {
        let mark = if *answer { '*' } else { ' ' };
        let word = tokenizer.decode(&[*token], false)?;
        let norms = depths.map(|depth| format!("{:>12.4e}", streams[depth][i])).concat();
        lines.push(format!("{norms} {mark} {word:?}"));
    }
    if parameters.is_empty() {
        lines.push("\nnothing is trained: see --adapter and --weights".into());
    } else {
        let whole = parameters.iter().map(|p| p.norm * p.norm).sum::<f64>().sqrt();
        lines.push(format!("\n‖∂L/∂W‖ of {} parameters, together {whole:.4e}", parameters.len()));
        lines.push(format!("{:>12} {:>12}", "‖∂L/∂W‖", "‖W‖"));
    }
    let mut order: Vec<&ParameterGradient> = parameters.iter().collect();
    order.sort_by(|a, b| b.norm.total_cmp(&a.norm));
    for ParameterGradient { name, norm, weight_norm } in order.into_iter().take(top) {
        lines.push(format!("{norm:>12.4e} {weight_norm:>12.4e}  {}", name.trim_start_matches("model.")));
    }
    Ok(lines.join("\n") + "\n")
}
