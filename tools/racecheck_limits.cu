// What racecheck of compute-sanitizer (CUDA 13.0) takes for a race and is none, at its smallest: `one` is reported, `each` is
// not.
//
//   nvcc -std=c++17 -arch=sm_90a -DARCH=90 -DREAL_IS_FLOAT=0 -Ikernels -o limits tools/racecheck_limits.cu
//   compute-sanitizer --tool racecheck ./limits each|one
#include <cstdio>
#include <cstring>

#include "attention.cuh"

// A warp stores and arrives at an mbarrier; another waits for it and loads; once all of its lanes have, one of them arrives at
// the barrier that says empty. As the values of rows travel in attention_backward.cu. With EACH every lane arrives.
template <bool EACH> __global__ void ring(float *out) {
    __shared__ float slots[2][32];
    __shared__ u64 barriers[4];
    const Ring<2> ring{shared_address(barriers)};
    const u32 lane = threadIdx.x % 32;
    if (threadIdx.x == 0) {
        ring.init(32, EACH ? 32 : 1);
        mbarrier_init_fence();
    }
    __syncthreads();
    float sum = 0.0f;
    for (u32 n = 0; n < 8; n++) {
        if (threadIdx.x < 32) {
            ring.wait_empty(n);
            slots[n % 2][lane] = n + lane;
            mbarrier_arrive(ring.full(n));
        } else {
            ring.wait_full(n);
            sum += slots[n % 2][31 - lane];
            __syncwarp();
            if (EACH || lane == 0) mbarrier_arrive(ring.empty(n));
        }
    }
    out[threadIdx.x] = sum;
}

int main(int count, char **names) {
    const char *name = count > 1 ? names[1] : "";
    float *out;
    cudaMalloc(&out, 64 * sizeof(float));
    if (strcmp(name, "each") == 0) ring<true><<<1, 64>>>(out);
    else if (strcmp(name, "one") == 0) ring<false><<<1, 64>>>(out);
    else return 2;
    printf("%s: %s\n", name, cudaGetErrorString(cudaDeviceSynchronize()));
}
