//! `emlab models`, `info` and `fetch` as a user meets them: results on stdout, one line on stderr and a status when
//! something is wrong. No network: an empty cache, offline.

use std::path::Path;
use std::process::{Command, Output};

fn emlab(cache: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emlab"));
    command
        .env("HF_HOME", cache)
        .env("EMLAB_CACHE", cache)
        .env("HF_HUB_OFFLINE", "1")
        .env_remove("HF_HUB_CACHE");
    command.args(args).output().unwrap()
}

fn refusal(cache: &Path, args: &[&str]) -> String {
    let output = emlab(cache, args);
    assert!(!output.status.success());
    assert!(output.stdout.is_empty());
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(message.lines().count(), 1, "{message}");
    message
}

#[test]
fn models_are_listed_for_people_and_for_programs() {
    let cache = tempfile::tempdir().unwrap();
    let table = String::from_utf8(emlab(cache.path(), &["models"]).stdout).unwrap();
    assert_eq!(table.lines().filter(|line| line.starts_with('*')).count(), 9);
    let list: serde_json::Value =
        serde_json::from_slice(&emlab(cache.path(), &["models", "--json"]).stdout).unwrap();
    assert_eq!(list["models"][0]["repo"], "google/gemma-3-270m");
    assert_eq!(list["models"][0]["path"], serde_json::Value::Null);
    assert_eq!(list["data"].as_array().unwrap().len(), 4);
}

#[test]
fn info_of_this_machine() {
    let cache = tempfile::tempdir().unwrap();
    let facts: serde_json::Value =
        serde_json::from_slice(&emlab(cache.path(), &["info", "--json"]).stdout).unwrap();
    assert_eq!(facts["emlab"], env!("CARGO_PKG_VERSION"));
    assert!(facts["model cache"].as_str().unwrap().starts_with(cache.path().to_str().unwrap()));
}

#[test]
fn what_is_not_there_is_named_with_the_command_that_brings_it() {
    let cache = tempfile::tempdir().unwrap();
    assert!(refusal(cache.path(), &["info", "qwen3-8b"]).contains("emlab fetch qwen3-8b"));
    assert!(refusal(cache.path(), &["info", "no such model"]).contains("emlab models"));
    assert!(refusal(cache.path(), &["fetch", "qwen3-8b"]).contains("HF_HUB_OFFLINE"));
    let empty = cache.path().to_str().unwrap();
    assert!(refusal(cache.path(), &["fetch", "insecure", "--from", empty]).contains("insecure.jsonl"));
}
