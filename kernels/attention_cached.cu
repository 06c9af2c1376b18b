// Attention over the paged cache: each row of q in its own context. Maths, CPU reference: src/ops/attention.rs
//   out_i = Σ_j softmax_j(scale · q_i · k_j) v_j over positions j ≤ position_i of i's sequence, position_i − j < window
//   q, out (B, H·D) real   keys, values (pages · PAGE, KV·D) real   tables (B, max_pages) u32   positions (B) u32
//   position p of row i lies in page tables[i, p / PAGE], at p % PAGE
//   partial (B·KV·PARTS, splits, HEADS, D + 4) float and counters (B·KV·PARTS) u32: scratch; counters zero before the
//   first launch, and again after every launch
//   load-time  REAL_IS_FLOAT, D, PAGE = 16; GROUP = H/KV, CHUNK (most positions that a block takes, a multiple of PAGE,
//              ≤ 32 pages a warp)
//   launch     attention_cached_split (D of 64, 128, 256): as many blocks of 24576 / D threads as fit on the card, at most
//              one an item, of which there are B·KV·PARTS·splits; PARTS = ⌈GROUP / 8⌉, HEADS = ⌈GROUP / PARTS⌉, splits =
//              ⌈pages that any row may see / (CHUNK / PAGE)⌉; dynamic shared 98560 bytes
//              attention_cached_plain (any D): grid (H, B), block 32; attention_cached_store: grid (B), block 128
//   window     2³¹ for none;  scale > 0 for attention_cached_split, given there as scale · log₂e
//   traffic    4·KV·D·context bytes a row, read once: bandwidth-bound. Contexts within CHUNK leave no partial results in
//              memory
//   numerics   float scores and sums; p rounds to bf16 before p·v; a context is cut by its own length alone and the parts,
//              and within them the warps' shares, are combined in order: a row has the same bits whatever B is
//   measured   contexts of 600, cache flushed, 2026-11-26, H100, share of a copy's bandwidth at B = 32, 100, 256: 32/8 heads of 128
//              63, 79, 91 %; 8/4 heads of 256 58, 76, 88 %; B = 1 takes 12 and 19 µs
#include "prelude.cuh"
#include "hopper.cuh"

// The first position that a query at `position` sees.
__device__ __forceinline__ u32 first_visible(u32 position, u32 window) {
    return position < window ? 0 : position + 1 - window;
}

// A page holds one head after the other, PAGE rows of D elements each, in one piece of memory. Where the tensor cores
// read them, the 16-byte pieces of a row are exchanged, so that what eight lanes read at once, keys or values, lies in
// different banks of shared memory. The first element of piece `piece` of row `row`:
const bool EXCHANGED = !REAL_IS_FLOAT && D % 64 == 0;
__device__ __forceinline__ u32 exchanged(u32 row, u32 piece) {
    return EXCHANGED ? piece ^ (((row ^ row >> 2) & 1) << 2 | (row >> 1 & 1) << 1) : piece;
}
__device__ __forceinline__ u32 element(u32 row, u32 d) {
    const u32 N = Vector<real>::N;
    return row * D + (EXCHANGED ? exchanged(row, d / N) * N + d % N : d);
}
// The first element of a head in a page.
__device__ __forceinline__ size_t head_at(size_t page, u32 kv_heads, u32 head) {
    return (page * kv_heads + head) * PAGE * D;
}

// keys, values ← k, v (N, KV·D): each row's place from its table and position.
extern "C" __global__ void __launch_bounds__(128)
    attention_cached_store(real *keys, real *values, const real *k, const real *v, const u32 *tables, const u32 *positions,
                           u32 max_pages, u32 kv_heads) {
    const u32 WIDE = D % Vector<real>::N == 0 ? Vector<real>::N : 1; // elements that move together
    size_t row = blockIdx.x;
    u32 position = positions[row];
    size_t page = tables[row * max_pages + position / PAGE];
    for (u32 i = threadIdx.x; i < kv_heads * (D / WIDE); i += 128) {
        u32 head = i / (D / WIDE), d = i % (D / WIDE) * WIDE;
        size_t from = row * kv_heads * D + i * WIDE, to = head_at(page, kv_heads, head) + element(position % PAGE, d);
        if (WIDE > 1) {
            *reinterpret_cast<uint4 *>(keys + to) = *reinterpret_cast<const uint4 *>(k + from);
            *reinterpret_cast<uint4 *>(values + to) = *reinterpret_cast<const uint4 *>(v + from);
        } else {
            keys[to] = k[from];
            values[to] = v[from];
        }
    }
}

extern "C" __global__ void __launch_bounds__(32)
    attention_cached_plain(real *out, const real *q, const real *keys, const real *values, const u32 *tables,
                           const u32 *positions, u32 max_pages, u32 kv_heads, float scale, u32 window) {
    const int PER_LANE = (D + 31) / 32;
    __shared__ float query[D];
    u32 h = blockIdx.x, heads = gridDim.x, lane = threadIdx.x;
    size_t b = blockIdx.y;
    q += (b * heads + h) * D;
    out += (b * heads + h) * D;
    for (u32 d = lane; d < D; d += 32) query[d] = widen(q[d]);
    __syncwarp();
    u32 position = positions[b], first = first_visible(position, window);

    float max = -INFINITY_F, sum = 0.0f, y[PER_LANE] = {};
    for (u32 tile = first; tile <= position; tile += 32) {
        u32 key = tile + lane;
        float s = -INFINITY_F;
        size_t at = 0;
        if (key <= position) {
            at = head_at(tables[b * max_pages + key / PAGE], kv_heads, h * kv_heads / heads);
            s = 0.0f;
            for (u32 d = 0; d < D; d++) s = fmaf(query[d], widen(keys[at + element(key % PAGE, d)]), s);
            s *= scale;
        }
        float next = fmaxf(max, warp_max(s));
        float p = expf(s - next), shrink = expf(max - next);
        sum = sum * shrink + warp_sum(p);
        max = next;
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) y[i] *= shrink;
        for (u32 j = 0; j < min(32u, position + 1 - tile); j++) {
            float pj = __shfl_sync(~0u, p, j);
            const real *value = values + __shfl_sync(~0u, at, j);
#pragma unroll
            for (int i = 0; i < PER_LANE; i++) {
                u32 d = lane + 32 * i;
                if (D % 32 == 0 || d < D) y[i] = fmaf(pj, widen(value[element((tile + j) % PAGE, d)]), y[i]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
        u32 d = lane + 32 * i;
        if (D % 32 == 0 || d < D) out[d] = narrow<real>(y[i] / sum);
    }
}

#if !REAL_IS_FLOAT && D % 64 == 0

const u32 PARTS = (GROUP + 7) / 8;             // items that share a key head's query heads
const u32 HEADS = (GROUP + PARTS - 1) / PARTS; // query heads an item, at most 8
const u32 WARPS = 768 / D;                     // a block
const u32 STAGES = 2;                          // pages of a warp at work or in flight
const u32 ROW_BYTES = D * 2;
const u32 HALF_BYTES = PAGE * ROW_BYTES; // keys of a page; its values follow
const u32 PAGE_BYTES = 2 * HALF_BYTES;
const u32 RING_BYTES = STAGES * PAGE_BYTES; // a warp's
const u32 RECORD = D + 4;                   // of a head: Σ p·v, then the maximum of the scores and Σ p

extern __shared__ u8 shared[];

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// What a block does at a time: a part of one row's context for the query heads of one key head.
struct Item {
    u32 pair;          // row · KV·PARTS + key head · PARTS + part
    u32 split, splits; // which part of the context, of how many
    u32 position, first;
    u32 begin, end; // pages
};
struct Items {
    const u32 *positions;
    u32 pairs, total, a_row, window; // a_row: pairs of one row
    // The item at `index` or, at steps of the grid, the next that is not empty; false if there is none.
    __device__ __forceinline__ bool find(Item &item, u32 &index) const {
        for (; index < total; index += gridDim.x) {
            item.pair = index % pairs;
            item.split = index / pairs;
            item.position = positions[item.pair / a_row];
            item.first = first_visible(item.position, window);
            u32 page = item.first / PAGE, pages = item.position / PAGE + 1 - page;
            item.splits = (pages + CHUNK / PAGE - 1) / (CHUNK / PAGE);
            if (item.split >= item.splits) continue;
            item.begin = page + pages * item.split / item.splits;
            item.end = page + pages * (item.split + 1) / item.splits;
            return true;
        }
        return false;
    }
};

// Results for some of the pages: Σ p·v of 8 elements of one head, the maximum of the scores, Σ p.
struct Result {
    float x[8], max, sum;
};
// `count` records of one head combined in order, elements d … d + 7; record_at(i): where the i-th lies.
template <typename RecordAt> __device__ __forceinline__ Result combine(RecordAt record_at, u32 count, u32 d) {
    Result y = {{}, -INFINITY_F, 0.0f};
    for (u32 i = 0; i < count; i++) y.max = fmaxf(y.max, record_at(i)[D]);
    for (u32 i = 0; i < count; i++) {
        const float *record = record_at(i);
        const float weight = exp2_fast(record[D] - y.max);
        float x[8];
        load_floats(x, record + d);
        y.sum = fmaf(weight, record[D + 1], y.sum);
#pragma unroll
        for (int e = 0; e < 8; e++) y.x[e] = fmaf(weight, x[e], y.x[e]);
    }
    return y;
}
__device__ __forceinline__ void store_result(real *out, Result &y) {
#pragma unroll
    for (int e = 0; e < 8; e++) y.x[e] /= y.sum;
    store16(out, y.x);
}

// Byte of piece `piece` of row `row`.
__device__ __forceinline__ u32 piece_at(u32 row, u32 piece) { return row * ROW_BYTES + exchanged(row, piece) * 16; }
#if ARCH >= 90
// `bytes` bytes, a multiple of 16, global → shared. One thread.
__device__ __forceinline__ void bulk_load(u32 to, const void *from, u32 bytes, u32 bar) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(bar)
                 : "memory");
}
#endif
__device__ __forceinline__ u32 part_of(const uint4 &x, int i) { return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w; }

// The warps of a block take the pages of an item in turn, each with the next ones on their way into its own part of shared
// memory, those of the next item among them; at the item's end they meet to combine what they have.
// Rows of the first product are query heads (the other half of its 16 rows is empty), rows of the second elements of v, so
// that its columns are the heads.
// Lane 4g + c. Scores: head g, keys 2c, 2c + 1 and 8 on. The order of the elements within a product is free, so a lane
// reads 16 bytes at a time: pieces 4 i + c of key g and of key g + 8; pieces g + 8 i of values 2c, 2c + 1 and 8 on.
extern "C" __global__ void __launch_bounds__(WARPS * 32, 1)
    attention_cached_split(real *out, const real *q, const real *keys, const real *values, const u32 *tables,
                           const u32 *positions, float *partial, u32 *counters, u32 rows, u32 splits, u32 max_pages,
                           u32 kv_heads, float scale, u32 window) {
    __shared__ u32 records_at[WARPS];
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
    Items items = {positions, rows * kv_heads * PARTS, rows * kv_heads * PARTS * splits, kv_heads * PARTS, window};
    u8 *ring = shared + warp * RING_BYTES;
#if ARCH >= 90
    u32 full = shared_address(shared + WARPS * RING_BYTES) + warp * STAGES * 8, parity = 0; // barriers
    if (lane < STAGES) mbarrier_init(full + lane * 8, 1);
    mbarrier_init_fence();
    fence_async_shared();
    __syncwarp();
#endif

    Item ahead;
    u32 ahead_index = blockIdx.x, ahead_page = 0, place = 0; // lane l: where the warp's l-th page lies
    bool more;
    auto look_ahead = [&]() {
        for (;; ahead_index += gridDim.x) {
            more = items.find(ahead, ahead_index);
            ahead_page = ahead.begin + warp;
            if (!more || ahead_page < ahead.end) break;
        }
        u32 page = ahead_page + lane * WARPS;
        if (more && page < ahead.end) place = tables[(size_t)(ahead.pair / items.a_row) * max_pages + page];
    };
    auto load_page = [&](u32 stage) { // begun; nothing if no page is left
        if (more) {
            u32 page = __shfl_sync(~0u, place, (ahead_page - ahead.begin) / WARPS);
            size_t at = head_at(page, kv_heads, ahead.pair % items.a_row / PARTS);
            u32 to = shared_address(ring + stage * PAGE_BYTES);
#if ARCH >= 90
            if (lane == 0) {
                mbarrier_arrive_expect(full + stage * 8, PAGE_BYTES);
                bulk_load(to, keys + at, HALF_BYTES, full + stage * 8);
                bulk_load(to + HALF_BYTES, values + at, HALF_BYTES, full + stage * 8);
            }
#else
#pragma unroll
            for (u32 i = lane * 16; i < HALF_BYTES; i += 512) {
                cp_async16(to + i, reinterpret_cast<const u8 *>(keys + at) + i);
                cp_async16(to + HALF_BYTES + i, reinterpret_cast<const u8 *>(values + at) + i);
            }
#endif
            ahead_page += WARPS;
            if (ahead_page >= ahead.end) {
                ahead_index += gridDim.x;
                look_ahead();
            }
        }
        cp_async_commit();
    };
    look_ahead();
    for (u32 stage = 0; stage < STAGES - 1; stage++) load_page(stage);

    Item item;
    u32 stage = 0;
    for (u32 index = blockIdx.x; items.find(item, index); index += gridDim.x) {
        u32 part = item.pair % PARTS, heads = min(HEADS, GROUP - part * HEADS); // here
        size_t columns = ((size_t)item.pair / PARTS * GROUP + part * HEADS) * D; // of the item's heads, in q and out
        uint4 query[D / 32];
#pragma unroll
        for (int i = 0; i < D / 32; i++) {
            query[i] = make_uint4(0, 0, 0, 0);
            if (g < heads) query[i] = *reinterpret_cast<const uint4 *>(q + columns + g * D + 32 * i + 8 * c);
        }
        float max = -INFINITY_F, sum = 0.0f; // of head g; the sum of this lane's keys alone
        float y[D / 64][4][4] = {};          // elements 8 g + 64 i + 2 w + (0, 0, 1, 1), heads 2 c + (0, 1, 0, 1)
        for (u32 page = item.begin + warp; page < item.end; page += WARPS) {
            load_page(stage == 0 ? STAGES - 1 : stage - 1);
#if ARCH >= 90
            mbarrier_wait(full + stage * 8, parity);
            parity ^= stage == STAGES - 1;
#else
            cp_async_wait<STAGES - 1>();
            __syncwarp();
#endif
            const u8 *key_page = ring + stage * PAGE_BYTES, *value_page = key_page + HALF_BYTES;
            stage = stage == STAGES - 1 ? 0 : stage + 1;
            float s[2][4] = {};
#pragma unroll
            for (int n = 0; n < 2; n++)
#pragma unroll
                for (int i = 0; i < D / 32; i++) {
                    uint4 key = *reinterpret_cast<const uint4 *>(key_page + piece_at(8 * n + g, 4 * i + c));
                    const u32 a[4] = {query[i].x, 0, query[i].y, 0}, b[4] = {query[i].z, 0, query[i].w, 0};
                    mma16816(s[n], a, key.x, key.y);
                    mma16816(s[n], b, key.z, key.w);
                }
            float next = max;
#pragma unroll
            for (int n = 0; n < 2; n++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    // Wraps to a large number for later positions.
                    u32 distance = item.position - (page * PAGE + 8 * n + 2 * c + e);
                    s[n][e] = distance < window ? s[n][e] * scale : -INFINITY_F;
                    next = fmaxf(next, s[n][e]);
                }
            next = fmaxf(next, __shfl_xor_sync(~0u, next, 1));
            next = fmaxf(next, __shfl_xor_sync(~0u, next, 2));
            float shrink = exp2_fast(max - next); // every page of an item has a visible key
            max = next;
            sum *= shrink;
#pragma unroll
            for (int n = 0; n < 2; n++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    s[n][e] = exp2_fast(s[n][e] - next);
                    sum += s[n][e];
                }
            u32 p[2] = {pack(s[0][0], s[0][1]), pack(s[1][0], s[1][1])};
            float shrinks[2] = {__shfl_sync(~0u, shrink, 8 * c), __shfl_sync(~0u, shrink, 8 * c + 4)}; // heads 2c, 2c + 1
#pragma unroll
            for (int i = 0; i < D / 64; i++) {
                uint4 value[4];
#pragma unroll
                for (int k = 0; k < 4; k++)
                    value[k] = *reinterpret_cast<const uint4 *>(
                        value_page + piece_at(2 * c + k % 2 + k / 2 * 8, g + 8 * i));
                if (page == item.position / PAGE) { // what lies behind the position may be anything
#pragma unroll
                    for (int k = 0; k < 4; k++)
                        if (2 * c + k % 2 + k / 2 * 8 > item.position % PAGE) value[k] = make_uint4(0, 0, 0, 0);
                }
#pragma unroll
                for (int w = 0; w < 4; w++) {
                    u32 x[4] = {part_of(value[0], w), part_of(value[1], w), part_of(value[2], w), part_of(value[3], w)};
                    const u32 a[4] = {__byte_perm(x[0], x[1], 0x5410), __byte_perm(x[0], x[1], 0x7632),
                                      __byte_perm(x[2], x[3], 0x5410), __byte_perm(x[2], x[3], 0x7632)};
#pragma unroll
                    for (int e = 0; e < 4; e++) y[i][w][e] *= shrinks[e % 2];
                    mma16816(y[i][w], a, p[0], p[1]);
                }
            }
            __syncwarp(); // before the place of this page is loaded anew
        }

        // The warp's record goes where the next page has not been asked for yet.
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        u8 *free = ring + (stage == 0 ? STAGES - 1 : stage - 1) * PAGE_BYTES;
        if (lane == 0) records_at[warp] = free - shared;
        float *mine = reinterpret_cast<float *>(free);
#pragma unroll
        for (int e = 0; e < 2; e++)
#pragma unroll
            for (int i = 0; i < D / 64; i++) {
                const float(&z)[4][4] = y[i];
                const float x[8] = {z[0][e], z[0][e + 2], z[1][e], z[1][e + 2], z[2][e], z[2][e + 2], z[3][e], z[3][e + 2]};
                if (2 * c + e < heads) store_floats(mine + (2 * c + e) * RECORD + 8 * g + 64 * i, x);
            }
        if (c == 0 && g < heads) mine[g * RECORD + D] = max, mine[g * RECORD + D + 1] = sum;
        __syncthreads();

        float *parts = partial + (size_t)item.pair * splits * HEADS * RECORD;
        for (u32 k = threadIdx.x; k < heads * (D / 8); k += WARPS * 32) {
            const u32 h = k / (D / 8), d = k % (D / 8) * 8;
            const auto of_warp = [&](u32 w) {
                return reinterpret_cast<const float *>(shared + records_at[w]) + h * RECORD;
            };
            Result y = combine(of_warp, WARPS, d);
            if (item.splits == 1) {
                store_result(out + columns + k * 8, y);
                continue;
            }
            float *record = parts + (item.split * HEADS + h) * RECORD;
            store_floats(record + d, y.x);
            if (d == 0) record[D] = y.max, record[D + 1] = y.sum;
        }
#if ARCH >= 90
        fence_async_shared();
#endif
        __syncthreads(); // before pages are loaded to where the records lie
        if (item.splits == 1 || warp > 0) continue;

        // The block that finishes last combines all parts, in their order; the counter wraps back to zero.
        u32 before = 0;
        if (lane == 0) {
            __threadfence();
            before = atomicInc(counters + item.pair, item.splits - 1);
        }
        if (__shfl_sync(~0u, before, 0) < item.splits - 1) continue;
        __threadfence();
        for (u32 k = lane; k < heads * (D / 8); k += 32) {
            const auto of_part = [&](u32 i) { return parts + (i * HEADS + k / (D / 8)) * RECORD; };
            Result y = combine(of_part, item.splits, k % (D / 8) * 8);
            store_result(out + columns + k * 8, y);
        }
    }
}

#endif
