//! Every kernel, for every architecture, with the load-time constants that the models and odd sizes need: it compiles, nothing
//! spills to memory, and the compiler does not serialise tensor-core instructions. Needs NVRTC, but no GPU. Without NVRTC the
//! test says so, and in CI (`CI` set) it fails.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use emlab::device::DType;
use emlab::device::compile::{self, Define};
use emlab::device::gpu::Facts;
use emlab::device::launch::Variant;
use emlab::inspect::kernel::variants::{Use, uses};
use emlab::model::cards;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::needs;

/// What ptxas says when it gives up overlapping wgmma with other work.
const SERIALISED: [&str; 3] = ["C7510", "C7511", "C7515"];

/// A kernel file and one set of load-time constants.
type Constants = (&'static str, Vec<Define>);

/// What the models of `models/` need on a card: all in bf16 on Hopper; elsewhere, and in f32, one of each family, so that the
/// test takes minutes.
fn of_models(facts: &Facts) -> HashSet<Constants> {
    let mut all = HashSet::new();
    for card in cards::all() {
        for real in [DType::F32, DType::Bf16] {
            for Use { variant, .. } in uses(&card.spec().unwrap(), facts, real) {
                let Variant { source, function, defines, threads, shared, .. } = variant;
                assert!(threads <= 1024 && shared <= facts.shared as usize, "{function} on {}", facts.name);
                let compiled = ["qwen3-8b", "gemma-3-4b-it"].contains(&&*card.name);
                if compiled || facts.is_hopper() && real == DType::Bf16 {
                    all.insert((source, defines));
                }
            }
        }
    }
    all
}

/// What other sizes can need.
fn of_other_sizes() -> Vec<Constants> {
    let mut all = Vec::new();
    products(&mut all);
    for dim in [16, 20, 64] {
        all.push(("attention_plain", vec![("D", dim), ("BLOCK", 128)]));
        for group in [1, 8] {
            all.push(("attention_cached", vec![("D", dim), ("PAGE", 16), ("GROUP", group), ("CHUNK", 1024)]));
        }
        let sizes = [("H", 4), ("KV", 2), ("D", dim), ("BLOCK", 128), ("STAGES", 1), ("ONE_PLUS", 0)];
        all.push(("rope", sizes.to_vec()));
    }
    for source in ["attention_backward", "attention_forward", "attention_mma"] {
        all.push((source, vec![("D", 64)]));
    }
    for trained in [0, 1] {
        let sizes = [("C", 37), ("BLOCK", 64), ("TEAMS", 8), ("STAGES", 4)];
        all.push(("norm", [&sizes[..], &[("ONE_PLUS", trained), ("TRAINED", trained)]].concat()));
        all.push(("glu", vec![("F", 37), ("GELU", trained)]));
    }
    all.push(("embedding", vec![("C", 37)]));
    for (v, block, cluster, resident) in [(37, 32, 1, 1), (1001, 256, 1, 1), (262_144, 1024, 1, 0)] {
        let defines = vec![("V", v), ("BLOCK", block), ("CLUSTER", cluster), ("RESIDENT", resident)];
        all.extend(["sample", "cross_entropy", "log_sum"].map(|source| (source, defines.clone())));
    }
    // Tensor cores take bf16 alone.
    let bf16 = ["gemm_mma", "gemm_wgmma", "attention_forward", "attention_backward", "attention_mma"];
    let types = |source| if bf16.contains(&source) { &[0][..] } else { &[0, 1] };
    let with = |(source, defines): Constants, float: i64| {
        (source, [defines, vec![("REAL_IS_FLOAT", float)]].concat())
    };
    all.into_iter()
        .flat_map(|constants| types(constants.0).iter().map(move |float| with(constants.clone(), *float)))
        .collect()
}

/// Products of any orders, and tiles that some shape takes.
fn products(all: &mut Vec<Constants>) {
    for [a, b, float, add] in [[0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 1]] {
        let common = [("A_MN", a), ("B_MN", b), ("C_IS_FLOAT", float), ("C_ADD", add)];
        all.push(("gemm_plain", common.to_vec()));
        all.push(("gemm_mma", common.to_vec()));
        for (tile_n, cluster, transposed, stages) in [
            (256, 2, 0, 4),
            (192, 2, 0, 4),
            (128, 1, 0, 5),
            (96, 1, 0, 6),
            (256, 1, 1, 4),
            (64, 1, 1, 8),
            (16, 1, 1, 8),
        ] {
            let bulk = i64::from(transposed == 0 && tile_n % 64 == 0 && (float == 1 || add == 0));
            let more = [
                ("TILE_N", tile_n),
                ("CLUSTER", cluster),
                ("STAGES", stages),
                ("C_TRANSPOSED", transposed),
                ("C_BULK", bulk),
            ];
            all.push(("gemm_wgmma", [&common[..], &more].concat()));
        }
    }
}

/// A compilation: what, and for which compute capability.
type Job = (&'static str, Vec<Define>, (u32, u32));

/// Seconds that a compilation took, by file, on a core of 2.6 GHz: long ones go first, so that no core ends alone with one.
const SECONDS: [(&str, f64); 7] = [
    ("attention_backward", 3.7),
    ("attention_forward", 2.3),
    ("sample", 2.1),
    ("attention_mma", 2.1),
    ("gemm_wgmma", 2.1),
    ("attention_plain", 1.5),
    ("attention_cached", 1.4),
];

/// The compilations whose code differs: constants in one order, and without the element type where nothing has it.
fn jobs() -> Vec<Job> {
    let mut all = HashSet::new();
    for facts in Facts::typical() {
        let mut constants: Vec<Constants> = of_models(&facts).into_iter().chain(of_other_sizes()).collect();
        for source in compile::sources() {
            assert!(constants.iter().any(|(name, _)| *name == source), "kernels/{source}.cu is not compiled");
        }
        constants.retain(|(_, defines)| clusters(defines, facts.capability));
        for (source, mut defines) in constants {
            if !typed(source) {
                defines.retain(|(name, _)| *name != "REAL_IS_FLOAT");
                defines.push(("REAL_IS_FLOAT", 0));
            }
            defines.sort_unstable();
            all.insert((source, defines, facts.capability));
        }
    }
    let mut all: Vec<Job> = all.into_iter().collect();
    let seconds =
        |job: &Job| SECONDS.iter().find(|(name, _)| *name == job.0).map_or(0.0, |(_, seconds)| *seconds);
    all.sort_by(|a, b| seconds(b).total_cmp(&seconds(a)).then_with(|| a.cmp(b)));
    all
}

/// Whether a kernel has the type `real` or asks which one that is. Of the headers only the prelude does, which defines it.
fn typed(source: &str) -> bool {
    names_real(compile::text(source))
}

fn names_real(text: &str) -> bool {
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    code.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'))
        .any(|word| ["real", "REAL_IS_FLOAT"].contains(&word))
}

#[test]
fn of_the_headers_only_the_prelude_names_the_element_type() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.extension().is_some_and(|extension| extension == "cuh") {
            let expected = path.ends_with("prelude.cuh");
            assert_eq!(names_real(&std::fs::read_to_string(&path).unwrap()), expected, "{}", path.display());
        }
    }
}

#[test]
fn every_kernel_compiles_for_every_architecture() {
    let Some((major, minor)) = needs::nvrtc("compiling the kernels") else { return };
    let jobs = jobs();
    // What was without fault before is not compiled again: a mark in the cache, under the hash of all that decides the code, in
    // a folder under the hash of all that decides what a fault is.
    let criteria = format!("faultless-{:x}", Sha256::digest(include_str!("kernels_compile.rs")));
    let marks = std::env::var_os("EMLAB_CACHE").map(|folder| Path::new(&folder).join(criteria));
    if let Some(folder) = &marks {
        std::fs::create_dir_all(folder).unwrap();
    }
    let spent = Mutex::new(BTreeMap::<&str, (usize, f64)>::new());
    let check = |job: &Job| {
        let mark = marks.as_ref().map(|folder| folder.join(compile::key(job.0, &job.1, job.2)));
        if mark.as_ref().is_some_and(|mark| mark.exists()) {
            return None;
        }
        let start = Instant::now();
        let fault = fault(job);
        let mut spent = spent.lock().unwrap();
        let (count, seconds) = spent.entry(job.0).or_default();
        *count += 1;
        *seconds += start.elapsed().as_secs_f64();
        drop(spent);
        if let (None, Some(mark)) = (&fault, &mark) {
            std::fs::write(mark, "").unwrap();
        }
        fault.map(|fault| format!("{job:?}: {fault}"))
    };
    // One after the other from the front of the list, whichever core is free.
    let failures: Vec<String> = jobs.iter().par_bridge().filter_map(check).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let spent = spent.into_inner().unwrap();
    let compiled: usize = spent.values().map(|(count, _)| count).sum();
    println!("{compiled} of {} variants compiled with NVRTC {major}.{minor}; seconds by file:", jobs.len());
    for (source, (count, seconds)) in spent {
        println!("{source:<20} {count:>4} variants {seconds:>7.1} s");
    }
}

/// Whether the architecture has clusters as large as these constants ask for.
fn clusters(defines: &[Define], (major, _): (u32, u32)) -> bool {
    let most = match major {
        9 | 10 => 16,
        12 => 8,
        _ => 1,
    };
    let asked = defines.iter().find(|(name, _)| *name == "CLUSTER").map_or(1, |(_, size)| *size);
    asked <= most
}

/// What is wrong with a compilation.
fn fault((source, defines, capability): &Job) -> Option<String> {
    let log = match compile::compile(source, defines, *capability) {
        Ok(compiled) => compiled.log,
        Err(error) => return Some(error.to_string()),
    };
    let bad = log.lines().find(|line| {
        let spills = line.contains("spill") && !line.contains("0 bytes spill stores, 0 bytes spill loads");
        spills || line.contains("warning") || SERIALISED.iter().any(|code| line.contains(code))
    });
    bad.map(str::to_owned)
}
