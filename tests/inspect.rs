//! `emlab inspect` against numpy (`tools/make_inspect_goldens.py`).

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use half::bf16;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

fn inspect(arguments: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_emlab"))
        .args(["inspect", "diff", "--json"])
        .args(arguments)
        .output()
        .unwrap()
}

fn changes(arguments: &[&Path]) -> Vec<Value> {
    let output = inspect(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn changes_have_the_singular_values_that_numpy_finds() {
    let expected: Value =
        serde_json::from_slice(&std::fs::read(goldens().join("inspect.json")).unwrap()).unwrap();
    for (family, modules) in expected.as_object().unwrap() {
        let found = changes(&[&goldens().join(family).join("adapter")]);
        assert_eq!(found.len(), modules.as_object().unwrap().len());
        for change in found {
            let expected = &modules[change["module"].as_str().unwrap()];
            let [found, largest] = [&change, expected].map(|c| c["singular_values"].as_array().unwrap());
            assert_eq!(found.len(), largest.len());
            let numbers = found
                .iter()
                .zip(largest)
                .map(|(x, y)| [x, y])
                .chain(["norm", "effective_rank"].map(|name| [&change[name], &expected[name]]));
            for [x, y] in numbers {
                let (x, y) = (x.as_f64().unwrap(), y.as_f64().unwrap());
                assert!(
                    (x - y).abs() <= 1e-6 * largest[0].as_f64().unwrap().max(y),
                    "{}: {x} {y}",
                    change["module"]
                );
            }
        }
    }
}

#[test]
fn a_change_is_itself_and_adapters_of_other_models_are_not_compared() {
    let [gemma3, qwen3] = ["gemma3", "qwen3"].map(|family| goldens().join(family).join("adapter"));
    for change in changes(&[&qwen3, &qwen3]) {
        for name in ["cosine", "output_overlap", "input_overlap"] {
            assert!((change["against"][name].as_f64().unwrap() - 1.0).abs() < 1e-9, "{change}");
        }
    }
    let output = inspect(&[&qwen3, &gemma3]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("other modules"), "{error}");
}

#[test]
fn a_change_stands_beside_the_weight_that_it_changes() {
    for family in ["gemma3", "qwen3"] {
        let base = goldens().join(family);
        let adapter = base.join("adapter");
        let bytes = std::fs::read(base.join("model.safetensors")).unwrap();
        let weights = SafeTensors::deserialize(&bytes).unwrap();
        let found = changes(&[&adapter, Path::new("--model"), &base]);
        assert!(!found.is_empty());
        for change in found {
            let weight = weights.tensor(&format!("{}.weight", change["module"].as_str().unwrap())).unwrap();
            let data = weight.data();
            let numbers: Vec<f64> = match weight.dtype() {
                Dtype::BF16 => data.as_chunks().0.iter().map(|x| bf16::from_le_bytes(*x).to_f64()).collect(),
                Dtype::F32 => data.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x).into()).collect(),
                other => panic!("{other:?}"),
            };
            let expected = numbers.iter().map(|x| x * x).sum::<f64>().sqrt();
            assert!(
                (change["weight_norm"].as_f64().unwrap() - expected).abs() <= 1e-9 * expected,
                "{change}"
            );
        }
        let other = goldens().join(if family == "qwen3" { "gemma3" } else { "qwen3" });
        let output = inspect(&[&adapter, Path::new("--model"), &other]);
        assert!(!output.status.success(), "of another model");
    }
}
