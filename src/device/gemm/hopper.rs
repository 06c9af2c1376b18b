//! The launch of `kernels/gemm_wgmma.cu`: how the work is cut, tensor maps, workspace.

use std::collections::HashMap;
use std::sync::Mutex;

use super::problem::{Operand, Output, Problem, STABLE_ROWS, TILE_K, Term};
use crate::device::buffer::Buffer;
use crate::device::gpu::Facts;
use crate::device::launch::{Arg, Variant};
use crate::device::memory::purpose;
use crate::device::product::Store;
use crate::device::tensor_map::TensorMap;
use crate::device::turn;
use crate::device::{DType, Gpu};
use crate::error::Result;

const TILE_M: usize = 128;
/// Tiles of 128 rows that are taken together, so that both operands stay in the cache.
const BAND: usize = 16;
/// Parts of one launch of gemm_wgmma.
pub(super) const GROUPS: usize = 8;
/// `struct Work` of gemm_wgmma.cu, in 32-bit words.
const WORK_WORDS: usize = 6 + 19 * GROUPS;

/// How a launch of gemm_wgmma divides its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WorkPlan {
    tile_n: usize,
    cluster: usize,
    /// Clusters in the grid.
    units: usize,
    /// Tiles that are computed whole; the reduction of all others is divided evenly among the units.
    whole: usize,
}

impl WorkPlan {
    fn tiles(self, p: &Problem) -> [usize; 2] {
        [p.m.div_ceil(TILE_M * self.cluster), p.n.div_ceil(self.tile_n)]
    }

    fn of(problems: &[Problem], multiprocessors: usize, stable: bool) -> Self {
        let widest = problems.iter().map(|p| p.n).max().unwrap_or(1);
        // Only a single column of tiles is cut. With more columns, units at different places along K would share too little
        // in the cache and fetch both operands repeatedly.
        if stable || widest <= 256 {
            let tile_n = [16, 32, 64, 96, 128, 192].into_iter().find(|tile| widest <= *tile).unwrap_or(256);
            return Self { tile_n, cluster: 1, units: multiprocessors, whole: 0 }.trimmed(problems);
        }
        let plan = |tile_n, cluster| {
            let units = multiprocessors / cluster;
            Self { tile_n, cluster, units, whole: usize::MAX }.trimmed(problems)
        };
        let plans = [256, 192, 160, 128].into_iter().flat_map(|tile_n| [plan(tile_n, 2), plan(tile_n, 1)]);
        plans.min_by(|x, y| x.cost(problems).total_cmp(&y.cost(problems))).unwrap_or(plan(256, 2))
    }

    fn total(self, problems: &[Problem]) -> [usize; 2] {
        let mut total = [0, 0];
        for p in problems {
            let tiles: usize = self.tiles(p).iter().product();
            total[0] += tiles;
            total[1] += tiles * p.steps();
        }
        total
    }

    /// With no more units than there is work for.
    fn trimmed(self, problems: &[Problem]) -> Self {
        let [tiles, steps] = self.total(problems);
        if self.whole == 0 {
            // Below four steps a unit, adding up the pieces costs more than it saves.
            return Self { units: self.units.min(steps / 4).max(1), ..self };
        }
        Self { units: self.units.min(tiles), whole: tiles, ..self }
    }

    /// Estimated time of a plan without cuts; the unit is a step of 256 columns (0.69 µs on an H100 at 1.98 GHz).
    fn cost(self, problems: &[Problem]) -> f64 {
        let [tiles, steps] = self.total(problems);
        // Measured: a narrower tile does less work for each byte it fetches.
        let step = match self.tile_n {
            256 => 1.0,
            192 => 0.775,
            160 => 0.716,
            _ => 0.551,
        };
        let each = steps as f64 / tiles as f64 * step + 2.5 * self.tile_n as f64 / 256.0;
        // The two blocks of a cluster share what they fetch, which takes load off the cache.
        let alone = if self.cluster == 1 { 1.01 } else { 1.0 };
        tiles.div_ceil(self.units) as f64 * each * alone
    }

    fn stage_bytes(self, b_mn: bool) -> usize {
        let b = if b_mn { self.tile_n.div_ceil(64) * 64 } else { self.tile_n };
        (TILE_M + b) * TILE_K * 2
    }

    /// `struct Work`, in the order of its declaration.
    fn work(self, problems: &[Problem]) -> [u32; WORK_WORDS] {
        let whole = self.whole.min(self.total(problems)[0]);
        let (mut tile, mut step, mut words) = (0, 0, Vec::with_capacity(WORK_WORDS));
        for p in problems {
            let [tiles_m, tiles_n] = self.tiles(p);
            let cut_tile = tile.max(whole);
            let second = p.second.unwrap_or(Term { a: Operand { k: 0, ..p.first.a }, ..p.first });
            let offsets = |t: Term| [t.a.from, t.a.from_k, t.b.from, t.b.from_k];
            words.extend([p.m, p.n, p.steps(), second.steps()]);
            words.extend(offsets(p.first));
            words.extend(offsets(second));
            words.extend([p.at[0], p.at[1], tiles_m, tiles_n, tile, cut_tile, step]);
            tile += tiles_m * tiles_n;
            step += tile.saturating_sub(cut_tile) * p.steps();
        }
        let mut work = [0; WORK_WORDS];
        let head = [problems.len(), whole, step, step / self.units, step % self.units, BAND / self.cluster];
        for (word, value) in work.iter_mut().zip(head.into_iter().chain(words)) {
            *word = u32::try_from(value).expect("a size that kernels count in 32 bits");
        }
        work
    }
}

/// Whether the rows of the result must not depend on each other. If so, the transpose of the product is computed.
fn stable(problems: &[Problem]) -> bool {
    problems[0].m <= STABLE_ROWS
}

/// The kernel for these problems, which are already transposed if `stable`, and how it divides the work.
fn choose(facts: &Facts, c: Output, problems: &[Problem], stable: bool) -> (Variant, WorkPlan) {
    let plan = WorkPlan::of(problems, facts.multiprocessors as usize, stable);
    let Term { a, b } = problems[0].first;
    // Elements in 128 bytes.
    let line = 128 / c.dtype.size();
    let bulk = !stable
        && (c.dtype == DType::F32 || c.store == Store::Overwrite)
        && plan.tile_n.is_multiple_of(line)
        && c.pitch.is_multiple_of(line / 8)
        && problems.iter().all(|p| p.at[1].is_multiple_of(line / 8));

    let stage = plan.stage_bytes(b.mn);
    let fixed = 1024 + 16 + if bulk { 32_768 } else { 0 };
    let stages = ((facts.shared as usize - 16 - fixed) / (stage + 16)).min(8);
    let defines = [
        ("REAL_IS_FLOAT", 0),
        ("TILE_N", plan.tile_n as i64),
        ("A_MN", i64::from(a.mn)),
        ("B_MN", i64::from(b.mn)),
        ("STAGES", stages as i64),
        ("CLUSTER", plan.cluster as i64),
        ("C_IS_FLOAT", c.is_float()),
        ("C_ADD", c.adds()),
        ("C_TRANSPOSED", i64::from(stable)),
        ("C_BULK", i64::from(bulk)),
    ];
    let variant = Variant::new("gemm_wgmma", "gemm_wgmma", &defines, 384);
    let variant = variant.shared(fixed + stages * (stage + 16));
    // The units that share a cut tile wait for each other; plans with clusters cut none.
    (if plan.cluster == 1 { variant.resident() } else { variant }, plan)
}

/// The kernel of one product.
pub(super) fn variant(facts: &Facts, c: Output, problem: Problem) -> Variant {
    let stable = stable(&[problem]);
    let problem = if stable { problem.transposed() } else { problem };
    choose(facts, c, &[problem], stable).0
}

/// Computes all problems in one launch.
pub(super) fn wgmma(gpu: Gpu, c: Output, problems: &[Problem]) -> Result<()> {
    let stable = stable(problems);
    let flipped: Vec<Problem>;
    let problems = if stable {
        flipped = problems.iter().map(Problem::transposed).collect();
        &flipped
    } else {
        problems
    };
    let (variant, plan) = choose(gpu.facts(), c, problems, stable);
    let Term { a, b } = problems[0].first;
    let second = problems.iter().find_map(|p| p.second).unwrap_or(problems[0].first);

    let map = |x: Operand, tile: usize, k: usize| {
        let [rows, cols] = [x.tensor.shape()[0], x.tensor.shape()[1]];
        cached_map(gpu, DType::Bf16, x.tensor.pointer(), [rows, cols], if x.mn { k } else { tile })
    };
    let map_b = |x| map(x, plan.tile_n / plan.cluster, TILE_K / plan.cluster);
    // Without C_BULK the kernel does not read the map of C.
    let c_map = if variant.defines.contains(&("C_BULK", 1)) {
        cached_map(gpu, c.dtype, c.pointer, [c.rows, c.pitch], 64)?
    } else {
        map(a, TILE_M, TILE_K)?
    };
    let work = plan.work(problems);
    let [partials, arrived] = workspace(gpu, plan, (work[2] > 0).then_some(plan.total(problems)[0]))?;
    let args = [
        Arg::Map(map(a, TILE_M, TILE_K)?),
        Arg::Map(map_b(b)?),
        Arg::Map(map(second.a, TILE_M, TILE_K)?),
        Arg::Map(map_b(second.b)?),
        Arg::Map(c_map),
        Arg::Words(&work),
        Arg::Pointer(c.pointer),
        Arg::U64(c.pitch as u64),
        c.alpha.into(),
        partials,
        arrived,
    ];
    // SAFETY: gemm_wgmma(TensorMap a, b, a2, b2, c_map, Work work, out *c, u64 pitch, float alpha, float *partials, u32
    // *arrived); the maps cover whole tensors, C's ranges were checked, the workspace holds two tiles a unit and a
    // counter a half tile, and launches that share it follow each other on one stream.
    unsafe { variant.launch(gpu, plan.units * plan.cluster, &args) }
}

/// The map of a whole matrix for boxes of `box_rows` rows and 128 bytes.
fn cached_map(
    gpu: Gpu,
    dtype: DType,
    pointer: u64,
    [rows, cols]: [usize; 2],
    box_rows: usize,
) -> Result<TensorMap> {
    /// Address, bytes an element, rows and columns, rows of a box.
    type MatrixKey = (u64, usize, [usize; 2], usize);
    static MAPS: Mutex<Option<HashMap<MatrixKey, TensorMap>>> = Mutex::new(None);
    let mut maps = turn::share(&MAPS);
    let maps = maps.get_or_insert_default();
    let key = (pointer, dtype.size(), [rows, cols], box_rows);
    if let Some(map) = maps.get(&key) {
        return Ok(*map);
    }
    // Shapes change with every batch; the old maps are dropped all at once.
    if maps.len() >= 16_384 {
        maps.clear();
    }
    let map = TensorMap::new(gpu, dtype, pointer, [rows, cols, cols], [box_rows, 128 / dtype.size()])?;
    maps.insert(key, map);
    Ok(map)
}

/// Room for the partial sums of cut tiles, and their counters, which are zero between launches.
fn workspace(gpu: Gpu, plan: WorkPlan, cut_tiles: Option<usize>) -> Result<[Arg<'static>; 2]> {
    const COUNTERS: usize = 1 << 18;
    static SPACE: Mutex<Option<[Buffer; 2]>> = Mutex::new(None);
    let Some(cut_tiles) = cut_tiles else { return Ok([Arg::Pointer(0); 2]) };
    let mut space = turn::share(&SPACE);
    if space.is_none() {
        let mut buffers = purpose("workspace", || [Buffer::empty(gpu), Buffer::empty(gpu)]);
        // Two tiles of the widest kind for every multiprocessor.
        buffers[0].grow(2 * gpu.facts().multiprocessors as usize * TILE_M * 256 * 4)?;
        buffers[1].grow(COUNTERS * 4)?;
        buffers[1].fill(0, COUNTERS * 4)?;
        *space = Some(buffers);
    }
    assert!(cut_tiles * 2 * plan.cluster <= COUNTERS, "{cut_tiles} tiles are too many to be cut");
    let pointers = space.as_ref().map(|buffers| [0, 1].map(|i| Arg::Pointer(buffers[i].pointer())));
    Ok(pointers.unwrap_or([Arg::Pointer(0); 2]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Tensor;
    use crate::device::gemm::problem::{Part, View};

    /// What the kernel does with `struct Work`: (group, tile of the launch, step) of every step of one unit.
    fn walk(work: &[u32], unit: u32, units: u32) -> Vec<[u32; 3]> {
        let [groups, whole, _, share, extra, _] = work[..6] else { unreachable!() };
        let group = |g: u32| &work[6 + 19 * g as usize..][..19];
        let (mut steps, mut tile) = (Vec::new(), unit);
        while tile < whole {
            let g = (0..groups).rev().find(|g| group(*g)[16] <= tile).unwrap();
            steps.extend((0..group(g)[2]).map(|step| [g, tile, step]));
            tile += units;
        }
        let first = |unit: u32| unit * share + unit.min(extra);
        for at in first(unit)..first(unit + 1) {
            let g = (0..groups).rev().find(|g| group(*g)[18] <= at).unwrap();
            let from = at - group(g)[18];
            steps.push([g, group(g)[17] + from / group(g)[2], from % group(g)[2]]);
        }
        steps
    }

    #[test]
    fn every_step_of_every_tile_is_done_once() {
        let a = Tensor::zeros(DType::Bf16, &[300, 1000]);
        let b = Tensor::zeros(DType::Bf16, &[600, 1000]);
        let (a, b) = (View::new(&a), View::new(&b));
        let part = |k: std::ops::Range<usize>, n: std::ops::Range<usize>| {
            Problem::of(&Part::new(a.columns(k.clone()), b.rows(n).columns(k).t()))
        };
        let problems = [part(0..640, 0..100), part(640..704, 100..500), part(0..1000, 500..600)];
        for (tile_n, cluster, units, whole) in
            [(96, 1, 7, 0), (128, 2, 3, usize::MAX), (256, 1, 132, 0), (64, 2, 5, 4), (64, 1, 4, 11)]
        {
            let plan = WorkPlan { tile_n, cluster, units, whole };
            let (plan, units) =
                (if whole == 4 || whole == 11 { plan } else { plan.trimmed(&problems) }, plan.units);
            let units = units.min(plan.units) as u32;
            let work = plan.work(&problems);
            let mut found: Vec<_> = (0..units).flat_map(|unit| walk(&work, unit, units)).collect();
            let (mut expected, mut next) = (Vec::new(), 0);
            for (g, p) in problems.iter().enumerate() {
                let tiles: usize = plan.tiles(p).iter().product();
                for tile in next..next + tiles {
                    expected.extend((0..p.steps()).map(|step| [g as u32, tile as u32, step as u32]));
                }
                next += tiles;
            }
            found.sort_unstable();
            assert_eq!(found, expected, "{plan:?}");
        }
    }
}
