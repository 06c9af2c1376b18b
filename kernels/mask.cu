// Which tokens may come.  Maths, CPU reference: src/ops/mask.rs
//   mask_rows   logits[n, v] = −∞ where bit v % 32 of masks[rows[n], v / 32] is 0; rows whose mask is ~0 stay as they are
//   logits (N, V) float    masks (any, ceil(V / 32)), rows (N) u32
//
//   launch     grid (ceil(V / 1024), N), 256 threads, 4 tokens each
//   traffic    N V / 8 bytes read, 4 for each token that is ruled out; bandwidth-bound
//   numerics   exact
//   measured   not benched: one launch a decoding step, and only rows under a mask are touched
#include "prelude.cuh"

extern "C" __global__ void __launch_bounds__(256)
    mask_rows(float *logits, const u32 *masks, const u32 *rows, u32 v) {
    const u32 mask = rows[blockIdx.y], token = blockIdx.x * 1024 + threadIdx.x * 4;
    if (mask == ~0u || token >= v) return;
    const u32 bits = masks[(u64)mask * ((v + 31) / 32) + token / 32] >> token % 32;
    float *row = logits + (u64)blockIdx.y * v;
#pragma unroll
    for (u32 j = 0; j < 4; j++)
        if (token + j < v && (bits >> j & 1) == 0) row[token + j] = -INFINITY_F;
}
