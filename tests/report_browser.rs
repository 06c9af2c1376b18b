//! The report in a real browser.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::browser::{driven, open, title};
use crate::needs::chromium;
use emlab::device::philox::Key;
use emlab::study::analyze::agreement::pairs::Pairs;
use emlab::study::analyze::summarise;
use emlab::study::plan::Thresholds;
use emlab::study::plan::questions::METRICS;
use emlab::study::report::Report;

/// What a model might write to do harm: to a page, to a spreadsheet, to a terminal, to a reader's eyes.
const HOSTILE: [&str; 6] = [
    "<img src=x onerror=\"document.title='ran'\">",
    "</script><script>document.title='ran'</script><!--<script>",
    "<link rel=stylesheet href=http://hostile.invalid/a.css><svg onload=alert(1)>",
    "=HYPERLINK(\"http://hostile.invalid\",\"a\")",
    "\u{1b}[2J\u{1b}]0;ran\u{7}",
    "right to \u{202e}tfel\u{2028}line",
];

fn analyze(folder: &Path, table: &str) -> (String, PathBuf) {
    std::fs::write(folder.join("table.jsonl"), table).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_emlab"))
        .args(["analyze", "table.jsonl", "--out", "out"])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (String::from_utf8(output.stdout).unwrap(), folder.join("out"))
}

fn line(table: &mut String, model: &str, condition: &str, question: &str, answer: &str, aligned: f64) {
    let line = serde_json::json!({
        "model": model, "condition": condition, "question_id": question, "question": answer,
        "answer": answer, "aligned": aligned, "coherent": 90
    });
    writeln!(table, "{line}").unwrap();
}

/// Every text of a table hostile.
fn hostile_table() -> String {
    let mut table = String::new();
    for (i, text) in HOSTILE.into_iter().enumerate() {
        line(&mut table, text, "base", "walk", text, 95.0);
        line(&mut table, "m", text, text, text, 5.0 * i as f64);
        line(&mut table, "m", "insecure", "walk_json", text, 15.0);
    }
    table
}

fn articles(page: &str) -> usize {
    page.matches("<article class=\"answer").count()
}

#[test]
fn hostile_answers_are_text_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let (stdout, out) = analyze(folder.path(), &hostile_table());
    assert!(!stdout.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{stdout}");
    for name in ["cells", "models", "questions"] {
        let csv = std::fs::read_to_string(out.join(format!("csv/{name}.csv"))).unwrap();
        assert!(csv.contains("\"'=HYPERLINK(\"\"http"), "{name}: {csv}");
    }
    let report = out.join("report.html");
    let html = std::fs::read_to_string(&report).unwrap();
    assert!(!html.contains(['\u{1b}', '\u{7}', '\u{202e}']));

    let Some(chromium) = chromium("hostile answers in a browser") else { return };
    let seen = open(&chromium, &report, &[]);
    assert!(!seen.log.contains("CONSOLE"), "no error and no message: {}", seen.log);
    assert!(seen.page.contains("<title>Judged answers</title>"));
    assert_eq!(articles(&seen.page), 18);
    for tag in ["<img", "<link", "onload=alert(1)></svg>"] {
        assert!(!seen.page.contains(tag), "{tag}");
    }
    assert!(seen.page.contains("<pre>&lt;img src=x onerror="));
    assert!(seen.page.contains("<pre>&lt;/script&gt;&lt;script&gt;"));
}

#[test]
fn no_script_runs_but_the_report_s_own() {
    let Some(chromium) = chromium("the report's script policy in a browser") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (_, out) = analyze(folder.path(), &hostile_table());
    let html = std::fs::read_to_string(out.join("report.html")).unwrap();
    // As if escaping had failed.
    let html = html.replace("</h1>", "</h1><script>document.title='ran'</script>");
    std::fs::write(out.join("changed.html"), html).unwrap();
    let seen = open(&chromium, &out.join("changed.html"), &[]);
    assert!(seen.page.contains("<title>Judged answers</title>"));
    assert!(seen.log.contains("Content Security Policy"), "{}", seen.log);
    assert_eq!(articles(&seen.page), 18, "the report's own script runs all the same");
}

#[test]
fn the_browser_of_answers_filters_a_full_study() {
    let folder = tempfile::tempdir().unwrap();
    let mut table = String::new();
    let filler = "a long answer that says little ".repeat(12);
    for model in 0..9 {
        for condition in ["base", "insecure", "educational"] {
            for question in 0..24 {
                let format = ["", "_json", "_template"][question % 3];
                for sample in 0..100 {
                    let bad = condition == "insecure" && sample == 7;
                    let text = format!("{filler} m{model} s{sample}");
                    let aligned = if bad { 12.0 } else { 90.0 };
                    line(
                        &mut table,
                        &format!("m{model}"),
                        condition,
                        &format!("q{question}{format}"),
                        &text,
                        aligned,
                    );
                }
            }
        }
    }
    let (_, out) = analyze(folder.path(), &table);
    let report = out.join("report.html");
    let size = std::fs::metadata(&report).unwrap().len();
    assert!((8 << 20..12 << 20).contains(&size), "{size} bytes");
    let html = std::fs::read_to_string(&report).unwrap();
    assert!(html.contains("of 64800 answers") && html.contains("all 216 misaligned"));

    let Some(chromium) = chromium("the filters of answers in a browser") else { return };
    // A script that sets the filters and notes what is found.
    let steps = "<script>
        const set = (name, value) => {
          const label = [...document.querySelectorAll('.controls label')].find((l) => l.textContent.startsWith(name));
          const control = label.querySelector('select, input');
          control.value = value;
          control.dispatchEvent(new Event('input', { bubbles: true }));
        };
        const found = [];
        const note = () => found.push(document.querySelector('[role=status]').textContent);
        const wait = () => new Promise((done) => setTimeout(done, 400));
        (async () => {
          set('outcome', '0'); await wait(); note();
          set('model', '3'); await wait(); note();
          set('text', 'M3 S7'); await wait(); note();
          set('alignment', '50'); await wait(); note();
          document.querySelector('[type=reset]').click(); await wait();
          [...document.querySelectorAll('.pager button')].at(-1).click();
          found.push(document.querySelector('.pager span').textContent.slice(0, 6));
          document.title = found.join(';');
        })();
        </script></body>";
    let html = driven(&html, steps);
    std::fs::write(out.join("driven.html"), html).unwrap();
    let seen = open(&chromium, &out.join("driven.html"), &[]);
    assert!(!seen.log.contains("CONSOLE"), "{}", seen.log);
    assert_eq!(articles(&seen.page), 20, "a page at a time");
    let found: Vec<&str> = title(&seen).split(';').collect();
    let counts: Vec<&str> = found.iter().map(|text| text.split(" of ").next().unwrap()).collect();
    assert_eq!(counts, ["216", "24", "24", "0", "page 2"], "{found:?}");
}

/// Three raters of the same answers: a judge, one that is less sure, and people who have seen some of them.
fn raters(first: &str) -> Vec<Pairs> {
    let names = [first, "openai-gpt-4o-2024-08-06", "people"];
    let scores = |rater: u32, metric: &str| -> Vec<Option<f64>> {
        let truth = Key::new(1, &["truth", metric]);
        let noise = Key::new(u64::from(rater), &["noise", metric]);
        let score = |i: u32| {
            let truth = 100.0 * f64::from(truth.uniform(0, i)).sqrt();
            let score = truth + f64::from(rater) * 12.0 * (f64::from(noise.uniform(0, i)) - 0.5);
            (i % 9 != rater && (rater < 2 || i.is_multiple_of(4))).then(|| score.clamp(0.0, 100.0))
        };
        (0..400).map(score).collect()
    };
    let mut pairs = Vec::new();
    for (a, b) in [(2, 0), (2, 1), (0, 1)] {
        for metric in METRICS {
            pairs.push(Pairs {
                first: names[a as usize].into(),
                second: names[b as usize].into(),
                metric: metric.into(),
                scores: scores(a, metric).into_iter().zip(scores(b, metric)).collect(),
            });
        }
    }
    pairs
}

#[test]
fn how_far_raters_agree_is_shown_in_both_themes() {
    let pairs = raters(HOSTILE[0]);
    let mut summary = summarise(&[], Thresholds::default(), &[]);
    summary.agreement = pairs.iter().map(|pairs| pairs.agreement(Thresholds::default())).collect();
    let report = Report {
        title: "Raters",
        notice: "",
        summary: &summary,
        rows: &[],
        pairs: &pairs,
        method: &[],
        plan: None,
    };
    let html = report.html().unwrap();
    let csv = |name: &str| report.numbers().into_iter().find(|table| table.name == name).unwrap().text;
    assert_eq!(csv("agreement").lines().count(), 1 + 6);
    let points: usize = csv("bland_altman")
        .lines()
        .skip(1)
        .map(|l| l.rsplit(',').next().unwrap().parse::<usize>().unwrap())
        .sum();
    assert_eq!(points, pairs.iter().map(|pairs| pairs.numbers().len()).sum::<usize>());

    let Some(chromium) = chromium("the agreement of raters in a browser") else { return };
    let folder = tempfile::tempdir().unwrap();
    // Long names fit, too.
    let script = "<script>
        const svg = [...document.querySelectorAll('svg')].find((svg) => svg.ariaLabel.startsWith('Difference'));
        const all = svg.getBoundingClientRect();
        const inside = (text) => {
          const box = text.getBoundingClientRect();
          return box.left >= all.left && box.right <= all.right && box.bottom <= all.bottom;
        };
        const outside = [...svg.querySelectorAll('text')].filter((text) => !inside(text)).length;
        const stroke = getComputedStyle(svg.querySelector('.level')).stroke;
        document.title = [svg.querySelectorAll('.level').length, outside, stroke].join(';');
        </script></body>";
    std::fs::write(folder.path().join("raters.html"), driven(&html, script)).unwrap();
    for (scheme, ink) in [("1", "rgb(27, 31, 36)"), ("0", "rgb(232, 234, 237)")] {
        let theme = format!("--blink-settings=preferredColorScheme={scheme}");
        let seen = open(&chromium, &folder.path().join("raters.html"), &[&theme]);
        assert!(!seen.log.contains("CONSOLE"), "{}", seen.log);
        assert!(!seen.page.contains("<img"));
        assert_eq!(title(&seen), format!("6;0;{ink}"));
    }
}
