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

mod hopper;

use std::ops::Range;

use super::gpu::{Facts, Gpu};
use super::launch::{Arg, Variant};
use super::product::Store;
use super::{DType, Tensor};
use crate::error::Result;
use hopper::{GROUPS, TILE_K, wgmma};

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

/// A product by its sizes, for [`variants`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// C is (m, n), the sum is over k.
    pub size: [usize; 3],
    /// Whether A and B are transposes.
    pub transposed: [bool; 2],
    /// Element type of A and B, and of C.
    pub dtypes: [DType; 2],
    /// Whether C is added to.
    pub store: Store,
}

/// The kernels that compute a product on a card: the one for operands that lie well, then those it falls back to.
pub fn variants(facts: &Facts, Shape { size: [m, n, k], transposed, dtypes, store }: Shape) -> Vec<Variant> {
    // Only sizes and orders are looked at.
    let tensor = &Tensor::zeros(dtypes[0], &[1, 1]);
    let operand = |mn| Operand { tensor, mn, from: 0, from_k: 0, k };
    let first = Term { a: operand(transposed[0]), b: operand(!transposed[1]) };
    let problem = Problem { m, n, first, second: None, at: [0, 0] };
    let c = Output { pointer: 0, rows: m, pitch: n, dtype: dtypes[1], store, alpha: 1.0 };
    let mut all = Vec::new();
    if dtypes[0] == DType::Bf16 {
        if facts.is_hopper() {
            all.push(hopper::variant(facts, c, problem));
        }
        all.push(simple_variant(c, Path::Mma, &problem));
    }
    all.push(simple_variant(c, Path::Plain, &problem));
    all
}

/// One of the two kernels that take pointers.
fn simple_variant(c: Output, path: Path, p: &Problem) -> Variant {
    let defines = [
        p.first.a.tensor.dtype().define(),
        ("A_MN", i64::from(p.first.a.mn)),
        ("B_MN", i64::from(p.first.b.mn)),
        ("C_IS_FLOAT", c.is_float()),
        ("C_ADD", c.adds()),
    ];
    match path {
        Path::Plain => Variant::new("gemm_plain", "gemm_plain", &defines, 256),
        Path::Mma | Path::Wgmma => Variant::new("gemm_mma", "gemm_mma", &defines, 256).shared(61_440),
    }
}

/// The two kernels that take pointers: one part a launch.
fn simple(gpu: Gpu, c: Output, path: Path, p: &Problem) -> Result<()> {
    let variant = simple_variant(c, path, p);
    let tile = if path == Path::Plain { 64 } else { 128 };
    let second = p.second.unwrap_or(Term { a: Operand { k: 0, ..p.first.a }, ..p.first });
    let operand = |x: Operand| [Arg::Pointer(x.pointer()), Arg::U64(x.pitch() as u64)];
    let [[a, a_pitch], [b, b_pitch]] = [operand(p.first.a), operand(p.first.b)];
    let [[a2, a2_pitch], [b2, b2_pitch]] = [operand(second.a), operand(second.b)];
    let corner = c.pointer + ((p.at[0] * c.pitch + p.at[1]) * c.dtype.size()) as u64;
    let grid = variant.grid(p.m.div_ceil(tile) * p.n.div_ceil(tile));
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
    unsafe { variant.kernel(gpu)?.launch(gpu, grid, &args) }
}
