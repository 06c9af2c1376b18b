// New keys and values into their places in the paged cache. CPU reference: src/ops/attention.rs
//   position p of row i's sequence lies in row tables[i, p / PAGE] · PAGE + p % PAGE of the cache
//   keys, values (pages · PAGE, KV_WIDTH) real   k, v (N, KV_WIDTH) real   tables (N, max_pages) u32   positions (N) u32
//   load-time  REAL_IS_FLOAT, KV_WIDTH = KV·D, PAGE
//   launch     grid (N), block 128
//   traffic    4·KV_WIDTH·sizeof(real) bytes a row read and written
//   numerics   bits move unchanged
//   measured
#include "prelude.cuh"

const u32 THREADS = 128;

__device__ __forceinline__ void copy_row(real *to, const real *from) {
    if (KV_WIDTH % Vector<real>::N == 0) {
        for (u32 i = threadIdx.x; i < KV_WIDTH / Vector<real>::N; i += THREADS)
            reinterpret_cast<uint4 *>(to)[i] = reinterpret_cast<const uint4 *>(from)[i];
    } else {
        for (u32 i = threadIdx.x; i < KV_WIDTH; i += THREADS) to[i] = from[i];
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    cache_store(real *keys, real *values, const real *k, const real *v, const u32 *tables, const u32 *positions,
                u32 max_pages) {
    size_t row = blockIdx.x;
    u32 position = positions[row];
    size_t slot = (size_t)tables[row * max_pages + position / PAGE] * PAGE + position % PAGE;
    copy_row(keys + slot * KV_WIDTH, k + row * KV_WIDTH);
    copy_row(values + slot * KV_WIDTH, v + row * KV_WIDTH);
}
