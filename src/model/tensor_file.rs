//! Safetensors files: mapped and checked for reading, replaced as a whole when written.
//!
//! Format: <https://huggingface.co/docs/safetensors>, little-endian, like the supported hosts.

use std::path::{Path, PathBuf};

use bytemuck::{AnyBitPattern, NoUninit, cast_slice, pod_read_unaligned};
use half::{bf16, f16};
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::tensor::{Metadata, TensorInfo, TensorView};
use safetensors::{Dtype, SafeTensorError, SafeTensors};

use crate::device::upload::Upload;
use crate::device::{DType, Tensor, file};
use crate::error::{Error, Result};

/// Bytes before the header: its length, a u64.
const LENGTH: usize = 8;

/// A mapped safetensors file whose header has been checked against the file's size.
pub(super) struct TensorFile {
    path: PathBuf,
    bytes: Mmap,
    header: Metadata,
    /// Where in `bytes` the data begins.
    data: usize,
}

impl TensorFile {
    /// Maps a file and checks its header.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be opened; [`Error::File`] if it is truncated or corrupt.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let bytes = file::map(path)?;
        let (length, header) = SafeTensors::read_metadata(&bytes).map_err(|error| {
            let size = bytes.len();
            let what = format!(
                "truncated or corrupt ({size} bytes; {error}); delete it and fetch or write it again"
            );
            Error::file(path, what)
        })?;
        Ok(Self { path: path.to_path_buf(), bytes, header, data: LENGTH + length })
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The names of its tensors, in the order of their data.
    pub(super) fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    /// Whether it holds a tensor of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.header.info(name).is_some()
    }

    /// Checks that a tensor has this shape and holds floating-point numbers of a supported kind.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::File`] naming the tensor and the file.
    pub(super) fn expect(&self, name: &str, shape: &[usize]) -> Result<()> {
        let info = self.info(name)?;
        if info.shape != shape {
            return Err(Error::Shape {
                op: self.path.display().to_string(),
                name: name.to_owned(),
                found: info.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        match info.dtype {
            Dtype::BF16 | Dtype::F16 | Dtype::F32 => Ok(()),
            other => Err(self.unsupported(name, other)),
        }
    }

    /// Reads a tensor: bf16 and u32 as they are, f16 and f32 as f32.
    ///
    /// # Errors
    /// [`Error::File`] naming the tensor and the file if it is missing, of another element type, or holds a NaN or
    /// an infinity.
    pub(super) fn tensor(&self, name: &str) -> Result<Tensor> {
        let info = self.info(name)?;
        let (shape, (start, end)) = (info.shape.as_slice(), info.data_offsets);
        let bytes = &self.bytes[self.data + start..self.data + end];
        let (tensor, finite) = match info.dtype {
            Dtype::BF16 => {
                let data: Vec<bf16> = copy(bytes);
                let finite = all(&data, |x| x.is_finite());
                (Tensor::from_bf16(shape, data), finite)
            }
            Dtype::F16 => {
                let data: Vec<f32> = copy::<f16>(bytes).into_par_iter().map(f16::to_f32).collect();
                let finite = all(&data, |x| x.is_finite());
                (Tensor::from_f32(shape, data), finite)
            }
            Dtype::F32 => {
                let data: Vec<f32> = copy(bytes);
                let finite = all(&data, |x| x.is_finite());
                (Tensor::from_f32(shape, data), finite)
            }
            Dtype::U32 => (Tensor::from_u32(shape, copy(bytes)), true),
            other => return Err(self.unsupported(name, other)),
        };
        if finite { Ok(tensor) } else { Err(self.damaged(name)) }
    }

    /// Writes a tensor into the elements of `to`, f32 or bf16 on a GPU, from `first` on.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor); [`Error::Cuda`] if the GPU has failed.
    pub(super) fn send(&self, upload: &mut Upload, to: &mut Tensor, first: usize, name: &str) -> Result<()> {
        let finite = match to.dtype() {
            DType::Bf16 => self.send_as::<bf16>(upload, to, first, name)?,
            _ => self.send_as::<f32>(upload, to, first, name)?,
        };
        if finite { Ok(()) } else { Err(self.damaged(name)) }
    }

    fn send_as<T: Element>(
        &self,
        upload: &mut Upload,
        to: &mut Tensor,
        first: usize,
        name: &str,
    ) -> Result<bool> {
        let info = self.info(name)?;
        let (n, (start, end)) = (info.shape.iter().product(), info.data_offsets);
        let bytes = &self.bytes[self.data + start..self.data + end];
        match info.dtype {
            Dtype::BF16 => {
                upload.write(to, first, n, |i, part: &mut [T]| fill::<bf16, T>(part, &bytes[2 * i..]))
            }
            Dtype::F16 => {
                upload.write(to, first, n, |i, part: &mut [T]| fill::<f16, T>(part, &bytes[2 * i..]))
            }
            Dtype::F32 => {
                upload.write(to, first, n, |i, part: &mut [T]| fill::<f32, T>(part, &bytes[4 * i..]))
            }
            other => Err(self.unsupported(name, other)),
        }
    }

    fn damaged(&self, name: &str) -> Error {
        let what = format!(
            "tensor {name} holds a NaN or an infinity; the file is damaged, or its training diverged"
        );
        Error::file(&self.path, what)
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.header.info(name).ok_or_else(|| Error::file(&self.path, format!("lacks tensor {name}")))
    }

    fn unsupported(&self, name: &str, dtype: Dtype) -> Error {
        let what = format!(
            "tensor {name} holds {dtype}; bf16, f16 and f32 are supported, quantised weights are not"
        );
        Error::file(&self.path, what)
    }
}

/// Reads every tensor of a file, in the order of their data: adapters and training checkpoints.
///
/// # Errors
/// [`Error::Io`] if it cannot be opened; [`Error::File`] if it is truncated or corrupt, or a tensor is of another
/// element type than bf16, f16, f32 and u32 or holds a NaN or an infinity.
pub fn read_safetensors(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let file = TensorFile::open(path)?;
    let read = |name: String| file.tensor(&name).map(|tensor| (name, tensor));
    file.names().into_iter().map(read).collect()
}

/// Writes tensors and the string-to-string `metadata` of the header. At any moment `path` holds either its old
/// content or all of the new.
///
/// # Errors
/// [`Error::Io`] naming `path`: a full disk, a read-only or missing folder.
pub fn write_safetensors(
    path: &Path,
    tensors: &[(String, &Tensor)],
    metadata: &[(&str, &str)],
) -> Result<()> {
    let failed = |error: SafeTensorError| Error::file(path, error.to_string());
    let mut views = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let (dtype, bytes): (Dtype, &[u8]) = match tensor.dtype() {
            DType::F32 => (Dtype::F32, cast_slice(tensor.f32())),
            DType::Bf16 => (Dtype::BF16, cast_slice(tensor.bf16())),
            DType::U32 => (Dtype::U32, cast_slice(tensor.u32())),
        };
        views.push((name, TensorView::new(dtype, tensor.shape().to_vec(), bytes).map_err(failed)?));
    }
    let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(failed)?;
    file::replace(path, |out| out.write_all(&bytes))
}

/// An element type that weights have on disk or on a GPU.
trait Element: AnyBitPattern + NoUninit + Send {
    fn to_f32(self) -> f32;
    fn from_f32(x: f32) -> Self;
}

impl Element for f32 {
    fn to_f32(self) -> f32 {
        self
    }
    fn from_f32(x: f32) -> Self {
        x
    }
}

impl Element for bf16 {
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    fn from_f32(x: f32) -> Self {
        Self::from_f32(x)
    }
}

impl Element for f16 {
    fn to_f32(self) -> f32 {
        self.to_f32()
    }
    fn from_f32(x: f32) -> Self {
        Self::from_f32(x)
    }
}

/// Converts as many elements as `part` takes; false if one of them is a NaN or an infinity.
fn fill<S: Element, T: Element>(part: &mut [T], bytes: &[u8]) -> bool {
    let mut finite = true;
    for (x, bytes) in part.iter_mut().zip(bytes.chunks_exact(size_of::<S>())) {
        let value = pod_read_unaligned::<S>(bytes).to_f32();
        finite &= value.is_finite();
        *x = T::from_f32(value);
    }
    finite
}

/// The elements that `bytes` hold; a file's data need not be aligned for them.
fn copy<T: AnyBitPattern + Send>(bytes: &[u8]) -> Vec<T> {
    bytes.par_chunks_exact(size_of::<T>()).map(pod_read_unaligned).collect()
}

/// Whether `good` holds for all of `data`. Without an early exit inside a chunk, so that it vectorises.
fn all<T: Sync>(data: &[T], good: impl Fn(&T) -> bool + Sync) -> bool {
    data.par_chunks(1 << 16).all(|chunk| chunk.iter().fold(true, |so_far, x| so_far & good(x)))
}
