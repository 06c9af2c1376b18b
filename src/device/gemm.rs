//! Matrix products on the card: the safe interface to `kernels/gemm_plain.cu`, `gemm_mma.cu` and `gemm_wgmma.cu`.
//!
//! A call computes one or more parts of C, each `alpha · (A·B + A2·B2)`, where every operand is a range of rows and
//! columns of a tensor, as stored or transposed. On Hopper the parts of a call that read the same tensors share one
//! launch. Element type, card and alignment determine the kernel; shapes alone determine how its work is cut, so a result
//! has the same bits every time.
//!
//! With at most [`STABLE_ROWS`] rows the product is computed as its transpose: the rows of B fill the tensor cores' 64
//! rows and the rows of A are their columns. The cut then depends on B alone, and every row of the result has the same
//! bits whatever the other rows are.

mod hopper;
mod problem;

use super::gpu::{Facts, Gpu};
use super::launch::{Arg, Variant};
use super::product::Store;
use super::{DType, Tensor};
use crate::error::Result;
use hopper::{GROUPS, wgmma};
use problem::{Operand, Output, Path, Problem, Term};

pub use problem::{Part, STABLE_ROWS, View};

/// Sets each part of `c` to `alpha` times its product, or with [`Store::Accumulate`] adds it. A and B have the same element
/// type, C the same or f32. Elements of `c` outside the parts are not changed. Parts must not overlap.
///
/// # Errors
/// [`Error::Cuda`](crate::Error::Cuda), [`Error::Compile`](crate::Error::Compile) or
/// [`Error::Memory`](crate::Error::Memory) if the card refuses.
pub fn multiply(gpu: Gpu, c: &mut Tensor, store: Store, alpha: f32, parts: &[Part]) -> Result<()> {
    let mut problems: Vec<Problem> = parts.iter().map(Problem::of).filter(|p| p.m > 0 && p.n > 0).collect();
    check(c, &problems);
    // If only a slower kernel can read the second term, it is added in a launch of its own, to keep the first on the fast one:
    // a bf16 result is then rounded between the two.
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

/// Launches all problems; on Hopper those that read the same tensors together.
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

/// The kernels that compute a product on a card: the one for aligned operands, then those it falls back to.
pub fn variants(facts: &Facts, Shape { size: [m, n, k], transposed, dtypes, store }: Shape) -> Vec<Variant> {
    // Only its sizes and orders matter here.
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

/// One of the two kernels that take plain pointers.
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

/// Launches one part with one of the two kernels that take plain pointers.
fn simple(gpu: Gpu, c: Output, path: Path, p: &Problem) -> Result<()> {
    let variant = simple_variant(c, path, p);
    let tile = if path == Path::Plain { 64 } else { 128 };
    let second = p.second.unwrap_or(Term { a: Operand { k: 0, ..p.first.a }, ..p.first });
    let operand = |x: Operand| [Arg::Pointer(x.pointer()), Arg::U64(x.pitch() as u64)];
    let [[a, a_pitch], [b, b_pitch]] = [operand(p.first.a), operand(p.first.b)];
    let [[a2, a2_pitch], [b2, b2_pitch]] = [operand(second.a), operand(second.b)];
    let corner = c.pointer + ((p.at[0] * c.pitch + p.at[1]) * c.dtype.size()) as u64;
    let blocks = p.m.div_ceil(tile) * p.n.div_ceil(tile);
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
    // c_pitch, u32 m, u32 n, float alpha); every range was checked against its tensor.
    unsafe { variant.launch(gpu, blocks, &args) }
}
