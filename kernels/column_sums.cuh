// The second stage of sums over rows, in the same launch as the first: each block has written a row of partial sums, waits for
// the other blocks, and adds up the rows of some columns.
//
//   launch     one dimension; the blocks wait for each other, so all of them must be resident (the launch in src/device
//              guarantees it): a block that waits for one that has not started would wait for ever
//   numerics   float; rows are added in an order that their count alone decides
#pragma once

// Returns when all blocks have arrived; what they wrote before can be read after. `arrived` belongs to this function: zero
// before the first launch; between launches only its uppermost bit changes.
__device__ __forceinline__ void grid_sync(u32 *arrived) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        // Together the blocks add 2³¹.
        const u32 before = atomicAdd(arrived, blockIdx.x == 0 ? 0x80000001u - gridDim.x : 1);
        u32 now;
        do asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(now) : "l"(arrived) : "memory");
        while (((before ^ now) & 0x80000000u) == 0);
    }
    __syncthreads();
}

// *y(c) += Σ_p parts[p · columns + c] over the rows of all blocks. Blocks take 32 columns at a time; in a block of THREADS
// threads warp w adds rows w, w + THREADS / 32, …, then the sums of the warps are added in order.
template <int THREADS, typename Y>
__device__ __forceinline__ void add_columns(Y y, const float *parts, u32 columns, u32 *arrived) {
    const u32 WARPS = THREADS / 32, AT_ONCE = 10; // loads in flight
    __shared__ float sums[WARPS][32];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    // The destinations are in memory, not in the cache: prefetch them while waiting for the other blocks.
    for (u32 c = blockIdx.x * 32 + lane; warp == 0 && c < columns; c += gridDim.x * 32)
        asm volatile("prefetch.global.L2 [%0];" ::"l"(y(c)));
    grid_sync(arrived);
    for (u32 first = blockIdx.x * 32; first < columns; first += gridDim.x * 32) {
        const u32 c = first + lane;
        float sum = 0.0f;
        for (u32 p = warp; p < gridDim.x; p += AT_ONCE * WARPS) {
            float part[AT_ONCE];
#pragma unroll
            for (u32 k = 0; k < AT_ONCE; k++) {
                const u32 row = p + k * WARPS;
                part[k] = c < columns && row < gridDim.x ? __ldcg(parts + (u64)row * columns + c) : 0.0f;
            }
#pragma unroll
            for (u32 k = 0; k < AT_ONCE; k++) sum += part[k];
        }
        sums[warp][lane] = sum;
        __syncthreads();
        if (warp == 0 && c < columns) {
            for (u32 w = 1; w < WARPS; w++) sum += sums[w][lane];
            *y(c) += sum;
        }
        __syncthreads();
    }
}
