//! Traces against transformers (`tools/trace_goldens.py`: eager attention, f32), and what a trace says of itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::golden::{Golden, MODELS, check_all, places, read_tensors};
use emlab::device::DType;
use emlab::inspect::trace::{Options, Trace, trace};
use emlab::model::transformer::Transformer;
use serde_json::Value;

/// Both sides compute in f32, in different orders.
const BOUND: f32 = 1e-4;

fn traced(golden: &Golden, options: Options) -> Trace {
    let model = Transformer::load(&golden.folder, golden.place).unwrap();
    trace(&model, &golden.numbers.documents[0].ids, options).unwrap()
}

fn close(what: &str, found: &[f32], (shape, expected): &(Vec<usize>, Vec<f32>)) {
    assert_eq!(found.len(), expected.len(), "{what} is {shape:?}");
    let size = expected.iter().fold(0.0f32, |a, b| a.max(b.abs()));
    for (i, (x, y)) in found.iter().zip(expected).enumerate() {
        assert!((x - y).abs() <= BOUND * size, "{what}, element {i}: {x}, expected {y}");
    }
}

#[test]
fn a_trace_holds_what_transformers_computes() {
    let exact: Vec<_> = places().into_iter().filter(|place| place.real == DType::F32).collect();
    check_all(&exact, &MODELS, |golden| {
        let expected: BTreeMap<_, _> = read_tensors(&golden.folder.join("trace.safetensors"));
        let found = traced(golden, Options { top: usize::MAX, time: false });
        let title = |what: &str| format!("{}, {what}", golden.title());
        close(&title("streams"), &found.streams, &expected["streams"]);
        close(&title("final norm"), &found.final_norm, &expected["final_norm"]);
        close(&title("attention"), &found.attention, &expected["attention"]);
        // The lens lists every token, the likeliest first.
        let (v, n) = (found.sizes.vocab, found.tokens.len());
        let mut probabilities = vec![0.0; found.lens.probabilities.len()];
        for (i, (token, p)) in found.lens.tokens.iter().zip(&found.lens.probabilities).enumerate() {
            probabilities[i / v * v + *token as usize] = *p;
        }
        close(&title("lens"), &probabilities, &expected["lens"]);
        let (_, expected) = &expected["lens"];
        for (place, p) in expected.chunks(v).enumerate() {
            let entropy: f32 = p.iter().map(|p| if *p > 0.0 { -p * p.ln() } else { 0.0 }).sum();
            assert!((found.lens.entropy[place] - entropy).abs() < BOUND * entropy.max(1.0));
            let Some(next) = found.tokens.get(place % n + 1) else { continue };
            let at = place / n * (n - 1) + place % n;
            let p_next = p[*next as usize];
            assert!((found.lens.next_nll[at] + p_next.ln()).abs() < BOUND * p_next.ln().abs().max(1.0));
            let clearly = |factor: f32| p.iter().filter(|p| **p > p_next * factor).count() as u32;
            let rank = found.lens.next_rank[at];
            assert!((clearly(1.001)..=clearly(0.999)).contains(&rank), "{}: rank {rank}", golden.title());
        }
    });
}

#[test]
fn a_trace_agrees_with_itself() {
    check_all(&places(), &["gemma3", "qwen3"], |golden| {
        let found = traced(golden, Options::default());
        let (n, c, layers, heads) =
            (found.tokens.len(), found.sizes.channels, found.sizes.layers, found.sizes.heads);
        for (row, weights) in found.attention.chunks(n).enumerate() {
            let (layer, q) = (row / (heads * n), row % n);
            let first = found.sizes.windows[layer].map_or(0, |window| (q + 1).saturating_sub(window));
            assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            assert!(weights.iter().enumerate().all(|(k, w)| (first..=q).contains(&k) == (*w > 0.0)));
        }
        for (row, length) in found.streams.chunks(c).zip(&found.norms.stream) {
            assert!((row.iter().map(|x| x * x).sum::<f32>().sqrt() - length).abs() <= 1e-4 * length);
        }
        let f = found.sizes.mlp_width as f32;
        for place in 0..layers * n {
            let count = found.mlp.open[place] * f;
            assert!((count - count.round()).abs() < 1e-3 && (0.0..=f).contains(&count), "{count} open gates");
            let values = &found.mlp.values[place * 5..][..5];
            assert!(values.is_sorted_by(|a, b| a.abs() >= b.abs()));
            assert!(found.mlp.rms[place] * f.sqrt() >= values[0].abs() * 0.999);
        }
        // Every op of every layer, once.
        let blocks = if found.ops.iter().any(|op| op.name == "MLP post-norm") { 11 } else { 9 };
        assert_eq!(found.ops.len(), layers * blocks + 3, "{:?}", found.ops);
        assert!(found.ops.iter().all(|op| op.milliseconds >= 0.0 && op.bytes > 0));
    });
}

fn inspect(arguments: &[&str], out: &Path) -> std::process::Output {
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo/gemma3");
    Command::new(env!("CARGO_BIN_EXE_emlab"))
        .args(["inspect", "trace", "--device", "cpu", "--model", demo, "--out"])
        .arg(out)
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn two_untimed_traces_are_the_same_bytes() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("inspect_trace");
    let outs = ["one", "two"].map(|name| folder.join(name));
    for out in &outs {
        let output = inspect(&["--prompt", "Who are you?", "--untimed"], out);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    for name in ["trace.json", "trace.safetensors"] {
        let [one, two] = outs.each_ref().map(|out| std::fs::read(out.join(name)).unwrap());
        assert!(one == two, "{name}");
    }
    let json: Value = serde_json::from_slice(&std::fs::read(outs[0].join("trace.json")).unwrap()).unwrap();
    let n = json["tokens"].as_array().unwrap().len();
    assert_eq!(json["loss"].as_array().unwrap().len(), n - 1);
    assert!(json["tokens"].as_array().unwrap().iter().all(|id| json["texts"][id.to_string()].is_string()));
}

#[test]
fn what_cannot_be_traced_says_so() {
    let golden = Golden::read("qwen3", places()[0]);
    let mut model = Transformer::load(&golden.folder, golden.place).unwrap();
    model.spec.context = 1 << 20;
    let error = trace(&model, &vec![1; 1 << 18], Options::default()).unwrap_err().to_string();
    assert!(error.contains("GiB of attention"), "{error}");
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("inspect_trace/none");
    for (arguments, part) in [
        (&["--raw", ""][..], "2 to"),
        (&["--file", "no such file"], "no such file"),
        (&[], "--prompt"),
        (&["--prompt", "a", "--raw", "b"], "cannot be used with"),
    ] {
        let output = inspect(arguments, &out);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(part), "{arguments:?}: {error}");
    }
}
