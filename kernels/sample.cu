// The next token of every row.  Maths, CPU reference: src/ops/sample.rs
//   sample_draw   tokens[n] = argmax_v (z + gumbel),  z = logits · inverse, restricted to the top k and then to the
//                 fewest most likely tokens whose mass reaches p; argmax_v logits if inverse is 0 (greedy)
//   logits (N, V) float    positions (N), keys (N, 2) u32    forbidden, starts (N + 1) u32
//   tokens (N + 1) u32: the last one is set to 1 if a row is not finite, never cleared; that row's token is 0.
//   logits is scratch: what is forbidden may be overwritten.
//   Row n may not draw forbidden[starts[n] … starts[n + 1]]; starts may be null: none.
//   Draws depend on (key, position, token) alone: the same whatever the launch, and in a graph that is replayed with
//   other keys and positions in the same memory.
//
//   load-time  V; BLOCK (threads, a multiple of 32); CLUSTER (blocks a row; 1 below compute capability 9.0);
//              RESIDENT (1: a row stays in shared memory; 0: it is read again in every pass)
//   launch     N · CLUSTER blocks; if RESIDENT, 4 · (V / CLUSTER, rounded up to a multiple of 4) bytes of shared memory
//   traffic    4 N V bytes: bandwidth-bound. A token can win only within 16.64 (the largest noise) of the best, so
//              random numbers are drawn for few. Top k and top p bisect the value of the last token that is kept
//              (some 20 sums over the row), then, among equals, its id
//   numerics   float; masses by the same exponential as the CPU's to the bit, added in double
//   measured   cargo bench --bench ops -- sample
#include "philox.cuh"
#include "hopper.cuh"
#include "slices.cuh"

#if CLUSTER == 1 || ARCH >= 90

// What is added or compared over a row: two numbers, one reduction.
struct Mass {
    double mass;
    u32 count;
};
__device__ __forceinline__ u64 shuffle(u64 x, int lane) { return __shfl_xor_sync(~0u, x, lane); }
__device__ __forceinline__ Mass shuffle(const Mass &x, int lane) {
    return Mass{__shfl_xor_sync(~0u, x.mass, lane), __shfl_xor_sync(~0u, x.count, lane)};
}
__device__ __forceinline__ u64 merge(u64 a, u64 b) { return a > b ? a : b; }
__device__ __forceinline__ Mass merge(const Mass &a, const Mass &b) { return Mass{a.mass + b.mass, a.count + b.count}; }

__device__ __forceinline__ u32 rank() {
#if CLUSTER > 1
    return cluster_rank();
#else
    return 0;
#endif
}

__device__ __forceinline__ void put(u64 *slot, u64 x, u32 to) {
#if CLUSTER > 1
    asm volatile("st.shared::cluster.u64 [%0], %1;" ::"r"(cluster_address(shared_address(slot), to)), "l"(x) : "memory");
#else
    *slot = x;
#endif
}

// The blocks of a row, and the exchange between them: every warp gives its part to every block, then all add up the
// same parts in the same order.
struct Blocks {
    u64 (*slots)[CLUSTER * WARPS][2];
    u32 turn;

    __device__ __forceinline__ void meet() {
#if CLUSTER > 1
        cluster_sync();
#else
        __syncthreads();
#endif
    }
    __device__ __forceinline__ u64 reduce(u64 x) {
#pragma unroll
        for (int lane = 16; lane > 0; lane >>= 1) x = merge(x, shuffle(x, lane));
        const u32 lane = threadIdx.x % 32;
        if (lane < CLUSTER) put(&slots[turn][rank() * WARPS + threadIdx.x / 32][0], x, lane);
        meet();
        u64 all = 0;
        for (u32 i = lane; i < CLUSTER * WARPS; i += 32) all = merge(all, slots[turn][i][0]);
#pragma unroll
        for (int lane = 16; lane > 0; lane >>= 1) all = merge(all, shuffle(all, lane));
        turn ^= 1;
        return all;
    }
    __device__ __forceinline__ Mass reduce(Mass x) {
#pragma unroll
        for (int lane = 16; lane > 0; lane >>= 1) x = merge(x, shuffle(x, lane));
        const u32 lane = threadIdx.x % 32;
        if (lane < CLUSTER) {
            u64 *slot = slots[turn][rank() * WARPS + threadIdx.x / 32];
            put(slot, (u64)__double_as_longlong(x.mass), lane), put(slot + 1, x.count, lane);
        }
        meet();
        Mass all{0.0, 0};
        for (u32 i = lane; i < CLUSTER * WARPS; i += 32)
            all = merge(all, Mass{__longlong_as_double((long long)slots[turn][i][0]), (u32)slots[turn][i][1]});
#pragma unroll
        for (int lane = 16; lane > 0; lane >>= 1) all = merge(all, shuffle(all, lane));
        turn ^= 1;
        return all;
    }
    __device__ __forceinline__ u32 count(u32 x) { return reduce(Mass{0.0, x}).count; }
};

// Floats in the order of their values, as unsigned numbers (the order of f32::total_cmp), and back.
__device__ __forceinline__ u32 ordered(float x) {
    const u32 bits = __float_as_uint(x);
    return bits ^ ((u32)((int)bits >> 31) | 0x80000000u);
}
__device__ __forceinline__ float value_of(u32 key) {
    return __uint_as_float(key & 0x80000000u ? key ^ 0x80000000u : ~key);
}
// A value and its token: the larger value wins, then the lower token. Zeros of either sign are equal.
__device__ __forceinline__ u64 contender(float x, u32 id) { return (u64)ordered(x + 0.0f) << 32 | ~id; }

// e^x, to the bit as src/ops/real.rs computes it.
__device__ __forceinline__ float exp_reference(float x) {
    const float round = 12582912.0f, y = fminf(fmaxf(x, -87.3f), 88.7f);
    const float n = __fsub_rn(__fadd_rn(__fmul_rn(y, 1.44269504f), round), round);
    const float r = __fadd_rn(__fsub_rn(y, __fmul_rn(n, 0.6933594f)), __fmul_rn(n, 2.1219444e-4f));
    float p = 1.9875691e-4f;
    p = __fadd_rn(__fmul_rn(p, r), 1.3982e-3f);
    p = __fadd_rn(__fmul_rn(p, r), 8.333452e-3f);
    p = __fadd_rn(__fmul_rn(p, r), 4.1665796e-2f);
    p = __fadd_rn(__fmul_rn(p, r), 1.6666666e-1f);
    p = __fadd_rn(__fmul_rn(p, r), 0.5f);
    const float mantissa = __fadd_rn(__fadd_rn(__fmul_rn(__fmul_rn(p, r), r), r), 1.0f);
    const int half = (int)__fmul_rn(n, 0.5f), rest = (int)n - half;
    const float result = __fmul_rn(__fmul_rn(mantissa, __uint_as_float((u32)(half + 127) << 23)),
                                   __uint_as_float((u32)(rest + 127) << 23));
    return x < -87.3f ? 0.0f : result;
}

// Which tokens are kept: those above `last`, and of those equal to it the ones below `bound`.
struct Kept {
    u32 last, bound;
    __device__ __forceinline__ bool has(float z, u32 id) const {
        const u32 key = ordered(z);
        return key > last || (key == last && id < bound);
    }
};

// This block's part of a row, in shared memory or, if not RESIDENT, where it came from.
struct Part {
    float *z;
    u32 first, count;
    // The temperature is applied at each reading.
    float inverse;

    // f(values, first token) for each of the thread's vectors, tokens ascending.
    template <typename F> __device__ __forceinline__ void each(F f) const {
#pragma unroll 2
        for (u32 i = threadIdx.x * WIDTH; i < count; i += BLOCK * WIDTH) {
            float x[WIDTH];
            load_floats(x, z + i);
#pragma unroll
            for (int j = 0; j < WIDTH; j++) x[j] = __fmul_rn(x[j], inverse);
            f(x, first + i);
        }
    }
};

#if RESIDENT
extern __shared__ float4 slice[];
#endif

// Reads the part, with −∞ for what is forbidden.
__device__ __forceinline__ void begin(Part &part, float *logits, const u32 *forbidden, u32 forbidden_count) {
    part.first = rank() * SLICE < V ? rank() * SLICE : V;
    part.count = V - part.first < SLICE ? V - part.first : SLICE;
    part.inverse = 1.0f;
#if RESIDENT
    part.z = reinterpret_cast<float *>(slice);
    for (u32 i = threadIdx.x * WIDTH; i < part.count; i += BLOCK * WIDTH) {
        if constexpr (WIDTH == 4)
            cp_async16(shared_address(part.z + i), logits + part.first + i);
        else
            part.z[i] = logits[part.first + i];
    }
    cp_async_commit();
    cp_async_wait<0>();
    if (forbidden_count > 0) __syncthreads();
#else
    part.z = logits + part.first;
#endif
    for (u32 i = threadIdx.x; i < forbidden_count; i += BLOCK)
        if (forbidden[i] - part.first < part.count) part.z[forbidden[i] - part.first] = -INFINITY_F;
    if (forbidden_count > 0) __syncthreads();
}

// Of the tokens whose value is exactly `last`, the lowest `wanted`: the bound on their ids.
__device__ __forceinline__ u32 bound_of(const Part &part, Blocks &blocks, u32 last, u32 wanted) {
    u32 lo = 0, hi = V;
    while (hi - lo > 1) {
        const u32 middle = lo + (hi - lo) / 2;
        u32 count = 0;
        part.each([&](const float(&z)[WIDTH], u32 first) {
#pragma unroll
            for (int j = 0; j < WIDTH; j++) count += ordered(z[j]) == last && first + j < middle;
        });
        if (blocks.count(count) >= wanted)
            hi = middle;
        else
            lo = middle;
    }
    return hi;
}

// Between two keys: the middle of the values, which lie evenly; after that many steps, that of the keys.
__device__ __forceinline__ u32 between(u32 lo, u32 hi, int step) {
    const u32 middle = ordered(0.5f * value_of(lo) + 0.5f * value_of(hi));
    return step < 24 && middle > lo && middle < hi ? middle : lo + (hi - lo) / 2;
}

// The k largest: bisects for the largest `last` with at least k tokens from it on.
__device__ __forceinline__ Kept top_k(const Part &part, Blocks &blocks, u32 best, u32 k) {
    u32 lo = 0, hi = best + 1, at_lo = V, at_hi = 0;
    for (int step = 0; hi - lo > 1 && at_lo != k; step++) {
        const u32 middle = between(lo, hi, step);
        u32 count = 0;
        part.each([&](const float(&z)[WIDTH], u32) {
#pragma unroll
            for (int j = 0; j < WIDTH; j++) count += ordered(z[j]) >= middle;
        });
        count = blocks.count(count);
        if (count >= k)
            lo = middle, at_lo = count;
        else
            hi = middle, at_hi = count;
    }
    // Where what is forbidden would be kept too, it makes no difference.
    if (at_lo == k || lo <= ordered(-INFINITY_F)) return Kept{lo, ~0u};
    return Kept{lo, bound_of(part, blocks, lo, k - at_hi)};
}

// Of `kept`, the fewest largest whose mass reaches p of it.
__device__ __forceinline__ Kept top_p(const Part &part, Blocks &blocks, Kept kept, float max, double p) {
    // Smaller values have no mass.
    const u32 floor = ordered(max - 87.5f);
    u32 lo = kept.last > floor ? kept.last : floor, hi = ordered(max) + 1;
    const auto mass = [&](u32 from, u32 to) {
        Mass sum{0.0, 0};
        part.each([&](const float(&z)[WIDTH], u32 first) {
#pragma unroll
            for (int j = 0; j < WIDTH; j++) {
                const u32 key = ordered(z[j]);
                if (key >= from && key < to && (key > kept.last || first + j < kept.bound))
                    sum = merge(sum, Mass{(double)exp_reference(z[j] - max), 1});
            }
        });
        return blocks.reduce(sum);
    };
    Mass at_lo = mass(lo, hi), at_hi{0.0, 0};
    const double wanted = p * at_lo.mass;
    for (int step = 0; hi - lo > 1 && at_lo.count - at_hi.count > 1; step++) {
        const u32 middle = between(lo, hi, step);
        const Mass at = merge(at_hi, mass(middle, hi));
        if (at.mass >= wanted)
            lo = middle, at_lo = at;
        else
            hi = middle, at_hi = at;
    }
    const u32 equals = at_lo.count - at_hi.count;
    if (equals <= 1) return Kept{lo, lo == kept.last ? kept.bound : ~0u};
    const double missing = ceil((wanted - at_hi.mass) / (double)exp_reference(value_of(lo) - max));
    const u32 take = missing < 1.0 ? 1 : missing < (double)equals ? (u32)missing : equals;
    if (take == equals) return Kept{lo, lo == kept.last ? kept.bound : ~0u};
    return Kept{lo, bound_of(part, blocks, lo, take)};
}

__device__ __forceinline__ float gumbel(float u) { return -logf(-logf(u)); }

extern "C" __global__ void IN_CLUSTERS __launch_bounds__(BLOCK, 1)
    sample_draw(u32 *tokens, float *logits, const uint2 *keys, const u32 *positions, const u32 *forbidden,
                const u32 *starts, float inverse, u32 k, float p) {
    __shared__ u64 slots[2][CLUSTER * WARPS][2];
#if CLUSTER > 1
    cluster_arrive();
#endif
    Blocks blocks{slots, 0};
    const u32 row = blockIdx.x / CLUSTER, position = positions[row];
    const u32 ban = starts ? starts[row] : 0;
    Part part;
    begin(part, logits + (u64)row * V, forbidden + ban, starts ? starts[row + 1] - ban : 0);
    // 1. the best token; a NaN wins, so that it is noticed
    float most = -INFINITY_F;
    u32 at = ~0u;
    bool damaged = false;
    part.each([&](const float(&z)[WIDTH], u32 first) {
#pragma unroll
        for (int j = 0; j < WIDTH; j++) {
            damaged |= z[j] != z[j];
            if (z[j] > most) most = z[j], at = first + j;
        }
    });
#if CLUSTER > 1
    // No block writes into another before that one has begun.
    cluster_wait();
#endif
    const u64 best = blocks.reduce(damaged ? ~0ull : contender(most, at));
    const u32 start = ~(u32)best;
    float max = value_of((u32)(best >> 32));
    const bool writes = threadIdx.x == 0 && rank() == 0;
    if (best == ~0ull || fabsf(max) == INFINITY_F) {
        if (writes) tokens[row] = 0, tokens[gridDim.x / CLUSTER] = 1;
        return;
    }
    if (inverse == 0.0f) {
        if (writes) tokens[row] = start;
        return;
    }
    // 2. temperature, top k, top p
    part.inverse = inverse;
    max = __fmul_rn(max, inverse);
    Kept kept{0, ~0u};
    if (k > 0 && k < V) kept = top_k(part, blocks, ordered(max), k);
    if (p < 1.0f) kept = top_p(part, blocks, kept, max, (double)p);
    // 3. the largest of z + noise. The largest noise is 16.636; and z + noise > bound only if −ln u < e^(z − bound),
    //    while −ln u ≥ 1 − u: an exponential rules almost all out before a logarithm is needed
    const uint2 key = keys[row];
    const auto noise = [&](u32 quad) { return philox(key.x, key.y, make_uint4(quad, position, 0, 0)); };
    const auto word = [](uint4 w, u32 i) { return i == 0 ? w.x : i == 1 ? w.y : i == 2 ? w.z : w.w; };
    float bound = max + gumbel(open_unit(word(noise(start / 4), start % 4)));
    u64 winner = contender(bound, start);
    part.each([&](const float(&z)[WIDTH], u32 first) {
        float top = z[0];
#pragma unroll
        for (int j = 1; j < WIDTH; j++) top = fmaxf(top, z[j]);
        if (top + 16.7f < bound) return;
        const uint4 words = noise(first / 4);
#pragma unroll
        for (int j = 0; j < WIDTH; j++) {
            const float u = open_unit(word(words, WIDTH == 4 ? j : first % 4));
            if (1.0f - u > __expf(z[j] - bound) * 1.01f || !kept.has(z[j], first + j)) continue;
            const float value = z[j] + gumbel(u);
            winner = merge(winner, contender(value, first + j));
            bound = fmaxf(bound, value);
        }
    });
    winner = blocks.reduce(winner);
    if (writes) tokens[row] = ~(u32)winner;
}

#endif // CLUSTER == 1 || ARCH >= 90
