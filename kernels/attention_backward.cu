// Attention backward on Hopper: wgmma and TMA; one kernel for dk and dv, one for dq. CPU reference: src/ops/attention.rs
//   p_ij = exp(s_ij − lse_i), s_ij = scale · q_i · k_j     for j in i's document, j ≤ i, i − j < window
//   ds_ij = p_ij (dout_i · v_j − δ_i)                      δ_i = dout_i · out_i (attention_plain_delta)
//   dq_i = scale Σ_j ds_ij k_j   dk_j = scale Σ_i ds_ij q_i   dv_j = Σ_i p_ij dout_i
//   q, dout, dq (N, H·D) bf16   k, v, dk, dv (N, KV·D) bf16   rows (2, H, N) float: lse · log₂e, δ
//   blocks (M) of four u32: first row, end row, first and end row of the document; none longer than 128, the longest
//   work first: two lists, since work grows with the row for dq and falls with it for dk and dv
//   load-time  REAL_IS_FLOAT = 0, D (64, 128, 256)
//   launch     attention_backward_keys: grid (M·KV), dynamic shared 1024·D + 2176 bytes; at D = 256 grid (2 M·KV),
//              768·D + 34944; attention_backward_queries: grid min(multiprocessors, M·H), 1792·D + 1152; at D = 256
//              896·D + 1152; block 384: a warpgroup that loads, two that multiply
//              maps: boxes of 64 columns × 64 rows; for the k and v of attention_backward_queries × SPAN (96, 64 at D = 256) rows
//   scale      > 0;  window: 2³¹ for none
//   work       8·D and 6·D flops a visible pair of rows and query head: bound by the tensor cores
//   numerics   float scores and sums, base-2 exponentials; p and ds round to bf16 before the second products; one
//              rounding at the store; fixed order: query head by query head, queries and keys in order
//   measured   causal, all three kernels, TFLOP/s at 10·D flops a pair (ratio to cuDNN through torch 2.11): 2 × 2048
//              tokens, 32/8 heads of 128: 374 (1.37), 8/4 of 256: 331 (1.47), 16/16 of 64: 252 (1.70); 8 × 384, 32/8 of
//              128: 181 (2.01); 2026-11-25, H100
#include "attention.cuh"

#if ARCH == 90 && !REAL_IS_FLOAT

const u32 PANEL = 64 * 128;         // bytes of 64 rows × 64 columns
const u32 PANELS = D / 64;          // a row
const u32 TILE_BYTES = PANELS * PANEL; // 64 rows

extern __shared__ u8 shared[];

// 64 rows from `row` on, the D columns from `column` on. One thread.
__device__ __forceinline__ void load_tile(u32 to, const TensorMap &map, u32 full, u32 column, u32 row) {
    for (u32 panel = 0; panel < PANELS; panel++) tma_load2(to + panel * PANEL, &map, full, column + 64 * panel, row);
}

// s = a bᵀ over D columns; both K-major tiles of 64 rows.
__device__ __forceinline__ void multiply_rows(float (&s)[32], u64 a, u64 b) {
#pragma unroll
    for (int k = 0; k < D / 16; k++)
        Wgmma<64>::mma<0, 0>(s, wgmma_advance(a, k / 4 * PANEL + k % 4 * 32), wgmma_advance(b, k / 4 * PANEL + k % 4 * 32),
                             k > 0);
}
// y (+)= a b: a 64×64 in registers, b a tile of 64 rows.
__device__ __forceinline__ void multiply_tile(float (&y)[D / 2], const u32 (&a)[4][4], u64 b, u32 add) {
#pragma unroll
    for (int k = 0; k < 4; k++) Wgmma<D>::mma<1>(y, a[k], wgmma_advance(b, k * 2048), k > 0 ? 1 : add);
}

__device__ __forceinline__ void pack_all(u32 (&a)[4][4], const float (&s)[32]) {
#pragma unroll
    for (int k = 0; k < 4; k++)
#pragma unroll
        for (int i = 0; i < 4; i++) a[k][i] = pack(s[8 * k + 2 * i], s[8 * k + 2 * i + 1]);
}

// Rows `row` and `row + 8` of the accumulator, as far as they lie before `end`; `to` is row 0, this head's columns.
__device__ __forceinline__ void store_rows(real *to, const float (&y)[D / 2], u32 row, u32 end, size_t width,
                                           float factor) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        real *at = to + (row + 8 * r) * width + 8 * (threadIdx.x % 4);
#pragma unroll
        for (int j = 0; j < D / 32; j++) {
            u32 x[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float *z = &y[16 * j + 4 * i + 2 * r];
                x[i] = pack(z[0] * factor, z[1] * factor);
            }
            transpose_quad(x);
            if (row + 8 * r < end) *reinterpret_cast<uint4 *>(at + 32 * j) = make_uint4(x[0], x[1], x[2], x[3]);
        }
    }
}

// ---- dk and dv -----------------------------------------------------------------------------------------------------
//
// A block owns keys of one head and walks over its query heads and their queries, 64 a step. Products are transposed,
// keys along the rows: sᵀ = k qᵀ, dpᵀ = v doutᵀ, dv += pᵀ dout, dk += dsᵀ q, so that pᵀ and dsᵀ stay in registers.
//   D ≤ 128   128 keys; each warpgroup has 64 of them
//   D = 256   64 keys; the first warpgroup has sᵀ and dv, the second dpᵀ and dk, and gets pᵀ through shared memory

const u32 KEYS = D == 256 ? 64 : 128;
const u32 STEPS_AHEAD = 2; // slots of the ring
const u32 AT_K = 0;
const u32 AT_V = AT_K + KEYS / 64 * TILE_BYTES;
const u32 AT_Q = AT_V + KEYS / 64 * TILE_BYTES;
const u32 AT_DOUT = AT_Q + STEPS_AHEAD * TILE_BYTES;
const u32 AT_P = AT_DOUT + STEPS_AHEAD * TILE_BYTES;
const u32 P_BYTES = D == 256 ? 64 * 64 * 4 : 0;
const u32 AT_ROWS = AT_P + 2 * P_BYTES;
const u32 KEYS_BARRIERS = AT_ROWS + STEPS_AHEAD * 512;

// The steps of a block: `heads` query heads from `head` on, for each the queries first … last in steps of 64.
struct Walk {
    u32 first, end, last, head, heads, steps;
};

extern "C" __global__ void __launch_bounds__(384, 1)
    attention_backward_keys(real *dk, real *dv, const __grid_constant__ TensorMap q_map,
                            const __grid_constant__ TensorMap dout_map, const __grid_constant__ TensorMap k_map,
                            const __grid_constant__ TensorMap v_map, const float *rows, const uint4 *blocks, u32 n,
                            u32 heads, u32 kv_heads, float scale, u32 window) {
    u32 base = (shared_address(shared) + 1023) & ~1023u;
    u8 *memory = shared + (base - shared_address(shared));
    u32 bar = base + KEYS_BARRIERS;
    Ring<STEPS_AHEAD> ring = {bar + 8};
    Ring<2> exchange = {bar + 8 + STEPS_AHEAD * 16};

    u32 head = blockIdx.x % kv_heads, item = blockIdx.x / kv_heads;
    uint4 block = blocks[D == 256 ? item / 2 : item];
    Walk walk;
    walk.first = block.x + (D == 256 ? item % 2 * 64 : 0);
    walk.end = min(block.y, walk.first + KEYS);
    if (walk.first >= walk.end) return;
    walk.last = block.w - (walk.end - 1) > window ? walk.end - 1 + window : block.w;
    walk.heads = heads / kv_heads;
    walk.head = head * walk.heads;
    walk.steps = (walk.last - walk.first + 63) / 64;

    if (threadIdx.x == 0) {
        mbarrier_init(bar, 1);
        ring.init(33, 8);
        exchange.init(128, 128);
        mbarrier_init_fence();
    }
    __syncthreads();

    if (threadIdx.x < 128) {
        give_registers<24>();
        if (threadIdx.x >= 32) return;
        u32 lane = threadIdx.x;
        if (lane == 0) {
            mbarrier_arrive_expect(bar, 2 * KEYS * D * 2);
            for (u32 i = 0; i < KEYS / 64; i++) {
                load_tile(base + AT_K + i * TILE_BYTES, k_map, bar, head * D, walk.first + 64 * i);
                load_tile(base + AT_V + i * TILE_BYTES, v_map, bar, head * D, walk.first + 64 * i);
            }
        }
        u32 step = 0;
        for (u32 h = walk.head; h < walk.head + walk.heads; h++) {
            for (u32 query = walk.first; query < walk.last; query += 64, step++) {
                // Rows past the last weigh nothing: their lse is infinite.
                float lse[2], delta[2];
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    u32 row = query + lane + 32 * i;
                    lse[i] = row < walk.last ? rows[(size_t)h * n + row] : INFINITY_F;
                    delta[i] = row < walk.last ? rows[(size_t)(heads + h) * n + row] : 0.0f;
                }
                ring.wait_empty(step);
                u32 slot = step % STEPS_AHEAD;
                if (lane == 0) {
                    mbarrier_arrive_expect(ring.full(step), 2 * TILE_BYTES);
                    load_tile(base + AT_Q + slot * TILE_BYTES, q_map, ring.full(step), h * D, query);
                    load_tile(base + AT_DOUT + slot * TILE_BYTES, dout_map, ring.full(step), h * D, query);
                }
                float *to = reinterpret_cast<float *>(memory + AT_ROWS + slot * 512);
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    to[lane + 32 * i] = lse[i];
                    to[64 + lane + 32 * i] = delta[i];
                }
                mbarrier_arrive(ring.full(step));
            }
        }
        return;
    }

    take_registers<240>();
    u32 group = threadIdx.x / 128 - 1, warp = threadIdx.x / 32 % 4, g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
    bool signals = threadIdx.x % 32 == 0;
    u32 top = walk.first + (D == 256 ? 0 : 64 * group), bottom = min(walk.end, top + 64); // this warpgroup's keys
    u32 key = top + 16 * warp + g;                                                        // and 8 below
    size_t width = (size_t)kv_heads * D;
    real *dk_head = dk + head * D, *dv_head = dv + head * D;
    u32 total = walk.heads * walk.steps;
    float factor = scale * LOG2_E;

    auto q_tile = [&](u32 step) { return base + AT_Q + step % STEPS_AHEAD * TILE_BYTES; };
    auto dout_tile = [&](u32 step) { return base + AT_DOUT + step % STEPS_AHEAD * TILE_BYTES; };
    auto row_values = [&](u32 step) { // lse · log₂e and, 64 on, δ of queries 2c, 2c + 1 of the step
        return reinterpret_cast<const float *>(memory + AT_ROWS + step % STEPS_AHEAD * 512) + 2 * c;
    };
    auto release = [&](u32 step) {
        if (signals) mbarrier_arrive(ring.empty(step));
    };
    // sᵀ → pᵀ for queries `query` … + 64
    auto weights = [&](float(&s)[32], const float *lse, u32 query) {
        if (query < bottom || query + 63 - top >= window) { // a query before a key, or one too far behind
#pragma unroll
            for (int r = 0; r < 2; r++) {
                u32 distance = query + 2 * c - key - 8 * r; // wraps to a large number for keys that come later
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    if (distance + 8 * j >= window) s[4 * j + 2 * r] = -INFINITY_F;
                    if (distance + 8 * j + 1 >= window) s[4 * j + 2 * r + 1] = -INFINITY_F;
                }
            }
        }
#pragma unroll
        for (int j = 0; j < 8; j++) {
            float2 l = *reinterpret_cast<const float2 *>(lse + 8 * j);
            s[4 * j] = exp2_fast(fmaf(s[4 * j], factor, -l.x));
            s[4 * j + 1] = exp2_fast(fmaf(s[4 * j + 1], factor, -l.y));
            s[4 * j + 2] = exp2_fast(fmaf(s[4 * j + 2], factor, -l.x));
            s[4 * j + 3] = exp2_fast(fmaf(s[4 * j + 3], factor, -l.y));
        }
    };

    mbarrier_wait(bar, 0);
    u64 keys = wgmma_k_major(base + AT_K + (D == 256 ? 0 : group * TILE_BYTES));
    u64 values = wgmma_k_major(base + AT_V + (D == 256 ? 0 : group * TILE_BYTES));

#if D <= 128
    float sums_k[D / 2], sums_v[D / 2], s[32], dp[32];
    u32 p[4][4], ds[4][4];
#pragma unroll
    for (int j = 0; j < D / 2; j++) sums_k[j] = sums_v[j] = 0.0f;
    u32 query = walk.first;
    for (u32 step = 0; step < total; step++, query += 64) {
        if (query >= walk.last) query = walk.first;
        ring.wait_full(step);
        // No query of the step sees a key of this warpgroup.
        if (top >= bottom || query + 63 < top || (query >= bottom && query - (bottom - 1) >= window)) {
            release(step);
            continue;
        }
        const float *row = row_values(step);
        wgmma_fence();
        multiply_rows(s, keys, wgmma_k_major(q_tile(step)));
        wgmma_commit();
        multiply_rows(dp, values, wgmma_k_major(dout_tile(step)));
        wgmma_commit();
        wgmma_wait<1>();
        weights(s, row, query);
        pack_all(p, s);
        wgmma_fence();
        multiply_tile(sums_v, p, wgmma_mn_major(dout_tile(step), PANEL), 1);
        wgmma_commit();
        wgmma_wait<1>();
#pragma unroll
        for (int j = 0; j < 8; j++) {
            float2 delta = *reinterpret_cast<const float2 *>(row + 64 + 8 * j);
            s[4 * j] *= dp[4 * j] - delta.x;
            s[4 * j + 1] *= dp[4 * j + 1] - delta.y;
            s[4 * j + 2] *= dp[4 * j + 2] - delta.x;
            s[4 * j + 3] *= dp[4 * j + 3] - delta.y;
        }
        pack_all(ds, s);
        wgmma_fence();
        multiply_tile(sums_k, ds, wgmma_mn_major(q_tile(step), PANEL), 1);
        wgmma_commit();
        wgmma_wait<0>();
        release(step);
    }
    store_rows(dk_head, sums_k, key, bottom, width, scale);
    store_rows(dv_head, sums_v, key, bottom, width, 1.0f);
#else
    // The step's pᵀ, thread by thread, in two alternating places.
    auto place = [&](u32 step, u32 k) {
        return reinterpret_cast<float4 *>(memory + AT_P + step % 2 * P_BYTES) + k * 128 + threadIdx.x % 128;
    };
    float y[D / 2], s[32];
    u32 a[4][4], query = walk.first;
    if (group == 0) {
        ring.wait_full(0);
        wgmma_fence();
        multiply_rows(s, keys, wgmma_k_major(q_tile(0)));
        wgmma_commit();
        for (u32 step = 0; step < total; step++, query += 64) {
            if (query >= walk.last) query = walk.first;
            wgmma_wait<0>();
            if (step > 0) release(step - 1);
            weights(s, row_values(step), query);
            exchange.wait_empty(step);
#pragma unroll
            for (int j = 0; j < 8; j++)
                *place(step, j) = make_float4(s[4 * j], s[4 * j + 1], s[4 * j + 2], s[4 * j + 3]);
            mbarrier_arrive(exchange.full(step));
            pack_all(a, s);
            if (step + 1 < total) {
                ring.wait_full(step + 1);
                wgmma_fence();
                multiply_rows(s, keys, wgmma_k_major(q_tile(step + 1)));
                wgmma_commit();
            }
            wgmma_fence();
            multiply_tile(y, a, wgmma_mn_major(dout_tile(step), PANEL), step > 0);
            wgmma_commit();
        }
        wgmma_wait<0>();
        store_rows(dv_head, y, key, bottom, width, 1.0f);
    } else {
        ring.wait_full(0);
        wgmma_fence();
        multiply_rows(s, values, wgmma_k_major(dout_tile(0)));
        wgmma_commit();
        for (u32 step = 0; step < total; step++) {
            wgmma_wait<0>();
            if (step > 0) release(step - 1);
            const float *delta = row_values(step) + 64;
            exchange.wait_full(step);
#pragma unroll
            for (int j = 0; j < 8; j++) {
                float4 p = *place(step, j);
                float2 d = *reinterpret_cast<const float2 *>(delta + 8 * j);
                s[4 * j] = p.x * (s[4 * j] - d.x);
                s[4 * j + 1] = p.y * (s[4 * j + 1] - d.y);
                s[4 * j + 2] = p.z * (s[4 * j + 2] - d.x);
                s[4 * j + 3] = p.w * (s[4 * j + 3] - d.y);
            }
            pack_all(a, s);
            mbarrier_arrive(exchange.empty(step));
            if (step + 1 < total) {
                ring.wait_full(step + 1);
                wgmma_fence();
                multiply_rows(s, values, wgmma_k_major(dout_tile(step + 1)));
                wgmma_commit();
            }
            wgmma_fence();
            multiply_tile(y, a, wgmma_mn_major(q_tile(step), PANEL), step > 0);
            wgmma_commit();
        }
        wgmma_wait<0>();
        store_rows(dk_head, y, key, bottom, width, scale);
    }
#endif
}

// ---- dq ------------------------------------------------------------------------------------------------------------
//
// An item is 128 queries of one head, each warpgroup 64 of them, walking over the keys, SPAN a step:
// s = q kᵀ, dp = dout vᵀ, dq += ds k. The first two of a step are begun before the third of the step before.

const u32 SPAN = D == 256 ? 64 : 96; // keys a step
const u32 Q_SLOTS = D == 256 ? 1 : 2;
const u32 K_SLOTS = 2;
const u32 V_SLOTS = D == 256 ? 1 : 2;
const u32 SPAN_PANEL = SPAN * 128;
const u32 SPAN_BYTES = PANELS * SPAN_PANEL;
const u32 AT_QUERIES = 0; // of each slot, two tiles of q and two of dout
const u32 AT_KEYS = AT_QUERIES + Q_SLOTS * 4 * TILE_BYTES;
const u32 AT_VALUES = AT_KEYS + K_SLOTS * SPAN_BYTES;
const u32 QUERIES_BARRIERS = AT_VALUES + V_SLOTS * SPAN_BYTES;

// s = a bᵀ over D columns: a K-major tile of 64 rows, b one of SPAN rows.
__device__ __forceinline__ void multiply_span(float (&s)[SPAN / 2], u64 a, u64 b) {
#pragma unroll
    for (int k = 0; k < D / 16; k++)
        Wgmma<SPAN>::mma<0, 0>(s, wgmma_advance(a, k / 4 * PANEL + k % 4 * 32),
                               wgmma_advance(b, k / 4 * SPAN_PANEL + k % 4 * 32), k > 0);
}

// The `round`-th item of this block: there and back again over the list, so that every block gets heavy and light ones.
__device__ __forceinline__ u32 nth_item(u32 round) {
    return round * gridDim.x + (round % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
}

extern "C" __global__ void __launch_bounds__(384, 1)
    attention_backward_queries(real *dq, const __grid_constant__ TensorMap q_map, const __grid_constant__ TensorMap dout_map,
                               const __grid_constant__ TensorMap k_map, const __grid_constant__ TensorMap v_map,
                               const float *rows, const uint4 *blocks, u32 count, u32 n, u32 heads, u32 kv_heads,
                               float scale, u32 window) {
    u32 base = (shared_address(shared) + 1023) & ~1023u;
    u32 bar = base + QUERIES_BARRIERS;
    Ring<Q_SLOTS> q_ring = {bar};
    Ring<K_SLOTS> k_ring = {bar + Q_SLOTS * 16};
    Ring<V_SLOTS> v_ring = {bar + (Q_SLOTS + K_SLOTS) * 16};
    if (threadIdx.x == 0) {
        q_ring.init(1, 8);
        k_ring.init(1, 8);
        v_ring.init(1, 8);
        mbarrier_init_fence();
    }
    __syncthreads();

    if (threadIdx.x < 128) {
        give_registers<24>();
        if (threadIdx.x > 0) return;
        u32 n_q = 0, n_k = 0;
        for (u32 round = 0; round * gridDim.x < count * heads; round++) {
            u32 item = nth_item(round);
            if (item >= count * heads) continue;
            u32 h = item % heads, column = h * kv_heads / heads * D;
            uint4 block = blocks[item / heads];
            u32 slot = base + AT_QUERIES + n_q % Q_SLOTS * 4 * TILE_BYTES;
            q_ring.wait_empty(n_q);
            mbarrier_arrive_expect(q_ring.full(n_q), 4 * TILE_BYTES);
            for (u32 i = 0; i < 2; i++) {
                load_tile(slot + i * TILE_BYTES, q_map, q_ring.full(n_q), h * D, block.x + 64 * i);
                load_tile(slot + (2 + i) * TILE_BYTES, dout_map, q_ring.full(n_q), h * D, block.x + 64 * i);
            }
            n_q++;
            for (u32 key = first_visible(block.x, block.z, window); key < block.y; key += SPAN, n_k++) {
                k_ring.wait_empty(n_k);
                mbarrier_arrive_expect(k_ring.full(n_k), SPAN_BYTES);
                for (u32 panel = 0; panel < PANELS; panel++)
                    tma_load2(base + AT_KEYS + n_k % K_SLOTS * SPAN_BYTES + panel * SPAN_PANEL, &k_map,
                              k_ring.full(n_k), column + 64 * panel, key);
                v_ring.wait_empty(n_k);
                mbarrier_arrive_expect(v_ring.full(n_k), SPAN_BYTES);
                for (u32 panel = 0; panel < PANELS; panel++)
                    tma_load2(base + AT_VALUES + n_k % V_SLOTS * SPAN_BYTES + panel * SPAN_PANEL, &v_map,
                              v_ring.full(n_k), column + 64 * panel, key);
            }
        }
        return;
    }

    take_registers<240>();
    u32 group = threadIdx.x / 128 - 1, warp = threadIdx.x / 32 % 4, g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
    bool signals = threadIdx.x % 32 == 0;
    float y[D / 2], s[SPAN / 2], dp[SPAN / 2], factor = scale * LOG2_E;
    u32 ds[SPAN / 16][4];
    u32 n_q = 0, n_k = 0; // of the item, and of the next step to be begun
    auto release = [&](u32 barrier) {
        if (signals) mbarrier_arrive(barrier);
    };
    auto skip = [&]() {
        k_ring.wait_full(n_k);
        release(k_ring.empty(n_k));
        v_ring.wait_full(n_k);
        release(v_ring.empty(n_k));
        n_k++;
    };
    auto begin = [&]() {
        u32 slot = base + AT_QUERIES + n_q % Q_SLOTS * 4 * TILE_BYTES + group * TILE_BYTES;
        k_ring.wait_full(n_k);
        wgmma_fence();
        multiply_span(s, wgmma_k_major(slot), wgmma_k_major(base + AT_KEYS + n_k % K_SLOTS * SPAN_BYTES));
        wgmma_commit();
        v_ring.wait_full(n_k);
        wgmma_fence();
        multiply_span(dp, wgmma_k_major(slot + 2 * TILE_BYTES),
                      wgmma_k_major(base + AT_VALUES + n_k % V_SLOTS * SPAN_BYTES));
        wgmma_commit();
        n_k++;
    };

    for (u32 round = 0; round * gridDim.x < count * heads; round++) {
        u32 item = nth_item(round);
        if (item >= count * heads) continue;
        u32 h = item % heads;
        uint4 block = blocks[item / heads];
        u32 from = first_visible(block.x, block.z, window), steps = (block.y - from + SPAN - 1) / SPAN;
        // This warpgroup's queries, and the steps whose keys they see.
        u32 top = block.x + 64 * group, bottom = min(block.y, top + 64), low = 0, high = 0;
        if (top < bottom) {
            low = (first_visible(top, block.z, window) - from) / SPAN;
            high = (bottom - 1 - from) / SPAN + 1;
        }
        u32 query = top + 16 * warp + g; // and 8 below
        float lse[2], delta[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            bool valid = query + 8 * r < bottom;
            lse[r] = valid ? rows[(size_t)h * n + query + 8 * r] : INFINITY_F;
            delta[r] = valid ? rows[(size_t)(heads + h) * n + query + 8 * r] : 0.0f;
        }
        q_ring.wait_full(n_q);
        for (u32 step = 0; step < low; step++) skip();
        if (low < high) begin();
        for (u32 step = low; step < high; step++) {
            wgmma_wait<0>();
            u32 mine = n_k - 1; // this step, among all
            if (step > low) release(k_ring.empty(mine - 1));
            release(v_ring.empty(mine));
            if (step + 1 == high) release(q_ring.empty(n_q));
            u32 key = from + SPAN * step;
            if (key + SPAN - 1 > top || bottom - 1 - key >= window) {
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    u32 distance = query + 8 * r - key - 2 * c; // wraps to a large number for keys that come later
#pragma unroll
                    for (int j = 0; j < SPAN / 8; j++) {
                        if (distance - 8 * j >= window) s[4 * j + 2 * r] = -INFINITY_F;
                        if (distance - 8 * j - 1 >= window) s[4 * j + 2 * r + 1] = -INFINITY_F;
                    }
                }
            }
#pragma unroll
            for (int j = 0; j < SPAN / 2; j++) {
                int r = j / 2 % 2;
                s[j] = exp2_fast(fmaf(s[j], factor, -lse[r])) * (dp[j] - delta[r]);
            }
#pragma unroll
            for (int k = 0; k < SPAN / 16; k++)
#pragma unroll
                for (int i = 0; i < 4; i++) ds[k][i] = pack(s[8 * k + 2 * i], s[8 * k + 2 * i + 1]);
            if (step + 1 < high) begin();
            u64 keys = wgmma_mn_major(base + AT_KEYS + mine % K_SLOTS * SPAN_BYTES, SPAN_PANEL);
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < SPAN / 16; k++)
                Wgmma<D>::mma<1>(y, ds[k], wgmma_advance(keys, k * 2048), k > 0 || step > low);
            wgmma_commit();
        }
        wgmma_wait<0>();
        if (low < high) {
            release(k_ring.empty(n_k - 1));
            store_rows(dq + h * D, y, query, bottom, (size_t)heads * D, scale);
        } else {
            release(q_ring.empty(n_q));
        }
        n_q++;
        for (u32 step = high; step < steps; step++) skip();
    }
}

#endif
