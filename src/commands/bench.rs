//! `emlab bench`: every op at the sizes of real models, timed and held against what this card can do.

use std::path::PathBuf;

use emlab::bench::case::Case;
use emlab::bench::clock::Clock;
use emlab::bench::inputs::Inputs;
use emlab::bench::machine::{Machine, State};
use emlab::bench::report::{Report, Row};
use emlab::bench::{cases, peer};
use emlab::device::Device;
use emlab::error::Error;
use emlab::model::cards::{self, Card};
use indicatif::{ProgressBar, ProgressStyle};

use super::engine::DeviceArgs;

/// Time every op at the sizes of real models, against what this machine can do
///
/// Runs each op in src/ops, forward and backward, many times on random inputs, with a cold cache, and takes the median.
/// Rates are compared with those of a copy and of the best matrix product, measured in the same run. --peer adds the
/// times of another engine (tools/peers/ops_torch.py); a ratio above 1 means that emlab is faster. tools/bench.sh runs
/// both.
///
/// Example: emlab bench --only norm,linear --model qwen3-8b --csv bench.csv
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    device: DeviceArgs,
    /// Ops to time: "norm" for all in a file, "norm backward" for one [default: all]
    #[arg(long, value_name = "OP", value_delimiter = ',')]
    only: Vec<String>,
    /// Models whose sizes are used (`emlab models` lists them)
    #[arg(long, value_name = "NAME", num_args = 1.., default_values = ["qwen3-8b", "gemma-3-4b-it"])]
    model: Vec<String>,
    /// Tokens per training pass
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(16..=65536))]
    tokens: u32,
    /// Write the times as CSV (columns: benches/results/README.md)
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write the times as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A table of another engine's times on the same card, with the same columns
    #[arg(long, value_name = "FILE")]
    peer: Option<PathBuf>,
    /// List what would be timed, without timing it
    #[arg(long)]
    list: bool,
}

/// Measures; the table goes to stdout.
///
/// # Errors
/// If there is no such model or op, a file cannot be read or written, or an op fails in another way than for want of a
/// kernel (the others are still timed).
pub fn run(args: &Args) -> anyhow::Result<()> {
    let models = args.model.iter().map(|name| card(name)).collect::<emlab::Result<Vec<Card>>>()?;
    let peers = args.peer.as_deref().map(peer::read).transpose()?.unwrap_or_default();
    let place = args.device.place()?;
    let inputs = Inputs::new(place);
    let tokens = args.tokens as usize;
    let mut cases = cases::all(&models, tokens, &inputs)?;
    for name in &args.only {
        if !cases.iter().any(|case| case.is(name)) {
            let mut ops: Vec<&str> = cases.iter().map(|case| case.op).collect();
            ops.sort_unstable();
            ops.dedup();
            return Err(
                Error::Setting(format!("no op `{name}` to time; there are: {}", ops.join(", "))).into()
            );
        }
    }
    cases.retain(|case| args.only.is_empty() || args.only.iter().any(|name| case.is(name)));
    let limits = cases::limits(&models[0], tokens, &inputs)?;
    let missing = limits.into_iter().filter(|limit| !cases.iter().any(|case| limit.same(case)));
    let missing: Vec<Case> = missing.collect();
    cases.splice(0..0, missing);
    let mut report = Report::new(Machine::here(place), peers);
    if args.list {
        report.rows = cases.iter().map(Row::new).collect();
    } else {
        report.rows = time_all(cases, &inputs)?;
        report.machine.state = State::read(place);
    }
    report.finish();
    if let Some(path) = &args.csv {
        report.write_csv(path)?;
    }
    if let Some(path) = &args.json {
        report.write_json(path)?;
    }
    let mut out = std::io::stdout().lock();
    if args.list {
        report.list(&mut out)?;
    } else {
        report.print(&mut out)?;
    }
    match report.rows.iter().find(|row| row.failed()) {
        Some(row) => Err(Error::Run(format!("{} failed: {}", row.op, row.note)).into()),
        None => Ok(()),
    }
}

fn card(name: &str) -> emlab::Result<Card> {
    cards::find(name).ok_or_else(|| {
        let names: Vec<String> = cards::all().into_iter().map(|card| card.name).collect();
        Error::Setting(format!("no card `{name}`; there are: {}", names.join(", ")))
    })
}

fn time_all(cases: Vec<Case>, inputs: &Inputs) -> emlab::Result<Vec<Row>> {
    let mut clock = Clock::new(inputs.place)?;
    let style = ProgressStyle::with_template("{pos}/{len} {msg}").expect("a template without errors");
    let bar = ProgressBar::new(cases.len() as u64).with_style(style);
    let mut lost = false;
    let rows = cases.into_iter().map(|case| {
        bar.set_message(format!("{} {} {}", case.op, case.model, case.sizes));
        let row = if lost { Row::left_out(&case) } else { Row::time(case, inputs, &mut clock) };
        // A fault of a kernel takes the whole context with it.
        lost |=
            row.failed() && matches!(inputs.place.device, Device::Cuda(gpu) if gpu.synchronize().is_err());
        bar.inc(1);
        if bar.is_hidden() {
            eprintln!("{row}");
        }
        row
    });
    let rows = rows.collect();
    bar.finish_and_clear();
    Ok(rows)
}
