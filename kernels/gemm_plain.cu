// Matrix products of any shape and row pitch on the ordinary float units. For f32, and the fallback where rows are not
// 16-byte aligned. Host side: src/device/gemm.rs
//
//   C = alpha · (A·B + A2·B2)   or   C += …
//   A (m, k), A2 (m, k2), B (k, n), B2 (k2, n) real; C (m, n) real or float
//   element (i, k) of A lies at a[i · a_pitch + k], or with A_MN at a[k · a_pitch + i];
//   element (k, j) of B lies at b[j · b_pitch + k], or with B_MN at b[k · b_pitch + j]
//   load-time  REAL_IS_FLOAT, A_MN, B_MN, C_IS_FLOAT (element type of C), C_ADD (1: add to C)
//   launch     grid (ceil(m / 64) · ceil(n / 64)), block (256): a 64 × 64 tile a block, 4 × 4 a thread
//   work       2·m·n·(k + k2) flops: bound by the float units. Each element of A and B is read once per tile that needs it
//   numerics   float, summed along K in order, in parts of 512, whatever m and n are; one rounding at the store
//   measured   not benched: for f32 and odd pitches, which no model trains with
#include "prelude.cuh"

#if C_IS_FLOAT
typedef float out;
#else
typedef real out;
#endif

constexpr u32 TILE = 64;
constexpr u32 TILE_K = 16;
constexpr u32 PART_K = 512; // terms added up by themselves: one long sum would lose what is small beside it
constexpr u32 PITCH = TILE + 4; // keeps 16-byte reads aligned and spreads the transposing writes over the banks

// 64 × 16 of an operand into shared memory, 64 fastest; zeros outside.
template <int MN>
__device__ __forceinline__ void fetch(float *tile, const real *x, u64 pitch, u32 first, u32 count, u32 k0, u32 k) {
#pragma unroll
    for (u32 e = threadIdx.x; e < TILE * TILE_K; e += 256) {
        u32 i = MN ? e % TILE : e / TILE_K, p = MN ? e / TILE : e % TILE_K;
        u64 row = MN ? k0 + p : first + i, col = MN ? first + i : k0 + p;
        tile[p * PITCH + i] = first + i < count && k0 + p < k ? widen(x[row * pitch + col]) : 0.0f;
    }
}

__device__ __forceinline__ void term(float (&d)[4][4], float *as, float *bs, const real *a, u64 a_pitch, const real *b,
                                     u64 b_pitch, u32 row, u32 col, u32 m, u32 n, u32 k) {
    u32 x = threadIdx.x % 16 * 4, y = threadIdx.x / 16 * 4;
    float part[4][4] = {};
    const auto add = [&] {
#pragma unroll
        for (u32 i = 0; i < 4; i++)
#pragma unroll
            for (u32 j = 0; j < 4; j++) d[i][j] += part[i][j], part[i][j] = 0.0f;
    };
    for (u32 k0 = 0; k0 < k; k0 += TILE_K) {
        if (k0 % PART_K == 0) add();
        fetch<A_MN>(as, a, a_pitch, row, m, k0, k);
        fetch<B_MN>(bs, b, b_pitch, col, n, k0, k);
        __syncthreads();
#pragma unroll
        for (u32 p = 0; p < TILE_K; p++) {
            float u[4], v[4];
            load16(u, as + p * PITCH + y);
            load16(v, bs + p * PITCH + x);
#pragma unroll
            for (u32 i = 0; i < 4; i++)
#pragma unroll
                for (u32 j = 0; j < 4; j++) part[i][j] = fmaf(u[i], v[j], part[i][j]);
        }
        __syncthreads();
    }
    add();
}

extern "C" __global__ void __launch_bounds__(256)
gemm_plain(const real *a, u64 a_pitch, const real *b, u64 b_pitch, u32 k, const real *a2, u64 a2_pitch, const real *b2,
           u64 b2_pitch, u32 k2, out *c, u64 c_pitch, u32 m, u32 n, float alpha) {
    __shared__ __align__(16) float as[TILE_K * PITCH], bs[TILE_K * PITCH];
    u32 tiles_m = (m + TILE - 1) / TILE, row = blockIdx.x % tiles_m * TILE, col = blockIdx.x / tiles_m * TILE;
    float d[4][4] = {};
    term(d, as, bs, a, a_pitch, b, b_pitch, row, col, m, n, k);
    term(d, as, bs, a2, a2_pitch, b2, b2_pitch, row, col, m, n, k2);
    row += threadIdx.x / 16 * 4, col += threadIdx.x % 16 * 4;
#pragma unroll
    for (u32 i = 0; i < 4; i++)
#pragma unroll
        for (u32 j = 0; j < 4; j++)
            if (row + i < m && col + j < n) {
                out *p = c + (row + i) * c_pitch + col + j;
                float y = alpha * d[i][j];
                *p = narrow<out>(C_ADD ? widen(*p) + y : y);
            }
}
