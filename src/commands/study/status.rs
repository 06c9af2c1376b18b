//! `emlab study status`: the progress of a run.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use emlab::study::run::status::{CellStatus, RecordCount, Status, status};
use emlab::study::store::lock::Holder;

/// Show the progress of a run
///
/// For each cell: what is being done, how many of the answers and of each judge's judgements (one for each answer and
/// metric) exist, and for work in progress the speed per minute and the time left. Then the processes at work, the cost of
/// the judges, and damaged records. Only reads, so it can be used while the run is in progress.
///
/// Example: emlab study status runs/first --watch 5
#[derive(clap::Args)]
pub struct Args {
    /// The run's folder
    dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Repeat every so many seconds until everything is done
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    watch: Option<u64>,
}

/// Runs the command.
///
/// # Errors
/// If the run cannot be read.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let live = args.watch.is_some() && std::io::stdout().is_terminal();
    loop {
        let status = status(&args.dir)?;
        let mut text = match (args.json, args.watch) {
            (false, _) => text(&status),
            (true, None) => serde_json::to_string_pretty(&status)? + "\n",
            // One line each time, for programs that follow.
            (true, Some(_)) => serde_json::to_string(&status)? + "\n",
        };
        if live {
            // Overwrites the previous text line by line, without flicker.
            text = format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"));
        }
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("stdout")?;
        match args.watch {
            Some(seconds) if !status.is_done() => std::thread::sleep(Duration::from_secs(seconds)),
            _ => return Ok(()),
        }
        if !live && !args.json {
            writeln!(out).context("stdout")?;
        }
    }
}

fn text(status: &Status) -> String {
    let mut rows = vec![vec!["cell".to_string(), "state".into(), "answers".into()]];
    rows[0].extend(status.judges.iter().map(|judge| judge.judge.clone()));
    rows[0].extend(["a minute".into(), "left".into()]);
    rows.extend(status.cells.iter().map(row));
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (i, (field, width)) in row.iter().zip(&widths).enumerate() {
            // Writing to a string does not fail.
            let _ = if i < 2 { write!(line, "{field:<width$}  ") } else { write!(line, "{field:>width$}  ") };
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    let mut holders: Vec<String> = status.holder.iter().map(|of_run| holder(of_run, "it")).collect();
    holders.extend(status.cells.iter().filter_map(|cell| Some(holder(cell.holder.as_ref()?, &cell.cell))));
    let nobody = || "no process works on it".to_string();
    let _ = writeln!(text, "\n{}", if holders.is_empty() { nobody() } else { holders.join("\n") });
    for judge in &status.judges {
        let cost = if judge.charged.requests > 0 { format!(", {}", judge.charged) } else { String::new() };
        let _ = writeln!(text, "judge {}: {} judgements{cost}", judge.judge, judge.judgements);
    }
    for damage in status.cells.iter().flat_map(|cell| &cell.damage) {
        let _ = writeln!(text, "{damage}");
    }
    text
}

fn row(cell: &CellStatus) -> Vec<String> {
    let of = |count: &RecordCount| format!("{}/{}", count.done, count.wanted);
    let mut row = vec![cell.cell.clone(), cell.state.name().into(), of(&cell.answers)];
    row.extend(cell.judged.iter().map(|judged| of(&judged.count)));
    // At most one of a cell's counts grows.
    let mut counts = std::iter::once(&cell.answers).chain(cell.judged.iter().map(|judged| &judged.count));
    let speed = counts.find_map(|count| Some((count.per_minute?, count.minutes_left?)));
    row.extend(
        speed.map_or([String::new(), String::new()], |(speed, left)| [format!("{speed:.0}"), minutes(left)]),
    );
    row
}

fn holder(holder: &Holder, what: &str) -> String {
    let Holder { process, host, since, .. } = holder;
    let at = if host.is_empty() { String::new() } else { format!(" on {host}") };
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    format!(
        "process {process}{at} has worked on {what} for {}",
        minutes(now.saturating_sub(*since) as f64 / 60.0)
    )
}

fn minutes(minutes: f64) -> String {
    if minutes < 1.0 {
        format!("{:.0} s", minutes * 60.0)
    } else if minutes < 100.0 {
        format!("{minutes:.0} min")
    } else {
        format!("{:.1} h", minutes / 60.0)
    }
}
