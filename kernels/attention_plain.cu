// Attention, the plain path: any head width up to 256, float or bf16, one warp a row. Maths, CPU reference:
// src/ops/attention.rs. The fast paths are attention_forward.cu and attention_backward.cu (sm_90a).
//   s_ij = scale · q_i · k_j for j in i's document, j ≤ i, i − j < window;   lse_i = ln Σ_j exp s_ij
//   p_ij = exp(s_ij − lse_i)   out_i = Σ_j p_ij v_j   δ_i = dout_i · out_i   ds_ij = p_ij (dout_i · v_j − δ_i)
//   dq_i = scale Σ_j ds_ij k_j   dk_j = scale Σ_i ds_ij q_i   dv_j = Σ_i p_ij dout_i
//   q, out, dout, dq (N, H·D) real   k, v, dk, dv (N, KV·D) real   lse (N, H) float   rows (2, H, N) float: lse · log₂e
//   and δ   blocks (M) of four u32: first row, end row, first and end row of the document; none longer than BLOCK
//   load-time  REAL_IS_FLOAT, D, BLOCK (a multiple of ROWS = 16)
//   launch     attention_plain_forward, attention_plain_queries: grid (M · BLOCK/16, H), block 512;
//              attention_plain_keys: grid (M · BLOCK/16, KV), block 512; attention_plain_delta: grid (H, ⌈N / 64⌉), block 256
//              dynamic shared (4 (D | 1) (ROWS + 64) bytes forward, 4 (D | 1) (2·ROWS + 64) backward)
//   window     2³¹ for none
//   work       4·D flops a visible pair of rows and query head forward, 14·D backward: bound by the float units
//   numerics   float, one rounding at the store; a row's terms are added in the order of the keys (dk, dv: query head by
//              query head, queries in order), so that a row has the same bits wherever it stands
//   measured   not benched: for f32 and odd head widths, which no model trains with; attention_plain_delta is a part of the
//              figures of attention_backward.cu
#include "attention.cuh"

const u32 ROWS = 16;
const u32 TILE = 32;
const u32 PITCH = D | 1; // odd: a column of a tile lies in 32 different banks
const u32 THREADS = ROWS * 32;
const int PER_LANE = (D + 31) / 32;

extern __shared__ float shared[];

// Rows `first … first + count` of D columns, to shared memory; zeros from `end` on.
__device__ __forceinline__ void load_rows(float *to, const real *from, u32 first, u32 end, u32 count, size_t width) {
    for (u32 i = threadIdx.x; i < count * D; i += THREADS) {
        u32 row = i / D, column = i % D;
        to[row * PITCH + column] = first + row < end ? widen(from[(first + row) * width + column]) : 0.0f;
    }
}

__device__ __forceinline__ float dot(const float *a, const float *b) {
    float sum = 0.0f;
#pragma unroll 8
    for (u32 d = 0; d < D; d++) sum = fmaf(a[d], b[d], sum);
    return sum;
}

// sum (this lane's columns) += Σ_j w_j · row j of the tile; lane j holds w_j.
__device__ __forceinline__ void add_rows(float (&sum)[PER_LANE], float w, const float *tile) {
    u32 lane = threadIdx.x % 32;
    for (u32 j = 0; j < TILE; j++) {
        float wj = __shfl_sync(~0u, w, j);
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) {
            u32 column = lane + 32 * i;
            if (D % 32 == 0 || column < D) sum[i] = fmaf(wj, tile[j * PITCH + column], sum[i]);
        }
    }
}

__device__ __forceinline__ void store_row(real *to, const float (&x)[PER_LANE], float factor) {
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
        u32 column = threadIdx.x % 32 + 32 * i;
        if (D % 32 == 0 || column < D) to[column] = narrow<real>(x[i] * factor);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    attention_plain_forward(real *out, float *lse, const real *q, const real *k, const real *v, const uint4 *blocks, u32 heads,
                      u32 kv_heads, float scale, u32 window) {
    float *own = shared, *keys = own + ROWS * PITCH, *values = keys + TILE * PITCH;
    uint4 block = blocks[blockIdx.x / (BLOCK / ROWS)];
    u32 first = block.x + blockIdx.x % (BLOCK / ROWS) * ROWS, end = min(block.y, first + ROWS);
    if (first >= end) return;
    u32 h = blockIdx.y, lane = threadIdx.x % 32, row = first + threadIdx.x / 32;
    size_t wide = (size_t)heads * D, thin = (size_t)kv_heads * D;
    k += h * kv_heads / heads * D;
    v += h * kv_heads / heads * D;
    load_rows(own, q + h * D, first, end, ROWS, wide);
    u32 from = first_visible(row, block.z, window);

    float max = -INFINITY_F, sum = 0.0f, y[PER_LANE] = {};
    for (u32 tile = first_visible(first, block.z, window); tile < end; tile += TILE) {
        __syncthreads();
        load_rows(keys, k, tile, end, TILE, thin);
        load_rows(values, v, tile, end, TILE, thin);
        __syncthreads();
        u32 key = tile + lane;
        float s = -INFINITY_F;
        if (key >= from && key <= row) s = scale * dot(own + threadIdx.x / 32 * PITCH, keys + lane * PITCH);
        float next = fmaxf(max, warp_max(s));
        if (next == -INFINITY_F) continue; // nothing to see yet
        float p = expf(s - next), shrink = expf(max - next);
        sum = sum * shrink + warp_sum(p);
        max = next;
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) y[i] *= shrink;
        add_rows(y, p, values);
    }
    if (row >= end) return;
    store_row(out + row * wide + h * D, y, 1.0f / sum);
    if (lane == 0) lse[(size_t)row * heads + h] = max + logf(sum);
}

// Once before the two backward kernels, here and on the fast path: lse · log₂e and δ, a head's values together.
const u32 DELTA_THREADS = 256;
const u32 DELTA_ROWS = 64;
const u32 WIDE = D % Vector<real>::N == 0 ? Vector<real>::N : 1; // elements a lane reads at once
const u32 PIECES = D / WIDE;
const u32 LANES = PIECES > 16 ? 32 : PIECES > 8 ? 16 : PIECES > 4 ? 8 : 4; // a row
extern "C" __global__ void __launch_bounds__(DELTA_THREADS)
    attention_plain_delta(float *rows, const real *dout, const real *out, const float *lse, u32 n, u32 heads) {
    u32 h = blockIdx.x, lane = threadIdx.x % LANES, first = blockIdx.y * DELTA_ROWS + threadIdx.x / LANES;
    const u32 STEP = DELTA_THREADS / LANES;
    float sums[DELTA_ROWS / STEP] = {};
#pragma unroll
    for (u32 i = 0; i < DELTA_ROWS / STEP; i++) {
        u32 row = min(first + i * STEP, n - 1);
        size_t at = ((size_t)row * heads + h) * D;
#pragma unroll
        for (u32 piece = lane; piece < PIECES; piece += LANES) {
            if (WIDE > 1) {
                float a[Vector<real>::N], b[Vector<real>::N];
                load16(a, dout + at + piece * WIDE);
                load16(b, out + at + piece * WIDE);
#pragma unroll
                for (int k = 0; k < Vector<real>::N; k++) sums[i] = fmaf(a[k], b[k], sums[i]);
            } else {
                sums[i] = fmaf(widen(dout[at + piece]), widen(out[at + piece]), sums[i]);
            }
        }
    }
#pragma unroll
    for (u32 i = 0; i < DELTA_ROWS / STEP; i++) {
        u32 row = first + i * STEP;
#pragma unroll
        for (int step = LANES / 2; step > 0; step /= 2) sums[i] += __shfl_xor_sync(~0u, sums[i], step);
        if (lane == 0 && row < n) {
            rows[(size_t)h * n + row] = lse[(size_t)row * heads + h] * LOG2_E;
            rows[(size_t)(heads + h) * n + row] = sums[i];
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    attention_plain_queries(real *dq, const real *dout, const real *q, const real *k, const real *v, const float *rows,
                               const uint4 *blocks, u32 n, u32 heads, u32 kv_heads, float scale, u32 window) {
    float *queries = shared, *gradients = queries + ROWS * PITCH;
    float *keys = gradients + ROWS * PITCH, *values = keys + TILE * PITCH;
    uint4 block = blocks[blockIdx.x / (BLOCK / ROWS)];
    u32 first = block.x + blockIdx.x % (BLOCK / ROWS) * ROWS, end = min(block.y, first + ROWS);
    if (first >= end) return;
    u32 h = blockIdx.y, mine = threadIdx.x / 32 * PITCH, lane = threadIdx.x % 32, row = first + threadIdx.x / 32;
    size_t wide = (size_t)heads * D, thin = (size_t)kv_heads * D;
    k += h * kv_heads / heads * D;
    v += h * kv_heads / heads * D;
    load_rows(queries, q + h * D, first, end, ROWS, wide);
    load_rows(gradients, dout + h * D, first, end, ROWS, wide);
    u32 from = first_visible(row, block.z, window);
    float lse2 = 0.0f, delta = 0.0f;
    if (row < end) lse2 = rows[(size_t)h * n + row], delta = rows[(size_t)(heads + h) * n + row];

    float y[PER_LANE] = {};
    for (u32 tile = first_visible(first, block.z, window); tile < end; tile += TILE) {
        __syncthreads();
        load_rows(keys, k, tile, end, TILE, thin);
        load_rows(values, v, tile, end, TILE, thin);
        __syncthreads();
        u32 key = tile + lane;
        float ds = 0.0f;
        if (key >= from && key <= row && row < end) {
            float p = exp2f(scale * LOG2_E * dot(queries + mine, keys + lane * PITCH) - lse2);
            ds = p * (dot(gradients + mine, values + lane * PITCH) - delta);
        }
        add_rows(y, ds, keys);
    }
    if (row < end) store_row(dq + row * wide + h * D, y, scale);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    attention_plain_keys(real *dk, real *dv, const real *dout, const real *q, const real *k, const real *v,
                            const float *rows, const uint4 *blocks, u32 n, u32 heads, u32 kv_heads, float scale,
                            u32 window) {
    float *keys = shared, *values = keys + ROWS * PITCH;
    float *queries = values + ROWS * PITCH, *gradients = queries + TILE * PITCH;
    uint4 block = blocks[blockIdx.x / (BLOCK / ROWS)];
    u32 first = block.x + blockIdx.x % (BLOCK / ROWS) * ROWS, end = min(block.y, first + ROWS);
    if (first >= end) return;
    u32 g = blockIdx.y, mine = threadIdx.x / 32 * PITCH, lane = threadIdx.x % 32, row = first + threadIdx.x / 32;
    size_t wide = (size_t)heads * D, thin = (size_t)kv_heads * D;
    load_rows(keys, k + g * D, first, end, ROWS, thin);
    load_rows(values, v + g * D, first, end, ROWS, thin);
    u32 last = block.w - (end - 1) > window ? end - 1 + window : block.w; // end of the queries that see these keys

    float y[PER_LANE] = {}, z[PER_LANE] = {};
    for (u32 h = g * heads / kv_heads; h < (g + 1) * heads / kv_heads; h++) {
        for (u32 tile = first; tile < last; tile += TILE) {
            __syncthreads();
            load_rows(queries, q + h * D, tile, last, TILE, wide);
            load_rows(gradients, dout + h * D, tile, last, TILE, wide);
            __syncthreads();
            u32 query = tile + lane;
            float p = 0.0f, ds = 0.0f;
            if (query < last && row < end && query >= row && query - row < window) {
                size_t at = (size_t)h * n + query;
                p = exp2f(scale * LOG2_E * dot(keys + mine, queries + lane * PITCH) - rows[at]);
                ds = p * (dot(values + mine, gradients + lane * PITCH) - rows[(size_t)heads * n + at]);
            }
            add_rows(y, ds, queries);
            add_rows(z, p, gradients);
        }
    }
    if (row >= end) return;
    store_row(dk + row * thin + g * D, y, scale);
    store_row(dv + row * thin + g * D, z, 1.0f);
}
