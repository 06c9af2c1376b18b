// Gated linear unit.  Maths, shapes, CPU reference: src/ops/glu.rs
//   glu_forward    y = a(gate) · up
//   glu_backward   dgate = dy · up · a'(gate),  dup = dy · a(gate)
//   a(x) = x σ(z),  a'(x) = σ + x σ (1 − σ) z';  z = x (silu) or 2 √(2/π) (x + 0.044715 x³) (gelu, tanh form)
//   y, dy (N, F) real    gate_up, dgate_up (N, 2 F) real, the gate in the first half of a row
//
//   load-time  F; GELU (1: gelu, 0: silu)
//   launch     256 threads, a vector of y each: over n · F / WIDTH; n is the number of rows
//   traffic    of N·F real: forward 3, backward 5; bandwidth-bound
//   numerics   float, one rounding at the store
//   measured   cargo bench --bench ops -- glu
#include "prelude.cuh"

static const int WIDTH = width_of<real>(F);
// Vectors in half a row.
static const int VECTORS = F / WIDTH;

// a(x) and a'(x).
__device__ __forceinline__ void activate(float x, float &value, float &slope) {
#if GELU
    const float cubic = 0.044715f * x * x, z = 1.595769f * (x + cubic * x), dz = 1.595769f * (1.0f + 3.0f * cubic);
#else
    const float z = x, dz = 1.0f;
#endif
    // 1 / ∞ is 0, as it should be; the fast division is within 2 units in the last place.
    const float sigma = __fdividef(1.0f, 1.0f + expf(-z));
    value = x * sigma;
    slope = sigma + value * (1.0f - sigma) * dz;
}

extern "C" __global__ void __launch_bounds__(256)
    glu_forward(real *__restrict__ y, const real *__restrict__ gate_up, u32 n) {
    const u64 i = (u64)blockIdx.x * 256 + threadIdx.x;
    if (i >= (u64)n * VECTORS) return;
    const real *from = gate_up + (i + i / VECTORS * VECTORS) * WIDTH;
    Held<real, WIDTH> gate, up;
    hold(gate, from), hold(up, from + F);
    float g[WIDTH], u[WIDTH], slope;
    spread(g, gate), spread(u, up);
#pragma unroll
    for (int j = 0; j < WIDTH; j++) {
        activate(g[j], g[j], slope);
        u[j] *= g[j];
    }
    store(y + i * WIDTH, u);
}

extern "C" __global__ void __launch_bounds__(256) glu_backward(real *__restrict__ dgate_up, const real *__restrict__ dy,
                                                               const real *__restrict__ gate_up, u32 n) {
    const u64 i = (u64)blockIdx.x * 256 + threadIdx.x;
    if (i >= (u64)n * VECTORS) return;
    const u64 at = (i + i / VECTORS * VECTORS) * WIDTH;
    Held<real, WIDTH> gate, up, dout;
    hold(gate, gate_up + at), hold(up, gate_up + at + F), hold(dout, dy + i * WIDTH);
    float g[WIDTH], u[WIDTH], d[WIDTH];
    spread(g, gate), spread(u, up), spread(d, dout);
#pragma unroll
    for (int j = 0; j < WIDTH; j++) {
        float value, slope;
        activate(g[j], value, slope);
        g[j] = d[j] * u[j] * slope;
        u[j] = d[j] * value;
    }
    store(dgate_up + at, g), store(dgate_up + at + F, u);
}
