// Initial weights.  CPU reference: src/model/weights.rs
//   y_i = scale · √(−2 ln u_i) · cos(2π v_i),  u, v uniform by (key; 0, i) and (key; 1, i)
//   y (n) real
//
//   launch     256 threads, 4 elements each: over n / 4
//   work       half a Philox block, a log, a root and a cosine an element: bound by the arithmetic units
//   numerics   as the CPU's up to the rounding of log, sqrt and cos
//   measured   not benched: runs once, before the first step
#include "philox.cuh"

extern "C" __global__ void random_normal(real *y, u32 k0, u32 k1, float scale, u64 n) {
    u64 quad = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (quad * 4 >= n) return;
    uint4 a = philox(k0, k1, make_uint4((u32)quad, 0, 0, 0)), b = philox(k0, k1, make_uint4((u32)quad, 1, 0, 0));
    u32 u[4] = {a.x, a.y, a.z, a.w}, v[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float normal = sqrtf(-2.0f * logf(open_unit(u[i]))) * cospif(2.0f * open_unit(v[i]));
        if (quad * 4 + i < n) y[quad * 4 + i] = narrow<real>(scale * normal);
    }
}
