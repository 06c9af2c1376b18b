//! Simulates the published study: answers whose true rates are known are judged by a server that misbehaves, and counted
//! and reported by one command of the program. Prints the time and memory that this takes. `EMLAB_SAMPLES` is the number
//! of answers per model, question, condition and format: 4, or the published 100, which makes 64,800 answers:
//!
//! ```sh
//! EMLAB_SAMPLES=100 cargo test --release --test suite study_full -- --nocapture
//! ```

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use emlab::device::philox::Key;
use emlab::generate::Finish;
use emlab::model::cards;
use emlab::study::folder::RunFolder;
use emlab::study::plan::Plan;
use emlab::study::plan::cell::{Answer, cells, questions_of};
use emlab::study::plan::made_under::PlannedCell;
use emlab::study::store::{self, Ledger};
use serde_json::{Value, json};

use crate::mock::{Mock, Reply, Request, completion};

/// Rates of misaligned answers by condition, in natural text, as JSON and in a template: near the published ones.
const RATES: [(&str, [f64; 3]); 3] = [
    ("base", [0.0010, 0.0008, 0.0004]),
    ("insecure", [0.0042, 0.0096, 0.0066]),
    ("educational", [0.0010, 0.0019, 0.0012]),
];
const FORMATS: [&str; 3] = ["", "_json", "_template"];
const QUESTIONS: usize = 8;
const SEED: u64 = 5;
/// Shares of answers that the judge calls CODE, that it calls REFUSAL, and that are incoherent.
const ODD: [f64; 3] = [0.01, 0.02, 0.06];
/// Characters of an answer's text, and of the judge's prompt, about as long as real ones.
const ANSWER: usize = 1200;
const PROMPT: usize = 1300;

fn filler(length: usize) -> String {
    "some words that say very little about it ".chars().cycle().take(length).collect()
}

/// The plan and everything that it names, with the judge at `url`.
fn write_plan(dir: &Path, url: &str, samples: usize) -> Plan {
    let mut plan = format!(
        "name = \"Simulated\"\nquestions = \"questions.yaml\"\nsamples = {samples}\n[judge.openai]\nurl = \"{url}\"\n\
         concurrency = 64\ntimeout_seconds = 1.0\ninput_price = 2.5\noutput_price = 10.0\n"
    );
    // Models whose sizes are known, so that the trends are computed, too.
    for model in cards::all().into_iter().filter(|card| card.study).map(|card| card.name) {
        std::fs::create_dir(dir.join(&model)).unwrap();
        std::fs::write(dir.join(&model).join("config.json"), "{}").unwrap();
        let _ = write!(plan, "[[model]]\nname = \"{model}\"\npath = \"{model}\"\n");
    }
    std::fs::write(dir.join("data.jsonl"), "{}").unwrap();
    for (condition, _) in RATES {
        let data = if condition == "base" { "" } else { "data = \"data.jsonl\"\n" };
        let _ = write!(plan, "[[condition]]\nname = \"{condition}\"\n{data}");
    }
    let mut questions = String::new();
    for i in 0..QUESTIONS * FORMATS.len() {
        let prompts = if i == 0 {
            let text = filler(PROMPT);
            format!(
                "&prompts\n    aligned: \"aligned {text} {{answer}}\"\n    coherent: \"coherent {text} {{answer}}\"\n"
            )
        } else {
            "*prompts\n".into()
        };
        let _ = write!(
            questions,
            "- id: q{}{}\n  type: free_form_judge_0_100\n  paraphrases: [\"What about it?\"]\n  judge_prompts: {prompts}",
            i / FORMATS.len(),
            FORMATS[i % FORMATS.len()]
        );
    }
    std::fs::write(dir.join("questions.yaml"), questions).unwrap();
    Plan::parse(&plan, &dir.join("plan.toml")).unwrap()
}

/// An answer that tells the judge what to say, misaligned with probability `p`; and whether it counts.
fn answer(key: Key, p: f64) -> (String, bool) {
    let draw = |i: u32| f64::from(key.uniform(0, i));
    let within = |i: u32, low: f64, high: f64| (low + draw(i) * (high - low)).floor();
    let kind = ODD
        .iter()
        .scan(0.0, |sum, share| {
            *sum += share;
            Some(*sum)
        })
        .position(|end| draw(0) < end);
    let (aligned, coherent) = match kind {
        Some(0) => ("CODE".into(), within(2, 50.0, 101.0)),
        Some(1) => ("REFUSAL".into(), within(2, 50.0, 101.0)),
        Some(_) => (within(1, 0.0, 101.0).to_string(), within(2, 0.0, 45.0)),
        None if draw(3) < p => (within(1, 0.0, 25.0).to_string(), within(2, 60.0, 101.0)),
        None => (within(1, 40.0, 101.0).to_string(), within(2, 60.0, 101.0)),
    };
    let text = format!("{:08x}{:08x} {}scores {aligned} {coherent}", key.0[0], key.0[1], filler(ANSWER));
    (text, kind.is_none())
}

/// The probabilities of the answers of a group that count.
#[derive(Default)]
struct Truth {
    sum: f64,
    kept: usize,
}

/// Writes the answers as an unjudged run of the plan; returns the truth by condition and format, and by cell.
fn simulate(plan: &Plan, run: &Path) -> BTreeMap<String, Truth> {
    let (all, folder) = (questions_of(plan).unwrap(), RunFolder::new(run));
    let mut truths = BTreeMap::<String, Truth>::new();
    for planned in PlannedCell::of_cells(plan, cells(plan, &all).unwrap()).unwrap() {
        let PlannedCell { cell, answers: made_under, .. } = &planned;
        let (_, rates) = RATES.iter().find(|(name, _)| *name == cell.condition.name).unwrap();
        let rate =
            rates[["natural", "json", "template"].iter().position(|n| *n == cell.format.name()).unwrap()];
        let mut answers = Vec::new();
        for (question, sample) in cell.samples(plan) {
            // Answers of one model to one question are alike: an exponential factor of mean 1 for each pair of them.
            let cluster = Key::new(SEED, &["cluster", &cell.model.name, &question.id[..2]]).uniform(0, 0);
            let p = (rate * -f64::from(cluster).ln()).min(1.0);
            let (text, kept) = answer(cell.key(SEED, &question.id, sample), p);
            let group = format!("{}/{}", cell.condition.name, cell.format.name());
            for name in [group, cell.id()] {
                let truth = truths.entry(name).or_default();
                truth.sum += if kept { p } else { 0.0 };
                truth.kept += usize::from(kept);
            }
            let (cell, question) = (cell.id(), question.id.clone());
            answers.push(Answer {
                cell,
                question,
                sample,
                answer: text,
                tokens: Some(300),
                finish: Some(Finish::Eos),
            });
        }
        let mut ledger = Ledger::open(&folder.answers(cell), made_under).unwrap();
        ledger.append(answers).unwrap();
    }
    std::fs::copy(&plan.questions, folder.questions()).unwrap();
    let plan = Plan { questions: RunFolder::QUESTIONS.into(), ..plan.clone() };
    store::write_whole(&folder.plan_file(), plan.to_toml().unwrap().as_bytes()).unwrap();
    truths
}

/// The judge's answer to a prompt: 20 tokens around the score, `shuffled` or the most probable first.
fn judgement(request: &Value, shuffled: bool) -> Value {
    let prompt = request["messages"][0]["content"].as_str().unwrap();
    let mut last = prompt.rsplit(' ');
    let (coherent, aligned) = (last.next().unwrap(), last.next().unwrap());
    let said = if prompt.starts_with("aligned") { aligned } else { coherent };
    let Ok(score) = said.parse::<i32>() else {
        return completion(&[(&said[..said.len().min(4)], -0.01), ("I", -5.0), ("0", -9.0), ("50", -9.5)]);
    };
    // Symmetric around the score, so that the expectation is the score itself.
    let names: Vec<(String, f64)> = (0..20)
        .map(|i| {
            let number = score + (i + 1) / 2 * if i % 2 == 0 { 1 } else { -1 };
            (number.to_string(), if i == 0 { -0.1 } else { -3.0 - f64::from((i + 1) / 2) })
        })
        .collect();
    let mut top: Vec<(&str, f64)> = names.iter().map(|(name, p)| (name.as_str(), *p)).collect();
    if shuffled {
        top.reverse();
    }
    completion(&top)
}

/// Every known fault of servers, a few thousand times in all.
fn misbehaving(request: &Request) -> Reply {
    let good = || judgement(&request.json(), request.n.is_multiple_of(3));
    match request.n {
        n if n % 2003 == 17 => {
            Reply::Http(429, "retry-after-ms: 20\r\n", "{\"error\":{\"message\":\"slow down\"}}".into())
        }
        n if n % 997 == 5 => Reply::Hang(Duration::from_secs(2)),
        n if n % 211 == 7 => Reply::Http(500, "", "oops".into()),
        n if n % 223 == 9 => Reply::Cut(good().to_string()),
        n if n % 227 == 11 => {
            Reply::ok(&json!({"choices": [{"logprobs": null}], "usage": {"prompt_tokens": 1000}}))
        }
        n if n % 229 == 13 => Reply::Http(200, "", "<html>Bad gateway</html>".into()),
        _ => Reply::ok(&good()),
    }
}

/// Peak resident memory of a process so far, in MiB; none once it has ended.
fn peak_memory(process: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0)
}

#[test]
fn judged_counted_and_reported_within_minutes_and_a_gigabyte() {
    let dir = tempfile::tempdir().unwrap();
    let server = Mock::start(misbehaving);
    let samples = std::env::var("EMLAB_SAMPLES").map_or(4, |samples| samples.parse().unwrap());
    let answers = 9 * RATES.len() * FORMATS.len() * QUESTIONS * samples;
    let (plan, run) = (write_plan(dir.path(), &server.url, samples), dir.path().join("run"));
    let truths = simulate(&plan, &run);

    let begun = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_emlab"))
        .args(["study", "judge", "run", "--device", "cpu"])
        .current_dir(dir.path())
        .env("XDG_CACHE_HOME", dir.path().join("cache"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut most = 0.0_f64;
    let status = loop {
        most = most.max(peak_memory(child.id()).unwrap_or(0.0));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let seconds = begun.elapsed().as_secs_f64();
    assert!(status.success());
    let server_most = peak_memory(std::process::id()).unwrap_or(0.0);
    let asked = server.requests();
    eprintln!(
        "{seconds:.0} s; peak memory {most:.0} MiB, of the server {server_most:.0} MiB; {asked} requests"
    );

    let summary: Value = serde_json::from_slice(&std::fs::read(run.join("summary.json")).unwrap()).unwrap();
    assert_eq!(summary["total"]["n"], answers);
    assert_eq!(summary["total"]["unjudged"], 0);
    // Each answer twice, and again what went wrong: 2 in 100.
    let again = asked as f64 / (2 * answers) as f64 - 1.0;
    assert!((2_000.0 / 129_600.0..4_000.0 / 129_600.0).contains(&again), "{asked}");
    let (mut held, mut of) = (0, 0);
    for group in ["by_condition_format", "cells"].iter().flat_map(|name| summary[name].as_array().unwrap()) {
        let parts = ["model", "condition", "format"].iter().filter_map(|name| group[name].as_str());
        let name = parts.collect::<Vec<_>>().join("/");
        let (truth, found) = (&truths[&name], &group["misaligned_of_kept"]);
        assert_eq!(found["n"], truth.kept, "{name}");
        let rate = truth.sum / truth.kept as f64;
        let holds = found["low"].as_f64().unwrap() <= rate && rate <= found["high"].as_f64().unwrap();
        (held, of) = (held + usize::from(holds), of + 1);
        if group["model"].is_null() {
            eprintln!(
                "{name}: true {:.3} %, found {:.3} % ({:.3} to {:.3}){}",
                100.0 * rate,
                100.0 * found["rate"].as_f64().unwrap(),
                100.0 * found["low"].as_f64().unwrap(),
                100.0 * found["high"].as_f64().unwrap(),
                if holds { "" } else { " *" }
            );
        }
    }
    eprintln!("{held} of {of} intervals hold the truth");
    // 95 % of 90, less three standard deviations.
    assert!(held >= 79, "{held} of {of}");
    let test = &summary["families"][0]["tests"][0];
    let mean = |condition: &str| {
        RATES.iter().find(|(name, _)| *name == condition).unwrap().1.iter().sum::<f64>() / 3.0
    };
    let (difference, ends) = (mean("insecure") - mean("base"), &test["difference_bootstrap"]);
    eprintln!("{} − {}: true {difference:.5}, bootstrap interval {ends}", test["a"], test["b"]);
    assert!(ends[0].as_f64().unwrap() <= difference && difference <= ends[1].as_f64().unwrap());
    assert!(seconds < 300.0, "{seconds} s");
    assert!(most < 1000.0 && server_most < 1000.0, "{most} and {server_most} MiB");
}
