//! Host matrix products: a safe interface to the crate `gemm-f32`, and a product for few rows.
//!
//! The shape alone decides how the work is cut into tiles, never the number of threads, so a result has the same bits on any
//! number of cores. bf16 operands are widened (exactly) tile by tile: a frozen weight is read at half the bytes
//! and never copied whole.

use std::cell::RefCell;
use std::ops::Range;

use gemm_common::Parallelism;
use half::bf16;
use half::slice::HalfFloatSliceExt;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

/// A matrix to be read, with any row and column stride.
#[derive(Clone, Copy, Debug)]
pub struct View<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, T: Copy> View<'a, T> {
    /// Row-major and contiguous.
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "elements of a {rows} × {cols} matrix");
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// The columns in `range`.
    #[must_use]
    pub fn columns(self, range: Range<usize>) -> Self {
        assert!(range.end <= self.cols, "columns {range:?} of {}", self.cols);
        let start = (range.start * self.col_stride).min(self.data.len());
        Self { data: &self.data[start..], cols: range.len(), ..self }
    }

    /// The rows in `range`.
    #[must_use]
    pub fn rows(self, range: Range<usize>) -> Self {
        assert!(range.end <= self.rows, "rows {range:?} of {}", self.rows);
        let start = (range.start * self.row_stride).min(self.data.len());
        Self { data: &self.data[start..], rows: range.len(), ..self }
    }

    /// The transpose; no element is moved.
    #[must_use]
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Number of rows and columns.
    pub fn size(self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// The element at (row, column).
    #[inline]
    pub fn at(self, row: usize, col: usize) -> T {
        self.data[row * self.row_stride + col * self.col_stride]
    }

    /// Whether the last element of the view is inside its slice.
    fn in_bounds(&self) -> bool {
        self.rows == 0
            || self.cols == 0
            || (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride < self.data.len()
    }
}

/// A matrix to be written: a range of columns of a row-major matrix.
#[derive(Debug)]
pub struct ViewMut<'a, T> {
    data: &'a mut [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a, T: Copy> ViewMut<'a, T> {
    /// Row-major and contiguous.
    pub fn new(data: &'a mut [T], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "elements of a {rows} × {cols} matrix");
        Self { data, rows, cols, row_stride: cols }
    }

    /// The columns in `range`.
    #[must_use]
    pub fn columns(self, range: Range<usize>) -> Self {
        assert!(range.end <= self.cols, "columns {range:?} of {}", self.cols);
        let start = range.start.min(self.data.len());
        Self {
            data: &mut self.data[start..],
            rows: self.rows,
            cols: range.len(),
            row_stride: self.row_stride,
        }
    }

    /// Number of rows and columns.
    pub fn size(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// The element at (row, column).
    #[inline]
    pub fn at(&mut self, row: usize, col: usize) -> &mut T {
        &mut self.data[row * self.row_stride + col]
    }

    fn in_bounds(&self) -> bool {
        self.rows == 0 || self.cols == 0 || (self.rows - 1) * self.row_stride + self.cols <= self.data.len()
    }
}

/// Whether a product overwrites its destination or adds to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// Overwrite it.
    Overwrite,
    /// Add to it.
    Accumulate,
}

/// An element that a product can read as f32.
pub trait Widen: Copy + Send + Sync + 'static {
    /// The value, exactly.
    fn widen(self) -> f32;
    /// The view itself, or its widened copy in `scratch`.
    fn widened<'a>(view: View<'a, Self>, scratch: &'a mut Vec<f32>) -> View<'a, f32>;
    /// Widens a contiguous run.
    fn widen_into(dst: &mut [f32], src: &[Self]);
}

impl Widen for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    fn widened<'a>(view: View<'a, f32>, _: &'a mut Vec<f32>) -> View<'a, f32> {
        view
    }
    #[inline(always)]
    fn widen_into(dst: &mut [f32], src: &[f32]) {
        dst.copy_from_slice(src);
    }
}

impl Widen for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    fn widened<'a>(view: View<'a, bf16>, scratch: &'a mut Vec<f32>) -> View<'a, f32> {
        if view.row_stride < view.col_stride {
            return Self::widened(view.t(), scratch).t();
        }
        assert_eq!(view.col_stride, 1, "one axis of a matrix is contiguous");
        scratch.resize(view.rows * view.cols, 0.0);
        for (row, dst) in scratch.chunks_exact_mut(view.cols.max(1)).enumerate() {
            Self::widen_into(dst, &view.data[row * view.row_stride..][..view.cols]);
        }
        View::new(scratch, view.rows, view.cols)
    }
    #[inline(always)]
    fn widen_into(dst: &mut [f32], src: &[bf16]) {
        for (d, s) in dst.iter_mut().zip(src.reinterpret_cast()) {
            *d = f32::from_bits(u32::from(*s) << 16);
        }
    }
}

/// Rows, columns and depth of the tiles that [`multiply`] cuts a product into.
const TILE: (usize, usize, usize) = (768, 128, 1024);

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// `dst ← alpha · a · b`, or `dst += …`; a (M, K), b (K, N). Tiles in parallel.
// The view is taken by value, because it is the exclusive right to write.
#[allow(clippy::needless_pass_by_value)]
pub fn multiply<W: Widen>(dst: ViewMut<'_, f32>, store: Store, alpha: f32, a: View<'_, f32>, b: View<'_, W>) {
    let (m, n) = dst.size();
    let k = a.cols;
    assert_eq!((a.rows, b.rows, b.cols), (m, k, n), "product of {m} × {k} and {k} × {n}");
    assert!(dst.in_bounds() && a.in_bounds() && b.in_bounds(), "a matrix view reaches past its slice");
    if m == 0 || n == 0 {
        return;
    }
    // Cutting the depth pays only if b is widened, which costs a pass over its tile.
    let depth = if std::mem::size_of::<W>() == 4 { k.max(1) } else { TILE.2 };
    let target = Target { data: dst.data.as_mut_ptr(), row_stride: dst.row_stride };
    let tiles: Vec<(usize, usize)> =
        (0..m).step_by(TILE.0).flat_map(|i| (0..n).step_by(TILE.1).map(move |j| (i, j))).collect();
    let run = |&(i, j): &(usize, usize)| {
        let (rows, cols) = (i..m.min(i + TILE.0), j..n.min(j + TILE.1));
        SCRATCH.with_borrow_mut(|scratch| {
            for p in (0..k.max(1)).step_by(depth) {
                let depth = p..k.min(p + depth);
                let left = a.rows(rows.clone()).columns(depth.clone());
                let right = W::widened(b.rows(depth).columns(cols.clone()), scratch);
                let keep = p > 0 || store == Store::Accumulate;
                // SAFETY: tiles are disjoint, and `in_bounds` held for the whole of dst.
                unsafe { target.tile(i, j, keep, alpha, left, right) };
            }
        });
    };
    // Waking threads costs more than a small product.
    if tiles.len() == 1 || m * n * k < 1 << 16 {
        tiles.iter().for_each(run);
    } else {
        tiles.par_iter().for_each(run);
    }
}

/// The destination of a tiled product, shared by the threads that fill it.
struct Target {
    data: *mut f32,
    row_stride: usize,
}

// SAFETY: threads write disjoint tiles through it.
unsafe impl Sync for Target {}

impl Target {
    /// One tile, at row `i` and column `j` of the destination.
    ///
    /// # Safety
    /// The tile lies inside the destination and no other thread touches it.
    unsafe fn tile(&self, i: usize, j: usize, keep: bool, alpha: f32, a: View<'_, f32>, b: View<'_, f32>) {
        assert!(a.in_bounds() && b.in_bounds(), "a matrix view reaches past its slice");
        // The crate's kernels fill columns: the transposed product, bᵀ · aᵀ, whose columns are rows here.
        // SAFETY: the caller vouches for the destination; the views were just checked. Strides fit isize because
        // a slice's length does.
        unsafe {
            gemm_f32::gemm::f32::get_gemm_fn()(
                b.cols,
                a.rows,
                a.cols,
                self.data.add(i * self.row_stride + j),
                self.row_stride as isize,
                1,
                keep,
                b.data.as_ptr(),
                b.row_stride as isize,
                b.col_stride as isize,
                a.data.as_ptr(),
                a.row_stride as isize,
                a.col_stride as isize,
                1.0,
                alpha,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    }
}

/// Weight rows and activation rows computed together, so that each loaded value is used several times.
const GROUP: (usize, usize) = (4, 4);
/// Weight rows a task of [`multiply_rows`].
const STRIP: usize = 64;

/// `dst ← x · wᵀ` for few rows; dst (M, O), x (M, I), w (O, I). Every element is one dot product computed in one
/// order, whatever M is, so a row's result does not depend on the other rows. Reads w once.
pub fn multiply_rows<W: Widen>(dst: &mut [f32], x: &[f32], w: &[W], inputs: usize) {
    let (m, outputs) = (x.len() / inputs, w.len() / inputs);
    assert_eq!((x.len(), w.len(), dst.len()), (m * inputs, outputs * inputs, m * outputs));
    if m == 0 {
        return;
    }
    if m == 1 {
        let strips = dst.par_chunks_mut(STRIP).zip(w.par_chunks(STRIP * inputs));
        strips.for_each(|(out, w)| strip(out, x, w, inputs));
        return;
    }
    // Strips of the transposed result are disjoint slices; transposing it afterwards is 1/I of the work.
    let mut transposed = vec![0.0; m * outputs];
    let strips = transposed.par_chunks_mut(STRIP * m).zip(w.par_chunks(STRIP * inputs));
    strips.for_each(|(out, w)| strip(out, x, w, inputs));
    dst.par_chunks_mut(outputs).enumerate().for_each(|(i, row)| {
        for (o, d) in row.iter_mut().enumerate() {
            *d = transposed[o * m + i];
        }
    });
}

/// `out` (rows of w, M) ← w · xᵀ for one strip of w.
fn strip<W: Widen>(out: &mut [f32], x: &[f32], w: &[W], inputs: usize) {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.resize(GROUP.0 * inputs, 0.0);
        pulp::Arch::new().dispatch(Strip { out, x, w, inputs, scratch });
    });
}

struct Strip<'a, W> {
    out: &'a mut [f32],
    x: &'a [f32],
    w: &'a [W],
    inputs: usize,
    /// [`GROUP`]`.0` widened rows of w.
    scratch: &'a mut [f32],
}

impl<W: Widen> WithSimd for Strip<'_, W> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { out, x, w, inputs, scratch } = self;
        let m = x.len() / inputs;
        for (out, w) in out.chunks_mut(GROUP.0 * m).zip(w.chunks(GROUP.0 * inputs)) {
            let wide = &mut scratch[..w.len()];
            W::widen_into(wide, w);
            group(simd, out, x, wide, inputs);
        }
    }
}

/// One group of at most [`GROUP`]`.0` weight rows against every row of x.
#[inline(always)]
fn group<S: Simd>(simd: S, out: &mut [f32], x: &[f32], w: &[f32], inputs: usize) {
    let m = x.len() / inputs;
    let mut i = 0;
    while i < m {
        let many = if m - i >= GROUP.1 { GROUP.1 } else { 1 };
        let x = &x[i * inputs..][..many * inputs];
        if w.len() < GROUP.0 * inputs {
            for (r, w) in w.chunks_exact(inputs).enumerate() {
                for (c, x) in x.chunks_exact(inputs).enumerate() {
                    out[r * m + i + c] = dots::<S, 1, 1>(simd, w, x, inputs)[0][0];
                }
            }
        } else if many == 1 {
            let sums = dots::<S, { GROUP.0 }, 1>(simd, w, x, inputs);
            for (r, [sum]) in sums.into_iter().enumerate() {
                out[r * m + i] = sum;
            }
        } else {
            let sums = dots::<S, { GROUP.0 }, { GROUP.1 }>(simd, w, x, inputs);
            for (r, sums) in sums.into_iter().enumerate() {
                out[r * m + i..][..GROUP.1].copy_from_slice(&sums);
            }
        }
        i += many;
    }
}

/// `w_r · x_c` for r < R, c < K; w (R, I), x (K, I). One vector accumulator a product, then its lanes, then the
/// tail: the order does not depend on R and K.
#[inline(always)]
fn dots<S: Simd, const R: usize, const K: usize>(
    simd: S,
    w: &[f32],
    x: &[f32],
    inputs: usize,
) -> [[f32; K]; R] {
    let ws: [_; R] = std::array::from_fn(|r| S::as_simd_f32s(&w[r * inputs..][..inputs]));
    let xs: [_; K] = std::array::from_fn(|c| S::as_simd_f32s(&x[c * inputs..][..inputs]));
    let mut sums = [[simd.splat_f32s(0.0); K]; R];
    for p in 0..inputs / S::F32_LANES {
        for c in 0..K {
            let lanes = xs[c].0[p];
            for r in 0..R {
                sums[r][c] = simd.mul_add_f32s(ws[r].0[p], lanes, sums[r][c]);
            }
        }
    }
    let mut out = [[0.0; K]; R];
    for r in 0..R {
        for c in 0..K {
            out[r][c] = simd.reduce_sum_f32s(sums[r][c]);
            for (w, x) in ws[r].1.iter().zip(xs[c].1) {
                out[r][c] += w * x;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::philox::Key;

    fn random(n: usize, name: &str) -> Vec<f32> {
        let key = Key::new(1, &[name]);
        (0..n).map(|i| key.uniform(0, i as u32) - 0.5).collect()
    }

    fn naive(a: View<'_, f32>, b: View<'_, f32>) -> Vec<f64> {
        let ((m, k), (_, n)) = (a.size(), b.size());
        (0..m * n)
            .map(|e| (0..k).map(|p| f64::from(a.at(e / n, p)) * f64::from(b.at(p, e % n))).sum())
            .collect()
    }

    fn close(found: &[f32], expected: &[f64]) {
        for (i, (f, e)) in found.iter().zip(expected).enumerate() {
            assert!((f64::from(*f) - e).abs() < 1e-4, "element {i}: {f} against {e}");
        }
    }

    #[test]
    fn tiles_agree_with_the_definition() {
        let (m, n, k) = (5, 300, 1100);
        let (a, b) = (random(m * k, "a"), random(n * k, "b"));
        let (av, bv) = (View::new(&a, m, k), View::new(&b, n, k).t());
        let expected = naive(av, bv);
        let mut dst = vec![f32::NAN; m * n];
        multiply(ViewMut::new(&mut dst, m, n), Store::Overwrite, 1.0, av, bv);
        close(&dst, &expected);
        multiply(ViewMut::new(&mut dst, m, n), Store::Accumulate, -1.0, av, bv);
        assert!(dst.iter().all(|x| x.abs() < 1e-4));
    }

    #[test]
    fn half_weights_widen_exactly() {
        let (m, n, k) = (7, 261, 1030);
        let a = random(m * k, "a");
        let half: Vec<bf16> = random(n * k, "b").into_iter().map(bf16::from_f32).collect();
        let wide: Vec<f32> = half.iter().map(|x| x.to_f32()).collect();
        let expected = naive(View::new(&a, m, k), View::new(&wide, n, k).t());
        let mut dst = vec![f32::NAN; m * n];
        multiply(
            ViewMut::new(&mut dst, m, n),
            Store::Overwrite,
            1.0,
            View::new(&a, m, k),
            View::new(&half, n, k).t(),
        );
        close(&dst, &expected);
        multiply_rows(&mut dst, &a, &half, k);
        close(&dst, &expected);
    }

    #[test]
    fn a_row_does_not_depend_on_its_neighbours() {
        let (m, outputs, inputs) = (9, 70, 83);
        let (x, w) = (random(m * inputs, "x"), random(outputs * inputs, "w"));
        let mut all = vec![0.0; m * outputs];
        multiply_rows(&mut all, &x, &w, inputs);
        for i in 0..m {
            let mut one = vec![0.0; outputs];
            multiply_rows(&mut one, &x[i * inputs..][..inputs], &w, inputs);
            assert_eq!(one, all[i * outputs..][..outputs]);
        }
    }
}
