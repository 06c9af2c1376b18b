//! Matrix products on the card: one safe face for `kernels/gemm_plain.cu`, `gemm_mma.cu` and `gemm_wgmma.cu`.
//!
//! A call computes one or more parts of C, each `alpha · (A·B + A2·B2)`, where every operand is a range of rows and
//! columns of a tensor, as it lies or transposed. On Hopper the parts of a call that read the same tensors are one
//! launch. The path follows from element type, card and alignment; how the work is cut follows from shapes alone, so a
//! result has the same bits every time.
//!
//! With at most [`STABLE_ROWS`] rows the product is computed as its transpose: the rows of B fill the tensor cores' 64
//! rows and the rows of A are their columns. The cut then depends on B alone, and a row of the result does not depend on
//! the rows beside it, bit for bit.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::gpu::{Buffer, Gpu, purpose};
use super::launch::{Arg, Grid, TensorMap};
use super::product::Store;
use super::{DType, Tensor};
use crate::error::Result;

/// Up to this many rows, a row of a product does not depend on the others.
pub const STABLE_ROWS: usize = 256;

/// A matrix that is read: a range of rows and columns of a row-major tensor, as it lies or transposed.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    tensor: &'a Tensor,
    /// First row and column in the tensor.
    from: [usize; 2],
    /// Rows and columns in the tensor.
    size: [usize; 2],
    transposed: bool,
}

impl<'a> View<'a> {
    /// A whole tensor of two axes.
    pub fn new(tensor: &'a Tensor) -> Self {
        let [rows, cols] = *tensor.shape() else { panic!("a matrix of shape {:?}", tensor.shape()) };
        Self { tensor, from: [0, 0], size: [rows, cols], transposed: false }
    }

    /// The rows in `range`.
    #[must_use]
    pub fn rows(self, range: Range<usize>) -> Self {
        self.narrow(usize::from(self.transposed), range)
    }

    /// The columns in `range`.
    #[must_use]
    pub fn columns(self, range: Range<usize>) -> Self {
        self.narrow(usize::from(!self.transposed), range)
    }

    fn narrow(mut self, axis: usize, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.size[axis], "{range:?} of {}", self.size[axis]);
        self.from[axis] += range.start;
        self.size[axis] = range.len();
        self
    }

    /// The transpose: no element moves.
    #[must_use]
    pub fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    /// Number of rows and columns.
    pub fn size(self) -> [usize; 2] {
        let [rows, cols] = self.size;
        if self.transposed { [cols, rows] } else { [rows, cols] }
    }
}

/// One part of a product: `a · b`, and perhaps the product of a second pair, stored from row and column `at` on.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// (m, k).
    pub a: View<'a>,
    /// (k, n).
    pub b: View<'a>,
    /// (m, k2) and (k2, n).
    pub second: Option<[View<'a>; 2]>,
    /// First row and column in C.
    pub at: [usize; 2],
}

impl<'a> Part<'a> {
    /// `a · b` stored from the first row and column on.
    pub fn new(a: View<'a>, b: View<'a>) -> Self {
        Self { a, b, second: None, at: [0, 0] }
    }
}

/// Each part of `c` becomes, or with [`Store::Accumulate`] is increased by, `alpha` times its product. A and B hold one
/// element type, C the same or f32. Elements of `c` outside the parts are left alone. Parts must not overlap.
///
/// # Errors
/// [`Error::Cuda`](crate::Error::Cuda), [`Error::Compile`](crate::Error::Compile) or
/// [`Error::Memory`](crate::Error::Memory) if the card refuses.
pub fn multiply(gpu: Gpu, c: &mut Tensor, store: Store, alpha: f32, parts: &[Part]) -> Result<()> {
    let mut problems: Vec<Problem> = parts.iter().map(Problem::of).filter(|p| p.m > 0 && p.n > 0).collect();
    check(c, &problems);
    // A second term that only a slower path can read must not slow the first: it is added afterwards.
    let mut afterwards = Vec::new();
    for p in &mut problems {
        let alone = Problem { second: None, ..*p };
        if let Some(second) = p.second
            && p.path(gpu) < alone.path(gpu)
        {
            afterwards.push(Problem { first: second, ..alone });
            *p = alone;
        }
    }
    let [rows, pitch] = *c.shape() else { unreachable!("checked") };
    let output = Output { pointer: c.pointer(), rows, pitch, dtype: c.dtype(), store, alpha };
    run(gpu, output, &problems)?;
    run(gpu, Output { store: Store::Accumulate, ..output }, &afterwards)
}

/// The launches of all problems; on Hopper those that read the same tensors share one.
fn run(gpu: Gpu, output: Output, mut rest: &[Problem]) -> Result<()> {
    while let Some(first) = rest.first() {
        let path = first.path(gpu);
        let count = match path {
            Path::Wgmma => {
                rest.iter().take_while(|p| p.path(gpu) == path && p.joins(first)).count().min(GROUPS)
            }
            Path::Plain | Path::Mma => 1,
        };
        let (now, later) = rest.split_at(count);
        match path {
            Path::Wgmma => wgmma(gpu, output, now)?,
            Path::Plain | Path::Mma => simple(gpu, output, path, first)?,
        }
        rest = later;
    }
    Ok(())
}

fn check(c: &Tensor, problems: &[Problem]) {
    let [rows, cols] = *c.shape() else { panic!("a matrix of shape {:?}", c.shape()) };
    for (i, p) in problems.iter().enumerate() {
        assert!(p.at[0] + p.m <= rows && p.at[1] + p.n <= cols, "part {p:?} of a {rows} × {cols} matrix");
        let dtype = p.first.a.tensor.dtype();
        assert!(c.dtype() == dtype || c.dtype() == DType::F32, "the element type of a product");
        for term in p.terms() {
            assert!([term.a, term.b].iter().all(|x| x.tensor.dtype() == dtype), "one element type");
        }
        let apart = |q: &Problem| {
            p.at[0] + p.m <= q.at[0]
                || q.at[0] + q.m <= p.at[0]
                || p.at[1] + p.n <= q.at[1]
                || q.at[1] + q.n <= p.at[1]
        };
        assert!(problems[..i].iter().all(apart), "parts of a product overlap");
    }
}

/// An operand as the kernels see it.
#[derive(Clone, Copy, Debug)]
struct Operand<'a> {
    tensor: &'a Tensor,
    /// Whether it lies in memory along M or N, not along K.
    mn: bool,
    /// First element along M or N, and along K.
    from: usize,
    from_k: usize,
    k: usize,
}

impl Operand<'_> {
    /// `second`: whether it is the right-hand operand.
    fn of(view: View<'_>, second: bool) -> Operand<'_> {
        let mn = view.transposed != second;
        let ([from, from_k], k) =
            if mn { ([view.from[1], view.from[0]], view.size[0]) } else { (view.from, view.size[1]) };
        Operand { tensor: view.tensor, mn, from, from_k, k }
    }

    fn pitch(self) -> usize {
        self.tensor.shape()[1]
    }

    /// Whether the tensor ends where the range along K does.
    fn ends_with_k(self) -> bool {
        self.from_k + self.k == self.tensor.shape()[usize::from(!self.mn)]
    }

    fn same_tensor(self, other: Self) -> bool {
        self.tensor.pointer() == other.tensor.pointer()
            && self.tensor.shape() == other.tensor.shape()
            && self.mn == other.mn
    }

    /// The address of the range's first element.
    fn pointer(self) -> u64 {
        let [row, col] = if self.mn { [self.from_k, self.from] } else { [self.from, self.from_k] };
        self.tensor.pointer() + ((row * self.pitch() + col) * self.tensor.dtype().size()) as u64
    }

    /// Whether its rows in memory begin at multiples of 16 bytes.
    fn aligned(self) -> bool {
        self.pointer().is_multiple_of(16) && self.pitch().is_multiple_of(8)
    }
}

#[derive(Clone, Copy, Debug)]
struct Term<'a> {
    a: Operand<'a>,
    b: Operand<'a>,
}

impl<'a> Term<'a> {
    fn of(a: View<'a>, b: View<'a>) -> Self {
        assert_eq!(a.size()[1], b.size()[0], "{:?} times {:?}", a.size(), b.size());
        Self { a: Operand::of(a, false), b: Operand::of(b, true) }
    }

    /// Whether what is fetched past the range along K, up to a whole tile, is multiplied by zeros.
    fn ends_cleanly(self) -> bool {
        self.a.k.is_multiple_of(TILE_K) || self.a.ends_with_k() || self.b.ends_with_k()
    }

    fn steps(self) -> usize {
        self.a.k.div_ceil(TILE_K)
    }
}

#[derive(Clone, Copy, Debug)]
struct Problem<'a> {
    m: usize,
    n: usize,
    first: Term<'a>,
    second: Option<Term<'a>>,
    at: [usize; 2],
}

/// The slowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Path {
    Plain,
    Mma,
    Wgmma,
}

impl<'a> Problem<'a> {
    fn of(part: &Part<'a>) -> Self {
        let ([m, k], [_, n]) = (part.a.size(), part.b.size());
        assert!(k > 0, "a product over nothing");
        if let Some([a, b]) = part.second {
            assert_eq!([a.size()[0], b.size()[1]], [m, n], "the two terms of a product");
        }
        let second = part.second.map(|[a, b]| Term::of(a, b));
        Self { m, n, first: Term::of(part.a, part.b), second, at: part.at }
    }

    fn terms(&self) -> impl Iterator<Item = Term<'a>> + use<'a> {
        [Some(self.first), self.second].into_iter().flatten()
    }

    /// The same product, with rows and columns exchanged.
    fn transposed(&self) -> Self {
        let flip = |Term { a, b }| Term { a: b, b: a };
        let [row, col] = self.at;
        Self { m: self.n, n: self.m, first: flip(self.first), second: self.second.map(flip), at: [col, row] }
    }

    fn path(&self, gpu: Gpu) -> Path {
        let operands = || self.terms().flat_map(|t| [t.a, t.b]);
        if operands().any(|x| x.tensor.dtype() != DType::Bf16) {
            return Path::Plain;
        }
        let orders_agree = self.second.is_none_or(|s| (s.a.mn, s.b.mn) == (self.first.a.mn, self.first.b.mn));
        // A box that the copy engine fetches must begin at a multiple of 16 bytes, as its rows must.
        if !orders_agree || !operands().all(Operand::aligned) {
            return Path::Plain;
        }
        if gpu.is_hopper() && self.terms().all(Term::ends_cleanly) { Path::Wgmma } else { Path::Mma }
    }

    /// Whether both can be groups of one launch.
    fn joins(&self, other: &Self) -> bool {
        let same = |x: Term, y: Term| x.a.same_tensor(y.a) && x.b.same_tensor(y.b);
        same(self.first, other.first)
            && self.second.zip(other.second).is_none_or(|(x, y)| same(x, y))
            && (self.m <= STABLE_ROWS) == (other.m <= STABLE_ROWS)
    }

    fn steps(&self) -> usize {
        self.terms().map(Term::steps).sum()
    }
}

/// Where the result goes.
#[derive(Clone, Copy, Debug)]
struct Output {
    pointer: u64,
    rows: usize,
    pitch: usize,
    dtype: DType,
    store: Store,
    alpha: f32,
}

impl Output {
    fn is_float(self) -> i64 {
        i64::from(self.dtype == DType::F32)
    }

    fn adds(self) -> i64 {
        i64::from(self.store == Store::Accumulate)
    }
}

/// The two kernels that take pointers: one part a launch.
fn simple(gpu: Gpu, c: Output, path: Path, p: &Problem) -> Result<()> {
    let real = i64::from(p.first.a.tensor.dtype() == DType::F32);
    let defines = [
        ("REAL_IS_FLOAT", real),
        ("A_MN", i64::from(p.first.a.mn)),
        ("B_MN", i64::from(p.first.b.mn)),
        ("C_IS_FLOAT", c.is_float()),
        ("C_ADD", c.adds()),
    ];
    let (kernel, tile, shared) = match path {
        Path::Plain => (gpu.kernel("gemm_plain", "gemm_plain", &defines)?, 64, 0),
        Path::Mma | Path::Wgmma => (gpu.kernel("gemm_mma", "gemm_mma", &defines)?, 128, 61_440),
    };
    let second = p.second.unwrap_or(Term { a: Operand { k: 0, ..p.first.a }, ..p.first });
    let operand = |x: Operand| [Arg::Pointer(x.pointer()), Arg::U64(x.pitch() as u64)];
    let [[a, a_pitch], [b, b_pitch]] = [operand(p.first.a), operand(p.first.b)];
    let [[a2, a2_pitch], [b2, b2_pitch]] = [operand(second.a), operand(second.b)];
    let corner = c.pointer + ((p.at[0] * c.pitch + p.at[1]) * c.dtype.size()) as u64;
    let grid = Grid::new(p.m.div_ceil(tile) * p.n.div_ceil(tile), 256).shared(shared);
    let args = [
        a,
        a_pitch,
        b,
        b_pitch,
        p.first.a.k.into(),
        a2,
        a2_pitch,
        b2,
        b2_pitch,
        second.a.k.into(),
        Arg::Pointer(corner),
        Arg::U64(c.pitch as u64),
        p.m.into(),
        p.n.into(),
        c.alpha.into(),
    ];
    // SAFETY: gemm_plain and gemm_mma (const real *a, u64 a_pitch, const real *b, u64 b_pitch, u32 k, …2, out *c, u64
    // c_pitch, u32 m, u32 n, float alpha); every range was checked to lie inside its tensor.
    unsafe { kernel.launch(gpu, grid, &args) }
}

const TILE_M: usize = 128;
const TILE_K: usize = 64;
/// Tiles of 128 rows that are walked together, so that both operands stay in the cache.
const BAND: usize = 16;
/// Parts of one launch of gemm_wgmma.
const GROUPS: usize = 8;
/// `struct Work` of gemm_wgmma.cu, in 32-bit words.
const WORK_WORDS: usize = 6 + 19 * GROUPS;

/// How a launch of gemm_wgmma divides its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    tile_n: usize,
    cluster: usize,
    /// Clusters that run.
    units: usize,
    /// Tiles that are computed whole; the reduction of the others is cut evenly.
    whole: usize,
}

impl Plan {
    fn tiles(self, p: &Problem) -> [usize; 2] {
        [p.m.div_ceil(TILE_M * self.cluster), p.n.div_ceil(self.tile_n)]
    }

    fn of(problems: &[Problem], multiprocessors: usize, stable: bool) -> Self {
        let widest = problems.iter().map(|p| p.n).max().unwrap_or(1);
        // One column of tiles is cut. With more, units at different places along K would fetch both operands again and
        // again: the cache would not hold what they share.
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

    /// No more units than there is work for.
    fn trimmed(self, problems: &[Problem]) -> Self {
        let [tiles, steps] = self.total(problems);
        if self.whole == 0 {
            // A piece of fewer steps costs more to add up than it saves.
            return Self { units: self.units.min(steps / 4).max(1), ..self };
        }
        Self { units: self.units.min(tiles), whole: tiles, ..self }
    }

    /// Time of a plan without cuts, in that of a step of 256 columns (0.69 µs on an H100 of 1.98 GHz).
    fn cost(self, problems: &[Problem]) -> f64 {
        let [tiles, steps] = self.total(problems);
        // As measured: narrower tiles do less for what they fetch.
        let step = match self.tile_n {
            256 => 1.0,
            192 => 0.775,
            160 => 0.716,
            _ => 0.551,
        };
        let each = steps as f64 / tiles as f64 * step + 2.5 * self.tile_n as f64 / 256.0;
        // Two blocks that share what they fetch spare the cache.
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

/// All parts in one launch.
fn wgmma(gpu: Gpu, c: Output, problems: &[Problem]) -> Result<()> {
    let stable = problems[0].m <= STABLE_ROWS;
    let flipped: Vec<Problem>;
    let problems = if stable {
        flipped = problems.iter().map(Problem::transposed).collect();
        &flipped
    } else {
        problems
    };
    let plan = Plan::of(problems, gpu.facts().multiprocessors as usize, stable);
    let Term { a, b } = problems[0].first;
    let second = problems.iter().find_map(|p| p.second).unwrap_or(problems[0].first);
    // Elements in 128 bytes.
    let line = 128 / c.dtype.size();
    let bulk = !stable
        && (c.dtype == DType::F32 || c.store == Store::Overwrite)
        && plan.tile_n.is_multiple_of(line)
        && c.pitch.is_multiple_of(line / 8)
        && problems.iter().all(|p| p.at[1].is_multiple_of(line / 8));

    let stage = plan.stage_bytes(b.mn);
    let fixed = 1024 + 16 + if bulk { 32_768 } else { 0 };
    let stages = ((gpu.facts().shared as usize - 16 - fixed) / (stage + 16)).min(8);
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
    let kernel = gpu.kernel("gemm_wgmma", "gemm_wgmma", &defines)?;

    let map = |x: Operand, tile: usize, k: usize| {
        let [rows, cols] = [x.tensor.shape()[0], x.tensor.shape()[1]];
        cached_map(gpu, DType::Bf16, x.tensor.pointer(), [rows, cols], if x.mn { k } else { tile })
    };
    let map_b = |x| map(x, plan.tile_n / plan.cluster, TILE_K / plan.cluster);
    // Where C does not leave through TMA its map is not read.
    let c_map = if bulk {
        cached_map(gpu, c.dtype, c.pointer, [c.rows, c.pitch], 64)?
    } else {
        map(a, TILE_M, TILE_K)?
    };
    let work = plan.work(problems);
    let [partials, arrived] = workspace(gpu, plan, (work[2] > 0).then_some(plan.total(problems)[0]))?;
    let grid = Grid::new(plan.units * plan.cluster, 384).shared(fixed + stages * (stage + 16));
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
    unsafe { kernel.launch(gpu, grid, &args) }
}

/// The map of a whole matrix for boxes of `box_rows` rows and 128 bytes.
fn cached_map(
    gpu: Gpu,
    dtype: DType,
    pointer: u64,
    [rows, cols]: [usize; 2],
    box_rows: usize,
) -> Result<TensorMap> {
    type Key = (u64, usize, [usize; 2], usize);
    static MAPS: Mutex<Option<HashMap<Key, TensorMap>>> = Mutex::new(None);
    let mut maps = MAPS.lock().unwrap_or_else(PoisonError::into_inner);
    let maps = maps.get_or_insert_default();
    let key = (pointer, dtype.size(), [rows, cols], box_rows);
    if let Some(map) = maps.get(&key) {
        return Ok(*map);
    }
    // Shapes change with every batch; old ones are forgotten together.
    if maps.len() >= 16_384 {
        maps.clear();
    }
    let map = gpu.tensor_map_of(dtype, pointer, [rows, cols, cols], [box_rows, 128 / dtype.size()])?;
    maps.insert(key, map);
    Ok(map)
}

/// Room for the partial sums of cut tiles, and their counters, which are zero between launches.
fn workspace(gpu: Gpu, plan: Plan, cut_tiles: Option<usize>) -> Result<[Arg<'static>; 2]> {
    const COUNTERS: usize = 1 << 18;
    static SPACE: Mutex<Option<[Buffer; 2]>> = Mutex::new(None);
    let Some(cut_tiles) = cut_tiles else { return Ok([Arg::Pointer(0); 2]) };
    let mut space = SPACE.lock().unwrap_or_else(PoisonError::into_inner);
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
