// Attention over the paged cache: each row of q in its own context. Maths, CPU reference: src/ops/attention.rs
//   out_i = Σ_j softmax_j(scale · q_i · k_j) v_j over positions j ≤ position_i of i's sequence, position_i − j < window
//   q, out (B, H·D) real   keys, values (pages · PAGE, KV·D) real   tables (B, max_pages) u32   positions (B) u32
//   position p of row i lies in row tables[i, p / PAGE] · PAGE + p % PAGE of keys and values
//   partial (B, KV·PARTS, splits, HEADS, D + 2) float and counters (B, KV·PARTS) u32: scratch; counters zero before the
//   first launch, and again after every launch
//   load-time  REAL_IS_FLOAT, D, PAGE = 16; GROUP = H/KV, CHUNK (positions a block, a multiple of 16·WARPS, ≤ 2048)
//   launch     attention_cached_split: grid (splits, KV·PARTS, B), block 128, where splits covers the longest context,
//              ⌈max positions / CHUNK⌉, and one more than that of the window if there is one; PARTS = ⌈GROUP / 8⌉
//              attention_cached_plain (any D): grid (H, B), block 32
//   window     2³¹ for none;  scale > 0 for attention_cached_split, given there as scale · log₂e
//   traffic    4·KV·D·context bytes a row, read once: bandwidth-bound
//   numerics   float scores and sums; p rounds to bf16 before p·v; chunks of fixed length, combined in order: a row's
//              bits depend on its context alone, not on B
//   measured
#include "prelude.cuh"
#include "hopper.cuh"

// The first position that a query at `position` sees.
__device__ __forceinline__ u32 first_visible(u32 position, u32 window) {
    return position < window ? 0 : position + 1 - window;
}

extern "C" __global__ void __launch_bounds__(32)
    attention_cached_plain(real *out, const real *q, const real *keys, const real *values, const u32 *tables,
                           const u32 *positions, u32 max_pages, u32 kv_heads, float scale, u32 window) {
    const int PER_LANE = (D + 31) / 32;
    __shared__ float query[D];
    u32 h = blockIdx.x, heads = gridDim.x, lane = threadIdx.x;
    size_t b = blockIdx.y, thin = (size_t)kv_heads * D;
    q += (b * heads + h) * D;
    out += (b * heads + h) * D;
    keys += h * kv_heads / heads * D;
    values += h * kv_heads / heads * D;
    for (u32 d = lane; d < D; d += 32) query[d] = widen(q[d]);
    __syncwarp();
    u32 position = positions[b], first = first_visible(position, window);

    float max = -INFINITY_F, sum = 0.0f, y[PER_LANE] = {};
    for (u32 tile = first; tile <= position; tile += 32) {
        u32 key = tile + lane;
        float s = -INFINITY_F;
        size_t at = 0;
        if (key <= position) {
            at = ((size_t)tables[b * max_pages + key / PAGE] * PAGE + key % PAGE) * thin;
            s = 0.0f;
            for (u32 d = 0; d < D; d++) s = fmaf(query[d], widen(keys[at + d]), s);
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
                if (D % 32 == 0 || d < D) y[i] = fmaf(pj, widen(value[d]), y[i]);
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

const u32 WARPS = 4;
const u32 PARTS = (GROUP + 7) / 8;                // blocks that share a key head's query heads
const u32 HEADS = (GROUP + PARTS - 1) / PARTS;    // query heads a block, at most 8
const u32 STEPS = CHUNK / PAGE / WARPS;           // pages a warp
const u32 RECORD = D + 2;                         // sums, then maximum and sum of a head

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// 16 bytes that are read once; zeros if not `valid`.
__device__ __forceinline__ uint4 load_once(const real *from, bool valid) {
    uint4 x = make_uint4(0, 0, 0, 0);
    if (valid)
        asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
            : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
            : "l"(from));
    return x;
}
__device__ __forceinline__ u32 part_of(const uint4 &x, int i) { return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w; }

// Σ over records r of 2^(max_r − max) · column `d` of head `h`, over the same of the sums: in the order of r.
__device__ __forceinline__ float combine(const float *records, size_t stride, u32 count, u32 h, u32 d) {
    float max = -INFINITY_F, y = 0.0f, sum = 0.0f;
    for (u32 r = 0; r < count; r++) max = fmaxf(max, __ldcg(records + r * stride + h * RECORD + D));
    for (u32 r = 0; r < count; r++) {
        const float *record = records + r * stride + h * RECORD;
        float weight = exp2_fast(__ldcg(record + D) - max);
        y = fmaf(weight, __ldcg(record + d), y);
        sum = fmaf(weight, __ldcg(record + D + 1), sum);
    }
    return y / sum;
}

// A block: the query heads of one key head (rows of the first product: the other half of its 16 rows is empty) over
// one chunk; a warp takes every WARPS-th page. Lane 4g + c. Scores: head g, keys 2c, 2c + 1 and 8 on. The order of d
// within a product is free, so that a lane reads 16 bytes at a time: elements 32 i + 8 c … + 8 of key g, and of key
// g + 8; of the values, elements 8 g + 64 i … + 8 of keys 2c, 2c + 1, 2c + 8, 2c + 9.
extern "C" __global__ void __launch_bounds__(WARPS * 32, D == 256 ? 2 : 3)
    attention_cached_split(real *out, const real *q, const real *keys, const real *values, const u32 *tables,
                     const u32 *positions, float *partial, u32 *counters, u32 max_pages, u32 kv_heads, float scale,
                     u32 window) {
    __shared__ float records[WARPS][HEADS][RECORD];
    __shared__ bool last;
    size_t b = blockIdx.z;
    u32 position = positions[b], first = first_visible(position, window);
    u32 chunk = first / CHUNK + blockIdx.x, splits = position / CHUNK - first / CHUNK + 1;
    if (blockIdx.x >= splits) return;
    u32 head = blockIdx.y / PARTS, part = blockIdx.y % PARTS;
    u32 heads = min(HEADS, GROUP - part * HEADS); // here
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
    size_t thin = (size_t)kv_heads * D;
    size_t columns = (b * kv_heads + head) * GROUP * D + part * HEADS * D; // of this block's heads, in q and out
    keys += head * D;
    values += head * D;

    // This warp's pages: step s is page begin + WARPS · s, and lane s holds where it lies.
    u32 begin = chunk * (CHUNK / PAGE) + warp, end = min((chunk + 1) * (CHUNK / PAGE), position / PAGE + 1);
    u32 place = 0;
    for (u32 s = lane; s < STEPS; s += 32) {
        u32 page = begin + WARPS * s;
        if (page < end) place = tables[b * max_pages + page];
    }
    uint4 query[D / 32];
#pragma unroll
    for (int i = 0; i < D / 32; i++) query[i] = load_once(q + columns + g * D + 32 * i + 8 * c, g < heads);

    float max = -INFINITY_F, sum = 0.0f; // of head g; the sum of this lane's keys alone
    float y[D / 64][4][4] = {};          // elements 8 g + 64 i + 2 w + (0, 0, 1, 1), heads 2 c + (0, 1, 0, 1)
    for (u32 step = 0; step < STEPS && begin + WARPS * step < end; step++) {
        u32 base = (begin + WARPS * step) * PAGE; // position of the page's first key
        if (base + PAGE <= first) continue;
        size_t slot = (size_t)__shfl_sync(~0u, place, step) * PAGE;
        float s[2][4] = {};
#pragma unroll
        for (int n = 0; n < 2; n++) {
            uint4 key[D / 32];
#pragma unroll
            for (int i = 0; i < D / 32; i++)
                key[i] = load_once(keys + (slot + 8 * n + g) * thin + 32 * i + 8 * c, base + 8 * n + g <= position);
#pragma unroll
            for (int i = 0; i < D / 32; i++) {
                const u32 a[4] = {query[i].x, 0, query[i].y, 0}, a2[4] = {query[i].z, 0, query[i].w, 0};
                mma16816(s[n], a, key[i].x, key[i].y);
                mma16816(s[n], a2, key[i].z, key[i].w);
            }
        }
        uint4 value[D / 64][4];
#pragma unroll
        for (int i = 0; i < D / 64; i++)
#pragma unroll
            for (int k = 0; k < 4; k++) {
                u32 j = 2 * c + k % 2 + k / 2 * 8;
                value[i][k] = load_once(values + (slot + j) * thin + 64 * i + 8 * g, base + j <= position);
            }

        float next = max;
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                u32 distance = position - (base + 8 * n + 2 * c + e); // wraps to a large number for later positions
                s[n][e] = distance < window ? s[n][e] * scale : -INFINITY_F;
                next = fmaxf(next, s[n][e]);
            }
        next = fmaxf(next, __shfl_xor_sync(~0u, next, 1));
        next = fmaxf(next, __shfl_xor_sync(~0u, next, 2));
        float shrink = exp2_fast(max - next); // every page here has a visible key
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
        for (int i = 0; i < D / 64; i++)
#pragma unroll
            for (int w = 0; w < 4; w++) {
                u32 x[4] = {part_of(value[i][0], w), part_of(value[i][1], w), part_of(value[i][2], w),
                            part_of(value[i][3], w)};
                const u32 a[4] = {__byte_perm(x[0], x[1], 0x5410), __byte_perm(x[0], x[1], 0x7632),
                                  __byte_perm(x[2], x[3], 0x5410), __byte_perm(x[2], x[3], 0x7632)};
#pragma unroll
                for (int e = 0; e < 4; e++) y[i][w][e] *= shrinks[e % 2];
                mma16816(y[i][w], a, p[0], p[1]);
            }
    }

    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if (c == 0 && g < heads) records[warp][g][D] = max, records[warp][g][D + 1] = sum;
#pragma unroll
    for (int i = 0; i < D / 64; i++)
#pragma unroll
        for (int w = 0; w < 4; w++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                u32 h = 2 * c + e % 2;
                if (h < heads) records[warp][h][8 * g + 64 * i + 2 * w + e / 2] = y[i][w][e];
            }
    __syncthreads();

    size_t pair = b * gridDim.y + blockIdx.y;
    float *mine = partial + (pair * gridDim.x + blockIdx.x) * HEADS * RECORD;
    for (u32 k = threadIdx.x; k < heads * D; k += WARPS * 32) {
        u32 h = k / D, d = k % D;
        float m = -INFINITY_F, x = 0.0f, total = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) m = fmaxf(m, records[w][h][D]);
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            float weight = exp2_fast(records[w][h][D] - m);
            x = fmaf(weight, records[w][h][d], x);
            total = fmaf(weight, records[w][h][D + 1], total);
        }
        if (splits == 1) {
            out[columns + k] = narrow<real>(x / total);
        } else {
            mine[h * RECORD + d] = x;
            if (d == 0) mine[h * RECORD + D] = m, mine[h * RECORD + D + 1] = total;
        }
    }
    if (splits == 1) return;

    // The block that finishes last combines them all; the counter wraps back to zero.
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicInc(counters + pair, splits - 1) == splits - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    for (u32 k = threadIdx.x; k < heads * D; k += WARPS * 32)
        out[columns + k] = narrow<real>(
            combine(partial + pair * gridDim.x * HEADS * RECORD, HEADS * RECORD, splits, k / D, k % D));
}

#endif
