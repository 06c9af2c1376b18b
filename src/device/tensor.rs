//! [`Tensor`]: an element type, a shape and the storage that holds it. Row-major and contiguous, always.

use half::bf16;

use crate::error::{Error, Result};

/// Where a tensor's elements lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// Host memory; the definition of every op.
    Cpu,
}

/// The element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    /// 32-bit IEEE 754: activations, gradients, optimiser state.
    F32,
    /// bfloat16: frozen weights, kept as they lie on disk; widened exactly where they are used.
    Bf16,
    /// 32-bit unsigned: token ids and positions.
    U32,
}

impl DType {
    /// Bytes an element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::Bf16 => 2,
        }
    }

    /// The name used in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::U32 => "u32",
        }
    }
}

#[derive(Clone, Debug)]
enum Storage {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    U32(Vec<u32>),
}

/// A dense array. The last axis varies fastest.
#[derive(Clone, Debug)]
pub struct Tensor {
    shape: Vec<usize>,
    storage: Storage,
}

impl Tensor {
    /// All zeros.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Self {
        let n = shape.iter().product();
        let storage = match dtype {
            DType::F32 => Storage::F32(vec![0.0; n]),
            DType::Bf16 => Storage::Bf16(vec![bf16::ZERO; n]),
            DType::U32 => Storage::U32(vec![0; n]),
        };
        Self { shape: shape.to_vec(), storage }
    }

    /// Takes over `data`, `shape.product()` long.
    pub fn from_f32(shape: &[usize], data: Vec<f32>) -> Self {
        assert_eq!(data.len(), shape.iter().product::<usize>(), "elements for shape {shape:?}");
        Self { shape: shape.to_vec(), storage: Storage::F32(data) }
    }

    /// Takes over `data`, `shape.product()` long.
    pub fn from_bf16(shape: &[usize], data: Vec<bf16>) -> Self {
        assert_eq!(data.len(), shape.iter().product::<usize>(), "elements for shape {shape:?}");
        Self { shape: shape.to_vec(), storage: Storage::Bf16(data) }
    }

    /// Takes over `data`, `shape.product()` long.
    pub fn from_u32(shape: &[usize], data: Vec<u32>) -> Self {
        assert_eq!(data.len(), shape.iter().product::<usize>(), "elements for shape {shape:?}");
        Self { shape: shape.to_vec(), storage: Storage::U32(data) }
    }

    /// An empty f32 tensor, to be [`resize`](Self::resize)d before its first use.
    pub fn empty() -> Self {
        Self { shape: vec![0], storage: Storage::F32(Vec::new()) }
    }

    /// Gives the tensor a new shape, keeping its allocation where it suffices. The elements are unspecified
    /// afterwards: every op that writes overwrites.
    pub fn resize(&mut self, shape: &[usize]) {
        let n = shape.iter().product();
        self.shape.clear();
        self.shape.extend_from_slice(shape);
        match &mut self.storage {
            Storage::F32(v) => v.resize(n, 0.0),
            Storage::Bf16(v) => v.resize(n, bf16::ZERO),
            Storage::U32(v) => v.resize(n, 0),
        }
    }

    /// Sets every element to zero.
    pub fn clear(&mut self) {
        match &mut self.storage {
            Storage::F32(v) => v.fill(0.0),
            Storage::Bf16(v) => v.fill(bf16::ZERO),
            Storage::U32(v) => v.fill(0),
        }
    }

    /// The shape, outermost axis first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The shape as `K` numbers.
    ///
    /// # Errors
    /// [`Error::Shape`] if the tensor has another number of axes.
    pub fn dims<const K: usize>(&self) -> Result<[usize; K]> {
        self.shape.as_slice().try_into().map_err(|_| Error::Shape {
            op: "tensor".into(),
            name: format!("of {K} axes"),
            found: self.shape.clone(),
            expected: vec![0; K],
        })
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of storage in use.
    pub fn bytes(&self) -> usize {
        self.len() * self.dtype().size()
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        match self.storage {
            Storage::F32(_) => DType::F32,
            Storage::Bf16(_) => DType::Bf16,
            Storage::U32(_) => DType::U32,
        }
    }

    /// Where the elements lie.
    pub fn device(&self) -> Device {
        Device::Cpu
    }

    /// The elements as f32. Panics on another element type: ops check first, with [`expect`].
    pub fn f32(&self) -> &[f32] {
        match &self.storage {
            Storage::F32(v) => v,
            _ => panic!("f32 elements asked of a {} tensor", self.dtype().name()),
        }
    }

    /// The elements as mutable f32. Panics on another element type.
    pub fn f32_mut(&mut self) -> &mut [f32] {
        match &mut self.storage {
            Storage::F32(v) => v,
            Storage::Bf16(_) | Storage::U32(_) => panic!("f32 elements asked of another tensor"),
        }
    }

    /// The elements as bf16. Panics on another element type.
    pub fn bf16(&self) -> &[bf16] {
        match &self.storage {
            Storage::Bf16(v) => v,
            _ => panic!("bf16 elements asked of a {} tensor", self.dtype().name()),
        }
    }

    /// The elements as u32. Panics on another element type.
    pub fn u32(&self) -> &[u32] {
        match &self.storage {
            Storage::U32(v) => v,
            _ => panic!("u32 elements asked of a {} tensor", self.dtype().name()),
        }
    }

    /// The elements as mutable u32. Panics on another element type.
    pub fn u32_mut(&mut self) -> &mut [u32] {
        match &mut self.storage {
            Storage::U32(v) => v,
            Storage::F32(_) | Storage::Bf16(_) => panic!("u32 elements asked of another tensor"),
        }
    }

    /// A copy as f32 (bf16 widens exactly). Panics on u32.
    #[must_use]
    pub fn to_f32(&self) -> Self {
        let data = match &self.storage {
            Storage::F32(v) => v.clone(),
            Storage::Bf16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Storage::U32(_) => panic!("u32 tensors hold indices, not numbers"),
        };
        Self::from_f32(&self.shape, data)
    }

    /// A copy as bf16, rounded to nearest, ties to even. Panics on u32.
    #[must_use]
    pub fn to_bf16(&self) -> Self {
        let data = match &self.storage {
            Storage::F32(v) => v.iter().map(|&x| bf16::from_f32(x)).collect(),
            Storage::Bf16(v) => v.clone(),
            Storage::U32(_) => panic!("u32 tensors hold indices, not numbers"),
        };
        Self::from_bf16(&self.shape, data)
    }
}

/// Checks names, tensors and shapes of one op's f32 arguments at once.
///
/// # Errors
/// [`Error::Shape`] or [`Error::DType`] naming the first tensor that disagrees.
pub fn expect(op: &'static str, tensors: &[(&'static str, &Tensor, &[usize])]) -> Result<()> {
    for (name, tensor, shape) in tensors {
        expect_shape(op, name, tensor, shape)?;
        expect_dtype(op, name, tensor, DType::F32)?;
    }
    Ok(())
}

/// Checks the shape of one argument of any element type.
///
/// # Errors
/// [`Error::Shape`] naming it.
pub fn expect_shape(op: &'static str, name: &'static str, tensor: &Tensor, shape: &[usize]) -> Result<()> {
    if tensor.shape() == shape {
        return Ok(());
    }
    Err(Error::Shape {
        op: op.into(),
        name: name.into(),
        found: tensor.shape().to_vec(),
        expected: shape.to_vec(),
    })
}

/// Checks the element type of one argument.
///
/// # Errors
/// [`Error::DType`] naming it.
pub fn expect_dtype(op: &'static str, name: &'static str, tensor: &Tensor, dtype: DType) -> Result<()> {
    if tensor.dtype() == dtype {
        return Ok(());
    }
    Err(Error::DType { op, name, found: tensor.dtype().name(), expected: dtype.name() })
}
