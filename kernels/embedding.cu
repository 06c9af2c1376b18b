// Rows of a matrix looked up, and their gradient.  Maths, shapes, CPU reference: src/ops/embedding.rs
//   embedding_forward    x[n] = scale · w[tokens[n]]; also the gather of rows, with scale 1
//   embedding_scatter    x[tokens[n]] = values[n], tokens distinct; x was cleared
//   embedding_order      order (N) ← the rows sorted by token, rows of one token in order
//   embedding_backward   dw[token] += scale · Σ dx over the rows of a token, in order
//   x, values, w real   dw float   (N, C), (N, C), (V, C), (V, C)    tokens, order (N) u32
//   A token that is not below V gives a row of NaN, which the loss and the sampler report; its gradient is dropped.
//
//   load-time  C
//   launch     forward, scatter: 256 threads; a thread a vector. order: N / 256 blocks of 256.
//              backward: (N, ceil(C / (128 · WIDTH))) blocks of 128: the first row of a token adds all of them up
//   traffic    forward 2 N C real (w is read in rows); backward N C real + 8 N C bytes; bandwidth-bound.
//              order compares N² pairs: 0.3 ms at N = 50,000
//   numerics   float, one rounding at the store
//   measured   pending
#include "prelude.cuh"

static const int WIDTH = width_of<real>(C);
static const int VECTORS = C / WIDTH;

extern "C" __global__ void __launch_bounds__(256) embedding_forward(real *__restrict__ x, const u32 *__restrict__ tokens,
                                                                    const real *__restrict__ w, u32 n, u32 v,
                                                                    float scale) {
    const u64 i = (u64)blockIdx.x * 256 + threadIdx.x;
    if (i >= (u64)n * VECTORS) return;
    const u32 row = (u32)(i / VECTORS), token = tokens[row];
    const int column = (int)(i - (u64)row * VECTORS) * WIDTH;
    float values[WIDTH];
    if (token < v) {
        Held<real, WIDTH> held;
        hold(held, w + (u64)token * C + column);
        spread(values, held);
    }
#pragma unroll
    for (int j = 0; j < WIDTH; j++) values[j] = token < v ? values[j] * scale : __int_as_float(0x7fc00000);
    store(x + (u64)row * C + column, values);
}

extern "C" __global__ void __launch_bounds__(256) embedding_scatter(real *__restrict__ x, const real *__restrict__ values,
                                                                    const u32 *__restrict__ rows, u32 n, u32 all) {
    const u64 i = (u64)blockIdx.x * 256 + threadIdx.x;
    if (i >= (u64)n * VECTORS) return;
    const u32 row = (u32)(i / VECTORS), target = rows[row];
    if (target >= all) return;
    const int column = (int)(i - (u64)row * VECTORS) * WIDTH;
    Held<real, WIDTH> held;
    hold(held, values + i * WIDTH);
    *reinterpret_cast<Held<real, WIDTH> *>(x + (u64)target * C + column) = held;
}

// A row's place is the number of rows before it in the order (token, row).
extern "C" __global__ void __launch_bounds__(256) embedding_order(u32 *__restrict__ order, const u32 *__restrict__ tokens,
                                                                  u32 n) {
    __shared__ u32 tile[256];
    const u32 row = blockIdx.x * 256 + threadIdx.x, token = row < n ? tokens[row] : 0;
    u32 place = 0;
    for (u32 first = 0; first < n; first += 256) {
        __syncthreads();
        tile[threadIdx.x] = first + threadIdx.x < n ? tokens[first + threadIdx.x] : ~0u;
        __syncthreads();
        // Rows past n have the largest token and a larger number: they count for nobody.
        const bool before = first + 256 <= blockIdx.x * 256, after = first > blockIdx.x * 256;
        if (before) {
#pragma unroll 16
            for (u32 i = 0; i < 256; i++) place += tile[i] <= token;
        } else if (after) {
#pragma unroll 16
            for (u32 i = 0; i < 256; i++) place += tile[i] < token;
        } else {
#pragma unroll 16
            for (u32 i = 0; i < 256; i++) place += tile[i] < token || (tile[i] == token && first + i < row);
        }
    }
    if (row < n) order[place] = row;
}

extern "C" __global__ void __launch_bounds__(128)
    embedding_backward(float *__restrict__ dw, const real *__restrict__ dx, const u32 *__restrict__ tokens,
                       const u32 *__restrict__ order, u32 n, u32 v, float scale) {
    const u32 first = blockIdx.x, token = tokens[order[first]];
    if (token >= v || (first > 0 && tokens[order[first - 1]] == token)) return;
    const int vector = (int)(blockIdx.y * 128 + threadIdx.x);
    if (vector >= VECTORS) return;
    float *to = dw + (u64)token * C + vector * WIDTH;
    float sum[WIDTH];
    load_floats(sum, to);
    for (u32 at = first; at < n;) {
        // Up to four rows on their way at once.
        Held<real, WIDTH> held[4];
        u32 rows = 0;
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            if (at + j >= n || rows != j) break;
            const u32 row = order[at + j];
            if (tokens[row] != token) break;
            hold(held[j], dx + (u64)row * C + vector * WIDTH);
            rows = j + 1;
        }
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            if (j >= rows) break;
            float d[WIDTH];
            spread(d, held[j]);
#pragma unroll
            for (int i = 0; i < WIDTH; i++) sum[i] += d[i] * scale;
        }
        if (rows < 4) break;
        at += 4;
    }
    store_floats(to, sum);
}
