// A thread's share of a tensor-core product (its fragment), and what attention does with it in registers.
//
//   mma.sync (m16n8k16) and wgmma (m64nNk16) leave 16 rows of the product in a warp. Lane 4 g + c of warp w holds
//       x[4 j + 2 r + e] = element (16 w + g + 8 r, 8 j + 2 c + e),      j < columns / 8;  r, e = 0, 1
//   Warp 0, the eight columns of one j; c stands for x[4 j + 2 r] and x[4 j + 2 r + 1] of lane 4 g + c:
//
//                 column   0 1   2 3   4 5   6 7
//       row g              c=0   c=1   c=2   c=3      r = 0
//       row g + 8          c=0   c=1   c=2   c=3      r = 1
//
//   So a thread has two rows, and four neighbours (a quad: the same g) hold a row between them: its maximum and its sum are
//   two shuffles away. Two neighbours packed to bf16 are a register of the A operand of the next product (`pack_operand`),
//   so that what one product leaves enters the next without going through shared memory.
#pragma once
#include "prelude.cuh"
#include "hopper.cuh"

const float LOG2_E = 1.4426950408889634f;

// Row (r = 0) and column (j = e = 0) of this thread's first element. Warps count within their warpgroup.
__device__ __forceinline__ u32 fragment_row() { return threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4; }
__device__ __forceinline__ u32 fragment_column() { return threadIdx.x % 4 * 2; }

template <int N> __device__ __forceinline__ float &at(float (&x)[N], int j, int r, int e) {
    return x[4 * j + 2 * r + e];
}

// ---- rows ----------------------------------------------------------------------------------------------------------

// Over the four lanes of a quad, the same in each.
__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}

// The maximum of `x` and of row r, over the whole row.
template <int N> __device__ __forceinline__ float row_max(float (&s)[N], int r, float x) {
#pragma unroll
    for (int j = 0; j < N / 4; j++) x = fmaxf(x, fmaxf(at(s, j, r, 0), at(s, j, r, 1)));
    return quad_max(x);
}

template <int N> __device__ __forceinline__ void scale_rows(float (&x)[N], const float (&factors)[2]) {
#pragma unroll
    for (int i = 0; i < N; i++) x[i] *= factors[i / 2 % 2];
}

// ---- softmax -------------------------------------------------------------------------------------------------------

// 2^x by the card's own instruction.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Scores of keys that a query does not see become −∞: those later than it, and those `window` or more before it.
// `distance` is query − key of this thread's first element; it grows by DOWN from row to row and falls by DOWN from column to
// column (DOWN = 1: queries are rows; −1: keys are). For later keys it wraps to a large number.
template <int DOWN, int N> __device__ __forceinline__ void mask_window(float (&s)[N], u32 distance, u32 window) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        u32 of_row = distance + DOWN * 8 * r;
#pragma unroll
        for (int j = 0; j < N / 4; j++)
#pragma unroll
            for (int e = 0; e < 2; e++)
                if (of_row - DOWN * (8 * j + e) >= window) at(s, j, r, e) = -INFINITY_F;
    }
}

// The online softmax (Milakov and Gimelshein, arXiv 1805.02867) of this thread's two rows.
struct Softmax {
    float max[2] = {-INFINITY_F, -INFINITY_F}; // of the scores so far
    float sum[2] = {0.0f, 0.0f};               // of exponentials, of this thread's columns alone
    float shrink[2];                           // what the last `add` multiplied earlier sums by

    // More columns: scores become exponentials, in place. The exponentials of a lane's neighbouring columns are added to each
    // other first if PAIRS, else one by one: each kernel keeps its order, and with it its bits.
    template <bool PAIRS, int N> __device__ __forceinline__ void add(float (&s)[N], float scale) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float next = row_max(s, r, max[r]);
            float base = next == -INFINITY_F ? 0.0f : next * scale; // no key visible yet
            shrink[r] = exp2_fast(max[r] * scale - base);
            max[r] = next;
            float more = 0.0f;
#pragma unroll
            for (int j = 0; j < N / 4; j++) {
                float &a = at(s, j, r, 0), &b = at(s, j, r, 1);
                a = exp2_fast(fmaf(a, scale, -base));
                b = exp2_fast(fmaf(b, scale, -base));
                if (PAIRS) more += a + b;
                else more += a, more += b;
            }
            sum[r] = sum[r] * shrink[r] + more;
        }
    }
};

// ---- to the next product, to memory --------------------------------------------------------------------------------

// Columns 16 k … 16 k + 16, rounded: the A operand of a product over them.
template <int N> __device__ __forceinline__ void pack_operand(u32 (&a)[4], const float (&s)[N], int k) {
#pragma unroll
    for (int i = 0; i < 4; i++) a[i] = pack(s[8 * k + 2 * i], s[8 * k + 2 * i + 1]);
}
// All columns.
template <int N> __device__ __forceinline__ void pack_operands(u32 (&a)[N / 8][4], const float (&s)[N]) {
#pragma unroll
    for (int k = 0; k < N / 8; k++) pack_operand(a[k], s, k);
}

// Lane c of a quad holds x[i] = element (i, c); afterwards x[i] = element (c, i).
__device__ __forceinline__ void transpose_quad(u32 (&x)[4]) {
    bool odd = threadIdx.x & 1, upper = threadIdx.x & 2;
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        u32 y = __shfl_xor_sync(~0u, odd ? x[i] : x[i + 1], 1);
        if (odd) x[i] = y;
        else x[i + 1] = y;
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        u32 y = __shfl_xor_sync(~0u, upper ? x[i] : x[i + 2], 2);
        if (upper) x[i] = y;
        else x[i + 2] = y;
    }
}

// Row r times `factor` to `to`, where its columns begin; nothing unless `inside`. A quad exchanges what it holds, so that a
// lane writes 16 bytes at a time. All lanes of a warp take part.
template <int N>
__device__ __forceinline__ void store_row(bf16 *to, const float (&y)[N], int r, float factor, bool inside) {
    to += 4 * fragment_column();
#pragma unroll
    for (int j = 0; j < N / 16; j++) {
        u32 x[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float *z = &y[16 * j + 4 * i + 2 * r];
            x[i] = pack(z[0] * factor, z[1] * factor);
        }
        transpose_quad(x);
        if (inside) *reinterpret_cast<uint4 *>(to + 32 * j) = make_uint4(x[0], x[1], x[2], x[3]);
    }
}

// Both rows, `row` and `row + 8` of a matrix of `width` columns, as far as they lie before `end`; `to` is row 0, the first of
// these columns.
template <int N>
__device__ __forceinline__ void store_rows(bf16 *to, const float (&y)[N], u32 row, u32 end, size_t width,
                                           float factor) {
#pragma unroll
    for (int r = 0; r < 2; r++) store_row(to + (row + 8 * r) * width, y, r, factor, row + 8 * r < end);
}
