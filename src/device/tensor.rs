//! [`Tensor`]: an element type, a shape and the storage that holds it. Row-major and contiguous, always.

use bytemuck::{AnyBitPattern, NoUninit, cast_slice, cast_slice_mut};
use half::bf16;

use super::buffer::Buffer;
use super::dtype::DType;
use super::gpu::Gpu;
use crate::error::{Error, Result};

/// Where a tensor's elements are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// Host memory; the definition of every op.
    Cpu,
    /// The memory of the GPU.
    Cuda(Gpu),
}

#[derive(Debug)]
enum Storage {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    U32(Vec<u32>),
    /// At least as many bytes as the elements need.
    Cuda(Buffer, DType),
}

/// A dense array. The last axis varies fastest.
#[derive(Debug)]
pub struct Tensor {
    shape: Vec<usize>,
    storage: Storage,
}

/// Host tensors only: a copy on the GPU can fail, and is made by [`Tensor::to`].
impl Clone for Tensor {
    fn clone(&self) -> Self {
        let storage = match &self.storage {
            Storage::F32(v) => Storage::F32(v.clone()),
            Storage::Bf16(v) => Storage::Bf16(v.clone()),
            Storage::U32(v) => Storage::U32(v.clone()),
            Storage::Cuda(..) => panic!("a copy on the GPU is made by `to`"),
        };
        Self { shape: self.shape.clone(), storage }
    }
}

impl Default for Tensor {
    /// As [`Tensor::empty`].
    fn default() -> Self {
        Self::empty()
    }
}

impl Tensor {
    /// All zeros, on the host.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Self {
        let n = shape.iter().product();
        let storage = match dtype {
            DType::F32 => Storage::F32(vec![0.0; n]),
            DType::Bf16 => Storage::Bf16(vec![bf16::ZERO; n]),
            DType::U32 => Storage::U32(vec![0; n]),
        };
        Self { shape: shape.to_vec(), storage }
    }

    /// All zeros, on `device`.
    ///
    /// # Errors
    /// [`Error::Memory`] if too little is free.
    pub fn zeros_on(device: Device, dtype: DType, shape: &[usize]) -> Result<Self> {
        if device == Device::Cpu {
            return Ok(Self::zeros(dtype, shape));
        }
        let mut tensor = Self::empty_on(device, dtype);
        tensor.resize(shape)?;
        tensor.clear()?;
        Ok(tensor)
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

    /// An empty f32 tensor on the host, to be [`resize`](Self::resize)d before its first use.
    pub fn empty() -> Self {
        Self::empty_on(Device::Cpu, DType::F32)
    }

    /// An empty tensor, to be [`resize`](Self::resize)d before its first use.
    pub fn empty_on(device: Device, dtype: DType) -> Self {
        let storage = match (device, dtype) {
            (Device::Cpu, DType::F32) => Storage::F32(Vec::new()),
            (Device::Cpu, DType::Bf16) => Storage::Bf16(Vec::new()),
            (Device::Cpu, DType::U32) => Storage::U32(Vec::new()),
            (Device::Cuda(gpu), dtype) => Storage::Cuda(Buffer::empty(gpu), dtype),
        };
        Self { shape: vec![0], storage }
    }

    /// Gives the tensor a new shape, keeping its allocation where it suffices. The elements are unspecified
    /// afterwards: every op that writes overwrites.
    ///
    /// # Errors
    /// [`Error::Memory`] if the tensor must grow and too little is free.
    pub fn resize(&mut self, shape: &[usize]) -> Result<()> {
        let n: usize = shape.iter().product();
        match &mut self.storage {
            Storage::F32(v) => v.resize(n, 0.0),
            Storage::Bf16(v) => v.resize(n, bf16::ZERO),
            Storage::U32(v) => v.resize(n, 0),
            Storage::Cuda(buffer, dtype) => buffer.grow(n * dtype.size())?,
        }
        self.shape.clear();
        self.shape.extend_from_slice(shape);
        Ok(())
    }

    /// Sets every element to zero.
    ///
    /// # Errors
    /// [`Error::Cuda`] if the GPU has failed.
    pub fn clear(&mut self) -> Result<()> {
        let bytes = self.bytes();
        match &mut self.storage {
            Storage::F32(v) => v.fill(0.0),
            Storage::Bf16(v) => v.fill(bf16::ZERO),
            Storage::U32(v) => v.fill(0),
            Storage::Cuda(buffer, _) => buffer.fill(0, bytes)?,
        }
        Ok(())
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
            Storage::Cuda(_, dtype) => dtype,
        }
    }

    /// Where the elements are stored.
    pub fn device(&self) -> Device {
        match &self.storage {
            Storage::Cuda(buffer, _) => Device::Cuda(buffer.gpu()),
            _ => Device::Cpu,
        }
    }

    /// The address of the first element on the GPU. Panics on a host tensor.
    pub fn pointer(&self) -> u64 {
        match &self.storage {
            Storage::Cuda(buffer, _) => buffer.pointer(),
            _ => panic!("a GPU address asked of a host tensor"),
        }
    }

    /// The elements as f32. Panics on another element type or on the GPU: ops check first, with [`expect`].
    pub fn f32(&self) -> &[f32] {
        match &self.storage {
            Storage::F32(v) => v,
            _ => panic!("host f32 elements asked of a {}", self.kind()),
        }
    }

    /// The elements as mutable f32. Panics as [`f32`](Self::f32).
    pub fn f32_mut(&mut self) -> &mut [f32] {
        match &mut self.storage {
            Storage::F32(v) => v,
            _ => panic!("host f32 elements asked of another tensor"),
        }
    }

    /// The elements as bf16. Panics on another element type or on the GPU.
    pub fn bf16(&self) -> &[bf16] {
        match &self.storage {
            Storage::Bf16(v) => v,
            _ => panic!("host bf16 elements asked of a {}", self.kind()),
        }
    }

    /// The elements as u32. Panics on another element type or on the GPU.
    pub fn u32(&self) -> &[u32] {
        match &self.storage {
            Storage::U32(v) => v,
            _ => panic!("host u32 elements asked of a {}", self.kind()),
        }
    }

    /// The elements as mutable u32. Panics on another element type or on the GPU.
    pub fn u32_mut(&mut self) -> &mut [u32] {
        match &mut self.storage {
            Storage::U32(v) => v,
            _ => panic!("host u32 elements asked of another tensor"),
        }
    }

    fn kind(&self) -> String {
        let place = if self.device() == Device::Cpu { "host" } else { "GPU" };
        format!("{} tensor on the {place}", self.dtype().name())
    }

    /// A copy on `device`, of the same element type.
    ///
    /// # Errors
    /// [`Error::Memory`] if too little is free; [`Error::Cuda`] if the GPU has failed.
    pub fn to(&self, device: Device) -> Result<Self> {
        let mut copy = Self::empty_on(device, self.dtype());
        copy.resize(&self.shape)?;
        copy.copy_from(self)?;
        Ok(copy)
    }

    /// Overwrites the elements with those of a tensor of the same shape and element type, on any device.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::DType`] if they differ; [`Error::Cuda`] if the GPU has failed.
    pub fn copy_from(&mut self, from: &Self) -> Result<()> {
        expect_shape("copy", "source", from, &self.shape)?;
        expect_dtype("copy", "source", from, self.dtype())?;
        let bytes = self.bytes();
        match (&mut self.storage, &from.storage) {
            (Storage::F32(to), Storage::F32(from)) => to.copy_from_slice(from),
            (Storage::Bf16(to), Storage::Bf16(from)) => to.copy_from_slice(from),
            (Storage::U32(to), Storage::U32(from)) => to.copy_from_slice(from),
            (Storage::Cuda(to, _), Storage::Cuda(from, _)) => to.copy_from(from, bytes)?,
            (Storage::Cuda(to, _), from) => to.upload(0, from.host_bytes())?,
            (to, Storage::Cuda(from, _)) => from.download(to.host_bytes_mut())?,
            _ => unreachable!("element types are equal"),
        }
        Ok(())
    }

    /// Copies `n` elements from `from` on to `to` on; the two ranges do not overlap.
    ///
    /// # Errors
    /// [`Error::Cuda`] if the GPU has failed.
    pub fn copy_within(&mut self, from: usize, to: usize, n: usize) -> Result<()> {
        let size = self.dtype().size();
        let [from, to, n] = [from * size, to * size, n * size];
        assert!(from + n <= to || to + n <= from, "overlapping ranges");
        assert!(from.max(to) + n <= self.bytes(), "{n} bytes at {from} and {to}");
        match &mut self.storage {
            Storage::Cuda(buffer, _) => buffer.copy_within(from, to, n),
            host => {
                host.host_bytes_mut().copy_within(from..from + n, to);
                Ok(())
            }
        }
    }

    /// Overwrites the elements from `first` on with host values of this tensor's element type (`f32`, `bf16`, `u32`).
    ///
    /// # Errors
    /// [`Error::Cuda`] if the GPU has failed.
    pub fn write<T: NoUninit>(&mut self, first: usize, values: &[T]) -> Result<()> {
        let size = self.dtype().size();
        assert_eq!(size_of::<T>(), size, "the size of an element");
        assert!(first + values.len() <= self.len(), "{} elements from {first} on", values.len());
        match &mut self.storage {
            Storage::Cuda(buffer, _) => buffer.upload(first * size, cast_slice(values)),
            host => {
                host.host_bytes_mut()[first * size..][..values.len() * size]
                    .copy_from_slice(cast_slice(values));
                Ok(())
            }
        }
    }

    /// Gives the tensor a new shape and overwrites all elements with host values of its element type.
    ///
    /// # Errors
    /// [`Error::Memory`] if the tensor must grow and too little is free; [`Error::Cuda`] if the GPU has failed.
    pub fn set<T: NoUninit>(&mut self, shape: &[usize], values: &[T]) -> Result<()> {
        self.resize(shape)?;
        assert_eq!(values.len(), self.len(), "elements for shape {shape:?}");
        self.write(0, values)
    }

    /// The elements as host values of this tensor's element type (`f32`, `bf16`, `u32`).
    ///
    /// # Errors
    /// [`Error::Cuda`] if the GPU has failed.
    pub fn read<T: AnyBitPattern + NoUninit>(&self) -> Result<Vec<T>> {
        assert_eq!(size_of::<T>(), self.dtype().size(), "the size of an element");
        let mut values = vec![T::zeroed(); self.len()];
        let bytes: &mut [u8] = cast_slice_mut(&mut values);
        match &self.storage {
            Storage::Cuda(buffer, _) => buffer.download(bytes)?,
            host => bytes.copy_from_slice(host.host_bytes()),
        }
        Ok(values)
    }

    /// The elements as f32 (bf16 widens exactly), copied from the GPU if need be. Panics on u32.
    ///
    /// # Errors
    /// [`Error::Cuda`] if the GPU has failed.
    pub fn numbers(&self) -> Result<Vec<f32>> {
        match self.dtype() {
            DType::F32 => self.read(),
            DType::Bf16 => Ok(self.read::<bf16>()?.into_iter().map(bf16::to_f32).collect()),
            DType::U32 => panic!("no numbers in a {}", self.kind()),
        }
    }

    /// A copy as f32 (bf16 widens exactly), on the host. Panics on u32.
    #[must_use]
    pub fn to_f32(&self) -> Self {
        let data = match &self.storage {
            Storage::F32(v) => v.clone(),
            Storage::Bf16(v) => v.iter().map(|x| x.to_f32()).collect(),
            _ => panic!("no host numbers in a {}", self.kind()),
        };
        Self::from_f32(&self.shape, data)
    }

    /// A copy as bf16, rounded to nearest, ties to even, on the host. Panics on u32.
    #[must_use]
    pub fn to_bf16(&self) -> Self {
        let data = match &self.storage {
            Storage::F32(v) => v.iter().map(|&x| bf16::from_f32(x)).collect(),
            Storage::Bf16(v) => v.clone(),
            _ => panic!("no host numbers in a {}", self.kind()),
        };
        Self::from_bf16(&self.shape, data)
    }
}

impl Storage {
    fn host_bytes(&self) -> &[u8] {
        match self {
            Self::F32(v) => cast_slice(v),
            Self::Bf16(v) => cast_slice(v),
            Self::U32(v) => cast_slice(v),
            Self::Cuda(..) => unreachable!("host bytes of a GPU tensor"),
        }
    }

    fn host_bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::F32(v) => cast_slice_mut(v),
            Self::Bf16(v) => cast_slice_mut(v),
            Self::U32(v) => cast_slice_mut(v),
            Self::Cuda(..) => unreachable!("host bytes of a GPU tensor"),
        }
    }
}

/// Checks those tensors of an op that may be bf16 on a GPU (activations, their gradients): all must be on the device of the
/// first and have its element type; on the CPU that is f32.
///
/// # Errors
/// [`Error::Shape`], [`Error::DType`] or [`Error::Place`] naming the first tensor that disagrees.
pub fn expect(op: &'static str, tensors: &[(&'static str, &Tensor, &[usize])]) -> Result<()> {
    let Some((_, first, _)) = tensors.first() else { return Ok(()) };
    let device = first.device();
    let dtype = if device == Device::Cpu { DType::F32 } else { first.dtype() };
    expect_all(op, device, dtype, tensors)
}

/// Checks those tensors of an op that are always f32 (statistics, gains, gradients of weights): all must be on `device`.
///
/// # Errors
/// As [`expect`].
pub fn expect_f32(
    op: &'static str,
    device: Device,
    tensors: &[(&'static str, &Tensor, &[usize])],
) -> Result<()> {
    expect_all(op, device, DType::F32, tensors)
}

fn expect_all(
    op: &'static str,
    device: Device,
    dtype: DType,
    tensors: &[(&'static str, &Tensor, &[usize])],
) -> Result<()> {
    for (name, tensor, shape) in tensors {
        expect_shape(op, name, tensor, shape)?;
        expect_dtype(op, name, tensor, dtype)?;
        expect_device(op, name, tensor, device)?;
    }
    Ok(())
}

/// Checks a frozen matrix that is used with activations `x`: on the CPU f32 or bf16, on a GPU the element type of `x`.
///
/// # Errors
/// As [`expect`].
pub fn expect_weight(op: &'static str, w: &Tensor, x: &Tensor, shape: &[usize]) -> Result<()> {
    expect_shape(op, "w", w, shape)?;
    expect_device(op, "w", w, x.device())?;
    if x.device() == Device::Cpu && w.dtype() == DType::Bf16 {
        return Ok(());
    }
    expect_dtype(op, "w", w, x.dtype())
}

/// Checks the device of one argument.
///
/// # Errors
/// [`Error::Place`] naming it.
pub fn expect_device(op: &'static str, name: &'static str, tensor: &Tensor, device: Device) -> Result<()> {
    if tensor.device() == device { Ok(()) } else { Err(Error::Place { op, name }) }
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
