//! A kernel's page as text.

use std::collections::HashSet;

use emlab::device::compile::Define;
use emlab::inspect::kernel::measured::Measured;
use emlab::inspect::kernel::resources::Resources;
use emlab::inspect::kernel::source::Excerpt;
use emlab::inspect::kernel::{Page, Pair};

use super::Compiled;
use super::layout::{annotated, beside, paragraph, rule, table};

/// The whole page.
pub fn text(page: &Page, compiled: &Compiled, width: usize) -> String {
    let mut sections = Vec::new();
    if let Some(definition) = page.definition {
        sections.push(section("Maths", definition, &paragraph(&plain(&page.maths), width), width));
    }
    let file = format!("kernels/{}.cu", page.name);
    sections.push(section("Kernel", &file, &paragraph(&page.head, width), width));
    sections.push(resources(compiled, width));
    sections.push(measured(&page.measured, width));
    if !page.note.is_empty() {
        sections.push(section("Definition", "", &paragraph(page.note, width), width));
    }
    let mut shown = HashSet::new();
    sections.extend(page.functions.iter().map(|pair| sources(pair, &mut shown, width)));
    sections.join("\n")
}

fn section(title: &str, from: &str, body: &str, width: usize) -> String {
    rule(title, from, width) + "\n\n" + body
}

/// A Markdown comment without its code fences; formulas are indented instead.
fn plain(markdown: &str) -> String {
    let (mut inside, mut lines) = (false, Vec::new());
    for line in markdown.lines() {
        if line.starts_with("```") {
            inside = !inside;
            continue;
        }
        lines.push(if inside { format!("    {line}") } else { line.to_owned() });
    }
    lines.join("\n")
}

fn resources(compiled: &Compiled, width: usize) -> String {
    let Compiled { arch, card, model, nvrtc, functions } = compiled;
    let title = format!("On a multiprocessor of {arch}");
    let Some((major, minor)) = nvrtc else {
        let missing = "NVRTC was not found (it comes with the CUDA toolkit, or `pip install nvidia-cuda-nvrtc`): registers and \
                       shared memory are not known.";
        return section(&title, "", &paragraph(missing, width), width);
    };
    let from = format!("NVRTC {major}.{minor}, {model}, {card}");
    let Some(first) = functions.first() else {
        return section(&title, &from, &format!("Has no code for {arch}.\n"), width);
    };
    let common: Vec<&Define> =
        first.constants.iter().filter(|c| functions.iter().all(|f| f.constants.contains(c))).collect();
    let constants = |all: &[&Define]| {
        all.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    };
    let head =
        ["function", "threads", "registers", "static", "dynamic", "spills", "room", "blocks", "occupancy"];
    let (mut rows, mut notes) = (vec![head.map(str::to_owned).to_vec()], vec![String::new()]);
    for function in functions {
        let own: Vec<&Define> = function.constants.iter().filter(|c| !common.contains(c)).collect();
        let note = [function.products.join(", "), constants(&own)];
        notes.push(note.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n"));
        rows.push(row(function));
    }
    let mut parts = vec![annotated(&table(&rows), &notes, width)];
    if !common.is_empty() {
        parts.insert(0, paragraph(&format!("constants  {}", constants(&common)), width));
    }
    let legend = "Registers a thread; static and dynamic shared memory in bytes a block; room for blocks by registers, by \
                  shared memory and by threads, of which the least decides.";
    parts.push(paragraph(legend, width));
    section(&title, &from, &parts.join("\n"), width)
}

fn row(function: &Resources) -> Vec<String> {
    let Resources { function, threads, registers, shared, spills, fits, resident, occupancy, .. } = function;
    let mut cells = vec![function.clone()];
    cells.extend([*threads, *registers, shared[0], shared[1], *spills].map(|n| n.to_string()));
    cells.push(fits.map(|n| n.to_string()).join(" / "));
    cells.extend([resident.to_string(), format!("{:.0} %", 100.0 * occupancy)]);
    cells
}

fn measured(rows: &[Measured], width: usize) -> String {
    let Some(first) = rows.first() else {
        return section("Measured", "", "No figures of its own in benches/results.\n", width);
    };
    let from = format!("{}, {}", first.gpu, first.date);
    let head =
        ["op", "model", "case", "ms", "TB/s", "TFLOP/s", "limit %", "copy %", "peer ms", "ratio", "peer"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    let of_one = rows.iter().all(|row| row.model == first.model);
    for row in rows {
        let percent = |p: Option<f64>| p.map_or(String::new(), |p| format!("{p:.0}"));
        let peer = row.peer.as_ref();
        // For a compute-bound op, the bandwidth says little.
        let bytes = row.copy_percent.is_some() || row.tflops == 0.0;
        lines.push(vec![
            row.op.clone(),
            if of_one { String::new() } else { row.model.clone() },
            sizes(&row.case).to_owned(),
            format!("{:.4}", row.ms),
            if bytes { format!("{:.2}", row.tbs) } else { String::new() },
            if row.tflops > 0.0 { format!("{:.0}", row.tflops) } else { String::new() },
            percent(row.limit_percent),
            percent(row.copy_percent),
            peer.map_or(String::new(), |peer| format!("{:.4}", peer.ms)),
            peer.map_or(String::new(), |peer| format!("{:.2}", peer.ms / row.ms)),
            peer.map_or(String::new(), |peer| peer.via.clone()),
        ]);
    }
    section("Measured", &from, &annotated(&table(&lines), &[], width), width)
}

/// The case's sizes, without redundant parts.
fn sizes(case: &str) -> &str {
    case.trim_start_matches("part=").split(" S=").next().unwrap_or_default()
}

fn sources(pair: &Pair, shown: &mut HashSet<Place>, width: usize) -> String {
    let [left, right] = [&pair.definition, &pair.kernel].map(|pieces| excerpts(pieces, shown));
    let path = |pieces: &[Excerpt]| pieces.first().map(|piece| piece.path.clone());
    let from: Vec<String> = [path(&pair.definition), path(&pair.kernel)].into_iter().flatten().collect();
    section(pair.function, &from.join(" │ "), &beside(&left, &right, width), width)
}

/// A file and a line.
type Place = (String, usize);

/// The excerpts that have not been shown yet, and the names of those that have.
fn excerpts(pieces: &[Excerpt], shown: &mut HashSet<Place>) -> String {
    let (mut lines, mut above) = (Vec::new(), Vec::new());
    // Where the last excerpt ended: one that follows on directly needs no location of its own.
    let mut next = (String::new(), 0);
    let gap = |lines: &mut Vec<String>| lines.extend((!lines.is_empty()).then(String::new));
    for piece in pieces {
        let place = (piece.path.clone(), piece.line);
        if !shown.insert(place.clone()) {
            above.push(&*piece.name);
            continue;
        }
        if place != next {
            gap(&mut lines);
            lines.push(format!("// {}:{}", piece.path, piece.line));
        }
        lines.extend(piece.text.lines().map(str::to_owned));
        next = (piece.path.clone(), piece.line + piece.text.lines().count());
    }
    if !above.is_empty() {
        gap(&mut lines);
        lines.push(format!("// above: {}", above.join(", ")));
    }
    lines.join("\n")
}
