// Tensor-core and copy-engine instructions, one thin wrapper each, named as in the PTX ISA.
//
//   sm_80 and up   cp.async, ldmatrix, mma.sync, named barriers
//   sm_90 and up   mbarrier, TMA (cp.async.bulk.tensor), clusters, stmatrix
//   sm_90a         wgmma, setmaxnreg
//
// Shared-memory arguments are 32-bit addresses in the shared window (`shared_address`).
#pragma once

__device__ __forceinline__ u32 shared_address(const void *p) { return (u32)__cvta_generic_to_shared(p); }

// ---- sm_80 and up --------------------------------------------------------------------------------------------------

// Copies 16 bytes global → shared; reads only the first `bytes` (0 … 16) and fills the rest with zeros.
__device__ __forceinline__ void cp_async16(u32 to, const void *from, u32 bytes = 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most N of this thread's committed groups are pending.
template <int N> __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
// A vector global → shared; not asynchronous where rows may start anywhere.
template <typename T, int WIDTH> __device__ __forceinline__ void cp_async_held(Held<T, WIDTH> *to, const T *from) {
    if constexpr (WIDTH == 1)
        hold(*to, from);
    else
        cp_async16(shared_address(to), from);
}

// Four 8×8 matrices of 16-bit elements; lane l names row l % 8 of matrix l / 8. Lane l receives elements
// (l / 4, 2 (l % 4)) and its right neighbour of each; with `trans`, of each matrix transposed.
__device__ __forceinline__ void ldmatrix4(u32 (&r)[4], u32 row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}
__device__ __forceinline__ void ldmatrix4_trans(u32 (&r)[4], u32 row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}

// d (16×8) += a (16×16) · b (16×8), bf16 in, float out. d[4] is the fragment that tile.cuh draws. With g = lane / 4 and
// c = 2 (lane % 4):
//   a[0] (g, c)  a[1] (g + 8, c)  a[2] (g, c + 8)  a[3] (g + 8, c + 8), each with its right neighbour
//   b0 (c, g)  b1 (c + 8, g), each with the element below
__device__ __forceinline__ void mma16816(float *d, const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Barrier `id` (1 … 15; 0 is __syncthreads) over `threads` threads.
__device__ __forceinline__ void named_barrier_sync(u32 id, u32 threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void named_barrier_arrive(u32 id, u32 threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

#if ARCH >= 90

// ---- mbarrier: a phase completes when all expected arrivals and all expected bytes have arrived ------------------------

__device__ __forceinline__ void mbarrier_init(u32 bar, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(arrivals) : "memory");
}
// After the inits: makes them visible to the copy engine and to the cluster (then synchronise the threads).
__device__ __forceinline__ void mbarrier_init_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void mbarrier_arrive(u32 bar) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}
// The same barrier in block `rank` of the cluster. It says that this thread no longer reads something (through wgmma or
// ldmatrix). It does not make this thread's writes visible to that block: that would take a fence for the whole card.
__device__ __forceinline__ void mbarrier_arrive_at(u32 bar, u32 rank) {
    asm volatile("{ .reg .b32 far; mapa.shared::cluster.u32 far, %0, %1;\n\t"
                 "mbarrier.arrive.shared::cluster.b64 _, [far]; }" ::"r"(bar),
                 "r"(rank)
                 : "memory");
}
// Arrives and adds `bytes` to what the phase waits for.
__device__ __forceinline__ void mbarrier_arrive_expect(u32 bar, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
__device__ __forceinline__ bool mbarrier_try(u32 bar, u32 parity) {
    u32 done;
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2;\n\t"
                 "selp.u32 %0, 1, 0, p; }"
                 : "=r"(done)
                 : "r"(bar), "r"(parity)
                 : "memory");
    return done;
}
// Returns when the phase of this parity has completed: parity 0 waits for the first phase; parity 1 returns at once on a
// fresh barrier.
__device__ __forceinline__ void mbarrier_wait(u32 bar, u32 parity) {
    while (!mbarrier_try(bar, parity)) {
    }
}

// ---- TMA -----------------------------------------------------------------------------------------------------------

// CUtensorMap, passed by value: `const __grid_constant__ TensorMap map`.
struct alignas(64) TensorMap {
    u64 words[16];
};

__device__ __forceinline__ void tma_prefetch_map(const TensorMap *map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Global → shared. `x` counts along the fastest axis and must be a multiple of 16 bytes (else: illegal instruction), in
// stores too. Elements outside the map arrive as zeros and count as bytes. Called by one thread.
__device__ __forceinline__ void tma_load2(u32 to, const TensorMap *map, u32 bar, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
                 ::"r"(to), "l"(map), "r"(bar), "r"(x), "r"(y)
                 : "memory");
}
// `bytes` bytes in one piece, a multiple of 16. Called by one thread.
__device__ __forceinline__ void bulk_load(u32 to, const void *from, u32 bytes, u32 bar) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(bar)
                 : "memory");
}
// To the same offset in every block of the cluster whose bit is set in `mask`, counting on each block's own barrier.
__device__ __forceinline__ void tma_load2_multicast(u32 to, const TensorMap *map, u32 bar, int x, int y, u16 mask) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
                 "[%0], [%1, {%3, %4}], [%2], %5;" ::"r"(to),
                 "l"(map), "r"(bar), "r"(x), "r"(y), "h"(mask)
                 : "memory");
}
// Shared → global; elements outside the map are not written. Before it, in each thread that wrote the shared memory:
// `fence_async_shared`, then a barrier. Called by one thread, which also commits and waits.
__device__ __forceinline__ void tma_store2(const TensorMap *map, u32 from, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map), "r"(from),
                 "r"(x), "r"(y)
                 : "memory");
}
// Adds instead of overwriting.
__device__ __forceinline__ void tma_add2(const TensorMap *map, u32 from, int x, int y) {
    asm volatile("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(
                     map),
                 "r"(from), "r"(x), "r"(y)
                 : "memory");
}
__device__ __forceinline__ void tma_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Until at most N committed stores still read their shared memory.
template <int N> __device__ __forceinline__ void tma_store_wait() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}
// Orders this thread's ordinary writes to shared memory before the copy engine's and tensor cores' accesses.
__device__ __forceinline__ void fence_async_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- clusters ------------------------------------------------------------------------------------------------------

__device__ __forceinline__ u32 cluster_rank() {
    u32 rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.aligned;" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.aligned;" ::: "memory"); }
__device__ __forceinline__ void cluster_sync() {
    cluster_arrive();
    cluster_wait();
}
// Address, in the cluster's window, of `address` in block `rank`.
__device__ __forceinline__ u32 cluster_address(u32 address, u32 rank) {
    u32 far;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(far) : "r"(address), "r"(rank));
    return far;
}

// ---- stmatrix ------------------------------------------------------------------------------------------------------

// The inverse of ldmatrix4: lane l names row l % 8 of matrix l / 8.
__device__ __forceinline__ void stmatrix4(u32 row, u32 r0, u32 r1, u32 r2, u32 r3) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(r0), "r"(r1),
                 "r"(r2), "r"(r3)
                 : "memory");
}

#endif // ARCH >= 90

#if ARCH == 90

// ---- wgmma: a warpgroup (128 threads, first warp a multiple of 4) multiplies 64×16 by 16×N --------------------------
//
// d[N / 2] holds the fragment that tile.cuh draws. A in registers: a[0] (16 w + g, 2 c), a[1] 8 rows below, a[2] 8 columns to
// the right, a[3] both: two neighbours each, so that d[8 k … 8 k + 8] of one product, packed in pairs, is the A of the k-th 16
// columns of the next.
//
// Order: wgmma_fence, the products, wgmma_commit, wgmma_wait<pending groups>. Between the first and the last nothing may
// touch d, or the compiler serialises them.

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> __device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// Shared-memory descriptors for 128-byte swizzle: `tile` is where TMA, with the same swizzle, wrote rows of 128 bytes
// (64 elements), 1024-byte aligned; 8 rows are one swizzle atom.
//
// K-major (rows run along M or N, the 64 elements along K): atoms of 8 rows follow each other at 1024 bytes.
// The next 16 of K are 32 bytes on.
__device__ __forceinline__ u64 wgmma_k_major(u32 tile) {
    return (u64)((tile & 0x3ffff) >> 4) | 1ull << 16 | (u64)(1024 >> 4) << 32 | 1ull << 62;
}
// MN-major (rows run along K, the 64 elements along M or N): atoms of 8 rows of K follow at 1024 bytes, and the next 64
// of M or N begin `panel` bytes on. The next 16 of K are 2048 bytes on.
__device__ __forceinline__ u64 wgmma_mn_major(u32 tile, u32 panel) {
    return (u64)((tile & 0x3ffff) >> 4) | (u64)(panel >> 4) << 16 | (u64)(1024 >> 4) << 32 | 1ull << 62;
}
// The descriptor `bytes` further on.
__device__ __forceinline__ u64 wgmma_advance(u64 descriptor, u32 bytes) { return descriptor + (bytes >> 4); }

// Wgmma<N>::mma<MN_A, MN_B>(d, a, b, add): d = a · b, or d += a · b. MN_A, MN_B: 1 if that operand is MN-major.
// Wgmma<N>::mma<MN_B>(d, a registers, b, add): A from registers, K-major.
template <int N> struct Wgmma;

// Operand numbers in tens, so that a list of up to 128 registers is short to write: TEN(3) is %30 … %39.
#define TEN(p)                                                                                                         \
    "%" #p "0,%" #p "1,%" #p "2,%" #p "3,%" #p "4,%" #p "5,%" #p "6,%" #p "7,%" #p "8,%" #p "9"
#define OUT4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define OUT8(i) OUT4(i), OUT4(i + 4)
#define OUT16(i) OUT8(i), OUT8(i + 8)
#define OUT32(i) OUT16(i), OUT16(i + 16)
#define OUT64(i) OUT32(i), OUT32(i + 32)

// i0 … i6: the numbers of the operands after the accumulators.
#define WGMMA(N, REGISTERS, i0, i1, i2, i3, i4, i5, i6, ...)                                                           \
    template <> struct Wgmma<N> {                                                                                      \
        template <int MN_A, int MN_B>                                                                                  \
        static __device__ __forceinline__ void mma(float (&d)[N / 2], u64 a, u64 b, u32 add) {                         \
            asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #i2 ", 0;\n\t"                                             \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" REGISTERS "}, %" #i0 ", %" #i1   \
                         ", p, 1, 1, %" #i3 ", %" #i4 "; }"                                                            \
                         : __VA_ARGS__                                                                                 \
                         : "l"(a), "l"(b), "r"(add), "n"(MN_A), "n"(MN_B));                                            \
        }                                                                                                              \
        template <int MN_B>                                                                                            \
        static __device__ __forceinline__ void mma(float (&d)[N / 2], const u32 (&a)[4], u64 b, u32 add) {             \
            asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #i5 ", 0;\n\t"                                             \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" REGISTERS "}, {%" #i0 ", %" #i1  \
                         ", %" #i2 ", %" #i3 "}, %" #i4 ", p, 1, 1, %" #i6 "; }"                                       \
                         : __VA_ARGS__                                                                                 \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(MN_B));                   \
        }                                                                                                              \
    };
#define TENS4 TEN() "," TEN(1) "," TEN(2) "," TEN(3)
#define TENS6 TENS4 "," TEN(4) "," TEN(5)
#define TENS8 TENS6 "," TEN(6) "," TEN(7)
#define TENS9 TENS8 "," TEN(8)
#define TENS12 TENS9 "," TEN(9) "," TEN(10) "," TEN(11)
// The widths that src/device/gemm/hopper.rs plans and attention_forward.cu and attention_backward.cu use.
WGMMA(16, "%0, %1, %2, %3, %4, %5, %6, %7", 8, 9, 10, 11, 12, 13, 14, OUT8(0))
WGMMA(32, TEN() "," "%10, %11, %12, %13, %14, %15", 16, 17, 18, 19, 20, 21, 22, OUT16(0))
WGMMA(64, TEN() "," TEN(1) "," TEN(2) "," "%30, %31", 32, 33, 34, 35, 36, 37, 38, OUT32(0))
WGMMA(96, TENS4 "," "%40, %41, %42, %43, %44, %45, %46, %47", 48, 49, 50, 51, 52, 53, 54, OUT32(0), OUT16(32))
WGMMA(128, TENS6 "," "%60, %61, %62, %63", 64, 65, 66, 67, 68, 69, 70, OUT64(0))
WGMMA(160, TENS8, 80, 81, 82, 83, 84, 85, 86, OUT64(0), OUT16(64))
WGMMA(192, TENS9 "," "%90, %91, %92, %93, %94, %95", 96, 97, 98, 99, 100, 101, 102, OUT64(0), OUT32(64))
WGMMA(256, TENS12 "," "%120, %121, %122, %123, %124, %125, %126, %127", 128, 129, 130, 131, 132, 133, 134, OUT64(0), OUT64(64))
#undef TEN
#undef TENS4
#undef TENS6
#undef TENS8
#undef TENS9
#undef TENS12
#undef OUT4
#undef OUT8
#undef OUT16
#undef OUT32
#undef OUT64
#undef WGMMA

// Moves registers between warpgroups; every warp of the warpgroup executes it. N a multiple of 8. Needs a kernel with
// __launch_bounds__, and the roles in the branches of one `if`.
template <int N> __device__ __forceinline__ void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N> __device__ __forceinline__ void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

#endif // ARCH == 90
