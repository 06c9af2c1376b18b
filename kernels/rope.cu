// Split of the fused projection, QK-norm and rotation.  Maths, shapes, CPU reference: src/ops/rope.rs
//   rope_angles    angles (N, D) ← cos θ | sin θ,  θ = position · frequency, one float product
//   rope_forward   q, k, v, r ← qkv: heads of q and k normalised by their gain and rotated
//   rope_backward  dqkv ← dq, dk, dv: rotated back, then through the norm
//   rope_backward_gain  the same; dwq, dwk (D) float += the gains' gradients, by way of parts (blocks, 2 D) float, each
//                       block's share, and arrived (column_sums.cuh)
//   qkv, dqkv (N, (H + 2 KV) D)   q, dq (N, H D)   k, v, dk, dv (N, KV D)  real
//   r (N, H + KV)   angles (N, D)   frequencies (D / 2)   wq, wk (D)  float   positions (N) u32
//
//   load-time  H, KV, D; BLOCK (threads, a multiple of 32); ONE_PLUS (1: gains are 1 + w); for backward_gain STAGES (heads of a
//              group of lanes being worked on or in flight)
//   launch     forward, backward: ceil(n (H + 2 KV) / (BLOCK / LANES)) blocks of BLOCK threads, or fewer: a group of
//              LANES threads takes a head of a row at a time. backward_gain: as many, and at most one a multiprocessor, all
//              resident (column_sums.cuh); dynamic shared for STAGES times two heads a group, in whole vectors of LANES
//              threads. angles: over n · D / 2, 256 threads
//   traffic    2 N (H + 2 KV) D real + 4 N D bytes forward; one N (H + KV) D real more backward; bandwidth-bound
//   numerics   float, rounded once at the store; sums over rows by turn, group, block: they depend on the card's size, but on
//              nothing else. Angles through double, as good as correctly rounded
//   measured   cargo bench --bench ops -- rope
#include "prelude.cuh"
#include "column_sums.cuh"
#include "hopper.cuh"

static const int HALF = D / 2;
// A lane holds a vector of the lower half of a head and the one it is rotated with, HALF further on.
static const int WIDTH = width_of<real>(HALF);
static const int VECTORS = HALF / WIDTH;
// Lanes a head: a power of two.
static const int LANES = VECTORS > 16 ? 32 : VECTORS > 8 ? 16 : VECTORS > 4 ? 8 : VECTORS > 2 ? 4 : VECTORS > 1 ? 2 : 1;
static const int HOLDS = (VECTORS + LANES - 1) / LANES;
static const int GROUPS = BLOCK / LANES;
static const int HEADS = H + 2 * KV;
static const int ROTATED = H + KV;

struct Head {
    Held<real, WIDTH> lo[HOLDS], hi[HOLDS];
};

__device__ __forceinline__ int lane() { return (int)threadIdx.x % LANES; }
__device__ __forceinline__ int column(int i) { return (i * LANES + lane()) * WIDTH; }
__device__ __forceinline__ bool inside(int i) { return (i + 1) * LANES <= VECTORS || i * LANES + lane() < VECTORS; }

__device__ __forceinline__ void hold_head(Head &h, const real *from) {
#pragma unroll
    for (int i = 0; i < HOLDS; i++)
        if (inside(i)) hold(h.lo[i], from + column(i)), hold(h.hi[i], from + HALF + column(i));
}
__device__ __forceinline__ void copy_head(real *to, const Head &h) {
#pragma unroll
    for (int i = 0; i < HOLDS; i++)
        if (inside(i)) {
            *reinterpret_cast<Held<real, WIDTH> *>(to + column(i)) = h.lo[i];
            *reinterpret_cast<Held<real, WIDTH> *>(to + HALF + column(i)) = h.hi[i];
        }
}
// Sum over the lanes of a head.
__device__ __forceinline__ float head_sum(float x) {
#pragma unroll
    for (int other = LANES / 2; other > 0; other >>= 1) x += __shfl_xor_sync(~0u, x, other);
    return x;
}
// Where head h of row n begins in q, k or v.
template <typename T> __device__ __forceinline__ T *place(T *q, T *k, T *v, u32 row, int h) {
    if (h < H) return q + ((u64)row * H + h) * D;
    return h < ROTATED ? k + ((u64)row * KV + (h - H)) * D : v + ((u64)row * KV + (h - ROTATED)) * D;
}

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    rope_forward(real *__restrict__ q, real *__restrict__ k, real *__restrict__ v, float *__restrict__ r,
                 const real *__restrict__ qkv, const float *__restrict__ angles, const float *__restrict__ wq,
                 const float *__restrict__ wk, u32 n, float eps) {
    const u32 work = n * HEADS;
    for (u32 first = blockIdx.x * GROUPS; first < work; first += gridDim.x * GROUPS) {
        const u32 item = first + threadIdx.x / LANES;
        const bool live = item < work;
        const u32 row = item / HEADS;
        const int h = (int)(item % HEADS);
        Head x;
        if (live) hold_head(x, qkv + (u64)item * D);
        float cos[HOLDS][WIDTH], sin[HOLDS][WIDTH];
#pragma unroll
        for (int i = 0; i < HOLDS; i++)
            if (live && inside(i)) {
                load_floats(cos[i], angles + (u64)row * D + column(i));
                load_floats(sin[i], angles + (u64)row * D + HALF + column(i));
            }
        // Groups without a head take part in the sum.
        float lo[HOLDS][WIDTH], hi[HOLDS][WIDTH], square = 0.0f;
#pragma unroll
        for (int i = 0; i < HOLDS; i++) {
            if (!inside(i)) continue;
            spread(lo[i], x.lo[i]), spread(hi[i], x.hi[i]);
#pragma unroll
            for (int j = 0; j < WIDTH; j++) square += lo[i][j] * lo[i][j] + hi[i][j] * hi[i][j];
        }
        const float scale = 1.0f / sqrtf(head_sum(square) / D + eps);
        if (!live) continue;
        real *to = place(q, k, v, row, h);
        if (h >= ROTATED) {
            copy_head(to, x);
            continue;
        }
        if (lane() == 0) r[(u64)row * ROTATED + h] = scale;
        const float *w = h < H ? wq : wk;
#pragma unroll
        for (int i = 0; i < HOLDS; i++) {
            if (!inside(i)) continue;
            float a[WIDTH], b[WIDTH];
            load_floats(a, w + column(i)), load_floats(b, w + HALF + column(i));
#pragma unroll
            for (int j = 0; j < WIDTH; j++) {
                const float l = lo[i][j] * scale * (ONE_PLUS + a[j]), u = hi[i][j] * scale * (ONE_PLUS + b[j]);
                lo[i][j] = l * cos[i][j] - u * sin[i][j];
                hi[i][j] = u * cos[i][j] + l * sin[i][j];
            }
            store(to + column(i), lo[i]), store(to + HALF + column(i), hi[i]);
        }
    }
}

// The gradient through the norm of a head x, after the rotation and the gain: dx = r · (dy − x · along).
__device__ __forceinline__ void store_gradient(real *to, float (&lo)[HOLDS][WIDTH], float (&hi)[HOLDS][WIDTH], const Head &x,
                                               float r, float along) {
#pragma unroll
    for (int i = 0; i < HOLDS; i++) {
        if (!inside(i)) continue;
        float xlo[WIDTH], xhi[WIDTH];
        spread(xlo, x.lo[i]), spread(xhi, x.hi[i]);
#pragma unroll
        for (int j = 0; j < WIDTH; j++) {
            lo[i][j] = r * (lo[i][j] - xlo[j] * along);
            hi[i][j] = r * (hi[i][j] - xhi[j] * along);
        }
        store(to + column(i), lo[i]), store(to + HALF + column(i), hi[i]);
    }
}

extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    rope_backward(real *__restrict__ dqkv, const real *__restrict__ dq, const real *__restrict__ dk,
                  const real *__restrict__ dv, const real *__restrict__ qkv, const float *__restrict__ r,
                  const float *__restrict__ angles, const float *__restrict__ wq, const float *__restrict__ wk, u32 n) {
    const u32 work = n * HEADS;
    for (u32 first = blockIdx.x * GROUPS; first < work; first += gridDim.x * GROUPS) {
        const u32 item = first + threadIdx.x / LANES;
        const u32 row = item / HEADS;
        const int h = (int)(item % HEADS);
        const bool live = item < work, rotates = live && h < ROTATED;
        const float *w = h < H ? wq : wk, *angle = angles + (u64)row * D;
        Head dy, x;
        float scale = 0.0f;
        if (live) hold_head(dy, place(dq, dk, dv, row, h));
        if (rotates) {
            hold_head(x, qkv + (u64)item * D);
            scale = r[(u64)row * ROTATED + h];
        }
        float lo[HOLDS][WIDTH], hi[HOLDS][WIDTH], dot = 0.0f;
#pragma unroll
        for (int i = 0; i < HOLDS; i++) {
            if (!inside(i) || !rotates) continue;
            float a[WIDTH], b[WIDTH], cos[WIDTH], sin[WIDTH], xlo[WIDTH], xhi[WIDTH];
            load_floats(a, w + column(i)), load_floats(b, w + HALF + column(i));
            load_floats(cos, angle + column(i)), load_floats(sin, angle + HALF + column(i));
            spread(lo[i], dy.lo[i]), spread(hi[i], dy.hi[i]);
            spread(xlo, x.lo[i]), spread(xhi, x.hi[i]);
#pragma unroll
            for (int j = 0; j < WIDTH; j++) {
                const float l = lo[i][j] * cos[j] + hi[i][j] * sin[j], u = hi[i][j] * cos[j] - lo[i][j] * sin[j];
                lo[i][j] = l * (ONE_PLUS + a[j]), hi[i][j] = u * (ONE_PLUS + b[j]);
                dot += lo[i][j] * xlo[j] + hi[i][j] * xhi[j];
            }
        }
        // Groups without a head to rotate take part in the sum.
        const float along = scale * scale * (head_sum(dot) / D);
        if (!live) continue;
        real *to = dqkv + (u64)item * D;
        if (rotates)
            store_gradient(to, lo, hi, x, scale, along);
        else
            copy_head(to, dy);
    }
}

// Heads on their way into shared memory, STAGES of them a group. A lane fetches the vectors that it will itself read: no
// barrier is needed.
extern __shared__ uint4 ring[];
__device__ __forceinline__ void fetch_head(Held<real, WIDTH> *slot, const real *from) {
#pragma unroll
    for (int i = 0; i < HOLDS; i++)
        if (inside(i)) {
            cp_async_held(slot + 2 * i * BLOCK, from + column(i));
            cp_async_held(slot + (2 * i + 1) * BLOCK, from + HALF + column(i));
        }
}
__device__ __forceinline__ void hold_slot(Head &h, const Held<real, WIDTH> *slot) {
#pragma unroll
    for (int i = 0; i < HOLDS; i++)
        if (inside(i)) h.lo[i] = slot[2 * i * BLOCK], h.hi[i] = slot[(2 * i + 1) * BLOCK];
}

// A lane's part of a rotation, and r: loaded one row ahead.
struct Rotation {
    float cos[HOLDS][WIDTH], sin[HOLDS][WIDTH], scale;
};

// With the gains' gradient. A group keeps to one head, so that its gain and the sums for it stay in registers: `streams` rows
// are under way at once.
extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    rope_backward_gain(real *__restrict__ dqkv, float *__restrict__ dwq, float *__restrict__ dwk, float *__restrict__ parts,
                       u32 *arrived, const real *__restrict__ dq, const real *__restrict__ dk,
                       const real *__restrict__ dv, const real *__restrict__ qkv, const float *__restrict__ r,
                       const float *__restrict__ angles, const float *__restrict__ wq, const float *__restrict__ wk,
                       u32 n) {
    const u32 group = blockIdx.x * GROUPS + threadIdx.x / LANES, streams = gridDim.x * GROUPS / HEADS;
    const int h = (int)(group % HEADS);
    const bool rotates = h < ROTATED;
    u32 row = group < streams * HEADS ? group / HEADS : n;
    const int SLOT = 2 * HOLDS * BLOCK;
    Held<real, WIDTH> *slots = reinterpret_cast<Held<real, WIDTH> *>(ring) + threadIdx.x;
    const auto fetch = [&](u32 stage, u32 row) {
        if (row < n) {
            fetch_head(slots + 2 * stage * SLOT, place(dq, dk, dv, row, h));
            if (rotates) fetch_head(slots + (2 * stage + 1) * SLOT, qkv + ((u64)row * HEADS + h) * D);
        }
        cp_async_commit();
    };
    for (int s = 0; s < STAGES - 1; s++) fetch(s, row + s * streams);
    Rotation next = {};
    const auto look_ahead = [&](u32 row) {
        if (row >= n || !rotates) return;
        next.scale = r[(u64)row * ROTATED + h];
#pragma unroll
        for (int i = 0; i < HOLDS; i++)
            if (inside(i)) {
                load_floats(next.cos[i], angles + (u64)row * D + column(i));
                load_floats(next.sin[i], angles + (u64)row * D + HALF + column(i));
            }
    };
    look_ahead(row);
    float gain[2][HOLDS][WIDTH], dw[2][HOLDS][WIDTH];
#pragma unroll
    for (int i = 0; i < HOLDS; i++)
        if (inside(i)) {
            const float *w = h < H ? wq : wk;
            load_floats(gain[0][i], w + column(i)), load_floats(gain[1][i], w + HALF + column(i));
#pragma unroll
            for (int j = 0; j < WIDTH; j++) gain[0][i][j] += ONE_PLUS, gain[1][i][j] += ONE_PLUS;
        }
#pragma unroll
    for (int i = 0; i < HOLDS; i++)
#pragma unroll
        for (int j = 0; j < WIDTH; j++) dw[0][i][j] = dw[1][i][j] = 0.0f;
    for (u32 turn = 0; __any_sync(~0u, row < n); turn++, row += streams) {
        fetch((turn + STAGES - 1) % STAGES, row + (STAGES - 1) * streams);
        const Rotation now = next;
        look_ahead(row + streams);
        cp_async_wait<STAGES - 1>();
        const Held<real, WIDTH> *slot = slots + 2 * (turn % STAGES) * SLOT;
        const bool live = row < n;
        Head dy, x;
        float lo[HOLDS][WIDTH], hi[HOLDS][WIDTH], dot = 0.0f;
        if (live) hold_slot(dy, slot);
        if (live && rotates) {
            hold_slot(x, slot + SLOT);
#pragma unroll
            for (int i = 0; i < HOLDS; i++) {
                if (!inside(i)) continue;
                float xlo[WIDTH], xhi[WIDTH];
                spread(lo[i], dy.lo[i]), spread(hi[i], dy.hi[i]);
                spread(xlo, x.lo[i]), spread(xhi, x.hi[i]);
#pragma unroll
                for (int j = 0; j < WIDTH; j++) {
                    const float l = lo[i][j] * now.cos[i][j] + hi[i][j] * now.sin[i][j];
                    const float u = hi[i][j] * now.cos[i][j] - lo[i][j] * now.sin[i][j];
                    const float lx = l * xlo[j], ux = u * xhi[j];
                    dw[0][i][j] += lx * now.scale, dw[1][i][j] += ux * now.scale;
                    dot += lx * gain[0][i][j] + ux * gain[1][i][j];
                    lo[i][j] = l * gain[0][i][j], hi[i][j] = u * gain[1][i][j];
                }
            }
        }
        // Groups without a head to rotate take part in the sum.
        const float along = now.scale * now.scale * (head_sum(dot) / D);
        if (!live) continue;
        real *to = dqkv + ((u64)row * HEADS + h) * D;
        if (rotates)
            store_gradient(to, lo, hi, x, now.scale, along);
        else
            copy_head(to, dy);
    }
    // The groups leave their sums where their heads were; those of query heads and those of key heads are added apart.
    float *sums = reinterpret_cast<float *>(ring), *mine = sums + threadIdx.x / LANES * D;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < HOLDS; i++)
        if (inside(i)) store_floats(mine + column(i), dw[0][i]), store_floats(mine + HALF + column(i), dw[1][i]);
    __syncthreads();
    for (int c = threadIdx.x; c < 2 * D; c += BLOCK) {
        float sum = 0.0f;
        for (int g = 0; g < GROUPS; g++) {
            const int head = (int)((blockIdx.x * GROUPS + g) % HEADS);
            if (c < D ? head < H : head >= H && head < ROTATED) sum += sums[g * D + c % D];
        }
        parts[(u64)blockIdx.x * 2 * D + c] = sum;
    }
    add_columns<BLOCK>([&](u32 c) { return c < D ? dwq + c : dwk + (c - D); }, parts, 2 * D, arrived);
}

// (sin, cos) of a float angle of any size that a position gives: reduced in double to |y| ≤ π/4, then Taylor series
// whose next term is below 2⁻⁴⁸.
__device__ __forceinline__ void sin_cos(float x, float &sin, float &cos) {
    const double turns = rint((double)x * 0.63661977236758134);
    double y = fma(turns, -1.5707963267948966, (double)x);
    y = fma(turns, -6.123233995736766e-17, y);
    const double z = y * y;
    double s = 1.6059043836821613e-10;
    s = fma(s, z, -2.5052108385441718e-08), s = fma(s, z, 2.7557319223985893e-06);
    s = fma(s, z, -1.9841269841269841e-04), s = fma(s, z, 8.3333333333333332e-03);
    s = fma(s, z, -1.6666666666666666e-01), s = fma(s * z, y, y);
    double c = -1.1470745597729725e-11;
    c = fma(c, z, 2.08767569878681e-09), c = fma(c, z, -2.7557319223985888e-07);
    c = fma(c, z, 2.4801587301587302e-05), c = fma(c, z, -1.3888888888888889e-03);
    c = fma(c, z, 4.1666666666666664e-02), c = fma(c, z, -0.5), c = fma(c, z, 1.0);
    const int quarter = (int)turns;
    const float a = (float)(quarter & 1 ? c : s), b = (float)(quarter & 1 ? s : c);
    sin = quarter & 2 ? -a : a;
    cos = (quarter + 1) & 2 ? -b : b;
}

extern "C" __global__ void rope_angles(float *angles, const u32 *positions, const float *frequencies, u32 n) {
    const u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= (u64)n * HALF) return;
    const u32 row = (u32)(at / HALF);
    const int i = (int)(at % HALF);
    float sin, cos;
    sin_cos(__fmul_rn((float)positions[row], frequencies[i]), sin, cos);
    angles[(u64)row * D + i] = cos;
    angles[(u64)row * D + HALF + i] = sin;
}
