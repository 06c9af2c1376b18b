// Loss of a chunk of logits, and their gradient.  Maths, CPU reference: src/ops/linear_cross_entropy.rs
//   cross_entropy_rows   lse = ln Σ_v exp logits,  nll = lse − logits[target],
//                        dlogits = weight · (exp(logits − lse) − onehot), unless dlogits is null
//   logits (n, V) float    dlogits (n, V) real    nll, lse (n) float    targets (n) u32, below V
//
//   load-time  V; BLOCK (threads, a multiple of 32); CLUSTER (blocks a row; 1 below compute capability 9.0);
//              RESIDENT (1: a row stays in shared memory; 0: it is read twice)
//   launch     n · CLUSTER blocks; if RESIDENT, 4 · (V / CLUSTER, rounded up to a multiple of 4) bytes of shared memory
//   traffic    n · V · (4 + size of real) bytes (4 without the gradient): bandwidth-bound
//   numerics   float, with the card's own exponential; sums by thread, lane, warp and block of the cluster, in order; dlogits is
//              rounded once
//   measured   cargo bench --bench ops -- linear_cross_entropy
#include "exponential_sum.cuh"

#if CLUSTER == 1 || ARCH >= 90

#if RESIDENT
extern __shared__ float4 slice[];
// The loads of a slice, in groups that are worked on as they arrive.
static const int GROUPS = 4;
#endif

extern "C" __global__ void IN_CLUSTERS __launch_bounds__(BLOCK, 1)
    cross_entropy_rows(float *nll, float *lse, real *dlogits, const float *logits, const u32 *targets, float weight) {
    __shared__ Sum sums[CLUSTER * WARPS];
    row_begin();
    const u32 row = blockIdx.x / CLUSTER, rank = rank_of_block(), first = first_of(rank), count = count_of(rank);
    const float *from = logits + (u64)row * V + first;
    // 1. this thread's maximum and sum
    Sum own{-INFINITY_F, 0.0f};
#if RESIDENT
    float *z = reinterpret_cast<float *>(slice);
    const u32 step = (SLICE / WIDTH + GROUPS * BLOCK - 1) / (GROUPS * BLOCK) * BLOCK * WIDTH;
#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
        const u32 end = (g + 1) * step < count ? (g + 1) * step : count;
        for (u32 i = g * step + threadIdx.x * WIDTH; i < end; i += BLOCK * WIDTH) {
            if constexpr (WIDTH == 4)
                cp_async16(shared_address(z + i), from + i);
            else
                z[i] = from[i];
        }
        cp_async_commit();
    }
    const auto work = [&](int g) {
        const u32 end = (g + 1) * step < count ? (g + 1) * step : count;
        for (u32 i = g * step + threadIdx.x * WIDTH; i < end; i += BLOCK * WIDTH) {
            float x[WIDTH];
            load_floats(x, z + i);
            add(own, x);
        }
    };
    cp_async_wait<3>(), work(0);
    cp_async_wait<2>(), work(1);
    cp_async_wait<1>(), work(2);
    cp_async_wait<0>(), work(3);
#else
    const float *z = from;
#pragma unroll 4
    for (u32 i = threadIdx.x * WIDTH; i < count; i += BLOCK * WIDTH) {
        float x[WIDTH];
        load_floats(x, z + i);
        add(own, x);
    }
#endif
    // 2. the row's
    const Sum all = row_merge(own, sums);
    const u32 target = targets[row];
    if (threadIdx.x == 0 && rank == 0) {
        const float total = all.max + logf(all.sum);
        lse[row] = total;
        nll[row] = total - logits[(u64)row * V + target];
    }
    if (!dlogits) return;
    // 3. the gradient
    const float factor = weight / all.sum;
    real *to = dlogits + (u64)row * V + first;
    const u32 chosen = target - first;
#pragma unroll 2
    for (u32 i = threadIdx.x * WIDTH; i < count; i += BLOCK * WIDTH) {
        float x[WIDTH];
        load_floats(x, z + i);
#pragma unroll
        for (int j = 0; j < WIDTH; j++) x[j] = exponential(x[j] - all.max) * factor - (i + j == chosen ? weight : 0.0f);
        store(to + i, x);
    }
}

#endif // CLUSTER == 1 || ARCH >= 90
