//! `emlab bench`: every op at the sizes of real models, timed and held against what this card can do.

mod cases;
mod clock;
mod measure;
mod peer;
mod report;

use std::path::PathBuf;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use emlab::device::Device;
use emlab::error::Error;
use emlab::model::cards::{self, Card};
use emlab::model::place::Place;
use indicatif::{ProgressBar, ProgressStyle};

use super::engine::DeviceArgs;
use cases::{Case, Inputs};
use clock::Clock;
use measure::Times;
use report::{Report, Row};

/// Time every op at the sizes of real models, beside what this machine can do
///
/// Each op of src/ops, forward and backward, runs many times on random inputs, the cache overwritten between runs; the
/// median counts. Rates are held against a copy and the best matrix product measured in the same run. With --peer the
/// times of another engine (tools/peers/ops_torch.py) stand beside them: a ratio above 1 means that emlab is faster.
/// tools/bench.sh runs both.
///
/// Example: emlab bench --only norm,linear --model qwen3-8b --csv bench.csv
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    device: DeviceArgs,
    /// Ops to time: "norm" for all of a file, "norm backward" for one; all if left out
    #[arg(long, value_name = "OP", value_delimiter = ',')]
    only: Vec<String>,
    /// Cards whose sizes are taken (`emlab models` lists them)
    #[arg(long, value_name = "NAME", num_args = 1.., default_values = ["qwen3-8b", "gemma-3-4b-it"])]
    model: Vec<String>,
    /// Tokens of a training pass
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(16..=65536))]
    tokens: u32,
    /// Write the times as CSV (columns: benches/results/README.md)
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write the times as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Times of another engine on the same card, in the same columns
    #[arg(long, value_name = "FILE")]
    peer: Option<PathBuf>,
    /// Time nothing: list what would be timed
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
    let mut report = Report::new(machine(place), peers);
    if args.list {
        report.rows = cases.iter().map(Row::new).collect();
    } else {
        report.rows = time_all(cases, &inputs)?;
        report.machine.state = state(place);
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
    let rows = cases.into_iter().map(|case| {
        bar.set_message(format!("{} {} {}", case.op, case.model, case.sizes));
        let row = time(case, inputs, &mut clock);
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

/// A case's row; what went wrong, if something did, is its note.
fn time(case: Case, inputs: &Inputs, clock: &mut Clock) -> Row {
    let mut row = Row::new(&case);
    let measured: emlab::Result<Times> =
        case.prepare(inputs).and_then(|mut work| measure::times(clock, inputs.place, &mut work));
    match measured {
        Ok(times) => row.times = Some(times),
        Err(error) => row.note = report::note(&error),
    }
    row
}

/// Where and when the figures were read.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The card, or the CPU's architecture and threads.
    pub name: String,
    pub precision: &'static str,
    /// "2026-11-25T08:30Z".
    pub date: String,
    pub state: State,
}

/// The card at the end of the run, as far as nvidia-smi says.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Clock of the multiprocessors, in MHz.
    pub clock: Option<u32>,
    /// Degrees Celsius.
    pub temperature: Option<u32>,
}

fn machine(place: Place) -> Machine {
    let name = match place.device {
        Device::Cuda(gpu) => gpu.facts().name.clone(),
        Device::Cpu => format!("{} CPU, {} threads", std::env::consts::ARCH, rayon::current_num_threads()),
    };
    Machine { name, precision: place.real.name(), date: now(), state: State::default() }
}

fn state(place: Place) -> State {
    if place.device == Device::Cpu {
        return State::default();
    }
    let query = ["--query-gpu=clocks.sm,temperature.gpu", "--format=csv,noheader,nounits", "--id=0"];
    let Ok(output) = Command::new("nvidia-smi").args(query).output() else { return State::default() };
    let text = String::from_utf8_lossy(&output.stdout);
    let mut numbers = text.trim().split(',').map(|number| number.trim().parse().ok());
    State { clock: numbers.next().flatten(), temperature: numbers.next().flatten() }
}

/// The minute, in universal time.
fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, minutes) = (seconds / 86_400, seconds / 60 % 1440);
    let [year, month, day] = date(days);
    format!("{year}-{month:02}-{day:02}T{:02}:{:02}Z", minutes / 60, minutes % 60)
}

/// Year, month and day of a day counted from 1970-01-01.
fn date(mut days: u64) -> [u64; 3] {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    [year, month, days + 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let expected =
            [(0, [1970, 1, 1]), (11_016, [2000, 2, 29]), (20_513, [2026, 3, 1]), (20_818, [2026, 12, 31])];
        for (days, day) in expected {
            assert_eq!(date(days), day);
        }
    }

    #[test]
    fn cases_have_names_of_their_own_and_some_work_to_do() {
        let cases = cases::all(&cards::all(), 4096, &Inputs::new(Place::CPU)).unwrap();
        let mut names: Vec<_> = cases.iter().map(|case| (case.op, &case.model, &case.sizes)).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(cases.iter().all(|case| case.bytes > 0.0 && !case.sizes.contains(',')));
    }
}
