//! The figures as a table for people, as CSV and as JSON.

use std::io::Write;
use std::path::Path;

use crate::Result;
use crate::device::file;
use crate::error::Error;
use serde_json::{Value, json};

use super::case::{COPY, Case};
use super::clock::Clock;
use super::inputs::Inputs;
use super::machine::Machine;
use super::measure::{self, Times};
use super::peer::Peer;

/// How a case for which there is no kernel is marked.
const MISSING: &str = "no kernel yet";

/// The columns of the CSV file; benches/results/README.md says what they hold.
const COLUMNS: [&str; 20] = [
    "op",
    "model",
    "case",
    "via",
    "ms",
    "ms_p10",
    "ms_p90",
    "runs",
    "gflop",
    "mbyte",
    "tflops",
    "tbs",
    "limit_percent",
    "copy_percent",
    "note",
    "precision",
    "gpu",
    "clock_mhz",
    "celsius",
    "date",
];

/// One case and its time.
#[derive(Clone, Debug)]
pub struct Row {
    /// As [`Case::op`].
    pub op: &'static str,
    /// As [`Case::model`].
    pub model: String,
    /// As [`Case::sizes`].
    pub sizes: String,
    /// As [`Case::flops`].
    pub flops: f64,
    /// As [`Case::bytes`].
    pub bytes: f64,
    /// None if it was not timed.
    pub times: Option<Times>,
    /// Why there is no time.
    pub note: String,
}

impl Row {
    /// A row without a time.
    pub fn new(case: &Case) -> Self {
        Self {
            op: case.op,
            model: case.model.clone(),
            sizes: case.sizes.clone(),
            flops: case.flops,
            bytes: case.bytes,
            times: None,
            note: String::new(),
        }
    }

    /// Times a case on inputs made for it; what went wrong, if something did, becomes the row's note.
    pub fn time(case: Case, inputs: &Inputs, clock: &mut Clock) -> Self {
        let mut row = Self::new(&case);
        let measured =
            case.prepare(inputs).and_then(|mut work| measure::times(clock, inputs.place, &mut work));
        match measured {
            Ok(times) => row.times = Some(times),
            Err(error) => row.note = note(&error),
        }
        row
    }

    /// For a case that comes after a fault.
    pub fn left_out(case: &Case) -> Self {
        Self { note: "not timed: the GPU had failed".into(), ..Self::new(case) }
    }

    /// Whether something else than a missing kernel is in the way.
    pub fn failed(&self) -> bool {
        !self.note.is_empty() && self.note != MISSING
    }

    fn is(&self, peer: &Peer) -> bool {
        (self.op, &self.model, &self.sizes) == (&*peer.op, &peer.model, &peer.sizes)
    }
}

/// A line for the log.
impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let time = self.times.map_or_else(|| self.note.clone(), |t| format!("{:.4} ms", t.median * 1e3));
        write!(f, "{} {} {}: {time}", self.op, self.model, self.sizes)
    }
}

/// An error as one field of a table.
fn note(error: &Error) -> String {
    let text = error.to_string();
    if text.ends_with(MISSING) { MISSING.into() } else { text.replace(['\n', ','], ";") }
}

/// All that was measured.
pub struct Report {
    /// Where and when it was measured.
    pub machine: Machine,
    /// Bytes a second of the largest copy.
    copy: Option<f64>,
    /// Bytes and seconds of copies, by bytes.
    copies: Vec<(f64, f64)>,
    /// FLOP a second of the best product.
    product: Option<f64>,
    /// A row a case.
    pub rows: Vec<Row>,
    peers: Vec<Peer>,
}

impl Report {
    /// A report without rows; `peers` are the times of another engine.
    pub fn new(machine: Machine, peers: Vec<Peer>) -> Self {
        Self { machine, copy: None, copies: Vec::new(), product: None, rows: Vec::new(), peers }
    }

    /// Reads the limits off the rows and the peer's, whichever are higher.
    pub fn finish(&mut self) {
        let largest = self.rows.iter().filter(|row| row.op == COPY).map(|row| row.bytes).fold(0.0, f64::max);
        self.copy = self.best(|row| row.op == COPY && row.bytes == largest, |row| row.bytes);
        let copies = self.rows.iter().filter(|row| row.op == COPY);
        self.copies = copies.filter_map(|row| Some((row.bytes, row.times?.median))).collect();
        self.copies.sort_by(|a, b| a.0.total_cmp(&b.0));
        self.product = self.best(|row| row.op.starts_with("linear "), |row| row.flops);
        if let Some(peer) = self.peers.iter().find(|peer| peer.gpu != self.machine.name) {
            eprintln!("the peer's times are from another card ({}): the ratios say little", peer.gpu);
        }
    }

    /// The highest rate of `work` a second among some rows.
    fn best(&self, among: impl Fn(&Row) -> bool, work: impl Fn(&Row) -> f64) -> Option<f64> {
        let rates = self.rows.iter().filter(|row| among(row)).flat_map(|row| {
            let ours = row.times.map(|times| times.median);
            let peer = self.peer(row).map(|peer| peer.milliseconds * 1e-3);
            ours.into_iter().chain(peer).map(|seconds| work(row) / seconds)
        });
        rates.reduce(f64::max)
    }

    /// The fastest way in which the other engine does the case.
    fn peer(&self, row: &Row) -> Option<&Peer> {
        let peers = self.peers.iter().filter(|peer| row.is(peer));
        peers.min_by(|a, b| a.milliseconds.total_cmp(&b.milliseconds))
    }

    /// Seconds that a perfect program would take on this machine, and whether arithmetic decides them.
    fn limit(&self, row: &Row) -> Option<(f64, bool)> {
        let bytes = row.bytes / self.copy?;
        if row.flops == 0.0 {
            return Some((bytes, false));
        }
        let flops = row.flops / self.product?;
        Some((bytes.max(flops), flops > bytes))
    }

    fn percent(&self, row: &Row) -> Option<f64> {
        Some(100.0 * self.limit(row)?.0 / row.times?.median)
    }

    /// Share of the bandwidth that a copy of as many bytes reaches, which for few bytes is far below that of many.
    fn copy_percent(&self, row: &Row) -> Option<f64> {
        let (_, arithmetic) = self.limit(row)?;
        let seconds = between(&self.copies, row.bytes).filter(|_| !arithmetic)?;
        Some(100.0 * seconds / row.times?.median)
    }

    /// Writes the names of the cases.
    ///
    /// # Errors
    /// If the stream cannot be written.
    pub fn list(&self, out: &mut impl Write) -> std::io::Result<()> {
        self.rows.iter().try_for_each(|row| writeln!(out, "{}, {}, {}", row.op, row.model, row.sizes))
    }

    /// Writes the table.
    ///
    /// # Errors
    /// If the stream cannot be written.
    pub fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        let Machine { name, precision, date, state } = &self.machine;
        let mut facts = vec![name.clone(), (*precision).to_owned(), date.clone()];
        facts.extend(state.clock.map(|mhz| format!("{mhz} MHz")));
        facts.extend(state.temperature.map(|degrees| format!("{degrees} °C")));
        writeln!(out, "{}", facts.join(", "))?;
        if let Some(copy) = self.copy {
            let product = self.product.map_or("unknown".into(), |product| rate(product) + "FLOP/s");
            writeln!(out, "limits: copy{}B/s, best product{product}", rate(copy))?;
        }
        let mut group = (String::new(), String::new());
        for row in &self.rows {
            let (file, rest) = row.op.split_once(' ').unwrap_or((row.op, ""));
            if group != (file.to_owned(), row.model.clone()) {
                group = (file.to_owned(), row.model.clone());
                writeln!(
                    out,
                    "\n{:<62} {:>9} {:>13} {:>5} {:>5}{}",
                    format!("{file}, {}", row.model),
                    "ms",
                    "rate",
                    "%",
                    "copy%",
                    if self.peers.is_empty() { "" } else { "   peer ms  ratio  via" }
                )?;
            }
            // What the columns have no room for.
            let sizes = row.sizes.trim_start_matches("part=").split(" S=").next().unwrap_or_default();
            let name = format!("  {rest:<14} {sizes}");
            writeln!(out, "{name:<62} {}", self.line(row))?;
        }
        self.print_ratios(out)
    }

    fn line(&self, row: &Row) -> String {
        let peer = self.peer(row);
        let Some(times) = row.times else {
            let peer = peer
                .map_or(String::new(), |peer| format!("; peer {:.4} ms, {}", peer.milliseconds, peer.via));
            return row.note.clone() + &peer;
        };
        let arithmetic = self.limit(row).map_or(row.flops > 0.0, |(_, arithmetic)| arithmetic);
        let (work, unit) = if arithmetic { (row.flops, "FLOP/s") } else { (row.bytes, "B/s   ") };
        let rate = rate(work / times.median);
        let [percent, copy] = [self.percent(row), self.copy_percent(row)]
            .map(|percent| percent.map_or(String::new(), |percent| format!("{percent:.0}")));
        let milliseconds = times.median * 1e3;
        let ours = format!("{milliseconds:>9.4} {rate}{unit} {percent:>5} {copy:>5}");
        let Some(peer) = peer else { return ours };
        format!("{ours} {:>9.4} {:>6.2}  {}", peer.milliseconds, peer.milliseconds / milliseconds, peer.via)
    }

    /// The geometric mean of the ratios of each op.
    fn print_ratios(&self, out: &mut impl Write) -> std::io::Result<()> {
        let mut means: Vec<(String, f64, u32)> = Vec::new();
        for row in &self.rows {
            let (Some(peer), Some(times)) = (self.peer(row), row.times) else { continue };
            let log = (peer.milliseconds / (times.median * 1e3)).ln();
            // Passes of training and of decoding are different products.
            let rows =
                row.sizes.split(' ').find(|size| row.op.starts_with("linear ") && size.starts_with("N="));
            let name = format!("{} {}", row.op, rows.unwrap_or_default());
            match means.iter_mut().find(|(known, ..)| *known == name) {
                Some((_, sum, count)) => (*sum, *count) = (*sum + log, *count + 1),
                None => means.push((name, log, 1)),
            }
        }
        if !means.is_empty() {
            writeln!(out, "\nratio to the peer, geometric mean (above 1: emlab is faster)")?;
        }
        for (name, sum, count) in means {
            writeln!(out, "  {name:<32} {:.2}  over {count}", (sum / f64::from(count)).exp())?;
        }
        Ok(())
    }

    /// # Errors
    /// [`Error::Io`].
    pub fn write_csv(&self, path: &Path) -> Result<()> {
        let mut text = COLUMNS.join(",") + "\n";
        for row in &self.rows {
            text += &(self.fields(row).join(",") + "\n");
        }
        file::replace(path, |out| out.write_all(text.as_bytes()))
    }

    fn fields(&self, row: &Row) -> [String; COLUMNS.len()] {
        let time = |read: fn(&Times) -> f64| {
            row.times.as_ref().map_or(String::new(), |t| format!("{:.5}", read(t) * 1e3))
        };
        let rate = |work: f64| row.times.map_or(String::new(), |t| format!("{:.3}", work / t.median / 1e12));
        let number = |number: Option<u32>| number.map_or(String::new(), |n| n.to_string());
        let percent = |percent: Option<f64>| percent.map_or(String::new(), |p| format!("{p:.1}"));
        let Machine { name, precision, date, state } = &self.machine;
        [
            row.op.into(),
            row.model.clone(),
            row.sizes.clone(),
            "emlab".into(),
            time(|t| t.median),
            time(|t| t.low),
            time(|t| t.high),
            row.times.map_or(String::new(), |t| t.runs.to_string()),
            format!("{:.3}", row.flops / 1e9),
            format!("{:.3}", row.bytes / 1e6),
            rate(row.flops),
            rate(row.bytes),
            percent(self.percent(row)),
            percent(self.copy_percent(row)),
            row.note.clone(),
            (*precision).into(),
            name.replace(',', ";"),
            number(state.clock),
            number(state.temperature),
            date.clone(),
        ]
    }

    /// # Errors
    /// [`Error::Io`].
    pub fn write_json(&self, path: &Path) -> Result<()> {
        let Machine { name, precision, date, state } = &self.machine;
        let value = json!({
            "gpu": name,
            "precision": precision,
            "date": date,
            "clock_mhz": state.clock,
            "celsius": state.temperature,
            "copy_tbs": self.copy.map(|rate| rate / 1e12),
            "product_tflops": self.product.map(|rate| rate / 1e12),
            "rows": self.rows.iter().map(|row| self.row_json(row)).collect::<Vec<Value>>(),
        });
        file::replace(path, |out| writeln!(out, "{value:#}"))
    }

    fn row_json(&self, row: &Row) -> Value {
        let peers = self.peers.iter().filter(|peer| row.is(peer));
        json!({
            "op": row.op,
            "model": row.model,
            "case": row.sizes,
            "ms": row.times.map(|t| t.median * 1e3),
            "ms_p10": row.times.map(|t| t.low * 1e3),
            "ms_p90": row.times.map(|t| t.high * 1e3),
            "runs": row.times.map(|t| t.runs),
            "gflop": row.flops / 1e9,
            "mbyte": row.bytes / 1e6,
            "limit_percent": self.percent(row),
            "copy_percent": self.copy_percent(row),
            "note": row.note,
            "peers": peers.map(|peer| json!({"via": peer.via, "ms": peer.milliseconds})).collect::<Vec<Value>>(),
        })
    }
}

/// The line through the two points around `x`, or the nearest two: points by x, at least two.
fn between(points: &[(f64, f64)], x: f64) -> Option<f64> {
    let above = points.partition_point(|point| point.0 < x).clamp(1, points.len().max(2) - 1);
    let [(x0, y0), (x1, y1)] = points.get(above - 1..=above)?.try_into().ok()?;
    Some(y0 + (y1 - y0) * (x - x0) / (x1 - x0))
}

/// A rate in tera or giga, to three places: "2.79 T", " 731 T".
fn rate(rate: f64) -> String {
    let (number, unit) = if rate >= 1e11 { (rate / 1e12, 'T') } else { (rate / 1e9, 'G') };
    let digits = if number >= 100.0 { 0 } else { 2 - number.max(1.0).log10() as usize };
    format!("{number:>5.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_between_copies_lie_on_a_line() {
        let points = [(1.0, 3.0), (2.0, 4.0), (4.0, 8.0)];
        let at = [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0].map(|x| between(&points, x));
        assert_eq!(at, [2.5, 3.0, 3.5, 4.0, 6.0, 8.0, 12.0].map(Some));
        assert_eq!([between(&points[..1], 1.0), between(&[], 1.0)], [None, None]);
    }

    #[test]
    fn rates_have_three_places() {
        let shown = [2.791e12, 73.12e12, 731.2e12, 0.123e12, 7.31e9].map(rate);
        assert_eq!(shown, [" 2.79 T", " 73.1 T", "  731 T", " 0.12 T", " 7.31 G"]);
    }
}
