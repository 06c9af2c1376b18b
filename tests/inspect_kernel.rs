//! `emlab inspect kernel`: every kernel has a page, its definition beside it, and resources where NVRTC is.

use std::collections::HashSet;
use std::path::Path;
use std::process::{Command, Output};

use crate::needs;
use emlab::device::compile;
use emlab::device::gpu::Facts;
use emlab::inspect::kernel::resources::{Multiprocessor, usage};
use emlab::inspect::kernel::{all, catalogue, find, head, index, measured, source};
use emlab::model::cards;
use serde_json::Value;

fn inspect(arguments: &[&str]) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_emlab"));
    Command::new(program).args(["inspect", "kernel"]).args(arguments).env("COLUMNS", "160").output().unwrap()
}

fn text(arguments: &[&str]) -> String {
    let output = inspect(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_kernel_and_every_function_is_listed() {
    let lines = all();
    let names: Vec<&str> = lines.iter().map(|line| line.name).collect();
    assert_eq!(names, compile::sources().collect::<Vec<_>>());
    let list = text(&[]);
    for line in &lines {
        // As NVRTC sees them: `extern "C"` begins each and nothing else.
        let source = compile::text(line.name);
        assert_eq!(source.matches("extern \"C\" __global__").count(), line.functions.len(), "{}", line.name);
        for function in &line.functions {
            assert!(source.contains(&format!("{function}(")) && list.contains(function), "{function}");
        }
        assert!(!line.what.is_empty() && list.contains(line.name));
    }
}

#[test]
fn every_function_stands_beside_its_definition_or_says_that_it_has_none() {
    for line in all() {
        let page = find(line.name).unwrap().page("qwen3-8b");
        assert!(!page.head.is_empty(), "{}", line.name);
        assert_eq!(page.functions.iter().map(|pair| pair.function).collect::<Vec<_>>(), line.functions);
        for pair in &page.functions {
            let last = pair.kernel.iter().find(|piece| piece.name == pair.function).unwrap();
            assert!(last.text.contains("__global__"), "{}", pair.function);
            assert_eq!(pair.definition.is_empty(), page.definition.is_none(), "{}", pair.function);
            for piece in pair.definition.iter().chain(&pair.kernel) {
                let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(&piece.path);
                let text = std::fs::read_to_string(file).unwrap();
                let there = text.lines().nth(piece.line - 1).unwrap().trim_start();
                assert_eq!(there, piece.text.lines().next().unwrap(), "{}:{}", piece.path, piece.line);
            }
        }
        assert!(page.definition.is_some() || !page.note.is_empty(), "{} says not why", line.name);
        assert!(page.definition.is_none() || !page.maths.is_empty(), "{}", line.name);
    }
}

#[test]
fn every_measured_op_is_shown_with_a_kernel() {
    let shown: HashSet<String> = all()
        .iter()
        .flat_map(|line| find(line.name).unwrap().page("qwen3-8b").measured)
        .map(|row| row.op)
        .collect();
    let table = include_str!("../benches/results/NVIDIA-H100-80GB-HBM3.csv");
    for line in table.lines().skip(1).filter(|line| line.contains(",emlab,")) {
        let op = line.split(',').next().unwrap();
        // Copies are the driver's; steps are of many kernels.
        assert!(shown.contains(op) || ["copy", "lora step", "sampling"].contains(&op), "{op}");
    }
}

/// `EMLAB_WRITE_INDEX=1` writes the index anew; look at the difference before committing it.
#[test]
fn the_index_is_that_of_heads_and_figures() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let [begin, end] = index::MARKS;
    let (before, rest) = readme.split_once(begin).unwrap();
    let (written, after) = rest.split_once(end).unwrap();
    let expected = index::markdown();
    if std::env::var_os("EMLAB_WRITE_INDEX").is_some() {
        std::fs::write(&path, [before, begin, &expected, end, after].concat()).unwrap();
        return;
    }
    assert!(written == expected, "kernels/README.md: EMLAB_WRITE_INDEX=1 cargo test --test suite index");
}

/// Abbreviations that heads use; other words of capitals are constants.
const ABBREVIATIONS: [&str; 8] = ["A2", "B2", "CPU", "H100", "KV", "QK", "SM", "TFLOP"];

#[test]
fn every_head_has_its_sections_and_names_constants_that_exist() {
    let bodies: String =
        ["prelude", "attention", "tile", "hopper", "slices", "exponential_sum", "column_sums", "philox"]
            .map(|name| {
                std::fs::read_to_string(format!("{}/kernels/{name}.cuh", env!("CARGO_MANIFEST_DIR"))).unwrap()
            })
            .concat();
    for line in all() {
        let (name, text) = (line.name, compile::text(line.name));
        let comment = source::head(text, "//");
        for label in head::REQUIRED {
            let found = head::section(&comment, label);
            assert!(
                found.is_some_and(|text| !text.is_empty()),
                "kernels/{name}.cu: the head has no `{label}`"
            );
        }
        let bounds = ["work", "traffic"].map(|label| head::section(&comment, label).is_some());
        assert!(bounds[0] != bounds[1], "kernels/{name}.cu: `work` or `traffic`, and one of them alone");
        let body: String =
            text.lines().skip_while(|line| line.starts_with("//")).flat_map(|line| [line, "\n"]).collect();
        // Constants of the build stand in the body, in what it includes, or in a comment that explains another of the head.
        let known: HashSet<&str> = head::constants(&body).chain(head::constants(&bodies)).collect();
        for constant in head::constants(&comment).filter(|word| !ABBREVIATIONS.contains(word)) {
            assert!(
                known.contains(constant),
                "kernels/{name}.cu: the head names {constant}, which is nowhere"
            );
        }
    }
}

#[test]
fn heads_name_the_command_that_measures_or_say_why_there_is_none() {
    for entry in &catalogue::ENTRIES {
        let (name, rows) = (entry.name, measured::rows(entry.measured, "qwen3-8b"));
        let line = head::section(&source::head(compile::text(name), "//"), "measured").unwrap();
        let Some(op) = line.strip_prefix(head::BENCH) else {
            let reason = line.strip_prefix(head::NOT_BENCHED).unwrap_or_default();
            assert!(!reason.is_empty() && rows.is_empty(), "kernels/{name}.cu: measured {line}");
            continue;
        };
        // Figures stand in benches/results alone: the head names what makes them.
        let op = op.trim_matches('"');
        assert!(rows.iter().any(|row| row.op.starts_with(op)), "kernels/{name}.cu: no figures of `{op}`");
        assert!(entry.measured.iter().any(|own| own.starts_with(op)), "kernels/{name}.cu measures `{op}`");
        assert!(rows.iter().all(|row| row.limit_percent.is_some()), "{name}: a figure without its limit");
    }
}

#[test]
fn a_page_is_the_same_as_data() {
    for arguments in [&["norm"][..], &["norm_add_forward", "--model", "gemma-3-4b-it", "--arch", "sm_80"]] {
        let json = [arguments, &["--json"]].concat();
        let page: Value = serde_json::from_str(&text(&json)).unwrap();
        let shown = text(arguments);
        for pair in page["page"]["functions"].as_array().unwrap() {
            assert!(shown.contains(pair["function"].as_str().unwrap()));
        }
        for row in page["page"]["measured"].as_array().unwrap() {
            assert!(shown.contains(&format!("{:.4}", row["ms"].as_f64().unwrap())));
        }
        for function in page["compiled"]["functions"].as_array().unwrap() {
            assert!(shown.contains(&format!("{} ", function["registers"])), "{function}");
        }
    }
}

#[test]
fn what_there_is_not_is_refused_with_what_there_is() {
    for (arguments, expected) in [
        (&["gem_wgmma"][..], "no kernel `gem_wgmma`: the nearest are gemm_wgmma, "),
        (&["norm", "--arch", "sm_70"], "kernels are not made for `sm_70`: --arch is one of sm_80, "),
        (&["norm", "--model", "gpt-2"], "no model `gpt-2`: --model is one of gemma-3-270m, "),
    ] {
        let output = inspect(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(expected), "{error}");
    }
}

/// Needs NVRTC, but no GPU.
#[test]
fn resources_are_those_that_the_compiler_names() {
    let Some(_) = needs::nvrtc("registers and shared memory of kernels") else { return };
    let spec = cards::find("qwen3-0.6b").unwrap().spec().unwrap();
    for facts in Facts::typical().into_iter().filter(|facts| [(8, 9), (9, 0)].contains(&facts.capability)) {
        let room = Multiprocessor::of(facts.capability);
        for name in ["norm", "sample", "attention_mma", "tensor"] {
            let found = find(name).unwrap().resources(&spec, &facts).unwrap();
            assert!(!found.is_empty(), "{name} on {}", facts.name);
            for function in found {
                let log = compile::compile(name, &function.constants, facts.capability).unwrap().log;
                let usage =
                    usage(&log).into_iter().find(|usage| usage.function == function.function).unwrap();
                assert_eq!((usage.registers, usage.shared), (function.registers, function.shared[0]));
                assert!((1..=255).contains(&usage.registers), "{function:?}");
                let used = function.resident * (function.shared[0] + function.shared[1] + 1024);
                assert!(function.resident >= 1 && used <= room.shared, "{function:?} on {}", facts.name);
                assert!(function.resident * function.threads <= room.threads, "{function:?}");
            }
        }
    }
}
