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
//   measured   cargo bench --bench ops -- "attention backward"
#include "attention.cuh"

#if ARCH == 90 && !REAL_IS_FLOAT

const u32 PANEL = 64 * 128;            // bytes of 64 rows × 64 columns
const u32 PANELS = D / 64;             // a row
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
        Wgmma<64>::mma<0, 0>(s, wgmma_advance(a, k / 4 * PANEL + k % 4 * 32),
                             wgmma_advance(b, k / 4 * PANEL + k % 4 * 32), k > 0);
}
// y (+)= a b: a 64×64 in registers, b a tile of 64 rows.
__device__ __forceinline__ void multiply_tile(float (&y)[D / 2], const u32 (&a)[4][4], u64 b, u32 add) {
#pragma unroll
    for (int k = 0; k < 4; k++) Wgmma<D>::mma<1>(y, a[k], wgmma_advance(b, k * 2048), k > 0 ? 1 : add);
}

// One thread of each warp arrives for all of it.
__device__ __forceinline__ void release(u32 barrier) {
    if (threadIdx.x % 32 == 0) mbarrier_arrive(barrier);
}

// ---- dk and dv -----------------------------------------------------------------------------------------------------
//
// A block owns keys of one head and walks over its query heads and their queries, 64 a step. Products are transposed,
// keys along the rows: sᵀ = k qᵀ, dpᵀ = v doutᵀ, dv += pᵀ dout, dk += dsᵀ q, so that pᵀ and dsᵀ stay in registers.
//   D ≤ 128   keys_together: 128 keys; each warpgroup has 64 of them and computes all four products
//   D = 256   keys_apart: 64 keys; the first warpgroup has sᵀ and dv, the second dpᵀ and dk, and gets pᵀ through shared
//             memory: the accumulators of both gradients do not fit into one thread's registers

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

// The steps of a block, in all: `heads` query heads from `head` on, for each the queries first … last, 64 a step.
struct Walk {
    u32 first, end, last, head, heads, steps;
};

// Shared memory of the block, and the barriers that guard it.
struct Slots {
    u32 base;               // its address, 1024-byte aligned
    u8 *memory;             // the same as a pointer
    u32 own;                // barrier: the block's k and v are there
    Ring<STEPS_AHEAD> ring; // q, dout, lse and δ of a step
    Ring<2> exchange;       // pᵀ of a step; D = 256
    __device__ __forceinline__ u32 q(u32 step) const { return base + AT_Q + step % STEPS_AHEAD * TILE_BYTES; }
    __device__ __forceinline__ u32 dout(u32 step) const { return base + AT_DOUT + step % STEPS_AHEAD * TILE_BYTES; }
    // lse · log₂e of the step's 64 queries, then their δ.
    __device__ __forceinline__ float *rows(u32 step) const {
        return reinterpret_cast<float *>(memory + AT_ROWS + step % STEPS_AHEAD * 512);
    }
    // Four elements of the step's pᵀ, for each thread of a warpgroup: k of 8.
    __device__ __forceinline__ float4 *p(u32 step, u32 k) const {
        return reinterpret_cast<float4 *>(memory + AT_P + step % 2 * P_BYTES) + k * 128 + threadIdx.x % 128;
    }
};

// One warp: the block's keys and values, then the tiles and row values of every step.
__device__ __forceinline__ void produce_queries(const Slots &slots, const Walk &walk, const TensorMap &q_map,
                                                const TensorMap &dout_map, const TensorMap &k_map,
                                                const TensorMap &v_map, const float *rows, u32 n, u32 heads,
                                                u32 kv_column) {
    u32 lane = threadIdx.x, step = 0;
    if (lane == 0) {
        mbarrier_arrive_expect(slots.own, 2 * KEYS * D * 2);
        for (u32 i = 0; i < KEYS / 64; i++) {
            load_tile(slots.base + AT_K + i * TILE_BYTES, k_map, slots.own, kv_column, walk.first + 64 * i);
            load_tile(slots.base + AT_V + i * TILE_BYTES, v_map, slots.own, kv_column, walk.first + 64 * i);
        }
    }
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
            slots.ring.wait_empty(step);
            if (lane == 0) {
                mbarrier_arrive_expect(slots.ring.full(step), 2 * TILE_BYTES);
                load_tile(slots.q(step), q_map, slots.ring.full(step), h * D, query);
                load_tile(slots.dout(step), dout_map, slots.ring.full(step), h * D, query);
            }
            float *to = slots.rows(step);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                to[lane + 32 * i] = lse[i];
                to[64 + lane + 32 * i] = delta[i];
            }
            mbarrier_arrive(slots.ring.full(step));
        }
    }
}

// The 64 keys of a warpgroup: top … bottom; `key` is the row of this thread's first element.
struct Keys {
    u32 top, bottom, key, window;
    float factor; // scale · log₂e
    // sᵀ → pᵀ for the queries `query` … + 64, whose lse · log₂e are `lse`.
    __device__ __forceinline__ void weights(float (&s)[32], const float *lse, u32 query) const {
        // A query before a key, or one too far behind?
        if (query < bottom || query + 63 - top >= window) mask_window<-1>(s, query + fragment_column() - key, window);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            float2 l = *reinterpret_cast<const float2 *>(lse + fragment_column() + 8 * j);
#pragma unroll
            for (int r = 0; r < 2; r++) {
                at(s, j, r, 0) = exp2_fast(fmaf(at(s, j, r, 0), factor, -l.x));
                at(s, j, r, 1) = exp2_fast(fmaf(at(s, j, r, 1), factor, -l.y));
            }
        }
    }
};

// Where a head's gradients go: rows of `width`.
struct Gradients {
    real *dk, *dv;
    size_t width;
    float scale;
};

__device__ __forceinline__ void keys_together(const Slots &slots, const Walk &walk, const Keys &own,
                                              const Gradients &to, u32 group) {
    u64 keys = wgmma_k_major(slots.base + AT_K + group * TILE_BYTES);
    u64 values = wgmma_k_major(slots.base + AT_V + group * TILE_BYTES);
    float dk[D / 2], dv[D / 2], s[32], dp[32];
    u32 p[4][4], ds[4][4];
#pragma unroll
    for (int j = 0; j < D / 2; j++) dk[j] = dv[j] = 0.0f;
    u32 query = walk.first;
    for (u32 step = 0; step < walk.steps; step++, query += 64) {
        if (query >= walk.last) query = walk.first;
        slots.ring.wait_full(step);
        // No query of the step sees a key of this warpgroup.
        if (own.top >= own.bottom || query + 63 < own.top ||
            (query >= own.bottom && query - (own.bottom - 1) >= own.window)) {
            release(slots.ring.empty(step));
            continue;
        }
        const float *lse = slots.rows(step), *delta = lse + 64 + fragment_column();
        wgmma_fence();
        multiply_rows(s, keys, wgmma_k_major(slots.q(step)));
        wgmma_commit();
        multiply_rows(dp, values, wgmma_k_major(slots.dout(step)));
        wgmma_commit();
        wgmma_wait<1>();
        own.weights(s, lse, query);
        pack_operands(p, s);
        wgmma_fence();
        multiply_tile(dv, p, wgmma_mn_major(slots.dout(step), PANEL), 1);
        wgmma_commit();
        wgmma_wait<1>();
#pragma unroll
        for (int j = 0; j < 8; j++) {
            float2 d = *reinterpret_cast<const float2 *>(delta + 8 * j);
#pragma unroll
            for (int r = 0; r < 2; r++) {
                at(s, j, r, 0) *= at(dp, j, r, 0) - d.x;
                at(s, j, r, 1) *= at(dp, j, r, 1) - d.y;
            }
        }
        pack_operands(ds, s);
        wgmma_fence();
        multiply_tile(dk, ds, wgmma_mn_major(slots.q(step), PANEL), 1);
        wgmma_commit();
        wgmma_wait<0>();
        release(slots.ring.empty(step));
    }
    store_rows(to.dk, dk, own.key, own.bottom, to.width, to.scale);
    store_rows(to.dv, dv, own.key, own.bottom, to.width, 1.0f);
}

// The first product of the next step is begun before the second of this one, so that the tensor cores have work while
// registers are packed. `s` and `y` are the accumulators of the two.
__device__ __forceinline__ void begin_step(const Slots &slots, float (&s)[32], u64 own, u32 step, bool scores) {
    slots.ring.wait_full(step);
    wgmma_fence();
    multiply_rows(s, own, wgmma_k_major(scores ? slots.q(step) : slots.dout(step)));
    wgmma_commit();
}

// The first warpgroup: sᵀ → pᵀ, also for the second; dv.
__device__ __forceinline__ void keys_apart_values(const Slots &slots, const Walk &walk, const Keys &own,
                                                  const Gradients &to) {
    u64 keys = wgmma_k_major(slots.base + AT_K);
    float dv[D / 2], s[32];
    u32 p[4][4], query = walk.first;
    begin_step(slots, s, keys, 0, true);
    for (u32 step = 0; step < walk.steps; step++, query += 64) {
        if (query >= walk.last) query = walk.first;
        wgmma_wait<0>();
        if (step > 0) release(slots.ring.empty(step - 1));
        own.weights(s, slots.rows(step), query);
        slots.exchange.wait_empty(step);
#pragma unroll
        for (int j = 0; j < 8; j++) *slots.p(step, j) = make_float4(s[4 * j], s[4 * j + 1], s[4 * j + 2], s[4 * j + 3]);
        mbarrier_arrive(slots.exchange.full(step));
        pack_operands(p, s);
        if (step + 1 < walk.steps) begin_step(slots, s, keys, step + 1, true);
        wgmma_fence();
        multiply_tile(dv, p, wgmma_mn_major(slots.dout(step), PANEL), step > 0);
        wgmma_commit();
    }
    wgmma_wait<0>();
    store_rows(to.dv, dv, own.key, own.bottom, to.width, 1.0f);
}

// The second warpgroup: dpᵀ, with pᵀ from the first → dsᵀ; dk.
__device__ __forceinline__ void keys_apart_keys(const Slots &slots, const Walk &walk, const Keys &own,
                                                const Gradients &to) {
    u64 values = wgmma_k_major(slots.base + AT_V);
    float dk[D / 2], dp[32];
    u32 ds[4][4];
    begin_step(slots, dp, values, 0, false);
    for (u32 step = 0; step < walk.steps; step++) {
        wgmma_wait<0>();
        if (step > 0) release(slots.ring.empty(step - 1));
        const float *delta = slots.rows(step) + 64 + fragment_column();
        slots.exchange.wait_full(step);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            float4 p = *slots.p(step, j);
            float2 d = *reinterpret_cast<const float2 *>(delta + 8 * j);
            at(dp, j, 0, 0) = p.x * (at(dp, j, 0, 0) - d.x);
            at(dp, j, 0, 1) = p.y * (at(dp, j, 0, 1) - d.y);
            at(dp, j, 1, 0) = p.z * (at(dp, j, 1, 0) - d.x);
            at(dp, j, 1, 1) = p.w * (at(dp, j, 1, 1) - d.y);
        }
        pack_operands(ds, dp);
        mbarrier_arrive(slots.exchange.empty(step));
        if (step + 1 < walk.steps) begin_step(slots, dp, values, step + 1, false);
        wgmma_fence();
        multiply_tile(dk, ds, wgmma_mn_major(slots.q(step), PANEL), step > 0);
        wgmma_commit();
    }
    wgmma_wait<0>();
    store_rows(to.dk, dk, own.key, own.bottom, to.width, to.scale);
}

extern "C" __global__ void __launch_bounds__(384, 1)
    attention_backward_keys(real *dk, real *dv, const __grid_constant__ TensorMap q_map,
                            const __grid_constant__ TensorMap dout_map, const __grid_constant__ TensorMap k_map,
                            const __grid_constant__ TensorMap v_map, const float *rows, const uint4 *blocks, u32 n,
                            u32 heads, u32 kv_heads, float scale, u32 window) {
    u32 base = (shared_address(shared) + 1023) & ~1023u, barriers = base + KEYS_BARRIERS;
    Slots slots = {
        base, shared + (base - shared_address(shared)), barriers, {barriers + 8}, {barriers + 8 + STEPS_AHEAD * 16}};

    u32 head = blockIdx.x % kv_heads, item = blockIdx.x / kv_heads;
    uint4 block = blocks[D == 256 ? item / 2 : item];
    Walk walk;
    walk.first = block.x + (D == 256 ? item % 2 * 64 : 0);
    walk.end = min(block.y, walk.first + KEYS);
    if (walk.first >= walk.end) return;
    walk.last = block.w - (walk.end - 1) > window ? walk.end - 1 + window : block.w;
    walk.heads = heads / kv_heads;
    walk.head = head * walk.heads;
    walk.steps = walk.heads * ((walk.last - walk.first + 63) / 64);

    if (threadIdx.x == 0) {
        mbarrier_init(slots.own, 1);
        slots.ring.init(33, 8);
        slots.exchange.init(128, 128);
        mbarrier_init_fence();
    }
    __syncthreads();

    if (threadIdx.x < 128) {
        give_registers<24>();
        if (threadIdx.x < 32) produce_queries(slots, walk, q_map, dout_map, k_map, v_map, rows, n, heads, head * D);
        return;
    }

    take_registers<240>();
    u32 group = threadIdx.x / 128 - 1, top = walk.first + (D == 256 ? 0 : 64 * group);
    Keys own = {top, min(walk.end, top + 64), top + fragment_row(), window, scale * LOG2_E};
    Gradients to = {dk + head * D, dv + head * D, (size_t)kv_heads * D, scale};
    mbarrier_wait(slots.own, 0);
    if constexpr (D == 256) {
        if (group == 0) keys_apart_values(slots, walk, own, to);
        else keys_apart_keys(slots, walk, own, to);
    } else {
        keys_together(slots, walk, own, to, group);
    }
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

extern "C" __global__ void __launch_bounds__(384, 1)
    attention_backward_queries(real *dq, const __grid_constant__ TensorMap q_map,
                               const __grid_constant__ TensorMap dout_map, const __grid_constant__ TensorMap k_map,
                               const __grid_constant__ TensorMap v_map, const float *rows, const uint4 *blocks,
                               u32 count, u32 n, u32 heads, u32 kv_heads, float scale, u32 window) {
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
            u32 number = item_of(round);
            if (number >= count * heads) continue;
            QueryItem<SPAN> item(blocks, number, heads, window);
            u32 column = item.head * kv_heads / heads * D;
            u32 slot = base + AT_QUERIES + n_q % Q_SLOTS * 4 * TILE_BYTES;
            q_ring.wait_empty(n_q);
            mbarrier_arrive_expect(q_ring.full(n_q), 4 * TILE_BYTES);
            for (u32 i = 0; i < 2; i++) {
                load_tile(slot + i * TILE_BYTES, q_map, q_ring.full(n_q), item.head * D, item.block.x + 64 * i);
                load_tile(slot + (2 + i) * TILE_BYTES, dout_map, q_ring.full(n_q), item.head * D,
                          item.block.x + 64 * i);
            }
            n_q++;
            for (u32 key = item.from; key < item.block.y; key += SPAN, n_k++) {
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
    u32 group = threadIdx.x / 128 - 1;
    float y[D / 2], s[SPAN / 2], dp[SPAN / 2], factor = scale * LOG2_E;
    u32 ds[SPAN / 16][4];
    u32 n_q = 0, n_k = 0; // of the item, and of the next step to be begun
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
        u32 number = item_of(round);
        if (number >= count * heads) continue;
        QueryItem<SPAN> item(blocks, number, heads, window);
        QueryPart<SPAN> part(item, group, window);
        u32 h = item.head, query = part.top + fragment_row(); // and 8 below
        float lse[2], delta[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            bool valid = query + 8 * r < part.bottom;
            lse[r] = valid ? rows[(size_t)h * n + query + 8 * r] : INFINITY_F;
            delta[r] = valid ? rows[(size_t)(heads + h) * n + query + 8 * r] : 0.0f;
        }
        q_ring.wait_full(n_q);
        for (u32 step = 0; step < part.low; step++) skip();
        if (part.low < part.high) begin();
        for (u32 step = part.low; step < part.high; step++) {
            wgmma_wait<0>();
            u32 mine = n_k - 1; // this step, among all
            if (step > part.low) release(k_ring.empty(mine - 1));
            release(v_ring.empty(mine));
            if (step + 1 == part.high) release(q_ring.empty(n_q));
            u32 key = item.from + SPAN * step;
            if (!part.sees_all(key, window)) mask_window<1>(s, query - key - fragment_column(), window);
#pragma unroll
            for (int j = 0; j < SPAN / 2; j++) {
                int r = j / 2 % 2;
                s[j] = exp2_fast(fmaf(s[j], factor, -lse[r])) * (dp[j] - delta[r]);
            }
            pack_operands(ds, s);
            if (step + 1 < part.high) begin();
            u64 keys = wgmma_mn_major(base + AT_KEYS + mine % K_SLOTS * SPAN_BYTES, SPAN_PANEL);
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < SPAN / 16; k++)
                Wgmma<D>::mma<1>(y, ds[k], wgmma_advance(keys, k * 2048), k > 0 || step > part.low);
            wgmma_commit();
        }
        wgmma_wait<0>();
        if (part.low < part.high) {
            release(k_ring.empty(n_k - 1));
            store_rows(dq + h * D, y, query, part.bottom, (size_t)heads * D, scale);
        } else {
            release(q_ring.empty(n_q));
        }
        n_q++;
        for (u32 step = part.high; step < item.tiles; step++) skip();
    }
}

#endif
