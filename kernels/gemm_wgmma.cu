// Matrix products on Hopper: wgmma fed by TMA, persistent blocks, work cut so that every SM has the same amount.
// Host side, choice of constants, and the cut itself: src/device/gemm.rs
//
//   C = alpha · (A·B + A2·B2)   or   C += …      for each group of rows, columns and reduction ranges
//   A (m, k), A2 (m, k2), B (k, n), B2 (k2, n) bf16; C (m, n) bf16 or float. The second term is a LoRA update, reduced
//   together with the first. Operands lie in memory along K ("K-major") or along M or N ("MN-major"); nothing is
//   transposed beforehand.
//
//   load-time  REAL_IS_FLOAT = 0
//              TILE_N          columns of a tile: a multiple of 8 up to 256; with C_BULK of 64 (float: 32), with
//                              CLUSTER 2 of 16
//              A_MN, B_MN      1 if the operand is MN-major (A2 is as A, B2 as B)
//              STAGES          depth of the ring of tiles in shared memory
//              CLUSTER         1, or 2: two blocks, one tile of 256 rows, each fetching half of B for both
//              C_IS_FLOAT      element type of C
//              C_ADD           1: add to C
//              C_TRANSPOSED    1: element (i, j) of the product is stored at (j, i) of C
//              C_BULK          1: whole tiles of C leave through TMA (C_TRANSPOSED 0; bf16 with C_ADD 0, or float; rows
//                              of C at multiples of 16 bytes). With C_ADD the cache adds: each element once a launch,
//                              so the bits are the same every time
//   launch     grid (units · CLUSTER), block (384): warpgroup 0 fetches, 1 and 2 multiply 64 × TILE_N each. Blocks that share a
//              cut tile wait for each other, so all of them must be resident: units is at most the number of multiprocessors
//              (over CLUSTER), a block takes one, and src/device guarantees this at the launch
//              dynamic shared memory: 1024 + STAGES · stage + (C_BULK ? 32768 : 0) + 16 · STAGES + 16 bytes
//   the cut    Tiles below `whole` go to the units in turn, whole. The reduction steps of the rest are laid in one row
//              and cut evenly over the units ("stream-K", Osama et al., arXiv 2301.03598); the units that share a tile
//              add it up in the end, in the order of K. So the bits depend on the shape alone.
//   work       2·m·n·(k + k2) flops: bound by the tensor cores, below some 300 rows by memory. A and B come once per tile from
//              L2, from memory about once
//   numerics   bf16 products, float sums in tensor cores, one rounding at the store
//   measured   cargo bench --bench ops -- linear
#include "prelude.cuh"

#if ARCH == 90 && !REAL_IS_FLOAT
#include "tile.cuh"

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
    u32 cut_steps; // length of the row of steps, units · share + extra
    u32 share;     // steps of a unit, and one more for each of the first `extra`
    u32 extra;
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

    __device__ __forceinline__ u32 first_step(u32 unit) const { return unit * work->share + min(unit, work->extra); }
    // The unit that has this step of the row.
    __device__ __forceinline__ u32 owner(u32 step) const {
        u32 longer = work->extra * (work->share + 1);
        return step < longer ? step / (work->share + 1) : work->extra + (step - longer) / work->share;
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

// A consumer is done with a stage: it tells every block that fetches into it, one thread for each block.
__device__ __forceinline__ void leave(u32 bar) {
    u32 t = threadIdx.x % 128;
    if (CLUSTER == 1) {
        if (t == 0) mbarrier_arrive(bar);
    } else if (t < CLUSTER) {
        mbarrier_arrive_at(bar, t);
    }
}

// The part of C that belongs to a group.
struct Output {
    out *c; // its corner
    u64 pitch;
    u32 m, n;
    bool paired; // pairs of one row are aligned

    __device__ __forceinline__ Output(out *c, u64 pitch, const Group &g)
        : c(c + (C_TRANSPOSED ? g.c_col * pitch + g.c_row : g.c_row * pitch + g.c_col)), pitch(pitch), m(g.m), n(g.n),
          paired(pitch % 2 == 0 && (u64)this->c % (2 * sizeof(out)) == 0) {}

    __device__ __forceinline__ out *at(u32 i, u32 j) const {
        return C_TRANSPOSED ? c + j * pitch + i : c + i * pitch + j;
    }

    // (i, j) and (i, j + 1); zeros outside.
    __device__ __forceinline__ float2 get(u32 i, u32 j) const {
        if (i >= m || j >= n) return make_float2(0.0f, 0.0f);
        if (!C_TRANSPOSED && paired && j + 1 < n) {
#if C_IS_FLOAT
            return *reinterpret_cast<const float2 *>(at(i, j));
#else
            u32 pair = *reinterpret_cast<const u32 *>(at(i, j));
            return make_float2(low(pair), high(pair));
#endif
        }
        return make_float2(widen(*at(i, j)), j + 1 < n ? widen(*at(i, j + 1)) : 0.0f);
    }
    __device__ __forceinline__ void put(u32 i, u32 j, float2 x) const {
        if (i >= m || j >= n) return;
        if (!C_TRANSPOSED && paired && j + 1 < n) {
#if C_IS_FLOAT
            *reinterpret_cast<float2 *>(at(i, j)) = x;
#else
            *reinterpret_cast<u32 *>(at(i, j)) = pack(x.x, x.y);
#endif
            return;
        }
        *at(i, j) = narrow<out>(x.x);
        if (j + 1 < n) *at(i, j + 1) = narrow<out>(x.y);
    }

    // Prefetches the 64 × TILE_N elements that a consumer will add to.
    __device__ __forceinline__ void prefetch(u32 row, u32 col) const {
        const u32 LINE = 128 / sizeof(out), ROWS = C_TRANSPOSED ? TILE_N : 64, COLS = C_TRANSPOSED ? 64 : TILE_N;
        const u32 LINES = (COLS + LINE - 1) / LINE;
#pragma unroll
        for (u32 e = threadIdx.x % 128; e < ROWS * LINES; e += 128) {
            u32 y = e / LINES, x = e % LINES * LINE, i = row + (C_TRANSPOSED ? x : y), j = col + (C_TRANSPOSED ? y : x);
            if (i < m && j < n) asm volatile("prefetch.global.L2 [%0];" ::"l"(at(i, j)));
        }
    }
};

// 64 × TILE_N of a consumer. Reads come before writes, some at a time, so that they do not wait for each other.
__device__ __forceinline__ void store(const Output &c, const float (&d)[TILE_N / 2], u32 row, u32 col, float alpha) {
    const u32 PAIRS = TILE_N / 4, AT_ONCE = PAIRS % 16 == 0 && !C_TRANSPOSED ? 16 : 4;
    row += fragment_row(), col += fragment_column();
#pragma unroll
    for (u32 first = 0; first < PAIRS; first += AT_ONCE) {
        float2 x[AT_ONCE] = {};
#pragma unroll
        for (u32 k = 0; C_ADD && k < AT_ONCE; k++) x[k] = c.get(row + k % 2 * 8, col + (first + k) / 2 * 8);
#pragma unroll
        for (u32 k = 0; k < AT_ONCE; k++) {
            x[k].x = fmaf(alpha, d[2 * (first + k)], x[k].x), x[k].y = fmaf(alpha, d[2 * (first + k) + 1], x[k].y);
            c.put(row + k % 2 * 8, col + (first + k) / 2 * 8, x[k]);
        }
    }
}

#if C_BULK
constexpr u32 BULK_COLS = 128 / sizeof(out);

// 64 × TILE_N of a consumer, all inside the matrix, through two buffers of 64 swizzled rows of 128 bytes in turn. `turn`,
// 0 or 1, goes on from tile to tile: a tile may have an odd number of parts.
__device__ __forceinline__ void store_bulk(const TensorMap *c, const float (&d)[TILE_N / 2], u32 row, u32 col,
                                           float alpha, u32 buffers, u32 &turn, u32 barrier) {
    u32 t = threadIdx.x % 128, lane = t % 32;
#pragma unroll
    for (u32 part = 0; part < TILE_N / BULK_COLS; part++) {
        u32 buffer = buffers + turn * BULK_BYTES;
        turn ^= 1;
        const float *x = d + part * BULK_COLS / 2;
        if (t == 0) tma_store_wait<1>();
        named_barrier_sync(barrier, 128);
#if C_IS_FLOAT
        // Columns 8 k + 2 (lane % 4) and their right neighbours: half of the 16-byte chunk 2 k + lane % 4 / 2.
#pragma unroll
        for (u32 k = 0; k < BULK_COLS / 8; k++)
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                u32 y = fragment_row() + 8 * half, chunk = (2 * k + lane % 4 / 2) ^ (y % 8);
                asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(buffer + y * 128 + chunk * 16 + lane % 2 * 8),
                             "f"(alpha * x[4 * k + 2 * half]), "f"(alpha * x[4 * k + 2 * half + 1])
                             : "memory");
            }
#else
        u32 y = t / 32 * 16 + lane / 8 % 2 * 8 + lane % 8;
#pragma unroll
        for (u32 k = 0; k < 8; k += 2)
            stmatrix4(buffer + y * 128 + ((k + lane / 16) ^ (lane % 8)) * 16,
                      pack(alpha * x[4 * k], alpha * x[4 * k + 1]), pack(alpha * x[4 * k + 2], alpha * x[4 * k + 3]),
                      pack(alpha * x[4 * k + 4], alpha * x[4 * k + 5]),
                      pack(alpha * x[4 * k + 6], alpha * x[4 * k + 7]));
#endif
        fence_async_shared();
        named_barrier_sync(barrier, 128);
        if (t == 0) {
            if (C_ADD) tma_add2(c, buffer, col + BULK_COLS * part, row);
            else tma_store2(c, buffer, col + BULK_COLS * part, row);
            tma_store_commit();
        }
    }
}
#endif

// Tiles that were cut. Each consumer writes its part of the sum to memory, in the order of its registers, and goes on. When all
// its work is done it returns to them and adds up, in the order of K, its share of the columns. A unit cuts at most two tiles:
// the one it begins in and the one it ends in. The counter of a tile: in the lower half the units that have written
// their part, in the upper half those that are done with the tile.
struct Cut {
    const Walk &walk;
    float *partials;
    u32 *counters;
    u32 lane, barrier; // the consumer within its cluster; its named barrier

    // 16 bytes of every thread for each eight columns.
    __device__ __forceinline__ float4 *part(u32 unit, bool begins) const {
        u64 tile = (2 * unit + begins) * 2 * CLUSTER + lane;
        return reinterpret_cast<float4 *>(partials) + tile * (TILE_N / 8 * 128) + threadIdx.x % 128;
    }
    __device__ __forceinline__ u32 *counter(const Piece &p) const {
        return counters + (p.tile - walk.work->whole) * 2 * CLUSTER + lane;
    }
    __device__ __forceinline__ u32 first(const Piece &p) const { return walk.owner(p.first_step); }
    __device__ __forceinline__ u32 last(const Piece &p) const {
        return walk.owner(p.first_step + p.group->steps - 1);
    }

    __device__ __forceinline__ void leave(const Piece &p, const float (&d)[TILE_N / 2]) const {
        float4 *to = part(walk.unit, p.begin == 0);
#pragma unroll
        for (u32 k = 0; k < TILE_N / 8; k++)
            __stcg(to + k * 128, make_float4(d[4 * k], d[4 * k + 1], d[4 * k + 2], d[4 * k + 3]));
        asm volatile("fence.acq_rel.gpu;" ::: "memory");
        named_barrier_sync(barrier, 128);
        if (threadIdx.x % 128 == 0) atomicAdd(counter(p), 1);
    }

    // One thread: waits until all parts are there. All blocks are resident (see the head), so they will be.
    __device__ __forceinline__ void wait(const Piece &p) const {
        u32 count = last(p) - first(p) + 1, seen;
        do asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(seen) : "l"(counter(p)) : "memory");
        while (seen % 65536 < count);
    }
    // One thread, after all have read. The last one clears the counter for the next launch.
    __device__ __forceinline__ void done(const Piece &p) const {
        if (atomicAdd(counter(p), 65536) / 65536 == last(p) - first(p)) *counter(p) = 0;
    }

    // `room`: this consumer's half of the stages. Loops stay loops: this code runs once, and fetching more instructions
    // would cost more than it saves.
    __device__ __forceinline__ void add_up(const Piece &p, const Output &c, u32 row, float alpha, u32 room) const {
        const u32 SLOT = 128 * 16, SLOTS = STAGES * STAGE_BYTES / 2 / SLOT;
        u32 first = this->first(p), last = this->last(p), count = last - first + 1, mine = walk.unit - first;
        u32 k = mine * (TILE_N / 8) / count, end = (mine + 1) * (TILE_N / 8) / count;
        u32 parts = (end - k) * count, next = first, unit = first, col = p.col + fragment_column() + 8 * k;
        row += fragment_row(), room += threadIdx.x % 128 * 16;
        float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
        // Each thread fetches what it will add itself: no barrier.
        for (u32 at = 0; at < parts; at += SLOTS) {
            u32 slots = min(parts - at, SLOTS);
#pragma unroll 1
            for (u32 i = 0; i < slots; i++) {
                cp_async16(room + i * SLOT, part(next, next == first) + k * 128);
                if (next++ == last) next = first, k++;
            }
            cp_async_commit();
            cp_async_wait<0>();
#pragma unroll 1
            for (u32 i = 0; i < slots; i++) {
                float4 v;
                asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                             : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                             : "r"(room + i * SLOT));
                sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
                if (unit++ < last) continue;
                float2 x = {0.0f, 0.0f}, y = {0.0f, 0.0f};
                if (C_ADD) x = c.get(row, col), y = c.get(row + 8, col);
                c.put(row, col, make_float2(fmaf(alpha, sum.x, x.x), fmaf(alpha, sum.y, x.y)));
                c.put(row + 8, col, make_float2(fmaf(alpha, sum.z, y.x), fmaf(alpha, sum.w, y.y)));
                unit = first, col += 8;
                sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            }
        }
    }
};

extern "C" __global__ void
#if CLUSTER > 1
__cluster_dims__(CLUSTER, 1, 1)
#endif
__launch_bounds__(384, 1)
gemm_wgmma(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b,
           const __grid_constant__ TensorMap a2, const __grid_constant__ TensorMap b2,
           const __grid_constant__ TensorMap c_map, const __grid_constant__ Work work, out *c, u64 pitch, float alpha,
           float *partials, u32 *counters) {
    extern __shared__ u8 memory[];
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
    if (threadIdx.x == 32) {
        tma_prefetch_map(&a), tma_prefetch_map(&b);
        if (C_BULK) tma_prefetch_map(&c_map);
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
        u32 who = threadIdx.x / 128 - 1, barrier = 1 + who;
        Cut sums{walk, partials, counters, rank * 2 + who, barrier};
        Piece cut_first, cut_last;
        u32 cuts = 0;
#if C_BULK
        u32 turn = 0;
#endif
        float d[TILE_N / 2];
        while (walk.next(p)) {
            const Group &g = *p.group;
            u32 row = p.row + rank * TILE_M + who * 64, done = 0;
            bool cut = p.end - p.begin < g.steps;
            if (C_ADD && !cut) Output(c, pitch, g).prefetch(row, p.col);
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

            if (cut) {
                sums.leave(p, d);
                if (cuts++ == 0) cut_first = p;
                else cut_last = p;
                continue;
            }
#if C_BULK
            if (row + 64 <= g.m && p.col + TILE_N <= g.n) {
                store_bulk(&c_map, d, g.c_row + row, g.c_col + p.col, alpha, buffers + who * 2 * BULK_BYTES, turn,
                           barrier);
                continue;
            }
#endif
            store(Output(c, pitch, g), d, row, p.col, alpha);
        }
#if C_BULK
        if (threadIdx.x % 128 == 0) tma_store_wait<0>();
#endif
        // The tiles that were cut. Once both consumers are here, the stages are empty.
        named_barrier_sync(3, 256);
        if (cuts > 0) {
            u32 t = threadIdx.x % 128, row = rank * TILE_M + who * 64;
            if (t == 0) sums.wait(cut_first);
            if (t == 32 && cuts == 2) sums.wait(cut_last);
            named_barrier_sync(barrier, 128);
#pragma unroll 1
            for (u32 i = 0; i < cuts; i++) {
                p = i == 0 ? cut_first : cut_last;
                u32 room = tiles + who * (STAGES * STAGE_BYTES / 2);
                sums.add_up(p, Output(c, pitch, *p.group), p.row + row, alpha, room);
            }
            named_barrier_sync(barrier, 128);
            if (t == 0) sums.done(cut_first);
            if (t == 32 && cuts == 2) sums.done(cut_last);
        }
    }
    // A block stays until no other can reach into its shared memory.
    if (CLUSTER > 1) cluster_sync();
}

#endif
