//! Every kernel, for every architecture, with the load-time constants that the models need: it compiles, nothing spills
//! to memory, and the compiler does not serialise tensor-core instructions. Needs NVRTC, but no GPU. Without NVRTC the
//! test says so, and in CI (`CI` set) it fails.
#![allow(clippy::unwrap_used)]

use emlab::device::compile::{self, Define};
use rayon::prelude::*;

/// Compute capabilities: Ampere, Ada, Hopper, Blackwell.
const CAPABILITIES: [(u32, u32); 6] = [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)];

/// What ptxas says when it gives up overlapping wgmma with other work.
const SERIALISED: [&str; 3] = ["C7510", "C7511", "C7515"];

/// A kernel file and one set of load-time constants beside `REAL_IS_FLOAT`.
type Variant = (&'static str, Vec<Define>);

fn variants() -> Vec<Variant> {
    let mut all = vec![("random", vec![]), ("tensor", vec![]), ("linear", vec![])];
    products(&mut all);
    attention(&mut all);
    all.extend(bandwidth_bound());
    all
}

/// Constants of src/device/gemm.rs.
fn products(all: &mut Vec<Variant>) {
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

/// Constants of src/ops/attention/cuda.rs.
fn attention(all: &mut Vec<Variant>) {
    for dim in [16, 20, 64, 128, 256] {
        all.push(("attention_plain", vec![("D", dim), ("BLOCK", 128)]));
        for group in [1, 4, 5, 8] {
            all.push(("attention_cached", vec![("D", dim), ("PAGE", 16), ("GROUP", group), ("CHUNK", 1024)]));
        }
    }
    for dim in [64, 128, 256] {
        for source in ["attention_backward", "attention_forward", "attention_mma"] {
            all.push((source, vec![("D", dim)]));
        }
    }
}

/// The ops that memory bandwidth bounds.
fn bandwidth_bound() -> Vec<Variant> {
    let mut all = vec![("adamw", vec![]), ("mask", vec![]), ("steer", vec![])];
    for (c, block, teams) in
        [(37, 64, 8), (640, 96, 5), (2560, 160, 3), (4096, 256, 2), (5376, 224, 1), (5376, 352, 1)]
    {
        all.push(("embedding", vec![("C", c)]));
        for trained in [0, 1] {
            let sizes = [("C", c), ("BLOCK", block), ("TEAMS", teams), ("STAGES", 4)];
            all.push(("norm", [&sizes[..], &[("ONE_PLUS", trained), ("TRAINED", trained)]].concat()));
        }
    }
    for dim in [20, 64, 128, 256] {
        for (block, stages, one_plus) in [(128, 1, 0), (512, 3, 1)] {
            let sizes = [("H", 4), ("KV", 2), ("D", dim), ("BLOCK", block), ("STAGES", stages)];
            all.push(("rope", [&sizes[..], &[("ONE_PLUS", one_plus)]].concat()));
        }
    }
    for gelu in [0, 1] {
        all.extend([37, 12_288].map(|f| ("glu", vec![("F", f), ("GELU", gelu)])));
    }
    for (v, block, cluster, resident) in [
        (37, 32, 1, 1),
        (1001, 256, 1, 1),
        (151_936, 256, 16, 1),
        (262_144, 256, 8, 0),
        (262_144, 1024, 1, 0),
    ] {
        let defines = vec![("V", v), ("BLOCK", block), ("CLUSTER", cluster), ("RESIDENT", resident)];
        all.extend(["sample", "cross_entropy", "log_sum"].map(|source| (source, defines.clone())));
    }
    all
}

#[test]
fn every_kernel_compiles_for_every_architecture() {
    let Some((major, minor)) = compile::nvrtc_version() else {
        assert!(std::env::var_os("CI").is_none(), "NVRTC is missing");
        println!("no NVRTC here: kernels are not compiled");
        return;
    };
    for source in compile::sources() {
        assert!(
            variants().iter().any(|(name, _)| *name == source),
            "no variant of kernels/{source}.cu is compiled"
        );
    }
    let mut jobs = Vec::new();
    for (source, defines) in variants() {
        for real_is_float in [0, 1] {
            for capability in CAPABILITIES {
                if !clusters(&defines, capability) {
                    continue;
                }
                jobs.push((
                    source,
                    [defines.clone(), vec![("REAL_IS_FLOAT", real_is_float)]].concat(),
                    capability,
                ));
            }
        }
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
