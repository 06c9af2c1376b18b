// What every kernel starts from: number types without headers, 16-byte access, reductions in a fixed order.
//
//   load-time  REAL_IS_FLOAT  1: activations and weights are float (tight tests); 0: bf16 (the product)
//              ARCH           80, 86, 89, 90, 100, 120: the compute capability without its point
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define INFINITY_F __int_as_float(0x7f800000)

// bfloat16: the upper half of a float. Rounds to nearest, ties to even.
struct bf16 {
    u16 bits;
};

__device__ __forceinline__ float widen(bf16 x) { return __uint_as_float((u32)x.bits << 16); }
__device__ __forceinline__ float widen(float x) { return x; }

template <typename T> __device__ __forceinline__ T narrow(float x);
template <> __device__ __forceinline__ float narrow<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 narrow<bf16>(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

// Two neighbours in one register, `lo` at the lower address.
__device__ __forceinline__ u32 pack(float lo, float hi) {
    u32 y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(hi), "f"(lo));
    return y;
}
__device__ __forceinline__ float low(u32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

#if REAL_IS_FLOAT
typedef float real;
#else
typedef bf16 real;
#endif

// Elements in 16 bytes.
template <typename T> struct Vector {
    static const int N = 16 / sizeof(T);
};

// 16 aligned bytes ↔ floats.
__device__ __forceinline__ void load16(float (&y)[4], const float *x) {
    float4 v = *reinterpret_cast<const float4 *>(x);
    y[0] = v.x, y[1] = v.y, y[2] = v.z, y[3] = v.w;
}
__device__ __forceinline__ void load16(float (&y)[8], const bf16 *x) {
    uint4 v = *reinterpret_cast<const uint4 *>(x);
    y[0] = low(v.x), y[1] = high(v.x), y[2] = low(v.y), y[3] = high(v.y);
    y[4] = low(v.z), y[5] = high(v.z), y[6] = low(v.w), y[7] = high(v.w);
}
__device__ __forceinline__ void store16(float *y, const float (&x)[4]) {
    *reinterpret_cast<float4 *>(y) = make_float4(x[0], x[1], x[2], x[3]);
}
__device__ __forceinline__ void store16(bf16 *y, const float (&x)[8]) {
    *reinterpret_cast<uint4 *>(y) =
        make_uint4(pack(x[0], x[1]), pack(x[2], x[3]), pack(x[4], x[5]), pack(x[6], x[7]));
}

// Sum over the 32 lanes, the same in every lane.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int lane = 16; lane > 0; lane >>= 1) x += __shfl_xor_sync(~0u, x, lane);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int lane = 16; lane > 0; lane >>= 1) x = fmaxf(x, __shfl_xor_sync(~0u, x, lane));
    return x;
}

// Sum over a block of THREADS threads (a multiple of 32), the same in every thread. Barriers inside; `shared` holds
// 32 floats and may be reused after the next barrier.
template <int THREADS> __device__ __forceinline__ float block_sum(float x, float *shared) {
    x = warp_sum(x);
    if (THREADS == 32) return x;
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    float y = threadIdx.x % 32 < THREADS / 32 ? shared[threadIdx.x % 32] : 0.0f;
    return warp_sum(y);
}

// WIDTH neighbours as they lie in memory: 16 aligned bytes, or one element where a row may start anywhere.
template <typename T, int WIDTH> struct Held {
    uint4 bits;
};
template <typename T> struct Held<T, 1> {
    T bits;
};
template <typename T, int WIDTH> __device__ __forceinline__ void hold(Held<T, WIDTH> &y, const T *x) {
    y = *reinterpret_cast<const Held<T, WIDTH> *>(x);
}
template <typename T> __device__ __forceinline__ void spread(float (&y)[1], const Held<T, 1> &x) { y[0] = widen(x.bits); }
template <typename T, int WIDTH> __device__ __forceinline__ void spread(float (&y)[WIDTH], const Held<T, WIDTH> &x) {
    load16(y, reinterpret_cast<const T *>(&x));
}

// WIDTH neighbours → memory, with the one rounding.
template <typename T> __device__ __forceinline__ void store(T *y, const float (&x)[1]) { *y = narrow<T>(x[0]); }
template <typename T, int WIDTH> __device__ __forceinline__ void store(T *y, const float (&x)[WIDTH]) { store16(y, x); }
__device__ __forceinline__ void store(bf16 *y, const float (&x)[4]) {
    *reinterpret_cast<uint2 *>(y) = make_uint2(pack(x[0], x[1]), pack(x[2], x[3]));
}

// WIDTH floats, 1 or a multiple of 4.
__device__ __forceinline__ void load_floats(float (&y)[1], const float *x) { y[0] = *x; }
template <int WIDTH> __device__ __forceinline__ void load_floats(float (&y)[WIDTH], const float *x) {
#pragma unroll
    for (int i = 0; i < WIDTH; i += 4) {
        float4 v = *reinterpret_cast<const float4 *>(x + i);
        y[i] = v.x, y[i + 1] = v.y, y[i + 2] = v.z, y[i + 3] = v.w;
    }
}
__device__ __forceinline__ void store_floats(float *y, const float (&x)[1]) { *y = x[0]; }
template <int WIDTH> __device__ __forceinline__ void store_floats(float *y, const float (&x)[WIDTH]) {
#pragma unroll
    for (int i = 0; i < WIDTH; i += 4) *reinterpret_cast<float4 *>(y + i) = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
}

// Neighbours in a 16-byte access to rows of `n` elements, which start at multiples of n.
template <typename T> __host__ __device__ constexpr int width_of(int n) {
    return n % Vector<T>::N == 0 ? Vector<T>::N : 1;
}

// Sum over the `team`-th THREADS threads of a block (a multiple of 32), in each of them, with one barrier, number team + 1:
// call it with `turn` 0 and 1 in alternation.
template <int THREADS> __device__ __forceinline__ float row_sum(float x, float (&shared)[2][32], u32 turn, u32 team) {
    x = warp_sum(x);
    if (THREADS == 32) return x;
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32 - team * (THREADS / 32);
    if (lane == 0) shared[turn][warp] = x;
    asm volatile("bar.sync %0, %1;" ::"r"(team + 1), "n"(THREADS) : "memory");
    return warp_sum(lane < THREADS / 32 ? shared[turn][lane] : 0.0f);
}
