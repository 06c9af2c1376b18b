//! Every kernel, for every architecture, with the load-time constants that the models and odd sizes need: it compiles, nothing spills
//! to memory, and the compiler does not serialise tensor-core instructions. Needs NVRTC, but no GPU. Without NVRTC the
//! test says so, and in CI (`CI` set) it fails.

use std::collections::HashSet;

use emlab::device::DType;
use emlab::device::compile::{self, Define};
use emlab::device::gpu::Facts;
use emlab::device::launch::Variant;
use emlab::inspect::kernel::variants::{Use, uses};
use emlab::model::cards;
use rayon::prelude::*;

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
                let Variant { source, function, defines, threads, shared } = variant;
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

#[test]
fn every_kernel_compiles_for_every_architecture() {
    let Some((major, minor)) = compile::nvrtc_version() else {
        assert!(std::env::var_os("CI").is_none(), "NVRTC is missing");
        println!("no NVRTC here: kernels are not compiled");
        return;
    };
    let mut jobs = Vec::new();
    for facts in Facts::typical() {
        let mut all = of_models(&facts);
        all.extend(of_other_sizes());
        for source in compile::sources() {
            assert!(all.iter().any(|(name, _)| *name == source), "kernels/{source}.cu is not compiled");
        }
        all.retain(|(_, defines)| clusters(defines, facts.capability));
        jobs.extend(all.into_iter().map(|(source, defines)| (source, defines, facts.capability)));
    }
    let failures: Vec<String> =
        jobs.par_iter().filter_map(|job| fault(job).map(|f| format!("{job:?}: {f}"))).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    println!("{} compilations with NVRTC {major}.{minor}", jobs.len());
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
fn fault((source, defines, capability): &(&str, Vec<Define>, (u32, u32))) -> Option<String> {
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
