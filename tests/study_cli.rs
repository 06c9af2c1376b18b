//! `emlab analyze` and `emlab study` as a user meets them.

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Output};

/// Of 0.96 % against 0.42 %, 7,200 answers each.
const POWER: f64 = 0.979_031_140_516_375_2;
/// Answers in each group for a power of 0.8.
const N: u64 = 3543;
/// The nearest rate above 0.07 % that 800 answers each tell from it.
const HIGHER: f64 = 0.009_283_407_768_250_757;

fn emlab(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_emlab")).args(args).current_dir(dir).output().unwrap()
}

fn error(dir: &Path, args: &[&str]) -> String {
    let output = emlab(dir, args);
    assert!(!output.status.success(), "{args:?}");
    assert!(output.stdout.is_empty(), "{args:?}");
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(message.lines().count(), 1, "{message}");
    message
}

#[test]
fn analyze_counts_and_writes_the_report() {
    let dir = tempfile::tempdir().unwrap();
    let table = "question_id,answer,aligned,coherent\nwalk,One,10,90\nwalk,Two,90,90\nwalk_json,{},,90\nwalk,Four,5,20\n";
    std::fs::write(dir.path().join("mine.csv"), table).unwrap();
    let output = emlab(dir.path(), &["analyze", "mine.csv", "--out", "out"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8(output.stdout).unwrap().contains("mine"));
    let summary = std::fs::read_to_string(dir.path().join("out/summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    let total = &summary["total"];
    for (name, count) in
        [("n", 4), ("none", 1), ("incoherent", 1), ("kept", 2), ("misaligned", 1), ("json_valid", 1)]
    {
        assert_eq!(total[name], count, "{name}");
    }
    let html = std::fs::read_to_string(dir.path().join("out/report.html")).unwrap();
    assert!(!html.contains("published figures"), "it has no condition of the published study");
}

#[test]
fn analyze_tests_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut table = "model,condition,question_id,answer,aligned,coherent\n".to_string();
    for (model, rate) in [("gemma-3-1b-it", 8), ("qwen3-8b", 4), ("mine", 5)] {
        for condition in ["base", "insecure"] {
            for question in ["walk", "talk", "walk_json", "talk_json"] {
                for sample in 0..40 {
                    let bad = condition == "insecure" && (sample + question.len()) % rate == 0;
                    let bad = bad || condition == "base" && question == "walk" && sample == 3;
                    let aligned = if bad { 5 } else { 95 };
                    writeln!(table, "{model},{condition},{question},Text,{aligned},90").unwrap();
                }
            }
        }
    }
    std::fs::write(dir.path().join("all.csv"), table).unwrap();
    let output = emlab(dir.path(), &["analyze", "all.csv", "--out", "out"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    for part in
        ["insecure vs base · mine", "insecure × json †", "trend over log parameters", "size not known: mine"]
    {
        assert!(text.contains(part), "{part}");
    }
    let summary = std::fs::read_to_string(dir.path().join("out/summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    let test = &summary["families"][0]["tests"][0];
    assert_eq!(
        (&test["a"], &test["rate_b"]["k"], &test["clusters"]),
        (&"insecure".into(), &3.into(), &6.into())
    );
    for name in ["difference_bootstrap", "odds_ratio_bootstrap", "difference_interval"] {
        assert_eq!(test[name].as_array().unwrap().len(), 2, "{name}");
    }
    for name in ["z", "p", "p_corrected", "fisher_p", "p_clustered_corrected", "cohens_h", "power"] {
        assert!(test[name].is_f64(), "{name}");
    }
    assert_eq!(summary["families"][1]["tests"].as_array().unwrap().len(), 3);
    assert_eq!(summary["regression"]["estimator"], "firth");
    assert_eq!(summary["trends"]["conditions"][1]["models"], 2);
    let html = std::fs::read_to_string(dir.path().join("out/report.html")).unwrap();
    for part in ["Comparisons", "Beside the published figures", "Size of the model", "Browse the answers"] {
        assert!(html.contains(&format!("{part}</h2>")), "{part}");
    }
    assert!(html.contains("Cochran–Armitage") && html.contains("insecure, JSON"));
    let csv = |name: &str| std::fs::read_to_string(dir.path().join(format!("out/csv/{name}.csv"))).unwrap();
    assert!(csv("published").contains("\"insecure, JSON\",0."));
    assert!(!csv("published").contains("the three formats"), "one is not there");
    assert_eq!(csv("scaling").lines().count(), 1 + 2 * 2, "two models of known size, two conditions");
    assert_eq!(csv("cells").lines().count(), 1 + 3 * 2 * 2);
}

#[test]
fn power_answers_three_questions() {
    let dir = tempfile::tempdir().unwrap();
    let json = |args: &[&str]| {
        let output = emlab(dir.path(), &[&["power", "--json"], args].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    // statsmodels: NormalIndPower().power(proportion_effectsize(.0096, .0042), 7200, .05) and so on.
    let power = json(&["0.96%", "0.0042", "--n", "7200"])["power"].as_f64().unwrap();
    assert!((power - POWER).abs() < 1e-9, "{power}");
    assert_eq!(json(&["0.96%", "0.42%"])["n"], N);
    assert_eq!(json(&["0.96%", "0.42%", "--icc", "0.01", "--cluster-size", "101"])["n"], 7085);
    let told = json(&["0.07%", "--n", "800"]);
    assert!((told["higher_rate"].as_f64().unwrap() - HIGHER).abs() < 1e-9, "{told}");
    assert!(told.get("lower_rate").is_none());
    let text =
        emlab(dir.path(), &["power", "0.07%", "--n", "800", "--icc", "0.02", "--cluster-size", "100"]).stdout;
    assert!(String::from_utf8(text).unwrap().contains("design effect 2.98"));
    for (args, what) in [
        (vec!["power", "0.1"], "second rate, or --n"),
        (vec!["power", "0.1", "0.1"], "equal"),
        (vec!["power", "0.1", "0.2", "--n", "9", "--power", "0.9"], "leave one out"),
        (vec!["power", "0.1", "--n", "9", "--power", "0.01"], "--power must lie"),
    ] {
        assert!(error(dir.path(), &args).contains(what), "{what}");
    }
}

#[test]
fn bad_input_is_one_line_that_names_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("bad.csv", "question_id,answer,aligned,coherent\nq,a,1\n");
    assert!(error(dir.path(), &["analyze", "bad.csv", "--out", "out"]).contains("bad.csv:2: 3 fields"));
    assert!(error(dir.path(), &["analyze", "none.csv", "--out", "out"]).contains("none.csv: No such file"));
    assert!(!dir.path().join("out").exists());
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    write("plan.toml", "questions = \"q.yaml\"\nmodle = 1\n");
    assert!(error(dir.path(), &["study", "run", "plan.toml"]).contains("plan.toml:2: unknown field `modle`"));
    assert!(error(dir.path(), &["study", "status", "empty"]).contains("holds no run"));
    write(
        "plan.toml",
        "questions = \"q.yaml\"\n[[model]]\nname = \"m\"\npath = \".\"\n[[condition]]\nname = \"base\"\n",
    );
    write("q.yaml", "- id: tea\n  type: free_form_judge_0_100\n  paraphrase: []\n");
    assert!(error(dir.path(), &["study", "run", "plan.toml", "--out", "run"]).contains("q.yaml:3: "));
    assert!(!dir.path().join("run").exists());
}
