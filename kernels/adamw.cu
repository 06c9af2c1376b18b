// AdamW, and the sum of squares that the global norm is made of.  Maths, CPU reference: src/ops/adamw.rs
//   adamw_steps         m += (g − m)(1 − β₁),  v = v β₂ + g² (1 − β₂),  p = p · keep − rate · m / (√v / root + ε)
//                       with g ← scale · g; keep = 1 − lr · decay, rate = lr / (1 − β₁ᵗ), root = √(1 − β₂ᵗ)
//   adamw_square_sums   sums[i] ← Σ g² of the i-th chunk
//   adamw_total         total[0] ← Σ sums, in a fixed order
//   A table of chunks names the memory, so that all trained tensors are one launch: p, m, v, g (n) float; copy (n) real,
//   p rounded, where it is not null.
//
//   launch     steps, square_sums: 256 threads, a block a chunk of at most CHUNK = 4096 elements. total: one block of 1024
//   traffic    28 bytes an element, 2 or 4 more for the copy, 4 more to clear g; 4 for square_sums; bandwidth-bound
//   numerics   float; squares are added in double, in a fixed order
//   measured   cargo bench --bench ops -- adamw
#include "prelude.cuh"

static const int CHUNK = 4096;

// A run of at most CHUNK neighbours of one tensor. Every address is a multiple of 16 bytes.
struct Chunk {
    float *p, *m, *v, *g;
    real *copy;
    u32 n;
    // How much of lr · decay applies: 1, or 0 for what does not decay.
    float decays;
};

struct Rates {
    float one_minus_b1, b2, one_minus_b2, eps, rate, root, lr_decay;
};

__device__ __forceinline__ void update(float &p, float &m, float &v, float g, const Rates &c, float keep) {
    m += (g - m) * c.one_minus_b1;
    v = v * c.b2 + g * g * c.one_minus_b2;
    p = p * keep - c.rate * (m / (sqrtf(v) / c.root + c.eps));
}

__device__ __forceinline__ void step(const Chunk &t, const Rates &c, float scale, u32 clear) {
    const float keep = 1.0f - c.lr_decay * t.decays;
    const u32 whole = t.n / 4;
#pragma unroll 2
    for (u32 i = threadIdx.x; i < whole; i += 256) {
        float p[4], m[4], v[4], g[4];
        load_floats(p, t.p + 4 * i), load_floats(m, t.m + 4 * i);
        load_floats(v, t.v + 4 * i), load_floats(g, t.g + 4 * i);
#pragma unroll
        for (int j = 0; j < 4; j++) update(p[j], m[j], v[j], g[j] * scale, c, keep);
        store_floats(t.p + 4 * i, p), store_floats(t.m + 4 * i, m), store_floats(t.v + 4 * i, v);
        if (t.copy) store(t.copy + 4 * i, p);
        if (clear) *reinterpret_cast<float4 *>(t.g + 4 * i) = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
    const u32 i = whole * 4 + threadIdx.x;
    if (i >= t.n) return;
    float p = t.p[i], m = t.m[i], v = t.v[i];
    update(p, m, v, t.g[i] * scale, c, keep);
    t.p[i] = p, t.m[i] = m, t.v[i] = v;
    if (t.copy) t.copy[i] = narrow<real>(p);
    if (clear) t.g[i] = 0.0f;
}

// clear: 1 sets g to zero once it is read.
extern "C" __global__ void __launch_bounds__(256)
    adamw_steps(const Chunk *chunks, float scale, float b1, float b2, float eps, float rate, float root, float lr_decay,
                u32 clear) {
    step(chunks[blockIdx.x], Rates{1.0f - b1, b2, 1.0f - b2, eps, rate, root, lr_decay}, scale, clear);
}

// Sum over the block in thread 0, by thread, lane, warp.
template <int THREADS> __device__ __forceinline__ double block_sum_double(double x) {
    __shared__ double shared[THREADS / 32];
#pragma unroll
    for (int lane = 16; lane > 0; lane >>= 1) x += __shfl_xor_sync(~0u, x, lane);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    if (threadIdx.x == 0)
        for (int warp = 1; warp < THREADS / 32; warp++) x += shared[warp];
    return x;
}

__device__ __forceinline__ void square_sum(double *sum, const float *g, u32 n) {
    double total = 0.0;
    const u32 whole = n / 4;
    if (n == CHUNK) {
        float x[4][4];
#pragma unroll
        for (int e = 0; e < 4; e++) load_floats(x[e], g + 4 * (e * 256 + threadIdx.x));
#pragma unroll
        for (int e = 0; e < 4; e++)
#pragma unroll
            for (int j = 0; j < 4; j++) total = fma((double)x[e][j], (double)x[e][j], total);
    } else {
        for (u32 i = threadIdx.x; i < whole; i += 256) {
            float x[4];
            load_floats(x, g + 4 * i);
#pragma unroll
            for (int j = 0; j < 4; j++) total = fma((double)x[j], (double)x[j], total);
        }
        const u32 i = whole * 4 + threadIdx.x;
        if (i < n) total = fma((double)g[i], (double)g[i], total);
    }
    total = block_sum_double<256>(total);
    if (threadIdx.x == 0) *sum = total;
}

extern "C" __global__ void __launch_bounds__(256) adamw_square_sums(double *sums, const Chunk *chunks) {
    square_sum(sums + blockIdx.x, chunks[blockIdx.x].g, chunks[blockIdx.x].n);
}

extern "C" __global__ void __launch_bounds__(1024) adamw_total(double *total, const double *sums, u32 count) {
    double sum = 0.0;
#pragma unroll 8
    for (u32 i = threadIdx.x; i < count; i += 1024) sum += sums[i];
    sum = block_sum_double<1024>(sum);
    if (threadIdx.x == 0) *total = sum;
}
