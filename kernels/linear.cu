// Dropout on the input of a LoRA adapter.  Maths, shapes, CPU reference: src/ops/linear.rs
//
//   linear_mask       y = x · mask / (1 − p)
//   linear_mask_add   y += x · mask / (1 − p)
//   x, y (n, cols) REAL. Element (row, col) is kept if word col % 4 of Philox4x32-10 at the counter
//   (col / 4, row, segment, map) is at least p as a number in (0, 1): the CPU's stream (src/device/philox.rs).
//   load-time  REAL
//   launch     grid over n · ceil(cols / 4), 256 threads: four columns a thread
//   traffic    2 (add: 3) · n · cols · sizeof(REAL) bytes
//   numerics   float, one rounding, at the store of y
//   measured
#include "prelude.cuh"

struct Words {
    u32 word[4];
};

__device__ __forceinline__ Words philox(u32 c0, u32 c1, u32 c2, u32 c3, u32 k0, u32 k1) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        u64 p0 = (u64)c0 * 0xD2511F53u, p1 = (u64)c2 * 0xCD9E8D57u;
        c0 = (u32)(p1 >> 32) ^ c1 ^ k0, c1 = (u32)p1;
        c2 = (u32)(p0 >> 32) ^ c3 ^ k1, c3 = (u32)p0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

template <bool ADD>
__device__ __forceinline__ void mask(real *y, const real *x, u32 n, u32 cols, u32 segment, u32 map, u32 key0, u32 key1,
                                     float p) {
    u32 quads = (cols + 3) / 4;
    u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    u32 row = (u32)(at / quads), col = (u32)(at % quads) * 4;
    if (row >= n) return;
    Words w = philox(col / 4, row, segment, map, key0, key1);
    float keep = 1.0f / (1.0f - p);
    y += (u64)row * cols + col, x += (u64)row * cols + col;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        if (col + i >= cols) return;
        float unit = ((float)(w.word[i] >> 9) + 0.5f) * (1.0f / 8388608.0f);
        float kept = unit >= p ? widen(x[i]) * keep : 0.0f;
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
