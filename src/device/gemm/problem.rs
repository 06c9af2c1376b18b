//! A product in the caller's terms ([`Part`]s of [`View`]s), and in the kernels' terms (`Problem`s, whose operands are
//! described by their order in memory).

use std::ops::Range;

use crate::device::gpu::Gpu;
use crate::device::product::Store;
use crate::device::{DType, Tensor};

/// Elements of K in a tile of the tensor-core kernels.
pub(super) const TILE_K: usize = 64;

/// Up to this many rows, a row of a product does not depend on the other rows, bit for bit.
pub const STABLE_ROWS: usize = 256;

/// A matrix to be read: a range of rows and columns of a row-major tensor, as stored or transposed.
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

    /// The transpose; no element is moved.
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

/// An operand as the kernels see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operand<'a> {
    pub(super) tensor: &'a Tensor,
    /// Whether neighbours in memory are neighbours along M or N, not along K.
    pub(super) mn: bool,
    /// First element along M or N, and along K.
    pub(super) from: usize,
    pub(super) from_k: usize,
    pub(super) k: usize,
}

impl Operand<'_> {
    /// `second`: whether it is the right-hand operand.
    pub(super) fn of(view: View<'_>, second: bool) -> Operand<'_> {
        let mn = view.transposed != second;
        let ([from, from_k], k) =
            if mn { ([view.from[1], view.from[0]], view.size[0]) } else { (view.from, view.size[1]) };
        Operand { tensor: view.tensor, mn, from, from_k, k }
    }

    pub(super) fn pitch(self) -> usize {
        self.tensor.shape()[1]
    }

    /// Whether the tensor ends where the range along K does.
    pub(super) fn ends_with_k(self) -> bool {
        self.from_k + self.k == self.tensor.shape()[usize::from(!self.mn)]
    }

    pub(super) fn same_tensor(self, other: Self) -> bool {
        self.tensor.pointer() == other.tensor.pointer()
            && self.tensor.shape() == other.tensor.shape()
            && self.mn == other.mn
    }

    /// The address of the range's first element.
    pub(super) fn pointer(self) -> u64 {
        let [row, col] = if self.mn { [self.from_k, self.from] } else { [self.from, self.from_k] };
        self.tensor.pointer() + ((row * self.pitch() + col) * self.tensor.dtype().size()) as u64
    }

    /// Whether its rows start at multiples of 16 bytes.
    pub(super) fn aligned(self) -> bool {
        self.pointer().is_multiple_of(16) && self.pitch().is_multiple_of(8)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Term<'a> {
    pub(super) a: Operand<'a>,
    pub(super) b: Operand<'a>,
}

impl<'a> Term<'a> {
    pub(super) fn of(a: View<'a>, b: View<'a>) -> Self {
        assert_eq!(a.size()[1], b.size()[0], "{:?} times {:?}", a.size(), b.size());
        Self { a: Operand::of(a, false), b: Operand::of(b, true) }
    }

    /// Whether elements fetched past the range along K, up to a whole tile, are multiplied by zeros.
    pub(super) fn ends_cleanly(self) -> bool {
        self.a.k.is_multiple_of(TILE_K) || self.a.ends_with_k() || self.b.ends_with_k()
    }

    pub(super) fn steps(self) -> usize {
        self.a.k.div_ceil(TILE_K)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Problem<'a> {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) first: Term<'a>,
    pub(super) second: Option<Term<'a>>,
    pub(super) at: [usize; 2],
}

/// Which kernel computes a product; the slowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Path {
    Plain,
    Mma,
    Wgmma,
}

impl<'a> Problem<'a> {
    pub(super) fn of(part: &Part<'a>) -> Self {
        let ([m, k], [_, n]) = (part.a.size(), part.b.size());
        assert!(k > 0, "a product over nothing");
        if let Some([a, b]) = part.second {
            assert_eq!([a.size()[0], b.size()[1]], [m, n], "the two terms of a product");
        }
        let second = part.second.map(|[a, b]| Term::of(a, b));
        Self { m, n, first: Term::of(part.a, part.b), second, at: part.at }
    }

    pub(super) fn terms(&self) -> impl Iterator<Item = Term<'a>> + use<'a> {
        [Some(self.first), self.second].into_iter().flatten()
    }

    /// The same product, with rows and columns exchanged.
    pub(super) fn transposed(&self) -> Self {
        let flip = |Term { a, b }| Term { a: b, b: a };
        let [row, col] = self.at;
        Self { m: self.n, n: self.m, first: flip(self.first), second: self.second.map(flip), at: [col, row] }
    }

    pub(super) fn path(&self, gpu: Gpu) -> Path {
        let operands = || self.terms().flat_map(|t| [t.a, t.b]);
        if operands().any(|x| x.tensor.dtype() != DType::Bf16) {
            return Path::Plain;
        }
        let orders_agree = self.second.is_none_or(|s| (s.a.mn, s.b.mn) == (self.first.a.mn, self.first.b.mn));
        // The copy engine needs boxes and rows that start at multiples of 16 bytes.
        if !orders_agree || !operands().all(Operand::aligned) {
            return Path::Plain;
        }
        if gpu.is_hopper() && self.terms().all(Term::ends_cleanly) { Path::Wgmma } else { Path::Mma }
    }

    /// Whether both can be computed in one launch.
    pub(super) fn joins(&self, other: &Self) -> bool {
        let same = |x: Term, y: Term| x.a.same_tensor(y.a) && x.b.same_tensor(y.b);
        same(self.first, other.first)
            && self.second.zip(other.second).is_none_or(|(x, y)| same(x, y))
            && (self.m <= STABLE_ROWS) == (other.m <= STABLE_ROWS)
    }

    pub(super) fn steps(&self) -> usize {
        self.terms().map(Term::steps).sum()
    }
}

/// Where the result goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    pub(super) pointer: u64,
    pub(super) rows: usize,
    pub(super) pitch: usize,
    pub(super) dtype: DType,
    pub(super) store: Store,
    pub(super) alpha: f32,
}

impl Output {
    pub(super) fn is_float(self) -> i64 {
        i64::from(self.dtype == DType::F32)
    }

    pub(super) fn adds(self) -> i64 {
        i64::from(self.store == Store::Accumulate)
    }
}
