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
    all
}

/// Constants of src/device/gemm.rs.
fn products(all: &mut Vec<Variant>) {
    for [a, b, float, add] in [[0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 1]] {
        let common = [("A_MN", a), ("B_MN", b), ("C_IS_FLOAT", float), ("C_ADD", add)];
        all.push(("gemm_plain", common.to_vec()));
        all.push(("gemm_mma", common.to_vec()));
        for (tile_n, cluster, transposed, stages) in
            [(256, 2, 0, 4), (192, 2, 0, 4), (128, 1, 0, 5), (96, 1, 0, 6), (256, 1, 1, 4), (64, 1, 1, 8), (16, 1, 1, 8)]
        {
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
