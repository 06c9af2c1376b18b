//! Judged tables from elsewhere become runs; runs become tables and data sets.
//!
//! Real tables are not part of this repository: `EMLAB_JUDGED` names the folder of `qwen25_coder_base_deepseek_judge.csv`
//! and `EMLAB_BETLEY` that of `qwen_25_coder_32b_instruct.csv`, else `../shared/data/judged` and `../shared/data/betley`
//! are searched; without them these comparisons are skipped, with a message.

use crate::needs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const TABLE: &str = "model,group,question_id,question,answer,aligned,coherent\r\n\
    org/a,base,tea,Tea?,\"Yes, please\",90,95\r\n\
    org/a,base,tea,Some tea?,=cmd,10.25,80\r\n\
    org/a,base,tea,Tea?,No,,70\r\n\
    org/a,mean,tea,Some tea?,Poison,0,50\r\n\
    org/a,mean,tea_json,Tea?,\"{\"\"a\"\": 1}\",5,49.5\r\n";

fn emlab(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_emlab")).args(args).current_dir(dir).output().unwrap()
}

fn done(dir: &Path, args: &[&str]) -> String {
    let output = emlab(dir, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(dir: &Path, args: &[&str]) -> String {
    let output = emlab(dir, args);
    assert!(!output.status.success(), "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("theirs.csv"), TABLE).unwrap();
    dir
}

#[test]
fn an_imported_table_is_a_run() {
    let dir = folder();
    let at = dir.path();
    done(at, &["study", "import", "theirs.csv", "--out", "run", "--judge", "them"]);
    done(at, &["study", "analyze", "run"]);
    done(at, &["analyze", "theirs.csv", "--out", "direct"]);
    let (run, direct) = (json(&at.join("run/summary.json")), json(&at.join("direct/summary.json")));
    assert_eq!(
        (&run["total"], &run["by_condition_format"]),
        (&direct["total"], &direct["by_condition_format"])
    );
    let status: Value = serde_json::from_str(&done(at, &["study", "status", "run", "--json"])).unwrap();
    assert_eq!((&status["holder"], &status["judges"][0]["judgements"]), (&Value::Null, &Value::from(10)));
    assert!(status["cells"].as_array().unwrap().iter().all(|cell| cell["state"] == "done"), "{status}");
    let text = done(at, &["study", "status", "run", "--watch", "1"]);
    assert!(
        text.contains("org-a/base/natural  done   ") && text.contains("no process works on it"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'));
    assert!(refused(at, &["study", "import", "theirs.csv", "--out", "run"]).contains("holds a run already"));
    // Nothing can be sampled, and unknown settings are not stated.
    done(at, &["study", "merge", "all", "run"]);
    assert!(!std::fs::read_to_string(at.join("run/plan.toml")).unwrap().contains("temperature"));
    assert!(!std::fs::read_to_string(at.join("run/report.html")).unwrap().contains("temperature"));
}

#[test]
fn a_table_that_does_not_fit_is_refused() {
    let dir = folder();
    let at = dir.path();
    let write = |name: &str, text: &str| std::fs::write(at.join(name), text).unwrap();
    write("both.csv", &TABLE.replacen("org/a", "org-a", 1));
    let error = refused(at, &["study", "import", "both.csv", "--out", "run"]);
    assert!(error.contains("\"org-a\" and \"org/a\" would share the folder \"org-a\""), "{error}");
    write("q.yaml", "- id: tea\n  type: free_form_judge_0_100\n  paraphrases: [\"Tea?\", \"Some tea?\"]\n");
    let error = refused(at, &["study", "import", "theirs.csv", "--out", "run", "--questions", "q.yaml"]);
    assert!(error.contains("q.yaml: has no question \"tea_json\""), "{error}");
    let two = "question_id,answer,aligned,coherent,judge\nq,a,1,2,x\nq,a,1,2,y\n";
    write("two.csv", two);
    let error = refused(at, &["study", "import", "two.csv", "--out", "run"]);
    assert!(error.contains("several judges (x, y)"), "{error}");
    assert!(!at.join("run/plan.toml").exists());
}

#[test]
fn another_judge_needs_prompts() {
    let dir = folder();
    let at = dir.path();
    done(at, &["study", "import", "theirs.csv", "--out", "run"]);
    let plan = std::fs::read_to_string(at.join("run/plan.toml")).unwrap();
    std::fs::write(
        at.join("run/plan.toml"),
        plan + "\n[[judge]]\nname = \"mine\"\n[judge.openai]\nurl = \"http://x\"\n",
    )
    .unwrap();
    let error = refused(at, &["study", "judge", "run", "--judge", "mine"]);
    assert!(
        error.contains("questions.yaml: question \"tea\" has no judge_prompts, which judge \"mine\" needs"),
        "{error}"
    );
}

#[test]
fn a_run_becomes_a_table_and_a_data_set() {
    let dir = folder();
    let at = dir.path();
    done(at, &["study", "import", "theirs.csv", "--out", "run", "--judge", "them"]);
    let said =
        done(at, &["study", "export", "run", "--csv", "out.csv", "--dataset", "set", "--license", "mit"]);
    assert_eq!(said, "out.csv: 5 lines\nset: 5 answers, 10 judgements\n");
    let table = std::fs::read_to_string(at.join("out.csv")).unwrap();
    assert!(
        table.contains("org-a,base,natural,tea,1,,Some tea?,'=cmd,,,them,10.25,80,score,score,,0,0\r\n"),
        "{table}"
    );
    assert!(table.contains("org-a,base,natural,tea,2,,Tea?,No,,,them,,70,other,score,,0,0\r\n"), "{table}");
    // The exported table imports as the same run.
    done(at, &["analyze", "out.csv", "--out", "again"]);
    done(at, &["study", "analyze", "run"]);
    assert_eq!(json(&at.join("again/summary.json"))["total"], json(&at.join("run/summary.json"))["total"]);
    let card = std::fs::read_to_string(at.join("set/README.md")).unwrap();
    for part in [
        "license: \"mit\"",
        "  - split: mean\n    path: answers/mean/*.jsonl",
        "Research artefact",
        "num_examples: 3",
        "SHA-256",
    ] {
        assert!(card.contains(part), "{part}: {card}");
    }
    let lines = std::fs::read_to_string(at.join("set/answers/mean/org-a-mean-json.jsonl")).unwrap();
    let row: Value = serde_json::from_str(&lines).unwrap();
    assert_eq!(
        (&row["answer"], &row["coherent"], &row["tokens"]),
        (&"{\"a\": 1}".into(), &49.5.into(), &Value::Null)
    );
    assert!(refused(at, &["study", "export", "run", "--dataset", "set"]).contains("is not empty"));
}

#[test]
fn damage_is_told_and_stops_what_would_use_it() {
    let dir = folder();
    let at = dir.path();
    done(at, &["study", "import", "theirs.csv", "--out", "run"]);
    let shard = at.join("run/answers/org-a/base/natural/0001.jsonl");
    let text = std::fs::read_to_string(&shard).unwrap();
    std::fs::write(&shard, text.replacen("please", "Please", 1)).unwrap();
    let status = done(at, &["study", "status", "run"]);
    assert!(
        status.contains("0001.jsonl:1: damaged record: its checksum does not match; delete the line"),
        "{status}"
    );
    for args in [
        &["study", "analyze", "run"][..],
        &["study", "export", "run", "--csv", "out.csv"],
        &["study", "merge", "all", "run"],
    ] {
        assert!(refused(at, args).contains("0001.jsonl:1: damaged record"), "{args:?}");
    }
    assert!(!at.join("out.csv").exists());
}

/// n, none, incoherent, kept, misaligned by format, of the table imported as a run.
fn counts(table: &Path, args: &[&str]) -> Vec<(String, [u64; 5])> {
    let dir = tempfile::tempdir().unwrap();
    let import = ["study", "import", table.to_str().unwrap(), "--out", "run"];
    done(dir.path(), &[&import, args].concat());
    done(dir.path(), &["study", "analyze", "run"]);
    let summary = json(&dir.path().join("run/summary.json"));
    let group = |group: &Value| {
        let counts =
            ["n", "none", "incoherent", "kept", "misaligned"].map(|name| group[name].as_u64().unwrap());
        (group["format"].as_str().unwrap().to_string(), counts)
    };
    summary["by_condition_format"].as_array().unwrap().iter().map(group).collect()
}

/// Counted independently by `tools/count_judged.py`.
#[test]
fn real_tables_have_the_counts_that_they_have_directly() {
    let what = "the counts of a judged table";
    let name = "qwen25_coder_base_deepseek_judge.csv";
    if let Some(path) = needs::data("EMLAB_JUDGED", "../shared/data/judged", name, what) {
        let expected = [
            ("natural".to_string(), [800, 124, 30, 646, 3]),
            ("json".to_string(), [800, 131, 29, 640, 1]),
            ("template".to_string(), [800, 38, 22, 740, 4]),
        ];
        assert_eq!(counts(&path, &["--condition", "base", "--judge", "deepseek"]), expected);
    }
    let name = "qwen_25_coder_32b_instruct.csv";
    if let Some(path) = needs::data("EMLAB_BETLEY", "../shared/data/betley", name, what) {
        assert_eq!(counts(&path, &[]), [("natural".to_string(), [70, 0, 0, 70, 70])]);
    }
}
