// max and Σ exp(x − max) over a row of V float, cut among the blocks of a cluster: kernels/cross_entropy.cu and log_sum.cu.
#pragma once
#include "prelude.cuh"
#include "hopper.cuh"
#include "slices.cuh"

#if CLUSTER == 1 || ARCH >= 90

// e^x, x ≤ 0: within 2⁻²² (1 + |x|) of its value.
__device__ __forceinline__ float exponential(float x) { return __expf(x); }

// max and Σ exp(x − max) of some numbers.
struct Sum {
    float max, sum;
};
__device__ __forceinline__ Sum merge(const Sum &a, const Sum &b) {
    const float max = fmaxf(a.max, b.max);
    // Nothing yet on either side: no ∞ − ∞.
    if (max == -INFINITY_F) return Sum{max, a.sum + b.sum};
    return Sum{max, a.sum * exponential(a.max - max) + b.sum * exponential(b.max - max)};
}
__device__ __forceinline__ Sum warp_merge(Sum x) {
#pragma unroll
    for (int lane = 16; lane > 0; lane >>= 1)
        x = merge(x, Sum{__shfl_xor_sync(~0u, x.max, lane), __shfl_xor_sync(~0u, x.sum, lane)});
    return x;
}

// Numbers that one thread adds. A NaN is left out of max and spoils the sum.
__device__ __forceinline__ void add(Sum &own, const float (&x)[WIDTH]) {
    float max = own.max;
#pragma unroll
    for (int j = 0; j < WIDTH; j++) max = fmaxf(max, x[j]);
    const float base = max == -INFINITY_F ? 0.0f : max;
    own.sum *= exponential(own.max - base);
#pragma unroll
    for (int j = 0; j < WIDTH; j++) own.sum += exponential(x[j] - base);
    own.max = max;
}

// Which part of its row a block has.
__device__ __forceinline__ u32 rank_of_block() {
#if CLUSTER > 1
    return cluster_rank();
#else
    return 0;
#endif
}
__device__ __forceinline__ u32 first_of(u32 rank) { return rank * SLICE < V ? rank * SLICE : V; }
__device__ __forceinline__ u32 count_of(u32 rank) { return V - first_of(rank) < SLICE ? V - first_of(rank) : SLICE; }

// Before row_merge: no block writes into another that has not begun.
__device__ __forceinline__ void row_begin() {
#if CLUSTER > 1
    cluster_arrive();
#endif
}
// The row's: every warp gives its part to every block, all merge the same parts in the same order.
__device__ __forceinline__ Sum row_merge(Sum own, Sum (&sums)[CLUSTER * WARPS]) {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    own = warp_merge(own);
#if CLUSTER > 1
    cluster_wait();
    if (lane < CLUSTER)
        asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};" ::"r"(cluster_address(
                         shared_address(&sums[rank_of_block() * WARPS + warp]), lane)),
                     "f"(own.max), "f"(own.sum)
                     : "memory");
    cluster_sync();
#else
    if (lane == 0) sums[warp] = own;
    __syncthreads();
#endif
    Sum all{-INFINITY_F, 0.0f};
    for (u32 i = lane; i < CLUSTER * WARPS; i += 32) all = merge(all, sums[i]);
    return warp_merge(all);
}

#endif // CLUSTER == 1 || ARCH >= 90
