// RMSNorm, alone and after the addition to the residual stream.  Maths, shapes, CPU reference: src/ops/norm.rs
//   norm_forward       y = x · r · g,  r = (mean_c x² + eps)^-½,  g = ONE_PLUS + w
//   norm_add_forward   sum = x + delta, rounded; then y and r of the rounded sum
//   norm_backward      dx = r · (dy·g − x · r² · mean_c(dy·g·x))
//   norm_add_backward  stream += the same
//   x, y, sum, delta, dx, dy, stream (N, C) real    w (C) float    r (N) float, saved for the backward
//   parts (blocks, C) float: each block's share of Σ_n dy · x · r, if TRAINED; tensor_add_columns adds them to dw
//
//   load-time  C, BLOCK (threads, a multiple of 32), ONE_PLUS (1: the gain is 1 + w, 0: w), TRAINED (1: parts are wanted)
//   launch     N blocks of BLOCK threads, or fewer: a block takes every gridDim.x-th row
//   traffic    of N·C real: forward 2, add_forward 4, backward 3, add_backward 4; bandwidth-bound
//   numerics   float; the sum of the stream and y, dx are rounded once each. A row lies in registers; sums over C
//              are ordered by thread, lane, warp
//   measured   of a copy of as many bytes, N = 4096, C = 1152 … 5376, 2026-11-25, H100: forward 90 to 97 %, add_forward 95 to 101 %,
//              backward 93 to 97 %, add_backward 98 to 100 %; with TRAINED, before rows were loaded ahead, 67 to 83 %
#include "prelude.cuh"

static const int WIDTH = width_of<real>(C);
// Vectors of a row, and how many of them a thread holds.
static const int VECTORS = C / WIDTH;
static const int HOLDS = (VECTORS + BLOCK - 1) / BLOCK;
// Where few blocks take many rows each, the next row is loaded while one is worked on, if registers suffice.
static const bool AHEAD = TRAINED && HOLDS <= 3;

typedef Held<real, WIDTH> Vec;

__device__ __forceinline__ int column(int i) { return i * BLOCK + (int)threadIdx.x; }
// Whether the thread's i-th vector exists; known at compile time for all but the last.
__device__ __forceinline__ bool inside(int i) { return (i + 1) * BLOCK <= VECTORS || column(i) < VECTORS; }

__device__ __forceinline__ void hold_row(Vec (&v)[HOLDS], const real *x, u32 row) {
    const real *from = x + (u64)row * C;
#pragma unroll
    for (int i = 0; i < HOLDS; i++)
        if (inside(i)) hold(v[i], from + column(i) * WIDTH);
}

__device__ __forceinline__ void load_gain(float (&g)[HOLDS][WIDTH], const float *w) {
#pragma unroll
    for (int i = 0; i < HOLDS; i++)
        if (inside(i)) {
            load_floats(g[i], w + column(i) * WIDTH);
#pragma unroll
            for (int j = 0; j < WIDTH; j++) g[i][j] += ONE_PLUS;
        }
}

template <bool ADD>
__device__ __forceinline__ void forward(real *__restrict__ sum, real *__restrict__ y, float *__restrict__ r,
                                        const real *__restrict__ x, const real *__restrict__ delta,
                                        const float *__restrict__ w, u32 n, float eps) {
    __shared__ float shared[2][32];
    float g[HOLDS][WIDTH];
    Vec held[HOLDS], held_delta[ADD ? HOLDS : 1];
    u32 row = blockIdx.x;
    if (row >= n) return;
    const auto load = [&] {
        hold_row(held, x, row);
        if constexpr (ADD) hold_row(held_delta, delta, row);
    };
    load();
    load_gain(g, w);
    for (u32 turn = 0; row < n; turn ^= 1) {
        float v[HOLDS][WIDTH], square = 0.0f;
        const u64 at = (u64)row * C;
#pragma unroll
        for (int i = 0; i < HOLDS; i++) {
            if (!inside(i)) continue;
            spread(v[i], held[i]);
            if constexpr (ADD) {
                float d[WIDTH];
                spread(d, held_delta[i]);
#pragma unroll
                for (int j = 0; j < WIDTH; j++) v[i][j] = widen(narrow<real>(v[i][j] + d[j]));
                store(sum + at + column(i) * WIDTH, v[i]);
            }
#pragma unroll
            for (int j = 0; j < WIDTH; j++) square += v[i][j] * v[i][j];
        }
        const float scale = 1.0f / sqrtf(row_sum<BLOCK>(square, shared, turn) / C + eps);
        if (threadIdx.x == 0) r[row] = scale;
#pragma unroll
        for (int i = 0; i < HOLDS; i++) {
            if (!inside(i)) continue;
#pragma unroll
            for (int j = 0; j < WIDTH; j++) v[i][j] *= scale * g[i][j];
            store(y + at + column(i) * WIDTH, v[i]);
        }
        row += gridDim.x;
        if (row < n) load();
    }
}

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    norm_forward(real *y, float *r, const real *x, const float *w, u32 n, float eps) {
    forward<false>(nullptr, y, r, x, nullptr, w, n, eps);
}

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    norm_add_forward(real *sum, real *y, float *r, const real *x, const real *delta, const float *w, u32 n, float eps) {
    forward<true>(sum, y, r, x, delta, w, n, eps);
}

// `dx` may be read and written: a thread reads an element before it writes it, and no other thread does either.
template <bool ADD>
__device__ __forceinline__ void backward(real *dx, float *__restrict__ parts, const real *__restrict__ dy,
                                         const real *__restrict__ x, const float *__restrict__ r,
                                         const float *__restrict__ w, u32 n) {
    __shared__ float shared[2][32];
    float g[HOLDS][WIDTH], dw[TRAINED ? HOLDS : 1][WIDTH];
    Vec held_dy[HOLDS], held_x[HOLDS], held_dx[ADD ? HOLDS : 1];
    u32 row = blockIdx.x;
    float held_r = 0.0f;
    const auto load = [&] {
        hold_row(held_dy, dy, row);
        hold_row(held_x, x, row);
        if constexpr (ADD) hold_row(held_dx, dx, row);
        held_r = r[row];
    };
    if (row < n) load();
    load_gain(g, w);
#pragma unroll
    for (int i = 0; i < (TRAINED ? HOLDS : 1); i++)
#pragma unroll
        for (int j = 0; j < WIDTH; j++) dw[i][j] = 0.0f;
    for (u32 turn = 0; row < n; turn ^= 1) {
        float slope[HOLDS][WIDTH], v[HOLDS][WIDTH], dot = 0.0f;
        Vec before[ADD ? HOLDS : 1];
        const float scale = held_r;
#pragma unroll
        for (int i = 0; i < HOLDS; i++) {
            if (!inside(i)) continue;
            spread(slope[i], held_dy[i]);
            spread(v[i], held_x[i]);
            if constexpr (ADD) before[i] = held_dx[i];
#pragma unroll
            for (int j = 0; j < WIDTH; j++) {
                if constexpr (TRAINED) dw[i][j] += slope[i][j] * v[i][j] * scale;
                slope[i][j] *= g[i][j];
                dot += slope[i][j] * v[i][j];
            }
        }
        const u64 at = (u64)row * C;
        row += gridDim.x;
        if (AHEAD && row < n) load();
        const float mean = row_sum<BLOCK>(dot, shared, turn) / C;
        const float along = scale * scale * mean;
#pragma unroll
        for (int i = 0; i < HOLDS; i++) {
            if (!inside(i)) continue;
            float d[WIDTH];
            if constexpr (ADD) spread(d, before[i]);
#pragma unroll
            for (int j = 0; j < WIDTH; j++) {
                const float change = scale * (slope[i][j] - v[i][j] * along);
                d[j] = ADD ? d[j] + change : change;
            }
            store(dx + at + column(i) * WIDTH, d);
        }
        if (!AHEAD && row < n) load();
    }
    if constexpr (TRAINED) {
        float *to = parts + (u64)blockIdx.x * C;
#pragma unroll
        for (int i = 0; i < HOLDS; i++)
            if (inside(i))
#pragma unroll
                for (int j = 0; j < WIDTH; j++) to[column(i) * WIDTH + j] = dw[i][j];
    }
}

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    norm_backward(real *dx, float *parts, const real *dy, const real *x, const float *r, const float *w, u32 n) {
    backward<false>(dx, parts, dy, x, r, w, n);
}

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    norm_add_backward(real *stream, float *parts, const real *dy, const real *x, const float *r, const float *w, u32 n) {
    backward<true>(stream, parts, dy, x, r, w, n);
}
