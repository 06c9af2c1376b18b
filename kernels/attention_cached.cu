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
//   measured   cargo bench --bench ops -- "attention cached"
#include "attention.cuh"

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
    attention_cached_store(real *keys, real *values, const real *k, const real *v, const u32 *tables,
                           const u32 *positions, u32 max_pages, u32 kv_heads) {
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
    u32 position = positions[b], first = first_visible(position, 0, window);

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

// ---- attention_cached_split ----------------------------------------------------------------------------------------
//
// The warps of a block take the pages of an item in turn. Each has a ring of its own in shared memory, into which its next
// pages are loaded while it works on one, those of the next item among them (PageStream). For a page it computes the scores
// of the item's heads, raises their maxima, and adds p·v to its accumulator. At the item's end the warps' results are
// combined; if other blocks have parts of the same context, the last of them to finish combines the parts.
//
// What lane 4 g + c of a warp holds (tile.cuh):
//   scores   s[n][e]     head g, key 8 n + 2 c + e of the page: rows of the product are heads, and of its 16 the upper half
//                        is empty
//   softmax  max, sum    of head g; `sum` of this lane's keys alone
//   result   y[i][w][..] rows of the product are elements of v, so that its columns are heads: elements
//                        8 g + 64 i + 2 w + (0, 0, 1, 1) of heads 2 c + (0, 1, 0, 1)
// The order of the elements within a product is free, so a lane reads 16 bytes at a time: pieces 4 i + c of keys g and g + 8;
// pieces g + 8 i of values 2 c, 2 c + 1, 2 c + 8 and 2 c + 9.

const u32 PARTS = (GROUP + 7) / 8;             // items that share a key head's query heads
const u32 HEADS = (GROUP + PARTS - 1) / PARTS; // query heads an item, at most 8
const u32 WARPS = 768 / D;                     // a block
const u32 STAGES = 2;                          // pages of a warp being worked on or in flight
const u32 ROW_BYTES = D * 2;
const u32 HALF_BYTES = PAGE * ROW_BYTES; // keys of a page; its values follow
const u32 PAGE_BYTES = 2 * HALF_BYTES;
const u32 RING_BYTES = STAGES * PAGE_BYTES; // a warp's
const u32 RECORD = D + 4;                   // of a head: Σ p·v, then the maximum of the scores and Σ p

extern __shared__ u8 shared[];

// ---- items ----

// What a block does at a time: a part of one row's context for the query heads of one key head.
struct ContextItem {
    u32 pair;          // row · KV·PARTS + key head · PARTS + part
    u32 split, splits; // which part of the context, of how many
    u32 position;
    u32 begin, end; // pages
    __device__ __forceinline__ u32 part() const { return pair % PARTS; }
    __device__ __forceinline__ u32 heads() const { return min(HEADS, GROUP - part() * HEADS); }
    // Of its heads, in q and out.
    __device__ __forceinline__ size_t columns() const { return ((size_t)pair / PARTS * GROUP + part() * HEADS) * D; }
};
struct ContextItems {
    const u32 *positions;
    u32 pairs, total, a_row, window; // a_row: pairs of one row
    // The item at `index` or, at steps of the grid, the next that is not empty; false if there is none.
    __device__ __forceinline__ bool find(ContextItem &item, u32 &index) const {
        for (; index < total; index += gridDim.x) {
            item.pair = index % pairs;
            item.split = index / pairs;
            item.position = positions[item.pair / a_row];
            u32 page = first_visible(item.position, 0, window) / PAGE, pages = item.position / PAGE + 1 - page;
            item.splits = (pages + CHUNK / PAGE - 1) / (CHUNK / PAGE);
            if (item.split >= item.splits) continue;
            item.begin = page + pages * item.split / item.splits;
            item.end = page + pages * (item.split + 1) / item.splits;
            return true;
        }
        return false;
    }
};

// ---- pages ----

// Memory → the stages of one warp. From 9.0 on a stage is loaded by two bulk copies that arrive on its barrier, before that
// by 16 bytes a lane; stages are waited for in the order in which they were loaded.
struct Copies {
#if ARCH >= 90
    u32 full, parity; // barriers of the stages; the phase of those waited for
    __device__ __forceinline__ void init(u32 barriers) {
        full = barriers, parity = 0;
        if (threadIdx.x % 32 < STAGES) mbarrier_init(full + threadIdx.x % 32 * 8, 1);
        mbarrier_init_fence();
        fence_async_shared();
        __syncwarp();
    }
    __device__ __forceinline__ void load(u32 to, const real *keys, const real *values, u32 stage) {
        if (threadIdx.x % 32 > 0) return;
        mbarrier_arrive_expect(full + stage * 8, PAGE_BYTES);
        bulk_load(to, keys, HALF_BYTES, full + stage * 8);
        bulk_load(to + HALF_BYTES, values, HALF_BYTES, full + stage * 8);
    }
    __device__ __forceinline__ void commit() {}
    __device__ __forceinline__ void wait(u32 stage) {
        mbarrier_wait(full + stage * 8, parity);
        parity ^= stage == STAGES - 1;
    }
#else
    __device__ __forceinline__ void init(u32) {}
    __device__ __forceinline__ void load(u32 to, const real *keys, const real *values, u32) {
#pragma unroll
        for (u32 i = threadIdx.x % 32 * 16; i < HALF_BYTES; i += 512) {
            cp_async16(to + i, reinterpret_cast<const u8 *>(keys) + i);
            cp_async16(to + HALF_BYTES + i, reinterpret_cast<const u8 *>(values) + i);
        }
    }
    __device__ __forceinline__ void commit() { cp_async_commit(); } // also an empty group: `wait` counts groups
    __device__ __forceinline__ void wait(u32) {
        cp_async_wait<STAGES - 1>();
        __syncwarp();
    }
#endif
};

// The pages of a warp, in the order in which it needs them, through its ring; STAGES − 1 are in flight.
struct PageStream {
    const ContextItems &items;
    const real *keys, *values;
    const u32 *tables;
    u32 max_pages, kv_heads;
    u32 warp, lane;
    u8 *ring;
    Copies copies;
    // The next page to load, and the item that it belongs to; none is left unless `more`.
    ContextItem ahead;
    u32 index, page, place; // place of lane l: where the warp's l-th page of the item lies
    bool more;
    u32 stage; // of the next page to work on

    __device__ __forceinline__ void begin() {
        copies.init(shared_address(shared + WARPS * RING_BYTES) + warp * STAGES * 8);
        index = blockIdx.x, page = 0, place = 0, stage = 0;
        look_ahead();
        for (u32 stage = 0; stage < STAGES - 1; stage++) load(stage);
    }
    // To the first page of the next item that has one for this warp.
    __device__ __forceinline__ void look_ahead() {
        for (;; index += gridDim.x) {
            more = items.find(ahead, index);
            page = ahead.begin + warp;
            if (!more || page < ahead.end) break;
        }
        u32 own = page + lane * WARPS;
        if (more && own < ahead.end) place = tables[(size_t)(ahead.pair / items.a_row) * max_pages + own];
    }
    // Begins to load the next page, if there is one.
    __device__ __forceinline__ void load(u32 stage) {
        if (more) {
            u32 from = __shfl_sync(~0u, place, (page - ahead.begin) / WARPS);
            size_t at = head_at(from, kv_heads, ahead.pair % items.a_row / PARTS);
            copies.load(shared_address(ring + stage * PAGE_BYTES), keys + at, values + at, stage);
            page += WARPS;
            if (page >= ahead.end) {
                index += gridDim.x;
                look_ahead();
            }
        }
        copies.commit();
    }
    __device__ __forceinline__ u32 before() const { return stage == 0 ? STAGES - 1 : stage - 1; }
    // The keys of the next page; its values follow. The stage of the page before it is loaded anew.
    __device__ __forceinline__ const u8 *next() {
        load(before());
        copies.wait(stage);
        const u8 *page = ring + stage * PAGE_BYTES;
        stage = stage == STAGES - 1 ? 0 : stage + 1;
        return page;
    }
    // A stage into which nothing is being loaded, after all pages of an item.
    __device__ __forceinline__ u8 *free() const { return ring + before() * PAGE_BYTES; }
};

// Byte of piece `piece` of row `row`.
__device__ __forceinline__ u32 piece_at(u32 row, u32 piece) { return row * ROW_BYTES + exchanged(row, piece) * 16; }
__device__ __forceinline__ u32 part_of(const uint4 &x, int i) {
    return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
}

// ---- scores, accumulation ----

// s = q kᵀ: this lane's head and keys.
__device__ __forceinline__ void multiply_keys(float (&s)[2][4], const uint4 (&query)[D / 32], const u8 *keys, u32 g,
                                              u32 c) {
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int i = 0; i < D / 32; i++) {
            uint4 key = *reinterpret_cast<const uint4 *>(keys + piece_at(8 * n + g, 4 * i + c));
            const u32 a[4] = {query[i].x, 0, query[i].y, 0}, b[4] = {query[i].z, 0, query[i].w, 0};
            mma16816(s[n], a, key.x, key.y);
            mma16816(s[n], b, key.z, key.w);
        }
}

// The online softmax of one head.
struct HeadSoftmax {
    float max = -INFINITY_F, sum = 0.0f;
    // Scores of a page → exponentials, in place; returns the factor on what was summed before. `distance`: query − key of this
    // lane's first key; it wraps to a large number for later keys.
    __device__ __forceinline__ float add(float (&s)[2][4], u32 distance, float scale, u32 window) {
        float next = max;
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                s[n][e] = distance - (8 * n + e) < window ? s[n][e] * scale : -INFINITY_F;
                next = fmaxf(next, s[n][e]);
            }
        next = quad_max(next);
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
        return shrink;
    }
};

// y = y · shrink + vᵀ p: `p` of head g, `shrinks` of heads 2 c and 2 c + 1. Rows from `end` on may hold anything.
__device__ __forceinline__ void add_values(float (&y)[D / 64][4][4], const u8 *values, const u32 (&p)[2],
                                           const float (&shrinks)[2], bool last, u32 last_row, u32 g, u32 c) {
#pragma unroll
    for (int i = 0; i < D / 64; i++) {
        uint4 value[4];
#pragma unroll
        for (int k = 0; k < 4; k++)
            value[k] = *reinterpret_cast<const uint4 *>(values + piece_at(2 * c + k % 2 + k / 2 * 8, g + 8 * i));
        if (last) {
#pragma unroll
            for (int k = 0; k < 4; k++)
                if (2 * c + k % 2 + k / 2 * 8 > last_row) value[k] = make_uint4(0, 0, 0, 0);
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
}

// ---- results ----

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

// A warp's record, head by head, to its own shared memory.
__device__ __forceinline__ void leave_record(float *record, const float (&y)[D / 64][4][4], const HeadSoftmax &head,
                                             u32 heads, u32 g, u32 c) {
    float sum = quad_sum(head.sum);
#pragma unroll
    for (int e = 0; e < 2; e++)
#pragma unroll
        for (int i = 0; i < D / 64; i++) {
            const float (&z)[4][4] = y[i];
            const float x[8] = {z[0][e], z[0][e + 2], z[1][e], z[1][e + 2], z[2][e], z[2][e + 2], z[3][e], z[3][e + 2]};
            if (2 * c + e < heads) store_floats(record + (2 * c + e) * RECORD + 8 * g + 64 * i, x);
        }
    if (c == 0 && g < heads) record[g * RECORD + D] = head.max, record[g * RECORD + D + 1] = sum;
}

// The block: the records of its warps → out or, of a context that was split, → its part.
__device__ __forceinline__ void combine_warps(real *out, float *parts, const u32 *records_at, const ContextItem &item) {
    for (u32 k = threadIdx.x; k < item.heads() * (D / 8); k += WARPS * 32) {
        const u32 h = k / (D / 8), d = k % (D / 8) * 8;
        const auto of_warp = [&](u32 w) {
            return reinterpret_cast<const float *>(shared + records_at[w]) + h * RECORD;
        };
        Result y = combine(of_warp, WARPS, d);
        if (item.splits == 1) {
            store_result(out + k * 8, y);
            continue;
        }
        float *record = parts + (item.split * HEADS + h) * RECORD;
        store_floats(record + d, y.x);
        if (d == 0) record[D] = y.max, record[D + 1] = y.sum;
    }
}

// One warp: if this block is the last to finish a part, all parts, in their order → out. The counter wraps back to zero.
__device__ __forceinline__ void combine_parts(real *out, const float *parts, u32 *counter, const ContextItem &item,
                                              u32 lane) {
    u32 before = 0;
    if (lane == 0) {
        __threadfence();
        before = atomicInc(counter, item.splits - 1);
    }
    if (__shfl_sync(~0u, before, 0) < item.splits - 1) return;
    __threadfence();
    for (u32 k = lane; k < item.heads() * (D / 8); k += 32) {
        const auto of_part = [&](u32 i) { return parts + (i * HEADS + k / (D / 8)) * RECORD; };
        Result y = combine(of_part, item.splits, k % (D / 8) * 8);
        store_result(out + k * 8, y);
    }
}

extern "C" __global__ void __launch_bounds__(WARPS * 32, 1)
    attention_cached_split(real *out, const real *q, const real *keys, const real *values, const u32 *tables,
                           const u32 *positions, float *partial, u32 *counters, u32 rows, u32 splits, u32 max_pages,
                           u32 kv_heads, float scale, u32 window) {
    __shared__ u32 records_at[WARPS];
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
    ContextItems items = {positions, rows * kv_heads * PARTS, rows * kv_heads * PARTS * splits, kv_heads * PARTS,
                          window};
    PageStream pages = {items, keys, values, tables, max_pages, kv_heads, warp, lane, shared + warp * RING_BYTES};
    pages.begin();

    ContextItem item;
    for (u32 index = blockIdx.x; items.find(item, index); index += gridDim.x) {
        u32 heads = item.heads();
        size_t columns = item.columns();
        uint4 query[D / 32];
#pragma unroll
        for (int i = 0; i < D / 32; i++) {
            query[i] = make_uint4(0, 0, 0, 0);
            if (g < heads) query[i] = *reinterpret_cast<const uint4 *>(q + columns + g * D + 32 * i + 8 * c);
        }
        HeadSoftmax head;
        float y[D / 64][4][4] = {};
        for (u32 page = item.begin + warp; page < item.end; page += WARPS) {
            const u8 *key_page = pages.next(), *value_page = key_page + HALF_BYTES;
            float s[2][4] = {};
            multiply_keys(s, query, key_page, g, c);
            float shrink = head.add(s, item.position - (page * PAGE + 2 * c), scale, window);
            const u32 p[2] = {pack(s[0][0], s[0][1]), pack(s[1][0], s[1][1])};
            const float shrinks[2] = {__shfl_sync(~0u, shrink, 8 * c), __shfl_sync(~0u, shrink, 8 * c + 4)};
            add_values(y, value_page, p, shrinks, page == item.position / PAGE, item.position % PAGE, g, c);
            __syncwarp(); // before the stage of this page is loaded anew
        }

        u8 *record = pages.free();
        if (lane == 0) records_at[warp] = record - shared;
        leave_record(reinterpret_cast<float *>(record), y, head, heads, g, c);
        __syncthreads();

        float *parts = partial + (size_t)item.pair * splits * HEADS * RECORD;
        combine_warps(out + columns, parts, records_at, item);
#if ARCH >= 90
        fence_async_shared();
#endif
        __syncthreads(); // before pages are loaded to where the records lie
        if (item.splits > 1 && warp == 0) combine_parts(out + columns, parts, counters + item.pair, item, lane);
    }
}

#endif
