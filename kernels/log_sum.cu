// The log of a row's sum of exponentials, without some tokens of it, and the logits of those.  Maths, CPU reference:
// src/ops/log_sum.rs
//   log_sum_rows   out[n] = ln Σ_v exp logits[n, v] over the v not in tokens[starts[n] … starts[n + 1]],
//                  out[N + i] = logits[n, tokens[i]] for the i of row n; that logit becomes −∞
//   logits (N, V) float    starts (N + 1), tokens (starts[N]) u32, below V, distinct in a row    out (N + starts[N]) float
//
//   load-time  V; BLOCK (threads, a multiple of 32); CLUSTER (blocks a row; 1 below compute capability 9.0)
//   launch     N · CLUSTER blocks
//   traffic    4 N V bytes: bandwidth-bound
//   numerics   float, with the card's own exponential; sums by thread, lane, warp and block of the cluster, in order
//   measured   not benched: does what cross_entropy_rows does without a gradient
#include "exponential_sum.cuh"

#if CLUSTER == 1 || ARCH >= 90

extern "C" __global__ void IN_CLUSTERS __launch_bounds__(BLOCK, 1)
    log_sum_rows(float *out, float *logits, const u32 *tokens, const u32 *starts) {
    __shared__ Sum sums[CLUSTER * WARPS];
    row_begin();
    const u32 row = blockIdx.x / CLUSTER, rank = rank_of_block(), first = first_of(rank), count = count_of(rank);
    float *from = logits + (u64)row * V + first;
    for (u32 i = starts[row] + threadIdx.x; i < starts[row + 1]; i += BLOCK) {
        const u32 at = tokens[i] - first;
        if (at < count) out[gridDim.x / CLUSTER + i] = from[at], from[at] = -INFINITY_F;
    }
    __syncthreads();
    Sum own{-INFINITY_F, 0.0f};
#pragma unroll 4
    for (u32 i = threadIdx.x * WIDTH; i < count; i += BLOCK * WIDTH) {
        float x[WIDTH];
        load_floats(x, from + i);
        add(own, x);
    }
    const Sum all = row_merge(own, sums);
    if (threadIdx.x == 0 && rank == 0) out[row] = all.max + logf(all.sum);
}

#endif // CLUSTER == 1 || ARCH >= 90
