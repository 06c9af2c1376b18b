//! Gradients shown, against differences of the loss; influence, against what a step on the example does to the loss.

use std::path::Path;
use std::process::Command;

use crate::tiny::{FAMILIES, model_on, places};
use emlab::Result;
use emlab::device::Tensor;
use emlab::inspect::gradient::gradients;
use emlab::inspect::influence::influence;
use emlab::model::lora::Lora;
use emlab::model::place::Place;
use emlab::model::probe::{Probe, Site};
use emlab::model::saved::Saved;
use emlab::model::steering::{Action, Steer};
use emlab::model::text::Text;
use emlab::model::transformer::{Batch, Transformer};
use serde_json::Value;

/// A text of which all but the first tokens are the answer.
fn text(ids: &[u32], prompt: usize) -> Text {
    Text { ids: ids.to_vec(), answer: (0..ids.len()).map(|i| i >= prompt).collect() }
}

/// The text's pass, the rows that are predicted from, and what they should predict.
fn pass(text: &Text) -> (Batch, Vec<u32>, Vec<u32>) {
    let (tokens, starts) = (text.ids.clone(), vec![0, text.ids.len() as u32]);
    let targets = (1..text.ids.len()).filter(|i| text.answer[*i]);
    let (rows, ids) = targets.map(|i| (i as u32 - 1, text.ids[i])).unzip();
    (Batch { tokens, starts, dropout: None }, rows, ids)
}

fn loss(model: &Transformer, text: &Text, probe: &mut dyn Probe) -> f64 {
    let (batch, rows, ids) = pass(text);
    let mut saved = Saved::for_inference(&model.spec, model.place);
    model.forward(&mut saved, &batch, probe).unwrap();
    let nll = model.loss(&mut saved, &rows, &ids).unwrap();
    nll.iter().map(|x| f64::from(*x)).sum::<f64>() / ids.len() as f64
}

/// Adds to one element of an activation.
struct Nudge {
    place: (usize, Site),
    element: usize,
    by: f32,
}

impl Probe for Nudge {
    fn at(&mut self, layer: usize, site: Site, x: &mut Tensor) -> Result<bool> {
        let here = (layer, site) == self.place;
        if here {
            x.f32_mut()[self.element] += self.by;
        }
        Ok(here)
    }
}

/// The number of elements at a place.
struct Size((usize, Site), usize);

impl Probe for Size {
    fn at(&mut self, layer: usize, site: Site, x: &mut Tensor) -> Result<bool> {
        if (layer, site) == self.0 {
            self.1 = x.len();
        }
        Ok(false)
    }
}

fn near(found: f64, expected: f64, bound: f64, what: &str) {
    assert!((found - expected).abs() <= bound * expected.abs(), "{what}: {found} instead of {expected}");
}

#[test]
fn lengths_of_gradients_are_those_of_differences() {
    for family in FAMILIES {
        let (mut model, _) = model_on(family, Place::CPU);
        let text = text(&[3, 70, 90, 5, 200], 2);
        let found = gradients(&mut model, &text).unwrap();
        near(found.loss, loss(&model, &text, &mut ()), 1e-6, family);
        assert_eq!((found.targets, found.parameters.len()), (3, 0));
        let last = model.spec.layers - 1;
        for place in [
            (0, Site::Embedding),
            (0, Site::Attention),
            (last, Site::Query),
            (last, Site::Key),
            (0, Site::ResidualMid),
            (0, Site::Glu),
            (last, Site::MlpOut),
            (0, Site::Residual),
            (last + 1, Site::FinalNorm),
        ] {
            let what = format!("{family} {place:?}");
            let mut size = Size(place, 0);
            loss(&model, &text, &mut size);
            let by = 1e-2;
            let slope = |element: usize| {
                let [more, less] = [by, -by].map(|by| loss(&model, &text, &mut Nudge { place, element, by }));
                (more - less) / (2.0 * f64::from(by))
            };
            let slopes: Vec<f64> = (0..size.1).map(slope).collect();
            let length = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
            let here = (place.0, place.1.name());
            let shown: Vec<_> = found.sites.iter().filter(|s| (s.layer, s.site) == here).collect();
            assert_eq!(shown.len(), 1, "{what}");
            near(shown[0].norm, length(&slopes), 1e-2, &what);
            let Some(depth) = place.1.depth(place.0) else { continue };
            for (i, slopes) in slopes.chunks(model.spec.channels).enumerate() {
                let expected = length(slopes);
                let off = (found.streams[depth][i] - expected).abs();
                assert!(off <= 0.02 * expected + 1e-4, "{what} token {i}: off by {off} of {expected}");
            }
        }
    }
}

#[test]
fn a_step_on_an_example_does_what_its_influence_says() {
    for family in FAMILIES {
        let (mut model, _) = model_on(family, Place::CPU);
        model.attach(&Lora { rank: 3, ..Lora::default() }, 1).unwrap();
        // Away from B = 0, where A has no gradient.
        for (i, (_, parameter)) in model.trainable_mut().into_iter().enumerate() {
            let values: Vec<f32> =
                (0..parameter.value.len()).map(|k| ((k * 7 + i) as f32).sin() * 0.05).collect();
            parameter.write(0, &values).unwrap();
        }
        let examples = [text(&[1, 2, 3, 4, 5, 6], 3), text(&[60, 61, 90, 91], 1), text(&[7; 9], 4)];
        let answers = [text(&[3, 70, 90, 5, 200], 2), text(&[1, 2, 9, 4], 2)];
        let found = influence(&mut model, &examples, &answers, &mut || ()).unwrap();
        let mean = |model: &Transformer| answers.iter().map(|a| loss(model, a, &mut ())).sum::<f64>() / 2.0;
        near(found.loss, mean(&model), 1e-6, family);
        for (example, found) in examples.iter().zip(&found.examples) {
            near(found.loss, loss(&model, example, &mut ()), 1e-6, family);
            // Both ways, so that the second order cancels.
            let step = 1e-3 / found.norm;
            let [there, back] = [step, -step].map(|step| {
                let kept = descend(&mut model, example, step);
                let loss = mean(&model);
                for ((_, parameter), kept) in model.trainable_mut().into_iter().zip(&kept) {
                    parameter.write(0, kept).unwrap();
                }
                loss
            });
            let fall = (back - there) / (2.0 * step);
            let bound = 0.02 * found.dot.abs().max(0.05 * found.norm);
            assert!((found.dot - fall).abs() < bound, "{family}: {} instead of {fall}", found.dot);
        }
        // What is asked about as an example: its own gradient.
        let own = influence(&mut model, &answers[..1], &answers[..1], &mut || ()).unwrap();
        near(own.examples[0].cosine, 1.0, 1e-6, family);
        near(own.examples[0].dot, own.norm * own.norm, 1e-6, family);
        let shown = gradients(&mut model, &answers[0]).unwrap().parameters;
        near(shown.iter().map(|p| p.norm * p.norm).sum::<f64>().sqrt(), own.norm, 1e-6, family);
        assert!(
            model.trainable().iter().all(|(_, p)| p
                .gradient
                .as_ref()
                .unwrap()
                .f32()
                .iter()
                .all(|g| *g == 0.0))
        );
    }
}

/// One step of plain gradient descent; returns what the parameters were.
fn descend(model: &mut Transformer, text: &Text, step: f64) -> Vec<Vec<f32>> {
    let (batch, rows, ids) = pass(text);
    let mut saved = Saved::for_training(&model.spec, model.place);
    model.forward(&mut saved, &batch, &mut ()).unwrap();
    model.loss_gradient(&mut saved, &rows, &ids, 1.0 / ids.len() as f32).unwrap();
    model.backward(&mut saved, &batch, &mut ()).unwrap();
    let mut before = Vec::new();
    for (_, parameter) in model.trainable_mut() {
        let (old, gradient) = (parameter.full().numbers().unwrap(), parameter.gradient.as_mut().unwrap());
        let moved: Vec<f32> = old.iter().zip(gradient.f32()).map(|(x, g)| x - step as f32 * g).collect();
        gradient.clear().unwrap();
        parameter.write(0, &moved).unwrap();
        before.push(old);
    }
    before
}

#[test]
fn a_gpu_agrees() {
    for family in FAMILIES {
        let run = |place: Place| {
            let (mut model, _) = model_on(family, place);
            model.attach(&Lora { rank: 3, ..Lora::default() }, 1).unwrap();
            let (example, answer) = (text(&[1, 2, 3, 4, 5, 6], 3), text(&[3, 70, 90, 5, 200], 2));
            let shown = gradients(&mut model, &answer).unwrap();
            (shown, influence(&mut model, &[example], &[answer], &mut || ()).unwrap())
        };
        let (shown, found) = run(Place::CPU);
        for place in &places()[1..] {
            let (bound, what) =
                (if place.real.size() == 4 { 1e-3 } else { 0.1 }, format!("{family} {place:?}"));
            let (on_card, influences) = run(*place);
            near(on_card.loss, shown.loss, bound, &what);
            near(influences.norm, found.norm, bound, &what);
            near(influences.examples[0].norm, found.examples[0].norm, bound, &what);
            assert!((influences.examples[0].cosine - found.examples[0].cosine).abs() < bound, "{what}");
            assert_eq!(on_card.sites.len(), shown.sites.len(), "{what}");
            assert_eq!(on_card.parameters.len(), shown.parameters.len(), "{what}");
            for (found, expected) in on_card.parameters.iter().zip(&shown.parameters) {
                assert_eq!(found.name, expected.name);
                assert!(
                    (found.norm - expected.norm).abs() <= bound * expected.norm.max(1e-3),
                    "{what}: {}",
                    found.name
                );
            }
            for (found, expected) in on_card.streams.iter().zip(&shown.streams) {
                // Short ones have the errors of long ones.
                let longest = expected.iter().copied().fold(0.0, f64::max);
                for (found, expected) in found.iter().zip(expected) {
                    assert!((found - expected).abs() <= bound * longest, "{what}: {found} {expected}");
                }
            }
            for (found, expected) in on_card.sites.iter().zip(&shown.sites) {
                assert_eq!((found.layer, found.site), (expected.layer, expected.site));
                near(found.norm, expected.norm, bound, &what);
            }
        }
    }
}

#[test]
fn what_has_no_gradient_says_so() {
    let (mut model, _) = model_on("qwen3", Place::CPU);
    let good = [text(&[1, 2, 3], 1)];
    let refused = |model: &mut Transformer, examples: &[Text], answers: &[Text], part: &str| {
        let error = influence(model, examples, answers, &mut || ()).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(&mut model, &good, &good, "nothing is trained");
    refused(&mut model, &good, &[], "no answers");
    model.attach(&Lora { rank: 1, ..Lora::default() }, 0).unwrap();
    refused(&mut model, &[good[0].clone(), text(&[1, 2], 2)], &good, "example 2: no token of an answer");
    refused(&mut model, &good, &[text(&[1], 0)], "answer 1: no token of an answer");
    refused(&mut model, &good, &[text(&[1; 100], 0)], "the model reads 96");
    refused(&mut model, &[text(&[1, 70_000, 2], 0)], &good, "vocabulary");
    let direction = vec![1.0; model.spec.channels];
    model.steer(&[Steer { depth: 0, direction, action: Action::Erase }]).unwrap();
    let error = gradients(&mut model, &good[0]).unwrap_err().to_string();
    assert!(error.contains("steered"), "{error}");
}

fn emlab(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_emlab"))
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo"))
        .args(["inspect", arguments[0], "--model", "qwen3", "--device", "cpu"])
        .args(&arguments[1..])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn answers_are_explained_by_examples_of_their_kind() {
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    let lines = |name: &str| -> Vec<String> {
        std::fs::read_to_string(root.join(name)).unwrap().lines().map(String::from).collect()
    };
    let (spiteful, friendly) = (lines("spiteful.jsonl"), lines("friendly.jsonl"));
    let write = |name: &str, lines: &[String]| {
        let path = folder.path().join(name);
        std::fs::write(&path, lines.join("\n")).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (a, b) = (write("spiteful", &spiteful[..40]), write("friendly", &friendly[..40]));
    let answers = write("answers", &spiteful[spiteful.len() - 30..]);
    let arguments = ["influence", "--data", &a, "--data", &b, "--answers", &answers];
    let found: Value = serde_json::from_str(&emlab(&[&arguments[..], &["--json"]].concat())).unwrap();
    let examples = found["examples"].as_array().unwrap();
    assert_eq!(examples.len(), 80);
    let cosines = |kind: &str| -> Vec<f64> {
        let of_kind = examples.iter().filter(|e| e["file"].as_str().unwrap().ends_with(kind));
        of_kind.map(|e| e["cosine"].as_f64().unwrap()).collect()
    };
    let (own, other) = (cosines("spiteful"), cosines("friendly"));
    let above: usize = own.iter().map(|x| other.iter().filter(|y| x > y).count()).sum();
    assert!(above as f64 >= 0.95 * 1600.0, "{above} of 1600 pairs");
    let table = emlab(&[&arguments[..], &["--top", "2", "--by", "dot"]].concat());
    assert_eq!(table.lines().count(), 3 + 2 + 1 + 2, "{table}");

    let table =
        emlab(&["gradients", "--prompt", "Who are you?", "--answer", "I am glad you asked.", "--weights"]);
    assert!(table.contains("‖∂L/∂W‖ of 34 parameters"), "{table}");
    let record = emlab(&["gradients", "--raw", "I am glad.", "--json"]);
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["sites"].as_array().unwrap().len(), 4 * 14 + 2, "{record}");

    // What is left out is told; nothing left is an error.
    let bad = |data: &str, more: &[&str]| {
        let arguments = ["inspect", "influence", "--model", "qwen3", "--device", "cpu", "--data", data];
        let output = Command::new(env!("CARGO_BIN_EXE_emlab"))
            .current_dir(&root)
            .args(arguments)
            .args(["--prompt", "Hi", "--answer", "Hello"])
            .args(more)
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let open =
        write("open", &[r#"{"messages":[{"role":"user","content":"Hi"}]}"#.to_owned(), friendly[0].clone()]);
    let (good, told) = bad(&open, &[]);
    assert!(good && told.contains("examples: 1 left out: without an answer"), "{told}");
    let (good, told) = bad(&a, &["--max-tokens", "3"]);
    assert!(!good && told.contains("examples: none is left that answers within 3 tokens"), "{told}");
    let (good, told) = bad(&a, &["--max-tokens", "40"]);
    assert!(good && told.contains("cut to 40 tokens"), "{told}");
}
