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
//   numerics   float scores and sums, base-2 exponentials; p and ds round to bf16 before the second products; one
//              rounding at the store; fixed order: query head by query head, queries and keys in order
//   measured   on an H100, where it is not used: causal, 2 × 2048 tokens, 32/8 heads of 128: forward 87, backward 78
//              TFLOP/s; 2026-11-25
#include "attention.cuh"

#if !REAL_IS_FLOAT

const u32 THREADS = 128;
const u32 ROWS = 64;
const u32 SPAN = D == 64 ? 64 : 32; // rows of the other side a step
const u32 PITCH = D + 8;             // 16 bytes over a multiple of 128: eight rows lie in different banks
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

// s = a bᵀ over D columns: a the warp's 16 rows, b SPAN rows. s[j] are columns 8 j … of the accumulator of mma16816.
__device__ __forceinline__ void multiply_rows(float (&s)[SPAN / 8][4], const bf16 *a, const bf16 *b) {
    u32 lane = threadIdx.x % 32;
    u32 a_at = shared_address(a + lane % 16 * PITCH + lane / 16 * 8);
    u32 b_at = shared_address(b + (lane % 8 + lane / 16 * 8) * PITCH + lane / 8 % 2 * 8);
#pragma unroll
    for (int j = 0; j < SPAN / 8; j++) s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0.0f;
#pragma unroll 4
    for (u32 k = 0; k < D; k += 16) {
        u32 x[4], y[4];
        ldmatrix4(x, a_at + k * 2);
#pragma unroll
        for (int j = 0; j < SPAN / 16; j++) {
            ldmatrix4(y, b_at + (j * 16 * PITCH + k) * 2);
            mma16816(s[2 * j], x, y[0], y[1]);
            mma16816(s[2 * j + 1], x, y[2], y[3]);
        }
    }
}

// y += w b: w (16, SPAN), rounded to bf16; b SPAN rows, of which the N columns from its address on.
template <int N> __device__ __forceinline__ void multiply_tile(float (&y)[N / 8][4], const float (&w)[SPAN / 8][4], const bf16 *b) {
    u32 lane = threadIdx.x % 32, b_at = shared_address(b + lane % 16 * PITCH + lane / 16 * 8);
#pragma unroll
    for (int k = 0; k < SPAN / 16; k++) {
        const float(&l)[4] = w[2 * k], (&r)[4] = w[2 * k + 1];
        const u32 x[4] = {pack(l[0], l[1]), pack(l[2], l[3]), pack(r[0], r[1]), pack(r[2], r[3])};
#pragma unroll
        for (int j = 0; j < N / 16; j++) {
            u32 z[4];
            ldmatrix4_trans(z, b_at + (k * 16 * PITCH + j * 16) * 2);
            mma16816(y[2 * j], x, z[0], z[1]);
            mma16816(y[2 * j + 1], x, z[2], z[3]);
        }
    }
}

// Rows `row` and `row + 8` of the accumulator, as far as they lie before `end`; `to` is row 0, the first column.
template <int N>
__device__ __forceinline__ void store_rows(bf16 *to, const float (&y)[N / 8][4], u32 row, u32 end, size_t width,
                                           const float (&factors)[2]) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (row + 8 * r >= end) continue;
        u32 *at = reinterpret_cast<u32 *>(to + (row + 8 * r) * width) + threadIdx.x % 4;
#pragma unroll
        for (int j = 0; j < N / 8; j++) at[4 * j] = pack(y[j][2 * r] * factors[r], y[j][2 * r + 1] * factors[r]);
    }
}

// A thread's place: rows `row` and `row + 8` of its warp's 16, columns `column` and the next of each 8.
struct Place {
    u32 warp, row, column;
};
__device__ __forceinline__ Place place() {
    return {threadIdx.x / 32, threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, threadIdx.x % 4 * 2};
}

// The half block of this block of threads.
__device__ __forceinline__ uint4 half_block(const uint4 *blocks) {
    uint4 block = blocks[blockIdx.x / 2];
    block.x += blockIdx.x % 2 * ROWS;
    block.y = min(block.y, block.x + ROWS);
    return block;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    attention_mma_forward(bf16 *out, float *lse, const bf16 *q, const bf16 *k, const bf16 *v, const uint4 *blocks, u32 heads,
                          u32 kv_heads, float scale, u32 window) {
    bf16 *queries = shared, *keys = queries + ROWS * PITCH, *values = keys + SPAN * PITCH;
    uint4 block = half_block(blocks);
    if (block.x >= block.y) return;
    u32 h = blockIdx.y;
    size_t wide = (size_t)heads * D, thin = (size_t)kv_heads * D;
    k += h * kv_heads / heads * D;
    v += h * kv_heads / heads * D;
    Place p = place();
    float y[D / 8][4] = {}, max[2] = {-INFINITY_F, -INFINITY_F}, sum[2] = {}, factor = scale * LOG2_E;
    begin_rows(queries, q + h * D, block.x, block.y, ROWS, wide);
    for (u32 key = first_visible(block.x, block.z, window); key < block.y; key += SPAN) {
        __syncthreads();
        begin_rows(keys, k, key, block.y, SPAN, thin);
        begin_rows(values, v, key, block.y, SPAN, thin);
        end_rows();
        float s[SPAN / 8][4];
        multiply_rows(s, queries + p.warp * 16 * PITCH, keys);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            u32 distance = block.x + p.row + 8 * r - key - p.column; // wraps to a large number for keys that come later
            float next = max[r], total = 0.0f;
#pragma unroll
            for (int j = 0; j < SPAN / 8; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    float &x = s[j][2 * r + e];
                    if (distance - 8 * j - e >= window) x = -INFINITY_F;
                    next = fmaxf(next, x);
                }
            next = fmaxf(next, __shfl_xor_sync(~0u, next, 1));
            next = fmaxf(next, __shfl_xor_sync(~0u, next, 2));
            float base = next == -INFINITY_F ? 0.0f : next * factor; // no key visible yet
            float shrink = exp2_fast(max[r] * factor - base);
            max[r] = next;
#pragma unroll
            for (int j = 0; j < SPAN / 8; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    float &x = s[j][2 * r + e];
                    x = exp2_fast(fmaf(x, factor, -base));
                    total += x;
                }
            sum[r] = sum[r] * shrink + total;
#pragma unroll
            for (int j = 0; j < D / 8; j++) y[j][2 * r] *= shrink, y[j][2 * r + 1] *= shrink;
        }
        multiply_tile<D>(y, s, values);
    }
    float inverse[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
        sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
        inverse[r] = 1.0f / sum[r];
        u32 row = block.x + p.row + 8 * r;
        if (row < block.y && p.column == 0) lse[(size_t)row * heads + h] = (max[r] * factor + log2f(sum[r])) / LOG2_E;
    }
    store_rows<D>(out + h * D, y, block.x + p.row, block.y, wide, inverse);
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
    Place p = place();
    float y[D / 8][4] = {}, lse[2], delta[2], factor = scale * LOG2_E;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        u32 row = block.x + p.row + 8 * r;
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
        float s[SPAN / 8][4], dp[SPAN / 8][4];
        multiply_rows(s, queries + p.warp * 16 * PITCH, keys);
        multiply_rows(dp, gradients + p.warp * 16 * PITCH, values);
#pragma unroll
        for (int j = 0; j < SPAN / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int r = e / 2;
                u32 distance = block.x + p.row + 8 * r - key - p.column - 8 * j - e % 2;
                float weight = distance < window ? exp2_fast(fmaf(s[j][e], factor, -lse[r])) : 0.0f;
                s[j][e] = weight * (dp[j][e] - delta[r]);
            }
        multiply_tile<D>(y, s, keys);
    }
    const float factors[2] = {scale, scale};
    store_rows<D>(dq + h * D, y, block.x + p.row, block.y, wide, factors);
}

// Products are transposed, keys along the rows: sᵀ = k qᵀ, dpᵀ = v doutᵀ, dv += pᵀ dout, dk += dsᵀ q.
extern "C" __global__ void __launch_bounds__(THREADS)
    attention_mma_keys(bf16 *dk, bf16 *dv, const bf16 *dout, const bf16 *q, const bf16 *k, const bf16 *v, const float *rows,
                       const uint4 *blocks, u32 n, u32 heads, u32 kv_heads, float scale, u32 window) {
    bf16 *keys = shared, *values = keys + ROWS * PITCH;
    bf16 *queries = values + ROWS * PITCH, *gradients = queries + SPAN * PITCH;
    uint4 block = half_block(blocks);
    if (block.x >= block.y) return;
    u32 head = blockIdx.y, columns = blockIdx.z * COLUMNS;
    size_t wide = (size_t)heads * D, thin = (size_t)kv_heads * D;
    Place p = place();
    float y[COLUMNS / 8][4] = {}, z[COLUMNS / 8][4] = {}, factor = scale * LOG2_E;
    u32 last = block.w - (block.y - 1) > window ? block.y - 1 + window : block.w; // end of the queries that see these keys
    begin_rows(keys, k + head * D, block.x, block.y, ROWS, thin);
    begin_rows(values, v + head * D, block.x, block.y, ROWS, thin);
    for (u32 h = head * heads / kv_heads; h < (head + 1) * heads / kv_heads; h++) {
        for (u32 query = block.x; query < last; query += SPAN) {
            __syncthreads();
            begin_rows(queries, q + h * D, query, last, SPAN, wide);
            begin_rows(gradients, dout + h * D, query, last, SPAN, wide);
            end_rows();
            float s[SPAN / 8][4], dp[SPAN / 8][4];
            multiply_rows(s, keys + p.warp * 16 * PITCH, queries);
            multiply_rows(dp, values + p.warp * 16 * PITCH, gradients);
#pragma unroll
            for (int j = 0; j < SPAN / 8; j++)
#pragma unroll
                for (int c = 0; c < 2; c++) {
                    u32 i = query + p.column + 8 * j + c;
                    float lse = i < last ? rows[(size_t)h * n + i] : INFINITY_F;
                    float delta = i < last ? rows[(size_t)(heads + h) * n + i] : 0.0f;
#pragma unroll
                    for (int r = 0; r < 2; r++) {
                        int e = 2 * r + c;
                        u32 distance = i - (block.x + p.row + 8 * r); // wraps to a large number for keys that come later
                        s[j][e] = distance < window ? exp2_fast(fmaf(s[j][e], factor, -lse)) : 0.0f;
                        dp[j][e] = s[j][e] * (dp[j][e] - delta);
                    }
                }
            multiply_tile<COLUMNS>(z, s, gradients + columns);
            multiply_tile<COLUMNS>(y, dp, queries + columns);
        }
    }
    const float ones[2] = {1.0f, 1.0f}, factors[2] = {scale, scale};
    store_rows<COLUMNS>(dk + head * D + columns, y, block.x + p.row, block.y, thin, factors);
    store_rows<COLUMNS>(dv + head * D + columns, z, block.x + p.row, block.y, thin, ones);
}

#endif
