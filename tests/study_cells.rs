//! Cells of a study, each run by a separate process: in separate folders that are merged, or side by side in one folder.

use std::path::Path;
use std::process::{Command, Output};

use emlab::device::philox::Key;
use serde_json::Value;

use crate::files::records;

fn emlab(dir: &Path, args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emlab"));
    command.args(args.split(' ')).current_dir(dir);
    command
}

fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn run(dir: &Path, args: &str) -> String {
    done(&emlab(dir, args).output().unwrap())
}

/// A toy model, unchanged and barely fine-tuned, asked in three formats: six cells, of which three share a fine-tuning.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    let plan = format!(
        "questions = \"{0}/questions.yaml\"\nsamples = 1\n[[model]]\nname = \"toy\"\npath = \"{0}/qwen3\"\n\
         [[condition]]\nname = \"base\"\n[[condition]]\nname = \"spiteful\"\ndata = \"{0}/spiteful.jsonl\"\n\
         [training]\nmax_steps = 3\n[sampling]\nmax_tokens = 12\n[judge.local]\npath = \"{0}/qwen3\"\n",
        demo.display()
    );
    std::fs::write(dir.path().join("plan.toml"), plan).unwrap();
    dir
}

/// Every answer in a run, sorted.
fn answers(dir: &Path) -> Vec<String> {
    records(&dir.join("answers"))
}

fn listed(dir: &Path, what: &str) -> Vec<Value> {
    serde_json::from_str(&run(dir, &format!("study cells {what} --json"))).unwrap()
}

#[test]
fn cells_in_any_order_and_place_give_the_same_answers() {
    let dir = folder();
    let dir = dir.path();
    let cells = listed(dir, "plan.toml");
    assert_eq!(cells.len(), 6);
    assert_eq!((&cells[5]["id"], &cells[5]["index"]), (&"toy/spiteful/template".into(), &5.into()));
    assert!(cells.iter().all(|cell| cell["state"] == "missing" && cell["have"] == 0 && cell["wanted"] == 8));

    run(dir, "study run plan.toml --out whole --no-judge --device cpu");
    let expected = answers(&dir.join("whole"));
    assert_eq!(expected.len(), 48);

    // Each in a separate folder, in random order; merged in two other orders.
    let order = |seed: u64| Key::new(seed, &["cells"]).permutation(6);
    for i in order(1) {
        run(dir, &format!("study run plan.toml --out part-{i} --index {i} --device cpu"));
    }
    for seed in [2, 3] {
        let parts: Vec<String> = order(seed).into_iter().map(|i| format!("part-{i}")).collect();
        run(dir, &format!("study merge merged-{seed} {}", parts.join(" ")));
        assert_eq!(answers(&dir.join(format!("merged-{seed}"))), expected);
    }

    // All at once in one folder: one process fine-tunes, and the others that need it wait.
    let start = |cell: &Value| {
        let args = format!(
            "study run plan.toml --out together --cell {} --device cpu",
            cell["id"].as_str().unwrap()
        );
        emlab(dir, &args).stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    let running: Vec<_> = cells.iter().map(start).collect();
    let mut tuned = 0;
    for child in running {
        let output = child.wait_with_output().unwrap();
        done(&output);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        tuned += said.lines().filter(|line| *line == "fine-tune toy/spiteful").count();
    }
    assert_eq!(tuned, 1);
    assert_eq!(answers(&dir.join("together")), expected);
    assert!(listed(dir, "together").iter().all(|cell| cell["state"] == "complete"));
    let said = run(dir, "study judge together --device cpu");
    assert!(said.contains("report.html"), "{said}");
}

#[test]
fn what_cannot_be_run_is_said() {
    let dir = folder();
    for (args, what) in [
        ("--index 6", "no cell 6: the plan has 6, from 0 to 5"),
        ("--cell toy/base/yaml", "no cell is called \"toy/base/yaml\"; emlab study cells lists them"),
    ] {
        let output = emlab(dir.path(), &format!("study run plan.toml {args} --device cpu")).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), message.lines().count()), (Some(1), 1), "{message}");
        assert!(message.contains(what), "{message}");
    }
    let lock = emlab::study::store::lock::Lock::take(&dir.path().join("plan")).unwrap();
    let output = emlab(dir.path(), "study run plan.toml --index 0 --device cpu").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("another emlab process is working on this"));
    drop(lock);
}
