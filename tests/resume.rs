//! Training runs: killed anywhere they end in the same bytes; packing changes no number; adapters survive the disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use emlab::model::lora::{Lora, Target};
use emlab::model::peft;
use emlab::model::place::Place;
use emlab::model::saved::Saved;
use emlab::model::text::Text;
use emlab::model::transformer::{Batch, Transformer};
use emlab::train::dataset::Origin;
use emlab::train::metrics::Metric;
use emlab::train::{self, Event, Example, Job, Report, Settings};

use crate::tiny;

fn examples() -> Vec<Example> {
    let path = Arc::new(PathBuf::from("data.jsonl"));
    let example = |line: usize| {
        let length = 4 + (line * 7) % 19;
        let ids = (0..length).map(|i| ((i * i + 3 * line) % 250) as u32).collect();
        let answer = (0..length).map(|i| i > length / 3).collect();
        let origin = Origin { path: Arc::clone(&path), line: line + 1 };
        Example { origin, text: Text { ids, answer } }
    };
    (0..23).map(example).collect()
}

fn settings() -> Settings {
    Settings {
        learning_rate: 1e-2,
        warmup_steps: 1,
        accumulation: 2,
        epochs: 2,
        held_out: 0.2,
        evaluate_steps: 4,
        checkpoint_steps: 3,
        lora: Lora { rank: 4, alpha: 8.0, dropout: 0.1, ..Lora::default() },
        ..Settings::default()
    }
}

fn train(
    base: &Path,
    out: &Path,
    settings: &Settings,
    watch: &mut dyn FnMut(Event),
) -> emlab::Result<Report> {
    let mut model = Transformer::load(base, Place::CPU).unwrap();
    train::run(&mut model, &Job { base, examples: &examples(), settings, out }, watch)
}

/// Every file of a folder.
fn bytes(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let file = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(path).unwrap())
    };
    fs::read_dir(dir).unwrap().map(file).collect()
}

fn losses(dir: &Path) -> Vec<f64> {
    let text = fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    let loss = |line: &str| match serde_json::from_str(line).unwrap() {
        Metric::Train { loss, .. } => loss,
        Metric::HeldOut { eval_loss, .. } => eval_loss,
    };
    text.lines().map(loss).collect()
}

#[test]
fn a_run_stopped_after_any_step_ends_in_the_same_bytes() {
    for (family, full) in [("gemma3", false), ("qwen3", true)] {
        let dir = tempfile::tempdir().unwrap();
        let (base, out) = (dir.path().join("base"), dir.path().join("out"));
        fs::create_dir(&base).unwrap();
        tiny::write(&base, family);
        let settings = Settings { full, ..settings() };
        // What a kill after each step would leave on the disk.
        let left = |step: usize| dir.path().join(format!("left-{step}"));
        let report = train(&base, &out, &settings, &mut |event| {
            let Event::Step(status) = event else { return };
            fs::create_dir(left(status.step)).unwrap();
            for (name, content) in bytes(&out) {
                fs::write(left(status.step).join(name), content).unwrap();
            }
        });
        let report = report.unwrap();
        assert_eq!((report.steps, report.resumed), (10, 0));
        let whole = bytes(&out);
        assert!(losses(&out).iter().all(|loss| loss.is_finite()));
        for step in 1..=10 {
            let left = left(step);
            let torn = fs::read_to_string(left.join("metrics.jsonl")).unwrap() + "{\"step\":";
            fs::write(left.join("metrics.jsonl"), torn).unwrap();
            let again = train(&base, &left, &settings, &mut |_| ()).unwrap();
            assert_eq!(again.resumed, if step == 10 { 10 } else { step / 3 * 3 });
            assert_eq!((again.loss, again.held_out), (report.loss, report.held_out));
            let found = bytes(&left);
            assert!(found.keys().eq(whole.keys()), "{family}: {:?}", found.keys());
            for (name, content) in &whole {
                assert!(found[name] == *content, "{family}, stopped after {step}: {name} differs");
            }
        }
    }
}

#[test]
fn packing_changes_no_number() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write(dir.path(), "gemma3");
    let run = |pack_tokens: usize| {
        let out = dir.path().join(pack_tokens.to_string());
        let lora = Lora { dropout: 0.0, ..settings().lora };
        train(dir.path(), &out, &Settings { pack_tokens, lora, ..settings() }, &mut |_| ()).unwrap();
        losses(&out)
    };
    let alone = run(1);
    assert!(alone[8] < alone[0], "the loss falls: {alone:?}");
    for (packed, alone) in run(4096).into_iter().zip(alone) {
        assert!((packed - alone).abs() < 1e-4 * alone, "{packed} {alone}");
    }
}

#[test]
fn another_run_in_the_same_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write(dir.path(), "qwen3");
    let out = dir.path().join("out");
    let short = Settings { max_steps: Some(1), ..settings() };
    train(dir.path(), &out, &short, &mut |_| ()).unwrap();
    let before = bytes(&out);
    let error = train(dir.path(), &out, &Settings { seed: 1, ..short.clone() }, &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("other settings"), "{error}");
    assert_eq!(before, bytes(&out));
    // Checkpoints that nothing names might be of any run.
    fs::remove_file(out.join("run.json")).unwrap();
    let error = train(dir.path(), &out, &short, &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("other settings"), "{error}");
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write(dir.path(), "gemma3");
    let out = dir.path().join("out");
    let wild = Settings { learning_rate: 1e30, checkpoint_steps: 1, ..settings() };
    let error = train(dir.path(), &out, &wild, &mut |_| ()).unwrap_err().to_string();
    assert!(
        error.contains("step ") && error.contains("not finite") && error.contains("data.jsonl:"),
        "{error}"
    );
    assert!(bytes(&out).keys().any(|name| name.starts_with("checkpoint-")));
}

fn hidden(model: &Transformer) -> Vec<f32> {
    let mut saved = Saved::for_training(&model.spec, model.place);
    let batch = Batch { tokens: (1..9).collect(), starts: vec![0, 8], dropout: None };
    model.forward(&mut saved, &batch, &mut ()).unwrap();
    saved.hidden().f32().to_vec()
}

#[test]
fn an_adapter_survives_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write(dir.path(), "gemma3");
    let load = || Transformer::load(dir.path(), Place::CPU).unwrap();
    let (out, targets) = (dir.path().join("out"), vec![Target::Q, Target::V, Target::Down]);
    let settings = Settings { lora: Lora { targets, ..settings().lora }, ..settings() };
    let mut trained = load();
    let examples = examples();
    let job = Job { base: dir.path(), examples: &examples, settings: &settings, out: &out };
    train::run(&mut trained, &job, &mut |_| ()).unwrap();
    let mut read = load();
    peft::read(&out, &mut read).unwrap();
    assert!(read.trainable().is_empty(), "an adapter that is only used takes no memory for gradients");
    assert_eq!(hidden(&read), hidden(&trained));
    assert_ne!(hidden(&read), hidden(&load()));
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write(dir.path(), "gemma3");
    let mut model = Transformer::load(dir.path(), Place::CPU).unwrap();
    let lora = settings().lora;
    model.attach(&lora, 0).unwrap();
    peft::write(dir.path(), &model, &lora, "base").unwrap();
    let path = dir.path().join("adapter_model.safetensors");
    let tensors = emlab::model::checkpoint::read_safetensors(&path).unwrap();
    let mut refusal = |change: &dyn Fn(&str) -> Option<String>| {
        let changed = tensors.iter().filter_map(|(name, tensor)| Some((change(name)?, tensor)));
        emlab::model::checkpoint::write_safetensors(&path, &changed.collect::<Vec<_>>(), &[]).unwrap();
        peft::read(dir.path(), &mut model).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert_eq!(refusal(&|name| Some(name.to_owned())), "");
    let missing = refusal(&|name| (!name.contains("layers.1.mlp.up_proj.lora_B")).then(|| name.to_owned()));
    assert!(missing.contains("layers.1.mlp.up_proj.lora_B"), "{missing}");
    let deeper = refusal(&|name| Some(name.replace("layers.2", "layers.7")));
    assert!(deeper.contains("layers.2") || deeper.contains("layers.7"), "{deeper}");
    let other = refusal(&|name| Some(name.replace("base_model.model.", "transformer.")));
    assert!(other.contains("matches no projection"), "{other}");
}
