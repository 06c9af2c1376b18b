// What the kernels of attention over packed documents share: which rows are seen, 2^x, the ring of tiles, a transposition.
#pragma once
#include "prelude.cuh"
#include "hopper.cuh"

const float LOG2_E = 1.4426950408889634f;

// The first row that query row `i` sees.
__device__ __forceinline__ u32 first_visible(u32 i, u32 document, u32 window) {
    return i - document < window ? document : i + 1 - window;
}

// 2^x by the card's own instruction.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Thread c of four holds x[i] = element (i, c); afterwards x[i] = element (c, i).
__device__ __forceinline__ void transpose_quad(u32 (&x)[4]) {
    bool odd = threadIdx.x & 1, upper = threadIdx.x & 2;
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        u32 y = __shfl_xor_sync(~0u, odd ? x[i] : x[i + 1], 1);
        if (odd) x[i] = y;
        else x[i + 1] = y;
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        u32 y = __shfl_xor_sync(~0u, upper ? x[i] : x[i + 2], 2);
        if (upper) x[i] = y;
        else x[i + 2] = y;
    }
}

#if ARCH >= 90

// A ring of SIZE slots: a barrier for full, one for empty, each. `n` counts uses.
template <u32 SIZE> struct Ring {
    u32 barriers;
    __device__ u32 full(u32 n) const { return barriers + n % SIZE * 8; }
    __device__ u32 empty(u32 n) const { return barriers + (SIZE + n % SIZE) * 8; }
    __device__ void init(u32 producers, u32 consumers) const {
        for (u32 n = 0; n < SIZE; n++) mbarrier_init(full(n), producers), mbarrier_init(empty(n), consumers);
    }
    __device__ void wait_full(u32 n) const { mbarrier_wait(full(n), n / SIZE & 1); }
    __device__ void wait_empty(u32 n) const { mbarrier_wait(empty(n), n / SIZE & 1 ^ 1); }
};

#endif
