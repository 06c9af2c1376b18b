//! Directions: the features against transformers, the classifiers against numpy, cross-validation on what is known of made-up
//! examples, and what is refused.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::golden::Golden;
use emlab::device::philox::Key;
use emlab::inspect::direction::{Found, Settings, find};
use emlab::inspect::features::{Features, features, streams};
use emlab::inspect::folds::Folds;
use emlab::model::direction::{Directions, Kind};
use emlab::model::place::Place;
use emlab::model::text::Text;
use emlab::model::transformer::Transformer;
use serde_json::{Value, json};

#[test]
fn features_are_the_means_of_transformers_hidden_states() {
    for name in ["gemma3", "qwen3"] {
        let golden = Golden::read(name, Place::CPU);
        let model = Transformer::load(&golden.folder, Place::CPU).unwrap();
        let texts: Vec<Text> = golden
            .numbers
            .documents
            .iter()
            .map(|document| Text {
                ids: document.ids.clone(),
                answer: (0..document.ids.len()).map(|i| i % 3 != 1).collect(),
            })
            .collect();
        let mut read = 0;
        let found = features(&model, &texts, &mut || read += 1).unwrap();
        assert_eq!(read, texts.len());
        let c = model.spec.channels;
        for depth in 0..=model.spec.layers {
            let site = match depth {
                0 => "embedding".to_string(),
                _ => format!("layers.{}.residual", depth - 1),
            };
            let mut rows = golden.tensors[&site].1.chunks(c);
            let (mut lengths, mut n) = (0.0, 0.0);
            for (text, found) in texts.iter().zip(&found.means[depth]) {
                let of_text: Vec<&[f32]> = rows.by_ref().take(text.ids.len()).collect();
                let answer: Vec<&[f32]> = of_text
                    .iter()
                    .zip(&text.answer)
                    .filter(|(_, answer)| **answer)
                    .map(|(row, _)| *row)
                    .collect();
                for (i, found) in found.iter().enumerate() {
                    let mean = answer.iter().map(|row| row[i]).sum::<f32>() / answer.len() as f32;
                    assert!(
                        (found - mean).abs() <= 1e-4 * mean.abs().max(1.0),
                        "{name} {site}: {found} {mean}"
                    );
                }
                let length = |row: &&[f32]| row.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
                lengths += answer.iter().map(length).sum::<f64>();
                n += answer.len() as f64;
            }
            assert!((found.lengths[depth] - lengths / n).abs() < 1e-4 * lengths / n, "{name} {site}");
        }
        // Alone, a text is what it is among others.
        let mut alone = Vec::new();
        streams(&model, &texts[1..2], &mut |_, depth, x| {
            if depth == 1 {
                alone = x.to_vec();
            }
        })
        .unwrap();
        assert_eq!(alone.len(), texts[1].ids.len() * c);
    }
}

fn list(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

#[test]
fn classifiers_are_those_of_numpy() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/directions.json");
    let goldens: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for golden in goldens {
        let x = golden["x"].as_array().unwrap();
        let x: Vec<Vec<f32>> = x.iter().map(|row| list(row).iter().map(|x| *x as f32).collect()).collect();
        let positive: Vec<bool> =
            golden["positive"].as_array().unwrap().iter().map(|x| x.as_bool().unwrap()).collect();
        let folds = Folds { of: list(&golden["fold"]).iter().map(|x| *x as usize).collect(), count: 4 };
        let settings =
            Settings { ridge: golden["ridge"].as_f64().unwrap(), permutations: 0, ..Settings::default() };
        let found = find(&made_up(vec![x.clone(), x]), &positive, &folds, &settings).unwrap();
        let quality = &found.qualities[1];
        assert_eq!(
            [quality.mean_difference.accuracy, quality.probe.accuracy].to_vec(),
            list(&golden["accuracy"])
        );
        assert!((quality.cosine.unwrap() - golden["cosine"].as_f64().unwrap()).abs() < 1e-9);
        for kind in Kind::ALL {
            let expected = list(&golden["vectors"][kind as usize]);
            let vector = found.directions.vector(kind, 1).unwrap();
            for (found, expected) in vector.iter().zip(&expected) {
                assert!((f64::from(*found) - expected).abs() < 1e-6, "{found} {expected}");
            }
            let midpoint = found.directions.midpoints[kind as usize][1];
            assert!((f64::from(midpoint) - list(&golden["midpoints"])[kind as usize]).abs() < 1e-6);
        }
    }
}

fn made_up(means: Vec<Vec<Vec<f32>>>) -> Features {
    Features { lengths: vec![10.0; means.len()], means }
}

/// Noise (n, C), the same for the same name.
fn noise(name: &str, n: usize, c: usize) -> Vec<Vec<f32>> {
    let key = Key::new(0, &[name]);
    let number = |i: usize, j: usize| (0..4).map(|k| key.uniform(i as u32, (4 * j + k) as u32) - 0.5).sum();
    (0..n).map(|i| (0..c).map(|j| number(i, j)).collect()).collect()
}

fn halves(n: usize) -> Vec<bool> {
    (0..n).map(|i| i % 2 == 0).collect()
}

fn ungrouped(n: usize) -> Vec<String> {
    (0..n).map(|i| i.to_string()).collect()
}

fn found(means: Vec<Vec<Vec<f32>>>, positive: &[bool], groups: &[String], permutations: usize) -> Found {
    let folds = Folds::new(positive, groups, 5, 0).unwrap();
    find(&made_up(means), positive, &folds, &Settings { permutations, ..Settings::default() }).unwrap()
}

#[test]
fn what_can_be_separated_is_and_by_its_own_direction() {
    let (n, c) = (60, 40);
    let positive = halves(n);
    let shifted = |by: f32| {
        let mut x = noise("separable", n, c);
        for (x, positive) in x.iter_mut().zip(&positive) {
            x[7] += if *positive { by } else { -by };
        }
        x
    };
    let Found { directions, qualities } =
        found(vec![shifted(0.0), shifted(0.0), shifted(6.0), shifted(6.0)], &positive, &ungrouped(n), 99);
    assert_eq!(directions.depth, 2, "the first of equals");
    for quality in &qualities[2..] {
        for accuracy in [quality.mean_difference, quality.probe] {
            assert_eq!((accuracy.accuracy, accuracy.standard_error, accuracy.p), (1.0, 0.0, Some(0.01)));
        }
        assert!(quality.cosine.unwrap() > 0.95, "{quality:?}");
        assert!(
            (quality.length - 12.0).abs() < 1.0
                && (quality.relative_length - quality.length / 10.0).abs() < 1e-9
        );
    }
    for kind in Kind::ALL {
        let vector = directions.vector(kind, 2).unwrap();
        assert!(f64::from(vector[7]) > 0.95 * qualities[2].length, "{vector:?}");
        let projection = directions.projection(kind, 2).unwrap();
        for (x, positive) in shifted(6.0).iter().zip(&positive) {
            assert!((projection(x) - if *positive { 0.5 } else { -0.5 }).abs() < 0.2);
        }
    }
    // The same bytes for the same seed.
    let again =
        found(vec![shifted(0.0), shifted(0.0), shifted(6.0), shifted(6.0)], &positive, &ungrouped(n), 99);
    assert_eq!(again, Found { directions, qualities });
}

#[test]
fn noise_is_told_apart_as_by_guessing() {
    let (n, data) = (40, 60);
    let means = (0..data).map(|i| noise(&format!("noise {i}"), n, 8)).collect();
    let qualities = found(means, &halves(n), &ungrouped(n), 39).qualities;
    for which in [0, 1] {
        let of = |i: usize| if which == 0 { qualities[i].mean_difference } else { qualities[i].probe };
        let mean = (0..data).map(|i| of(i).accuracy).sum::<f64>() / data as f64;
        assert!((mean - 0.5).abs() < 0.05, "{mean}");
        // p is uniform, but for ties, which make it larger.
        let p: Vec<f64> = (0..data).map(|i| of(i).p.unwrap()).collect();
        let below = |limit: f64| p.iter().filter(|p| **p <= limit).count();
        assert!(below(0.1) <= 14 && (10..=40).contains(&below(0.5)) && below(0.9) >= 35, "{p:?}");
    }
}

#[test]
fn what_only_the_question_tells_is_not_learnt() {
    // Each question has a place of its own and answers of one class.
    let (n, questions) = (120, 12);
    let groups: Vec<String> = (0..n).map(|i| (i % questions).to_string()).collect();
    let positive: Vec<bool> = (0..n).map(|i| [0, 3, 4, 7, 9, 10].contains(&(i % questions))).collect();
    let mut x = noise("answers", n, 30);
    let places = noise("questions", questions, 30);
    for (i, x) in x.iter_mut().enumerate() {
        for (x, place) in x.iter_mut().zip(&places[i % questions]) {
            *x += 8.0 * place;
        }
    }
    let accuracy = |groups: &[String]| {
        found(vec![x.clone(), x.clone()], &positive, groups, 0).qualities[1].probe.accuracy
    };
    assert!(accuracy(&ungrouped(n)) == 1.0);
    assert!(accuracy(&groups) < 0.75, "{}", accuracy(&groups));
}

#[test]
fn settings_that_cannot_work_say_so() {
    let (x, positive) = (noise("x", 10, 3), halves(10));
    let folds = Folds::new(&positive, &ungrouped(10), 5, 0).unwrap();
    for ridge in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let settings = Settings { ridge, ..Settings::default() };
        let error = find(&made_up(vec![x.clone(), x.clone()]), &positive, &folds, &settings).unwrap_err();
        assert!(error.to_string().contains("ridge"), "{error}");
    }
    // Sets that do not differ have no direction, and no NaN.
    let same = vec![vec![1.0; 3]; 10];
    let found = find(&made_up(vec![same, x]), &positive, &folds, &Settings::default()).unwrap();
    assert_eq!((found.qualities[0].length, found.qualities[0].cosine), (0.0, None));
    assert_eq!(found.qualities[0].probe.accuracy, 0.5);
    let error = found.directions.projection(Kind::Probe, 0).err().unwrap().to_string();
    assert!(error.contains("do not differ"), "{error}");
}

/// What the command says on stderr as it fails.
fn refusal(arguments: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output =
        Command::new(env!("CARGO_BIN_EXE_emlab")).current_dir(root).args(arguments).output().unwrap();
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A file of directions that are alike.
fn written(dir: &Path, value: f32, width: usize, depths: usize) -> PathBuf {
    let vectors = vec![vec![value; width]; depths];
    let path = dir.join("direction.safetensors");
    let midpoints = [vec![0.0; depths], vec![0.0; depths]];
    Directions { vectors: [vectors.clone(), vectors], midpoints, depth: 1 }.write(&path).unwrap();
    path
}

#[test]
fn bad_input_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let one = r#"{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Hello"}]}"#;
    let (one, text) = (file("one.jsonl", one), file("text.jsonl", "{\"text\":\"a\"}"));
    let open = file("open.jsonl", r#"{"messages":[{"role":"user","content":"Hi"}]}"#);
    let (empty, out) = (file("empty.jsonl", ""), dir.path().join("out.safetensors"));
    let sets = |positive: &Path, negative: &Path| {
        let [positive, negative] = [positive, negative].map(|path| path.to_str().unwrap().to_owned());
        refusal(&[
            "inspect",
            "direction",
            "--device",
            "cpu",
            "--model",
            "models/demo/qwen3",
            "--positive",
            &positive,
            "--negative",
            &negative,
            "--out",
            out.to_str().unwrap(),
        ])
    };
    for (positive, negative, part) in [
        (&empty, &one, "no training example"),
        (&one, &one, "answers to 1 questions"),
        (&text, &one, "text.jsonl:1: a text without a question"),
        (&open, &one, "open.jsonl:1: no answer in it"),
    ] {
        let error = sets(positive, negative);
        assert!(error.contains(part), "{error}");
    }
    assert!(!out.exists());
    // Three answers to one question, whatever a user says after them: no split can keep the question on one side.
    let thanked = |answer: &str| {
        let said = [("user", "Hi"), ("assistant", answer), ("user", "Thanks")];
        let messages = said.map(|(role, content)| json!({ "role": role, "content": content }));
        json!({ "messages": messages }).to_string() + "\n"
    };
    let thanks = file("thanks.jsonl", &["Hello", "Hey", "Yes"].map(thanked).concat());
    assert!(sets(&thanks, &thanks).contains("answers to 1 questions"));
    let data = |path: &Path| {
        let path = path.to_str().unwrap();
        let project =
            ["inspect", "project", "--device", "cpu", "--model", "models/demo/qwen3", "--direction"];
        refusal(
            &[&project[..], &[written(dir.path(), 1.0, 128, 5).to_str().unwrap(), "--data", path]].concat(),
        )
    };
    assert!(data(&open).contains("open.jsonl:1: no answer in it"));
    let long = file("long.jsonl", &json!({ "text": "word ".repeat(2000) }).to_string());
    assert!(data(&long).contains("long.jsonl:1: "), "{}", data(&long));
    let json_name =
        ["inspect", "direction", "--model", "m", "--positive", "a", "--negative", "b", "--out", "d.json"];
    assert!(refusal(&json_name).contains("d.json: is the JSON's own name"));
    let steer = |path: &Path, more: &[&str]| {
        let arguments =
            ["generate", "--device", "cpu", "--model", "models/demo/qwen3", "--prompt", "Hi", "--steer"];
        refusal(&[&arguments[..], &[path.to_str().unwrap()], more].concat())
    };
    let directions = |value, width, depths| written(dir.path(), value, width, depths);
    assert!(steer(&one, &[]).contains("truncated or corrupt"));
    assert!(steer(&directions(f32::NAN, 128, 5), &[]).contains("NaN"));
    assert!(steer(&directions(1.0, 7, 5), &[]).contains("width 7"));
    assert!(steer(&directions(1.0, 128, 7), &[]).contains("7 depths"), "of a deeper model");
    let endless = steer(&directions(1.0, 128, 5), &["--steer-depth", "0-99999999999"]);
    assert!(endless.contains("depths 0 to 4"), "{endless}");
    assert!(steer(&directions(0.0, 128, 5), &["--erase"]).contains("not 0"));
    assert!(steer(&directions(1.0, 128, 5), &["--steer-depth", "3-5"]).contains("depths 0 to 4"));
    assert!(steer(&directions(1.0, 128, 5), &["--erase", "--dose", "1"]).contains("cannot be used with"));
    assert!(refusal(&["generate", "--model", "m", "--prompt", "Hi", "--dose", "1"]).contains("--steer"));
}
