// Dropout on the input of a LoRA adapter.  Maths, shapes, CPU reference: src/ops/linear.rs
//
//   linear_mask       y = x · mask / (1 − p)
//   linear_mask_add   y += x · mask / (1 − p)
//   x, y (n, cols) real. Element (row, col) is kept if word col % 4 of Philox4x32-10 at the counter
//   (col / 4, row, segment, map) is at least p as a number in (0, 1): the CPU's stream (src/device/philox.rs).
//   load-time  REAL_IS_FLOAT
//   launch     grid over n · ceil(cols / 4), 256 threads: four columns a thread
//   traffic    2 (add: 3) · n · cols · sizeof(real) bytes: bandwidth-bound
//   numerics   float, one rounding, at the store of y
//   measured   not benched: runs only where an adapter has dropout, beside products that take far longer
#include "philox.cuh"
#include "prelude.cuh"

template <bool ADD>
__device__ __forceinline__ void mask(real *y, const real *x, u32 n, u32 cols, u32 segment, u32 map, u32 key0, u32 key1,
                                     float p) {
    u32 quads = (cols + 3) / 4;
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    u32 row = (u32)(at / quads), col = (u32)(at % quads) * 4;
    if (row >= n) return;
    uint4 random = philox(key0, key1, make_uint4(col / 4, row, segment, map));
    u32 words[4] = {random.x, random.y, random.z, random.w};
    float keep = 1.0f / (1.0f - p);
    y += (u64)row * cols + col, x += (u64)row * cols + col;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        if (col + i >= cols) return;
        float kept = open_unit(words[i]) >= p ? widen(x[i]) * keep : 0.0f;
        y[i] = narrow<real>(ADD ? widen(y[i]) + kept : kept);
    }
}

extern "C" __global__ void linear_mask(real *y, const real *x, u32 n, u32 cols, u32 segment, u32 map, u32 key0,
                                       u32 key1, float p) {
    mask<false>(y, x, n, cols, segment, map, key0, key1, p);
}
extern "C" __global__ void linear_mask_add(real *y, const real *x, u32 n, u32 cols, u32 segment, u32 map, u32 key0,
                                           u32 key1, float p) {
    mask<true>(y, x, n, cols, segment, map, key0, key1, p);
}
