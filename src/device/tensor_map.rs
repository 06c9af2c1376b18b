//! [`TensorMap`]: a matrix as the tensor memory accelerator of compute capability 9.0 sees it.

use std::ffi::c_void;

use cudarc::driver::sys;

use super::driver::check;
use super::dtype::DType;
use super::gpu::Gpu;
use crate::error::Result;

/// A description of a matrix, passed to kernels by value.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(128))]
pub struct TensorMap(sys::CUtensorMap);

impl TensorMap {
    /// Describes `rows × cols` elements at `pointer`, rows `pitch` elements apart, for copies of `box_rows × box_cols` with
    /// a swizzle of 128 bytes; elements outside read as zero.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if the driver refuses: the pointer must be 16-byte aligned, and rows a multiple of
    /// 16 bytes apart.
    pub fn new(
        gpu: Gpu,
        dtype: DType,
        pointer: u64,
        [rows, cols, pitch]: [usize; 3],
        [box_rows, box_cols]: [usize; 2],
    ) -> Result<Self> {
        use sys::CUtensorMapDataType_enum as Type;
        let kind = match dtype {
            DType::F32 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
            DType::Bf16 => Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            DType::U32 => Type::CU_TENSOR_MAP_DATA_TYPE_UINT32,
        };
        let _turn = gpu.bind()?;
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        let (sizes, pitch) = ([cols as u64, rows as u64], [(pitch * dtype.size()) as u64]);
        let (boxes, steps) = ([box_cols as u32, box_rows as u32], [1u32, 1]);
        // SAFETY: as cuTensorMapEncodeTiled: arrays of the rank, rank − 1 strides; it only writes the map.
        let code = unsafe {
            sys::cuTensorMapEncodeTiled(
                &raw mut map,
                kind,
                2,
                pointer as *mut c_void,
                sizes.as_ptr(),
                pitch.as_ptr(),
                boxes.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave_enum::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle_enum::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion_enum::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill_enum::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        check("cuTensorMapEncodeTiled", code)?;
        Ok(Self(map))
    }
}
