// Attention through mma.sync, for cards from sm_80 on that lack wgmma. Maths, CPU reference: src/ops/attention.rs
//   s_ij = scale · q_i · k_j for j in i's document, j ≤ i, i − j < window;   lse_i = ln Σ_j exp s_ij
//   p_ij = exp(s_ij − lse_i)   out_i = Σ_j p_ij v_j   δ_i = dout_i · out_i   ds_ij = p_ij (dout_i · v_j − δ_i)
//   dq_i = scale Σ_j ds_ij k_j   dk_j = scale Σ_i ds_ij q_i   dv_j = Σ_i p_ij dout_i
//   q, out, dout, dq (N, H·D) bf16   k, v, dk, dv (N, KV·D) bf16   lse (N, H) float   rows (2, H, N) float: lse · log₂e
//   and δ (attention_plain_delta)   blocks (M) of four u32: first row, end row, first and end row of the document; none
//   longer than 128
//   load-time  REAL_IS_FLOAT = 0, D (64, 128, 256)
//   launch     block 128: a warp owns 16 rows; attention_mma_forward, attention_mma_queries: grid (2 M, H);
//              attention_mma_keys: grid (2 M, KV, ⌈D / 128⌉), 128 columns of dk and dv a block
//              dynamic shared 2 (D + 8) (64 + 2·SPAN) bytes forward, 2 (D + 8) (128 + 2·SPAN) backward; SPAN = 64 at
//              D = 64, else 32
//   scale      > 0;  window: 2³¹ for none
//   work       4·D flops a visible pair of rows and query head forward, 14·D backward: bound by the tensor cores
//   numerics   float scores and sums, base-2 exponentials; p and ds round to bf16 before the second products; one
//              rounding at the store; fixed order: query head by query head, queries and keys in order
//   measured   not benched: no card that needs it was at hand. On an H100, which does not use it: causal, 2 × 2048 tokens, 32/8
//              heads of 128: forward 87, backward 78 TFLOP/s; 2026-11-25
#include "attention.cuh"

#if !REAL_IS_FLOAT

const u32 THREADS = 128;
const u32 ROWS = 64;
const u32 SPAN = D == 64 ? 64 : 32; // rows of the other side a step
const u32 PITCH = D + 8;            // 16 bytes over a multiple of 128: eight rows lie in different banks
const u32 COLUMNS = D < 128 ? D : 128;

extern __shared__ bf16 shared[];

// Rows `first … first + count` of D columns to shared memory, zeros from `end` on; begun.
__device__ __forceinline__ void begin_rows(bf16 *to, const bf16 *from, u32 first, u32 end, u32 count, size_t width) {
    for (u32 i = threadIdx.x; i < count * (D / 8); i += THREADS) {
        u32 row = i / (D / 8), column = i % (D / 8) * 8;
        bool valid = first + row < end;
        cp_async16(shared_address(to + row * PITCH + column), from + (valid ? first + row : first) * width + column,
                   valid ? 16 : 0);
    }
}
__device__ __forceinline__ void end_rows() {
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
}

// s = a bᵀ over D columns: a the warp's 16 rows, b SPAN rows.
__device__ __forceinline__ void multiply_rows(float (&s)[SPAN / 2], const bf16 *a, const bf16 *b) {
    u32 lane = threadIdx.x % 32;
    u32 a_at = shared_address(a + lane % 16 * PITCH + lane / 16 * 8);
    u32 b_at = shared_address(b + (lane % 8 + lane / 16 * 8) * PITCH + lane / 8 % 2 * 8);
#pragma unroll
    for (int i = 0; i < SPAN / 2; i++) s[i] = 0.0f;
#pragma unroll 4
    for (u32 k = 0; k < D; k += 16) {
        u32 x[4], y[4];
        ldmatrix4(x, a_at + k * 2);
#pragma unroll
        for (int j = 0; j < SPAN / 16; j++) {
            ldmatrix4(y, b_at + (j * 16 * PITCH + k) * 2);
            mma16816(s + 8 * j, x, y[0], y[1]);
            mma16816(s + 8 * j + 4, x, y[2], y[3]);
        }
    }
}

// y += w b: w (16, SPAN), rounded to bf16; b SPAN rows, of which the 2 N columns from its address on.
template <int N>
__device__ __forceinline__ void multiply_tile(float (&y)[N], const float (&w)[SPAN / 2], const bf16 *b) {
    u32 lane = threadIdx.x % 32, b_at = shared_address(b + lane % 16 * PITCH + lane / 16 * 8);
#pragma unroll
    for (int k = 0; k < SPAN / 16; k++) {
        u32 x[4];
        pack_operand(x, w, k);
#pragma unroll
        for (int j = 0; j < N / 8; j++) {
            u32 z[4];
            ldmatrix4_trans(z, b_at + (k * 16 * PITCH + j * 16) * 2);
            mma16816(y + 8 * j, x, z[0], z[1]);
            mma16816(y + 8 * j + 4, x, z[2], z[3]);
        }
    }
}

// The half block of this block of threads.
__device__ __forceinline__ uint4 half_block(const uint4 *blocks) {
    uint4 block = blocks[blockIdx.x / 2];
    block.x += blockIdx.x % 2 * ROWS;
    block.y = min(block.y, block.x + ROWS);
    return block;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    attention_mma_forward(bf16 *out, float *lse, const bf16 *q, const bf16 *k, const bf16 *v, const uint4 *blocks,
                          u32 heads, u32 kv_heads, float scale, u32 window) {
    bf16 *queries = shared, *keys = queries + ROWS * PITCH, *values = keys + SPAN * PITCH;
    uint4 block = half_block(blocks);
    if (block.x >= block.y) return;
    u32 h = blockIdx.y;
    size_t wide = (size_t)heads * D, thin = (size_t)kv_heads * D;
    k += h * kv_heads / heads * D;
    v += h * kv_heads / heads * D;
    u32 own = threadIdx.x / 32 * 16 * PITCH,
        query = block.x + fragment_row(); // where the warp's rows begin; and 8 below
    float y[D / 2] = {}, factor = scale * LOG2_E;
    Softmax rows;
    begin_rows(queries, q + h * D, block.x, block.y, ROWS, wide);
    for (u32 key = first_visible(block.x, block.z, window); key < block.y; key += SPAN) {
        __syncthreads();
        begin_rows(keys, k, key, block.y, SPAN, thin);
        begin_rows(values, v, key, block.y, SPAN, thin);
        end_rows();
        float s[SPAN / 2];
        multiply_rows(s, queries + own, keys);
        mask_window<1>(s, query - key - fragment_column(), window);
        rows.add<false>(s, factor);
        scale_rows(y, rows.shrink);
        multiply_tile(y, s, values);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        u32 row = query + 8 * r;
        float sum = quad_sum(rows.sum[r]);
        store_row(out + row * wide + h * D, y, r, 1.0f / sum, row < block.y);
        if (row < block.y && threadIdx.x % 4 == 0)
            lse[(size_t)row * heads + h] = (rows.max[r] * factor + log2f(sum)) / LOG2_E;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    attention_mma_queries(bf16 *dq, const bf16 *dout, const bf16 *q, const bf16 *k, const bf16 *v, const float *rows,
                          const uint4 *blocks, u32 n, u32 heads, u32 kv_heads, float scale, u32 window) {
    bf16 *queries = shared, *gradients = queries + ROWS * PITCH;
    bf16 *keys = gradients + ROWS * PITCH, *values = keys + SPAN * PITCH;
    uint4 block = half_block(blocks);
    if (block.x >= block.y) return;
    u32 h = blockIdx.y;
    size_t wide = (size_t)heads * D, thin = (size_t)kv_heads * D;
    k += h * kv_heads / heads * D;
    v += h * kv_heads / heads * D;
    u32 own = threadIdx.x / 32 * 16 * PITCH,
        query = block.x + fragment_row(); // where the warp's rows begin; and 8 below
    float y[D / 2] = {}, lse[2], delta[2], factor = scale * LOG2_E;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        u32 row = query + 8 * r;
        lse[r] = row < block.y ? rows[(size_t)h * n + row] : INFINITY_F;
        delta[r] = row < block.y ? rows[(size_t)(heads + h) * n + row] : 0.0f;
    }
    begin_rows(queries, q + h * D, block.x, block.y, ROWS, wide);
    begin_rows(gradients, dout + h * D, block.x, block.y, ROWS, wide);
    for (u32 key = first_visible(block.x, block.z, window); key < block.y; key += SPAN) {
        __syncthreads();
        begin_rows(keys, k, key, block.y, SPAN, thin);
        begin_rows(values, v, key, block.y, SPAN, thin);
        end_rows();
        float s[SPAN / 2], dp[SPAN / 2];
        multiply_rows(s, queries + own, keys);
        multiply_rows(dp, gradients + own, values);
        mask_window<1>(s, query - key - fragment_column(), window);
#pragma unroll
        for (int i = 0; i < SPAN / 2; i++) {
            int r = i / 2 % 2;
            s[i] = exp2_fast(fmaf(s[i], factor, -lse[r])) * (dp[i] - delta[r]);
        }
        multiply_tile(y, s, keys);
    }
    store_rows(dq + h * D, y, query, block.y, wide, scale);
}

// Products are transposed, keys along the rows: sᵀ = k qᵀ, dpᵀ = v doutᵀ, dv += pᵀ dout, dk += dsᵀ q.
extern "C" __global__ void __launch_bounds__(THREADS)
    attention_mma_keys(bf16 *dk, bf16 *dv, const bf16 *dout, const bf16 *q, const bf16 *k, const bf16 *v,
                       const float *rows, const uint4 *blocks, u32 n, u32 heads, u32 kv_heads, float scale,
                       u32 window) {
    bf16 *keys = shared, *values = keys + ROWS * PITCH;
    bf16 *queries = values + ROWS * PITCH, *gradients = queries + SPAN * PITCH;
    uint4 block = half_block(blocks);
    if (block.x >= block.y) return;
    u32 head = blockIdx.y, columns = blockIdx.z * COLUMNS;
    size_t wide = (size_t)heads * D, thin = (size_t)kv_heads * D;
    u32 own = threadIdx.x / 32 * 16 * PITCH, key = block.x + fragment_row(); // where the warp's rows begin; and 8 below
    float y[COLUMNS / 2] = {}, z[COLUMNS / 2] = {}, factor = scale * LOG2_E;
    u32 last =
        block.w - (block.y - 1) > window ? block.y - 1 + window : block.w; // end of the queries that see these keys
    begin_rows(keys, k + head * D, block.x, block.y, ROWS, thin);
    begin_rows(values, v + head * D, block.x, block.y, ROWS, thin);
    for (u32 h = head * heads / kv_heads; h < (head + 1) * heads / kv_heads; h++) {
        for (u32 query = block.x; query < last; query += SPAN) {
            __syncthreads();
            begin_rows(queries, q + h * D, query, last, SPAN, wide);
            begin_rows(gradients, dout + h * D, query, last, SPAN, wide);
            end_rows();
            float s[SPAN / 2], dp[SPAN / 2];
            multiply_rows(s, keys + own, queries);
            multiply_rows(dp, values + own, gradients);
            mask_window<-1>(s, query + fragment_column() - key, window);
#pragma unroll
            for (int j = 0; j < SPAN / 8; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    u32 i = query + fragment_column() + 8 * j + e;
                    float lse = i < last ? rows[(size_t)h * n + i] : INFINITY_F;
                    float delta = i < last ? rows[(size_t)(heads + h) * n + i] : 0.0f;
#pragma unroll
                    for (int r = 0; r < 2; r++) {
                        float &p = at(s, j, r, e), &ds = at(dp, j, r, e);
                        p = exp2_fast(fmaf(p, factor, -lse));
                        ds = p * (ds - delta);
                    }
                }
            multiply_tile(z, s, gradients + columns);
            multiply_tile(y, dp, queries + columns);
        }
    }
    store_rows(dk + head * D + columns, y, key, block.y, thin, scale);
    store_rows(dv + head * D + columns, z, key, block.y, thin, 1.0f);
}

#endif
