// Moves rows along a direction.  Maths, shapes, CPU reference: src/ops/steer.rs
//   steer_rows   x_n = x_n + (dose − erased · x_n·v) v
//   x (N, C) real    v (C) float
//
//   launch     N blocks of 256 threads
//   traffic    of N·C real: 2, and 3 if erased is not 0; v comes from the cache; bandwidth-bound
//   numerics   float, one rounding at the store; the product is summed by thread, lane, warp, in order
//   measured   not benched: one launch a steered layer, among the hundred of a step
#include "prelude.cuh"

extern "C" __global__ void __launch_bounds__(256)
    steer_rows(real *x, const float *__restrict__ v, u32 c, float dose, float erased) {
    __shared__ float shared[32];
    real *row = x + (u64)blockIdx.x * c;
    float along = 0.0f;
    if (erased != 0.0f) {
        for (u32 i = threadIdx.x; i < c; i += 256) along += widen(row[i]) * v[i];
        along = block_sum<256>(along, shared);
    }
    const float step = dose - erased * along;
    for (u32 i = threadIdx.x; i < c; i += 256) row[i] = narrow<real>(widen(row[i]) + step * v[i]);
}
