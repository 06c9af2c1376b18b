// Matrix products on Hopper: wgmma fed by TMA, persistent blocks, work cut so that every SM has the same amount.
// Host side, choice of constants, and the cut itself: src/device/gemm.rs
//
//   C = alpha · (A·B + A2·B2)   or   C += …      for each group of rows, columns and reduction ranges
//   A (m, k), A2 (m, k2), B (k, n), B2 (k2, n) bf16; C (m, n) bf16 or float. The second term is a LoRA update, reduced
//   together with the first. Operands lie in memory along K ("K-major") or along M or N ("MN-major"); nothing is
//   transposed beforehand.
//
//   load-time  TILE_N          columns of a tile: a multiple of 8 up to 256; with C_BULK of 64, with CLUSTER 2 of 16
//              A_MN, B_MN      1 if the operand is MN-major (A2 is as A, B2 as B)
//              STAGES          depth of the ring of tiles in shared memory
//              CLUSTER         1, or 2: two blocks, one tile of 256 rows, each fetching half of B for both
//              C_IS_FLOAT      element type of C
//              C_ADD           1: add to C
//              C_TRANSPOSED    1: element (i, j) of the product is stored at (j, i) of C
//              C_BULK          1: whole tiles of C leave through TMA (bf16, C_ADD 0, C_TRANSPOSED 0, 16-byte rows)
//   launch     grid (units · CLUSTER), block (384): warpgroup 0 fetches, 1 and 2 multiply 64 × TILE_N each
//              dynamic shared memory: 1024 + STAGES · stage + (C_BULK ? 32768 : 0) + 16 · STAGES + 16 bytes
//   the cut    Tiles below `whole` go to the units in turn, whole. The reduction steps of the rest are laid in one row
//              and cut evenly over the units ("stream-K", Osama et al., arXiv 2301.03598); a tile that was cut is summed
//              by the block that finishes it last, in the order of K. So the bits depend on the shape alone.
//   traffic    A and B once per tile from L2; from memory about once
//   numerics   bf16 products, float sums in tensor cores, one rounding at the store
//   measured
#include "prelude.cuh"

#if ARCH == 90 && !REAL_IS_FLOAT
#include "hopper.cuh"

#if C_IS_FLOAT
typedef float out;
#else
typedef bf16 out;
#endif

constexpr u32 TILE_M = 128; // a block; a consumer has half
constexpr u32 TILE_K = 64;  // 128 bytes: the swizzle's row
constexpr u32 PANEL = 64 * TILE_K * 2;
constexpr u32 A_BYTES = TILE_M * TILE_K * 2;
constexpr u32 B_BYTES = B_MN ? (TILE_N + 63) / 64 * PANEL : TILE_N * TILE_K * 2;
constexpr u32 STAGE_BYTES = A_BYTES + B_BYTES;
constexpr u32 BULK_BYTES = 64 * 64 * 2; // one store of a consumer; it has two in turn

// A product over ranges of the mapped matrices. Offsets count elements: where the range begins along M or N, along K.
struct Group {
    u32 m, n;
    u32 steps, steps2;      // tiles of K: of both terms, of the second
    u32 a, a_k, b, b_k;     // first term
    u32 a2, a2_k, b2, b2_k; // second term
    u32 c_row, c_col;
    u32 tiles_m, tiles_n; // of CLUSTER · TILE_M rows and TILE_N columns
    u32 tile;             // tiles of the groups before
    u32 cut_tile;         // first tile of this group that is cut: max(tile, whole)
    u32 cut_step;         // reduction steps in the row before that tile
};

struct Work {
    u32 groups;
    u32 whole;     // tiles that are not cut, those with the lowest numbers
    u32 cut_steps; // length of the row of steps
    u32 band;      // a band of tiles this high is walked column by column: both operands stay in L2
    Group group[8];
};

// Consecutive reduction steps of one tile.
struct Piece {
    const Group *group;
    u32 row, col;   // of the product, within the group
    u32 begin, end; // steps
    u32 tile;
    u32 first_step; // in the row of steps, of the tile's beginning
};

// The pieces of one unit, in order; the fetching and the multiplying warps walk it alike.
struct Walk {
    const Work *work;
    u32 unit, units;
    u32 tile, step, end;

    __device__ __forceinline__ Walk(const Work *work, u32 unit, u32 units)
        : work(work), unit(unit), units(units), tile(unit), step(first_step(unit)), end(first_step(unit + 1)) {}

    __device__ __forceinline__ u32 first_step(u32 unit) const { return (u32)((u64)unit * work->cut_steps / units); }
    // The unit that has this step of the row.
    __device__ __forceinline__ u32 owner(u32 step) const {
        return (u32)((((u64)step + 1) * units - 1) / work->cut_steps);
    }

    __device__ __forceinline__ void place(Piece &p, u32 tile) const {
        const Group &g = *p.group;
        u32 t = tile - g.tile, area = work->band * g.tiles_n;
        u32 top = t / area * work->band, height = min(work->band, g.tiles_m - top);
        t -= top * g.tiles_n;
        p.row = (top + t % height) * CLUSTER * TILE_M;
        p.col = t / height * TILE_N;
        p.tile = tile;
    }

    __device__ __forceinline__ bool next(Piece &p) {
        u32 g = work->groups - 1;
        if (tile < work->whole) {
            while (work->group[g].tile > tile) g--;
            p.group = &work->group[g];
            place(p, tile);
            p.begin = 0, p.end = p.group->steps;
            tile += units;
            return true;
        }
        if (step == end) return false;
        while (work->group[g].cut_step > step) g--;
        p.group = &work->group[g];
        u32 nth = (step - p.group->cut_step) / p.group->steps;
        p.first_step = p.group->cut_step + nth * p.group->steps;
        place(p, p.group->cut_tile + nth);
        p.begin = step - p.first_step;
        p.end = min(p.group->steps, end - p.first_step);
        step = p.first_step + p.end;
        return true;
    }
};

// Position in the ring of stages.
struct Ring {
    u32 stage, parity;
    __device__ __forceinline__ Ring() : stage(0), parity(0) {}
    __device__ __forceinline__ void next() {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
};

__device__ __forceinline__ void fetch(u32 to, u32 bar, const TensorMap *a, const TensorMap *b, u32 m, u32 a_k, u32 n,
                                      u32 b_k, u32 rank) {
    if (A_MN) {
#pragma unroll
        for (u32 i = 0; i < TILE_M / 64; i++) tma_load2(to + i * PANEL, a, bar, m + 64 * i, a_k);
    } else {
        tma_load2(to, a, bar, a_k, m);
    }
    to += A_BYTES;
    if (B_MN) {
        const u32 ROWS = TILE_K / CLUSTER;
        to += rank * ROWS * 128, b_k += rank * ROWS;
#pragma unroll
        for (u32 i = 0; i < (TILE_N + 63) / 64; i++) {
            if (CLUSTER == 1) tma_load2(to + i * PANEL, b, bar, n + 64 * i, b_k);
            else tma_load2_multicast(to + i * PANEL, b, bar, n + 64 * i, b_k, (1 << CLUSTER) - 1);
        }
    } else {
        const u32 ROWS = TILE_N / CLUSTER;
        to += rank * ROWS * 128, n += rank * ROWS;
        if (CLUSTER == 1) tma_load2(to, b, bar, b_k, n);
        else tma_load2_multicast(to, b, bar, b_k, n, (1 << CLUSTER) - 1);
    }
}

// A consumer has left a stage: told to every block that fetches into it. One thread for each block.
__device__ __forceinline__ void leave(u32 bar) {
    u32 t = threadIdx.x % 128;
    if (CLUSTER == 1) {
        if (t == 0) mbarrier_arrive(bar);
    } else if (t < CLUSTER) {
        mbarrier_arrive_at(bar, t);
    }
}

// Two neighbours of one row of the product.
__device__ __forceinline__ void put(out *c, u64 pitch, u32 i, u32 j, u32 m, u32 n, bool paired, float x, float y) {
    if (i >= m || j >= n) return;
    if (C_TRANSPOSED) {
        out *p = c + j * pitch + i;
        *p = narrow<out>(C_ADD ? widen(*p) + x : x);
        if (j + 1 < n) p += pitch, *p = narrow<out>(C_ADD ? widen(*p) + y : y);
        return;
    }
    out *p = c + i * pitch + j;
    if (paired && j + 1 < n) {
#if C_IS_FLOAT
        float2 *q = reinterpret_cast<float2 *>(p);
        if (C_ADD) x += q->x, y += q->y;
        *q = make_float2(x, y);
#else
        u32 *q = reinterpret_cast<u32 *>(p);
        if (C_ADD) x += low(*q), y += high(*q);
        *q = pack(x, y);
#endif
        return;
    }
    p[0] = narrow<out>(C_ADD ? widen(p[0]) + x : x);
    if (j + 1 < n) p[1] = narrow<out>(C_ADD ? widen(p[1]) + y : y);
}

// 64 × TILE_N of a consumer: elements outside (m, n) are left alone.
__device__ __forceinline__ void store(out *c, u64 pitch, float (&d)[TILE_N / 2], u32 row, u32 col, u32 m, u32 n,
                                      float alpha) {
    u32 t = threadIdx.x % 128, i = row + t / 32 * 16 + t % 32 / 4, j = col + t % 4 * 2;
    bool paired = pitch % 2 == 0 && (u64)c % (2 * sizeof(out)) == 0;
#pragma unroll
    for (u32 k = 0; k < TILE_N / 8; k++) {
        put(c, pitch, i, j + 8 * k, m, n, paired, alpha * d[4 * k], alpha * d[4 * k + 1]);
        put(c, pitch, i + 8, j + 8 * k, m, n, paired, alpha * d[4 * k + 2], alpha * d[4 * k + 3]);
    }
}

#if C_BULK
// 64 × TILE_N of a consumer, all inside the matrix, through two swizzled buffers in turn.
__device__ __forceinline__ void store_bulk(const TensorMap *c, float (&d)[TILE_N / 2], u32 row, u32 col, float alpha,
                                           u32 buffers, u32 barrier) {
    u32 t = threadIdx.x % 128, lane = t % 32, local = t / 32 * 16 + lane / 8 % 2 * 8 + lane % 8;
#pragma unroll
    for (u32 part = 0; part < TILE_N / 64; part++) {
        u32 buffer = buffers + part % 2 * BULK_BYTES;
        if (t == 0) tma_store_wait<1>();
        named_barrier_sync(barrier, 128);
#pragma unroll
        for (u32 k = 0; k < 8; k += 2) {
            const float *x = d + 4 * (8 * part + k);
            stmatrix4(buffer + local * 128 + ((k + lane / 16) ^ (lane % 8)) * 16, pack(alpha * x[0], alpha * x[1]),
                      pack(alpha * x[2], alpha * x[3]), pack(alpha * x[4], alpha * x[5]),
                      pack(alpha * x[6], alpha * x[7]));
        }
        fence_async_shared();
        named_barrier_sync(barrier, 128);
        if (t == 0) {
            tma_store2(c, buffer, col + 64 * part, row);
            tma_store_commit();
        }
    }
}
#endif

// Writes before it are seen, by whoever sees a write after it, on the whole card.
__device__ __forceinline__ void fence_device() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }

// Adds up a tile that was cut. True in the consumer that came last: it holds the sum.
__device__ __forceinline__ bool gather(float (&d)[TILE_N / 2], const Walk &walk, const Piece &p, float *partials,
                                       u32 *arrived, u32 lane, u32 barrier, volatile u32 *flag) {
    // A unit cuts at most two tiles: the one it begins in and the one it ends in.
    const u32 LANES = 2 * CLUSTER, FLOATS = 64 * TILE_N;
    u32 t = threadIdx.x % 128;
    u32 first = walk.owner(p.first_step), last = walk.owner(p.first_step + p.group->steps - 1);
    float4 *mine = reinterpret_cast<float4 *>(
        partials + (u64)((2 * walk.unit + (p.begin == 0)) * LANES + lane) * FLOATS);
#pragma unroll
    for (u32 k = 0; k < TILE_N / 8; k++)
        __stcg(mine + k * 128 + t, make_float4(d[4 * k], d[4 * k + 1], d[4 * k + 2], d[4 * k + 3]));
    fence_device();
    named_barrier_sync(barrier, 128);
    if (t == 0) {
        u32 *count = arrived + (p.tile - walk.work->whole) * LANES + lane;
        bool complete = atomicAdd(count, 1) == last - first;
        if (complete) *count = 0; // for the next launch
        *flag = complete;
    }
    named_barrier_sync(barrier, 128);
    if (!*flag) return false;
    fence_device();
#pragma unroll
    for (u32 k = 0; k < TILE_N / 2; k++) d[k] = 0.0f;
    for (u32 unit = first; unit <= last; unit++) {
        const float4 *from = reinterpret_cast<const float4 *>(
            partials + (u64)((2 * unit + (unit == first)) * LANES + lane) * FLOATS);
#pragma unroll
        for (u32 k = 0; k < TILE_N / 8; k++) {
            float4 v = __ldcg(from + k * 128 + t);
            d[4 * k] += v.x, d[4 * k + 1] += v.y, d[4 * k + 2] += v.z, d[4 * k + 3] += v.w;
        }
    }
    return true;
}

extern "C" __global__ void
#if CLUSTER > 1
__cluster_dims__(CLUSTER, 1, 1)
#endif
__launch_bounds__(384, 1)
gemm_wgmma(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b,
           const __grid_constant__ TensorMap a2, const __grid_constant__ TensorMap b2,
           const __grid_constant__ TensorMap c_map, const __grid_constant__ Work work, out *c, u64 pitch, float alpha,
           float *partials, u32 *arrived) {
    extern __shared__ u8 memory[];
    __shared__ u32 flags[2];
    u32 tiles = (shared_address(memory) + 1023) & ~1023u;
    u32 buffers = tiles + STAGES * STAGE_BYTES;
    u32 full = buffers + (C_BULK ? 4 * BULK_BYTES : 0), empty = full + 8 * STAGES;
    u32 rank = CLUSTER == 1 ? 0 : cluster_rank();

    if (threadIdx.x == 0) {
        for (u32 i = 0; i < STAGES; i++) {
            mbarrier_init(full + 8 * i, 1);
            mbarrier_init(empty + 8 * i, 2 * CLUSTER); // every consumer of the cluster
        }
        mbarrier_init_fence();
    }
    if (CLUSTER == 1) __syncthreads();
    else cluster_sync();

    Walk walk(&work, blockIdx.x / CLUSTER, gridDim.x / CLUSTER);
    Piece p;
    Ring ring;
    if (threadIdx.x < 128) {
        give_registers<40>();
        if (threadIdx.x == 0) {
            while (walk.next(p)) {
                const Group &g = *p.group;
                u32 row = p.row + rank * TILE_M, steps1 = g.steps - g.steps2;
                for (u32 step = p.begin; step < p.end; step++) {
                    u32 bar = full + 8 * ring.stage, to = tiles + ring.stage * STAGE_BYTES;
                    mbarrier_wait(empty + 8 * ring.stage, ring.parity ^ 1);
                    mbarrier_arrive_expect(bar, STAGE_BYTES);
                    if (step < steps1) {
                        u32 k = step * TILE_K;
                        fetch(to, bar, &a, &b, g.a + row, g.a_k + k, g.b + p.col, g.b_k + k, rank);
                    } else {
                        u32 k = (step - steps1) * TILE_K;
                        fetch(to, bar, &a2, &b2, g.a2 + row, g.a2_k + k, g.b2 + p.col, g.b2_k + k, rank);
                    }
                    ring.next();
                }
            }
        }
        __syncwarp();
    } else {
        take_registers<232>();
        u32 who = threadIdx.x / 128 - 1, t = threadIdx.x % 128, barrier = 1 + who;
        float d[TILE_N / 2];
        while (walk.next(p)) {
            u32 done = 0;
            for (u32 step = p.begin; step < p.end; step++) {
                u32 tile_a = tiles + ring.stage * STAGE_BYTES, tile_b = tile_a + A_BYTES;
                tile_a += who * PANEL;
                mbarrier_wait(full + 8 * ring.stage, ring.parity);
                u64 da = A_MN ? wgmma_mn_major(tile_a, PANEL) : wgmma_k_major(tile_a);
                u64 db = B_MN ? wgmma_mn_major(tile_b, PANEL) : wgmma_k_major(tile_b);
                wgmma_fence();
#pragma unroll
                for (u32 k = 0; k < 4; k++)
                    Wgmma<TILE_N>::mma<A_MN, B_MN>(d, wgmma_advance(da, k * (A_MN ? 2048 : 32)),
                                                   wgmma_advance(db, k * (B_MN ? 2048 : 32)),
                                                   k > 0 || step > p.begin);
                wgmma_commit();
                // The products of the step before are done: its stage is free.
                if (step > p.begin) {
                    wgmma_wait<1>();
                    leave(empty + 8 * done);
                }
                done = ring.stage;
                ring.next();
            }
            wgmma_wait<0>();
            leave(empty + 8 * done);

            const Group &g = *p.group;
            u32 row = p.row + rank * TILE_M + who * 64;
            if (p.end - p.begin < g.steps &&
                !gather(d, walk, p, partials, arrived, rank * 2 + who, barrier, flags + who))
                continue;
#if C_BULK
            if (row + 64 <= g.m && p.col + TILE_N <= g.n) {
                store_bulk(&c_map, d, g.c_row + row, g.c_col + p.col, alpha, buffers + who * 2 * BULK_BYTES, barrier);
                continue;
            }
#endif
            out *corner = c + (C_TRANSPOSED ? g.c_col * pitch + g.c_row : g.c_row * pitch + g.c_col);
            store(corner, pitch, d, row, p.col, g.m, g.n, alpha);
        }
#if C_BULK
        if (t == 0) tma_store_wait<0>();
#endif
    }
    // A block stays until no other can reach into its shared memory.
    if (CLUSTER > 1) cluster_sync();
}

#endif
