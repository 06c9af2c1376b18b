// Attention forward on Hopper: wgmma and TMA. Maths, CPU reference: src/ops/attention.rs
//   s_ij = scale · q_i · k_j for j in i's document, j ≤ i, i − j < window;   lse_i = ln Σ_j exp s_ij
//   out_i = Σ_j exp(s_ij − lse_i) v_j
//   q, out (N, H·D) bf16   k, v (N, KV·D) bf16   lse (N, H) float   blocks (M) of four u32: first row, end row, first
//   and end row of the document; none longer than 128, the longest work first
//   load-time  REAL_IS_FLOAT = 0, D (64, 128, 256)
//   launch     grid min(multiprocessors, M·H), block 384: a warpgroup that loads, two that own 64 query rows each
//              dynamic shared 1536·D + 1152 bytes, 768·D + 1152 at D = 256; maps: boxes of 64 columns × 64 rows (q) and
//              × KEYS rows (k, v)
//   scale      > 0, given as scale · log₂e;  window: 2³¹ for none
//   work       4·D flops a visible pair of rows and query head: bound by the tensor cores
//   numerics   float scores and sums, base-2 exponentials; p rounds to bf16 before p·v; one rounding at the store
//   measured   cargo bench --bench ops -- "attention forward"
#include "attention.cuh"

#if ARCH == 90 && !REAL_IS_FLOAT

const u32 KEYS = D == 256 ? 64 : 128; // a tile
const u32 Q_STAGES = D == 256 ? 1 : 2;
const u32 STAGES = 2;
const u32 CONSUMERS = 256;
const u32 QUERY_PANEL = 64 * 128; // bytes of 64 rows × 64 columns
const u32 KEY_PANEL = KEYS * 128;
const u32 QUERY_BYTES = 128 * D * 2;
const u32 KEY_BYTES = KEYS * D * 2;

// Shared memory, in bytes from its 1024-byte aligned start.
const u32 AT_K = Q_STAGES * QUERY_BYTES;
const u32 AT_V = AT_K + STAGES * KEY_BYTES;
const u32 AT_BARRIERS = AT_V + STAGES * KEY_BYTES;

extern __shared__ u8 shared[];

struct Rings {
    Ring<Q_STAGES> q;
    Ring<STAGES> k, v;
};

__device__ __forceinline__ void produce(const TensorMap &q_map, const TensorMap &k_map, const TensorMap &v_map,
                                        const uint4 *blocks, u32 count, u32 heads, u32 kv_heads, u32 window, u32 base,
                                        Rings rings) {
    u32 n_q = 0, n_k = 0, n_v = 0;
    for (u32 round = 0; round * gridDim.x < count * heads; round++) {
        u32 number = item_of(round);
        if (number >= count * heads) continue;
        QueryItem<KEYS> item(blocks, number, heads, window);
        u32 column = item.head * D, kv_column = item.head * kv_heads / heads * D;

        rings.q.wait_empty(n_q);
        mbarrier_arrive_expect(rings.q.full(n_q), QUERY_BYTES);
        for (u32 part = 0; part < 2 * (D / 64); part++)
            tma_load2(base + n_q % Q_STAGES * QUERY_BYTES + part * QUERY_PANEL, &q_map, rings.q.full(n_q),
                      column + part % (D / 64) * 64, item.block.x + part / (D / 64) * 64);
        n_q++;

        // The next tile's keys before this tile's values: the scores run one tile ahead.
        for (u32 t = item.tiles + 1; t-- > 0;) {
            if (t > 0) {
                u32 to = base + AT_K + n_k % STAGES * KEY_BYTES;
                rings.k.wait_empty(n_k);
                mbarrier_arrive_expect(rings.k.full(n_k), KEY_BYTES);
                for (u32 part = 0; part < D / 64; part++)
                    tma_load2(to + part * KEY_PANEL, &k_map, rings.k.full(n_k), kv_column + part * 64,
                              item.from + (t - 1) * KEYS);
                n_k++;
            }
            if (t < item.tiles) {
                u32 to = base + AT_V + n_v % STAGES * KEY_BYTES;
                rings.v.wait_empty(n_v);
                mbarrier_arrive_expect(rings.v.full(n_v), KEY_BYTES);
                for (u32 part = 0; part < D / 64; part++)
                    tma_load2(to + part * KEY_PANEL, &v_map, rings.v.full(n_v), kv_column + part * 64,
                              item.from + t * KEYS);
                n_v++;
            }
        }
    }
}

__device__ __forceinline__ void consume(real *out, float *lse, const uint4 *blocks, u32 count, u32 heads, float scale,
                                        u32 window, u32 base, Rings rings) {
    u32 group = threadIdx.x / 128 - 1;
    bool signals = threadIdx.x % 32 == 0;
    u32 n_q = 0, n_k = 0, n_v = 0;
    float o[D / 2], s[KEYS / 2];
    u32 p[KEYS / 16][4];
    if (group == 1) named_barrier_arrive(1, CONSUMERS);

    // The warpgroups take turns in beginning their products: one computes exponentials while the other multiplies.
    auto my_turn = [&]() { named_barrier_sync(1 + group, CONSUMERS); };
    auto your_turn = [&]() { named_barrier_arrive(2 - group, CONSUMERS); };
    auto scores = [&]() { // s = q kᵀ, begun
        rings.k.wait_full(n_k);
        my_turn();
        u64 queries = wgmma_k_major(base + n_q % Q_STAGES * QUERY_BYTES + group * (D / 64) * QUERY_PANEL);
        u64 keys = wgmma_k_major(base + AT_K + n_k % STAGES * KEY_BYTES);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < D / 16; k++)
            Wgmma<KEYS>::mma<0, 0>(s, wgmma_advance(queries, k / 4 * QUERY_PANEL + k % 4 * 32),
                                   wgmma_advance(keys, k / 4 * KEY_PANEL + k % 4 * 32), k > 0);
        wgmma_commit();
    };
    auto weigh = [&](u32 add) { // o (+)= p v, begun
        rings.v.wait_full(n_v);
        u64 values = wgmma_mn_major(base + AT_V + n_v % STAGES * KEY_BYTES, KEY_PANEL);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++) Wgmma<D>::mma<1>(o, p[k], wgmma_advance(values, k * 2048), k > 0 ? 1 : add);
        wgmma_commit();
    };
    auto release_k = [&]() {
        if (signals) mbarrier_arrive(rings.k.empty(n_k));
        n_k++;
    };
    auto release_v = [&]() {
        if (signals) mbarrier_arrive(rings.v.empty(n_v));
        n_v++;
    };
    auto skip = [&]() {
        rings.k.wait_full(n_k);
        my_turn();
        your_turn();
        release_k();
        rings.v.wait_full(n_v);
        release_v();
    };

    for (u32 round = 0; round * gridDim.x < count * heads; round++) {
        u32 number = item_of(round);
        if (number >= count * heads) continue;
        QueryItem<KEYS> item(blocks, number, heads, window);
        QueryPart<KEYS> part(item, group, window);
        u32 row = part.top + fragment_row(); // and 8 below
        auto mask = [&](u32 t) {
            u32 key = item.from + t * KEYS;
            if (!part.sees_all(key, window)) mask_window<1>(s, row - key - fragment_column(), window);
        };

        rings.q.wait_full(n_q);
        u32 t = item.tiles;
        for (; t > part.high; t--) skip();
        if (part.low < part.high) {
            Softmax rows;
            scores();
            your_turn();
            wgmma_wait<0>();
            release_k();
            mask(--t);
            rows.add<true>(s, scale);
            pack_operands(p, s);
            u32 add = 0;
            while (t > part.low) {
                scores();
                weigh(add);
                your_turn();
                wgmma_wait<1>();
                release_k();
                mask(--t);
                rows.add<true>(s, scale);
                wgmma_wait<0>();
                release_v();
                scale_rows(o, rows.shrink);
                pack_operands(p, s);
                add = 1;
            }
            if (signals) mbarrier_arrive(rings.q.empty(n_q));
            weigh(add);
            wgmma_wait<0>();
            release_v();

            size_t wide = (size_t)heads * D;
#pragma unroll
            for (int r = 0; r < 2; r++) {
                u32 at = row + 8 * r;
                float sum = quad_sum(rows.sum[r]);
                store_row(out + at * wide + item.head * D, o, r, 1.0f / sum, at < part.bottom);
                if (at < part.bottom && threadIdx.x % 4 == 0)
                    lse[(size_t)at * heads + item.head] = (rows.max[r] * scale + log2f(sum)) * 0.6931471805599453f;
            }
        }
        if (part.low == part.high && signals) mbarrier_arrive(rings.q.empty(n_q));
        n_q++;
        for (; t > 0; t--) skip();
    }
}

extern "C" __global__ void __launch_bounds__(384, 1)
    attention_forward_tiles(real *out, float *lse, const __grid_constant__ TensorMap q_map,
                            const __grid_constant__ TensorMap k_map, const __grid_constant__ TensorMap v_map,
                            const uint4 *blocks, u32 count, u32 heads, u32 kv_heads, float scale, u32 window) {
    u32 base = (shared_address(shared) + 1023) & ~1023u;
    u32 barriers = base + AT_BARRIERS;
    Rings rings = {{barriers}, {barriers + 16 * Q_STAGES}, {barriers + 16 * (Q_STAGES + STAGES)}};
    if (threadIdx.x == 0) {
        rings.q.init(1, CONSUMERS / 32);
        rings.k.init(1, CONSUMERS / 32);
        rings.v.init(1, CONSUMERS / 32);
        mbarrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        give_registers<24>();
        if (threadIdx.x == 0) produce(q_map, k_map, v_map, blocks, count, heads, kv_heads, window, base, rings);
    } else {
        take_registers<240>();
        consume(out, lse, blocks, count, heads, scale, window, base, rings);
    }
}

#endif
