// RMSNorm, alone and after the addition to the residual stream.  Maths, shapes, CPU reference: src/ops/norm.rs
//   norm_forward       y = x · r · g,  r = (mean_c x² + eps)^-½,  g = ONE_PLUS + w
//   norm_add_forward   sum = x + delta, rounded; then y and r of the rounded sum
//   norm_backward      dx = r · (dy·g − x · r² · mean_c(dy·g·x))
//   norm_add_backward  stream += the same
//   x, y, sum, delta, dx, dy, stream (N, C) real    w (C) float    r (N) float, saved for the backward
//   dw (C) float += Σ_n dy · x · r, if TRAINED;  parts (blocks, C) float: each block's share;  arrived: see column_sums.cuh
//
//   load-time  C, BLOCK (threads a row, a multiple of 32), ONE_PLUS (1: the gain is 1 + w, 0: w); for the backward TRAINED (1:
//              dw is wanted), TEAMS (rows at a time, each by BLOCK threads), STAGES (rows of a team being worked on or in flight)
//   launch     forward: N blocks of BLOCK threads, or fewer: a block takes every gridDim.x-th row
//              backward: a block of TEAMS · BLOCK threads a multiprocessor, or fewer, all resident if TRAINED (column_sums.cuh);
//              dynamic shared STAGES rows of dy, x and,
//              if it is added to, dx for every team, in whole vectors of BLOCK threads
//   traffic    of N·C real: forward 2, add_forward 4, backward 3, add_backward 4; bandwidth-bound
//   numerics   float; the sum of the stream and y, dx are rounded once each. Sums over C are ordered by thread, lane, warp;
//              sums over rows by turn, team, block: they depend on the card's size, but on nothing else
//   measured   cargo bench --bench ops -- norm
#include "prelude.cuh"
#include "column_sums.cuh"
#include "hopper.cuh"

static const int WIDTH = width_of<real>(C);
// Vectors of a row, and how many of them a thread holds.
static const int VECTORS = C / WIDTH;
static const int HOLDS = (VECTORS + BLOCK - 1) / BLOCK;

typedef Held<real, WIDTH> Vec;

__device__ __forceinline__ int column(int i) { return i * BLOCK + (int)threadIdx.x % BLOCK; }
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
        const float scale = 1.0f / sqrtf(row_sum<BLOCK>(square, shared, turn, 0) / C + eps);
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

// Rows on their way into shared memory, STAGES of them a team. A thread fetches the vectors that it will itself read: no
// barrier is needed. Operands: dy, x and, if it is added to, dx.
extern __shared__ uint4 ring[];
__device__ __forceinline__ void fetch_row(Vec *slot, const real *x, u32 row) {
    const real *from = x + (u64)row * C;
#pragma unroll
    for (int i = 0; i < HOLDS; i++)
        if (inside(i)) cp_async_held(slot + i * BLOCK, from + column(i) * WIDTH);
}

// `dx` may be read and written: a thread reads an element before it writes it, and no other thread does either.
template <bool ADD>
__device__ __forceinline__ void backward(real *dx, float *__restrict__ dw, float *__restrict__ parts, u32 *arrived,
                                         const real *__restrict__ dy, const real *__restrict__ x,
                                         const float *__restrict__ r, const float *__restrict__ w, u32 n) {
    const int OPERANDS = ADD ? 3 : 2, ROW = HOLDS * BLOCK;
    __shared__ float shared[TEAMS][2][32];
    const u32 team = threadIdx.x / BLOCK, step = gridDim.x * TEAMS; // rows under way
    Vec *slots = reinterpret_cast<Vec *>(ring) + team * STAGES * OPERANDS * ROW + threadIdx.x % BLOCK;
    const auto fetch = [&](u32 stage, u32 row) {
        Vec *to = slots + stage * OPERANDS * ROW;
        if (row < n) {
            fetch_row(to, dy, row);
            fetch_row(to + ROW, x, row);
            if (ADD) fetch_row(to + 2 * ROW, dx, row);
        }
        cp_async_commit();
    };
    u32 row = team * gridDim.x + blockIdx.x;
    for (int s = 0; s < STAGES - 1; s++) fetch(s, row + s * step);
    float g[HOLDS][WIDTH], sum[TRAINED ? HOLDS : 1][WIDTH], scales = 0.0f;
    load_gain(g, w);
#pragma unroll
    for (int i = 0; i < (TRAINED ? HOLDS : 1); i++)
#pragma unroll
        for (int j = 0; j < WIDTH; j++) sum[i][j] = 0.0f;
    for (u32 turn = 0; row < n; turn++, row += step) {
        fetch((turn + STAGES - 1) % STAGES, row + (STAGES - 1) * step);
        // Lane l holds r of the l-th of 32 rows.
        if (turn % 32 == 0) scales = r[min(row + threadIdx.x % 32 * step, n - 1)];
        const float scale = __shfl_sync(~0u, scales, turn % 32);
        cp_async_wait<STAGES - 1>();
        const Vec *at = slots + turn % STAGES * OPERANDS * ROW;
        Vec held_dy[HOLDS], held_x[HOLDS];
        float dot = 0.0f;
#pragma unroll
        for (int i = 0; i < HOLDS; i++) {
            if (!inside(i)) continue;
            held_dy[i] = at[i * BLOCK], held_x[i] = at[ROW + i * BLOCK];
            float slope[WIDTH], v[WIDTH];
            spread(slope, held_dy[i]), spread(v, held_x[i]);
#pragma unroll
            for (int j = 0; j < WIDTH; j++) {
                const float product = slope[j] * v[j];
                if constexpr (TRAINED) sum[i][j] += product * scale;
                dot += product * g[i][j];
            }
        }
        const float mean = row_sum<BLOCK>(dot, shared[team], turn % 2, team) / C;
        const float along = scale * scale * mean;
#pragma unroll
        for (int i = 0; i < HOLDS; i++) {
            if (!inside(i)) continue;
            float slope[WIDTH], v[WIDTH], d[WIDTH];
            spread(slope, held_dy[i]), spread(v, held_x[i]);
            if constexpr (ADD) spread(d, at[2 * ROW + i * BLOCK]);
#pragma unroll
            for (int j = 0; j < WIDTH; j++) {
                const float change = scale * (slope[j] * g[i][j] - v[j] * along);
                d[j] = ADD ? d[j] + change : change;
            }
            store(dx + (u64)row * C + column(i) * WIDTH, d);
        }
    }
    if constexpr (TRAINED) {
        // The first team adds what the others leave where their rows were.
        const auto left = [&](u32 team, int i, int j) -> float & {
            return reinterpret_cast<float *>(ring)[((team * HOLDS + i) * WIDTH + j) * BLOCK + threadIdx.x % BLOCK];
        };
        __syncthreads();
#pragma unroll
        for (int i = 0; i < HOLDS; i++)
#pragma unroll
            for (int j = 0; j < WIDTH; j++)
                if (team > 0) left(team - 1, i, j) = sum[i][j];
        __syncthreads();
#pragma unroll
        for (int i = 0; i < HOLDS; i++) {
            if (team > 0 || !inside(i)) continue;
            for (int other = 0; other < TEAMS - 1; other++)
#pragma unroll
                for (int j = 0; j < WIDTH; j++) sum[i][j] += left(other, i, j);
            store_floats(parts + (u64)blockIdx.x * C + column(i) * WIDTH, sum[i]);
        }
        add_columns<TEAMS * BLOCK>([&](u32 c) { return dw + c; }, parts, C, arrived);
    }
}

extern "C" __global__ void __launch_bounds__(TEAMS *BLOCK, 1)
    norm_backward(real *dx, float *dw, float *parts, u32 *arrived, const real *dy, const real *x, const float *r,
                  const float *w, u32 n) {
    backward<false>(dx, dw, parts, arrived, dy, x, r, w, n);
}

extern "C" __global__ void __launch_bounds__(TEAMS *BLOCK, 1)
    norm_add_backward(real *stream, float *dw, float *parts, u32 *arrived, const real *dy, const real *x, const float *r,
                      const float *w, u32 n) {
    backward<true>(stream, dw, parts, arrived, dy, x, r, w, n);
}
