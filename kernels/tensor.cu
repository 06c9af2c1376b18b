// Element-wise work on whole tensors.
//   cast_*   y (n) ← x (n), another element type; one rounding
//   launch   grid over n, 256 threads, 1 element a thread
//   traffic  n · (size of x + size of y) bytes
#include "prelude.cuh"

extern "C" __global__ void tensor_narrow(bf16 *y, const float *x, u64 n) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = narrow<bf16>(x[i]);
}
