// Matrix products with mma.sync and cp.async, for tensor cores from sm_80 up. Correct on any shape whose rows are
// 16-byte aligned; simple rather than tuned (Hopper has gemm_wgmma.cu). Host side: src/device/gemm.rs
//
//   C = alpha · (A·B + A2·B2)   or   C += …
//   A (m, k), A2 (m, k2), B (k, n), B2 (k2, n) bf16; C (m, n) bf16 or float
//   element (i, k) of A lies at a[i · a_pitch + k], or with A_MN at a[k · a_pitch + i];
//   element (k, j) of B lies at b[j · b_pitch + k], or with B_MN at b[k · b_pitch + j]
//   load-time  REAL_IS_FLOAT = 0, A_MN, B_MN, C_IS_FLOAT (element type of C), C_ADD (1: add to C)
//   launch     grid (ceil(m / 128) · ceil(n / 128)), block (256): a 128 × 128 tile a block, 64 × 32 a warp
//              dynamic shared memory: 3 · 20480 bytes
//   work       2·m·n·(k + k2) flops: bound by the tensor cores. Each element of A and B is read once per tile that needs it
//   numerics   bf16 products, float sums along K in order, whatever m and n are; one rounding at the store
//   measured   not benched: no card that needs it was at hand; on Hopper it serves only operands that TMA cannot read
#include "prelude.cuh"

#if !REAL_IS_FLOAT
#include "hopper.cuh"

#if C_IS_FLOAT
typedef float out;
#else
typedef bf16 out;
#endif

constexpr u32 TILE = 128;
constexpr u32 TILE_K = 32;
constexpr u32 STAGES = 3;
// Rows in shared memory, padded so that the eight rows of an ldmatrix fall into different banks.
constexpr u32 K_PITCH = TILE_K + 8; // K-major: 128 rows
constexpr u32 MN_PITCH = TILE + 8;  // MN-major: 32 rows
constexpr u32 OPERAND = TILE * K_PITCH * 2;
constexpr u32 STAGE_BYTES = 2 * OPERAND;

struct Operand {
    const bf16 *x;
    u64 pitch;
};

// 128 × 32 of an operand; zeros outside.
template <int MN>
__device__ __forceinline__ void fetch(u32 to, Operand o, u32 first, u32 count, u32 k0, u32 k) {
#pragma unroll
    for (u32 e = threadIdx.x; e < TILE * TILE_K / 8; e += 256) {
        u32 row = MN ? e / (TILE / 8) : e / (TILE_K / 8), col = MN ? e % (TILE / 8) * 8 : e % (TILE_K / 8) * 8;
        u32 y = row + (MN ? k0 : first), rows = MN ? k : count;
        u32 x = col + (MN ? first : k0), cols = MN ? count : k;
        bool inside = y < rows && x < cols;
        cp_async16(to + (row * (MN ? MN_PITCH : K_PITCH) + col) * 2, inside ? o.x + y * o.pitch + x : o.x,
                   inside ? min(cols - x, 8u) * 2 : 0);
    }
}

// 16 (along M or N) × 16 (along K) of a tile, as four 8 × 8 blocks: `k_second` says whether the second block lies
// further along K (B's order) or along M (A's order).
template <int MN> __device__ __forceinline__ void load(u32 (&r)[4], u32 tile, u32 i, u32 k, bool k_second) {
    u32 lane = threadIdx.x % 32, second = lane / 8 % 2 * 8, third = lane / 16 * 8;
    u32 di = k_second ? third : second, dk = k_second ? second : third;
    if (MN) ldmatrix4_trans(r, tile + ((k + dk + lane % 8) * MN_PITCH + i + di) * 2);
    else ldmatrix4(r, tile + ((i + di + lane % 8) * K_PITCH + k + dk) * 2);
}

__device__ __forceinline__ void put(out *c, u64 pitch, u32 i, u32 j, u32 m, u32 n, float x) {
    if (i >= m || j >= n) return;
    out *p = c + i * pitch + j;
    *p = narrow<out>(C_ADD ? widen(*p) + x : x);
}

extern "C" __global__ void __launch_bounds__(256)
gemm_mma(const bf16 *a, u64 a_pitch, const bf16 *b, u64 b_pitch, u32 k, const bf16 *a2, u64 a2_pitch, const bf16 *b2,
         u64 b2_pitch, u32 k2, out *c, u64 c_pitch, u32 m, u32 n, float alpha) {
    extern __shared__ __align__(16) u8 memory[];
    u32 base = shared_address(memory), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    u32 tiles_m = (m + TILE - 1) / TILE, row = blockIdx.x % tiles_m * TILE, col = blockIdx.x / tiles_m * TILE;
    u32 steps1 = (k + TILE_K - 1) / TILE_K, steps = steps1 + (k2 + TILE_K - 1) / TILE_K;

    auto request = [&](u32 step) {
        u32 to = base + step % STAGES * STAGE_BYTES;
        if (step < steps1) {
            fetch<A_MN>(to, {a, a_pitch}, row, m, step * TILE_K, k);
            fetch<B_MN>(to + OPERAND, {b, b_pitch}, col, n, step * TILE_K, k);
        } else if (step < steps) {
            fetch<A_MN>(to, {a2, a2_pitch}, row, m, (step - steps1) * TILE_K, k2);
            fetch<B_MN>(to + OPERAND, {b2, b2_pitch}, col, n, (step - steps1) * TILE_K, k2);
        }
        cp_async_commit(); // also an empty group: the wait below counts groups
    };

    float d[4][4][4] = {};
    u32 wm = warp / 4 * 64, wn = warp % 4 * 32;
    for (u32 s = 0; s < STAGES - 1; s++) request(s);
    for (u32 step = 0; step < steps; step++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads(); // this stage has arrived for all threads, and none still reads the one that is requested next
        request(step + STAGES - 1);
        u32 tile_a = base + step % STAGES * STAGE_BYTES, tile_b = tile_a + OPERAND;
#pragma unroll
        for (u32 kk = 0; kk < TILE_K; kk += 16) {
            u32 fa[4][4], fb[2][4];
#pragma unroll
            for (u32 i = 0; i < 4; i++) load<A_MN>(fa[i], tile_a, wm + 16 * i, kk, false);
#pragma unroll
            for (u32 j = 0; j < 2; j++) load<B_MN>(fb[j], tile_b, wn + 16 * j, kk, true);
#pragma unroll
            for (u32 i = 0; i < 4; i++)
#pragma unroll
                for (u32 j = 0; j < 4; j++) mma16816(d[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]);
        }
    }
    row += wm + lane / 4, col += wn + lane % 4 * 2;
#pragma unroll
    for (u32 i = 0; i < 4; i++)
#pragma unroll
        for (u32 j = 0; j < 4; j++)
#pragma unroll
            for (u32 e = 0; e < 4; e++)
                put(c, c_pitch, row + 16 * i + e / 2 * 8, col + 8 * j + e % 2, m, n, alpha * d[i][j][e]);
}

#endif
