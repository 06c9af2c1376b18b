// Rows of a matrix looked up, and their gradient.  Maths, shapes, CPU reference: src/ops/embedding.rs
//   embedding_forward    x[n] = scale · w[tokens[n]]; also the gather of rows, with scale 1
//   embedding_scatter    x[n] = values[sources[n]], 0 where that row does not exist
//   embedding_backward   dw[token] += scale · Σ dx over the rows of a token, in order
//   x, dx, w, values real   dw float   (N, C), (N, C), (V, C), (n, C), (V, C)
//   tokens, sources (N) u32    order (N) u32: the rows sorted by token, rows of one token in order
//   A token that is not below V gives a row of NaN, which the loss and the sampler report; its gradient is dropped.
//
//   load-time  C
//   launch     forward, scatter: 256 threads, a vector each.
//              backward: (N, ceil(C / (64 · WIDTH))) blocks of 64: the first row of a token adds all of them up
//   traffic    forward 2 N C real (w is read in rows); scatter (N + n) C real; backward N C real + 8 N C bytes;
//              bandwidth-bound
//   numerics   float, one rounding at the store
//   measured   cargo bench --bench ops -- embedding
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
                                                                    const u32 *__restrict__ sources, u32 n, u32 count) {
    const u64 i = (u64)blockIdx.x * 256 + threadIdx.x;
    if (i >= (u64)n * VECTORS) return;
    const u32 row = (u32)(i / VECTORS), source = sources[row];
    Held<real, WIDTH> held = {};
    if (source < count) hold(held, values + (u64)source * C + (i - (u64)row * VECTORS) * WIDTH);
    *reinterpret_cast<Held<real, WIDTH> *>(x + i * WIDTH) = held;
}

extern "C" __global__ void __launch_bounds__(64)
    embedding_backward(float *__restrict__ dw, const real *__restrict__ dx, const u32 *__restrict__ tokens,
                       const u32 *__restrict__ order, u32 n, u32 v, float scale) {
    const u32 first = blockIdx.x, token = tokens[order[first]], lane = threadIdx.x % 32;
    if (token >= v || (first > 0 && tokens[order[first - 1]] == token)) return;
    const int vector = (int)(blockIdx.y * 64 + threadIdx.x);
    const bool live = vector < VECTORS;
    float *to = dw + (u64)token * C + vector * WIDTH, sum[WIDTH];
    if (live) load_floats(sum, to);
    // The warp finds the next 32 rows of the token, then adds them, 8 on their way at once.
    for (u32 at = first, count = 32; count == 32; at += 32) {
        const u32 row = at + lane < n ? order[at + lane] : 0;
        count = __popc(__ballot_sync(~0u, at + lane < n && tokens[row] == token));
        for (u32 i = 0; i < count; i += 8) {
            Held<real, WIDTH> held[8];
#pragma unroll
            for (u32 j = 0; j < 8; j++) {
                const u32 from = __shfl_sync(~0u, row, (int)(i + j) & 31);
                if (live && i + j < count) hold(held[j], dx + (u64)from * C + vector * WIDTH);
            }
#pragma unroll
            for (u32 j = 0; j < 8; j++) {
                if (!live || i + j >= count) continue;
                float d[WIDTH];
                spread(d, held[j]);
#pragma unroll
                for (int k = 0; k < WIDTH; k++) sum[k] += d[k] * scale;
            }
        }
    }
    if (live) store_floats(to, sum);
}
