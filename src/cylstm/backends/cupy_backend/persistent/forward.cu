// The whole forward pass of one layer in one launch, on tensor cores.
//
// Block x owns UNITS hidden units, 4 * UNITS rows of weight_hh, for the whole sequence; they stay in registers as
// fragments of mma (A the weights, B the state, C the sums). A tile is 8 rows of the batch. Blocks exchange h through
// `output`. H is a multiple of 8, of which the first `used` units are computed; the h of the others is 0. All arrays
// begin at multiples of 16 bytes.
//
// Compile-time, beside those of persistent.h: GROUP, tiles whose h is fetched at once; it divides TILES.
#define ROWS (TILES * 8)
#include "lstm.h"
#include "persistent.h"

#define M (4 * UNITS)
#define M_TILES (M / 16)
#define STRIDE (M + 4)  // of a row of parts: so the lanes of a warp meet in no bank of shared memory

typedef unsigned Weights[K_STEPS][M_TILES][4];

INLINE void load(Weights &weights, const STORAGE *weight_hh, const Place &here, int H) {
#pragma unroll
    for (int pair = 0; pair < PAIRS; pair++)
#pragma unroll
        for (int m = 0; m < M_TILES; m++)
#pragma unroll
            for (int low = 0; low < 2; low++) {
                const int row = m * 16 + here.group + 8 * low;  // 4 u + gate
                const int unit = blockIdx.x * UNITS + row / 4, k = first_k(here, pair);
                Words words = {{0, 0, 0, 0}};
                if (unit < H && k < H) words = *words_at(weight_hh + ((here.d * 4LL + row % 4) * H + unit) * H + k);
#pragma unroll
                for (int r = 0; r < 4; r++) weights[2 * pair + r / 2][m][low + 2 * (r & 1)] = words.at[r];
            }
}

INLINE void renewed(Weights &weights) {
    if constexpr (K_STEPS * M_TILES > 8)  // the rests of fewer stay in registers
#pragma unroll
        for (int k = 0; k < K_STEPS * M_TILES * 4; k++) renew(weights[k / (4 * M_TILES)][k / 4 % M_TILES][k % 4]);
}

// This warp's part of the sums of tiles: parts[row of the batch][4 u + gate].
INLINE void multiply(const Weights &weights, const Words (&h)[GROUP * PAIRS], const Place &here, float *parts) {
    Sum sums[GROUP * M_TILES] = {};
    sum_up(sums, [&](auto &to, auto careful) {
#pragma unroll
        for (int k = 0; k < K_STEPS; k++) {
            Factors<2> b[GROUP];
#pragma unroll
            for (int tile = 0; tile < GROUP; tile++) {
                const Words &words = h[tile * PAIRS + k / 2];
                b[tile] = split<careful.value>({words.at[2 * (k & 1)], words.at[2 * (k & 1) + 1]});
            }
#pragma unroll
            for (int m = 0; m < M_TILES; m++) {
                const Factors<4> a = split<careful.value>(weights[k][m]);
#pragma unroll
                for (int tile = 0; tile < GROUP; tile++) add_product(to[tile * M_TILES + m], a, b[tile]);
            }
        }
    });
#pragma unroll
    for (int tile = 0; tile < GROUP; tile++)
#pragma unroll
        for (int m = 0; m < M_TILES; m++)
#pragma unroll
            for (int r = 0; r < 4; r++)
                parts[(tile * 8 + 2 * here.member + (r & 1)) * STRIDE + m * 16 + here.group + 8 * (r >> 1)] =
                    total(sums[tile * M_TILES + m], r);
}

// Adds the parts of all warps to the four sums of a unit: its row of `parts` and those WARPS - 1 that are ROWS apart.
INLINE void add_parts(float (&sums)[4], const float *parts) {
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
        const float4 part = *reinterpret_cast<const float4 *>(parts + w * (ROWS * STRIDE));
        sums[0] += part.x, sums[1] += part.y, sums[2] += part.z, sums[3] += part.w;
    }
}

// The input's share of the sums of a step's elements.
typedef float Input[EACH][4];
INLINE const ARITHMETIC *input_of(const ARITHMETIC *gates, const Element &my, const Step &at, int d, int D, int H) {
    return gates + ((long long)(at.first + my.b) * D + d) * 4 * H + my.unit;
}
INLINE void take_input(Input &input, const ARITHMETIC *gates, const Step &at, int d, int D, int H, int used) {
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        const Element my = element_of(e);
        const ARITHMETIC *const gate = input_of(gates, my, at, d, D, H);
#pragma unroll
        for (int k = 0; k < 4; k++) input[e][k] = my.b < at.rows && my.unit < used ? gate[k * H] : 0;
    }
}
INLINE void prefetch_input(const ARITHMETIC *gates, const Step &at, int d, int D, int H, int used) {
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        const Element my = element_of(e);
        if (my.b < at.rows && my.unit < used)
#pragma unroll
            for (int k = 0; k < 4; k++) prefetch(input_of(gates, my, at, d, D, H) + k * H);
    }
}
INLINE void take_biases(Input &biases, const float *bias, int d, int H, int used) {
#pragma unroll
    for (int e = 0; e < EACH; e++)
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const int unit = element_of(e).unit;
            biases[e][k] = bias && unit < used ? bias[(d * 4 + k) * H + unit] : 0;
        }
}

// Directions d_0 to d_0 + gridDim.y - 1 of D, and groups of ROWS sequences from number group_0 on, gridDim.z of them.
extern "C" __global__ void __launch_bounds__(THREADS, 1) persistent_forward(
    const Step *steps,  // IN (T, D)
    int T, int D, int d_0, int B, int group_0, long long N, int H, int used,
    const STORAGE *weight_hh,  // IN (D, 4, H, H)
    const float *bias,         // IN (D, 4, H): the sum of both, or null
    const STORAGE *h_0,        // IN (D, B, H), or null
    ARITHMETIC *gates,         // IN, OUT (N, D, 4, H): the input product; the activated gates where c_prev is
    STORAGE *c_state,          // IN, OUT (D, B, H): c_0; c_n
    STORAGE *h_n,              // OUT (D, B, H)
    STORAGE *c_prev,           // OUT (D, N, H), or null
    STORAGE *h_prev,           // OUT (D, N, H), or null
    STORAGE *output,           // OUT (N, D, H), filled with 0xff
    int tries, int *failed
) {
    SHARED_MEMORY(shared);
    float *const parts = reinterpret_cast<float *>(shared);  // [2][WARPS][ROWS][STRIDE]
    const Place here = place_of(d_0, B, group_0, H);
    const int d = here.d;
    Patience patience = {tries, failed};
    Weights weights;
    load(weights, weight_hh, here, H);
    float h_state[EACH], c[EACH];
    take(h_state, h_0, here, H);
    take(c, c_state, here, H);
    Input biases, input;
    take_biases(biases, bias, d, H, used);
    Step at = step_of(steps, 0, T, D, here), next = step_of(steps, 1, T, D, here);
    take_input(input, gates, at, d, D, H, used);
    for (int s = 0; s < T; s++) {
        const Step far = step_of(steps, s + FAR, T, D, here), after_next = step_of(steps, s + 2, T, D, here);
        float *const half = parts + (s & 1) * (WARPS * ROWS * STRIDE);  // the other one is being read by slower warps
        const STORAGE *const before = output + ((long long)at.before * D + d) * H;
#pragma unroll 1
        for (int first = 0; first < TILES; first += GROUP) {
            if (first * 8 >= at.rows) break;
            renewed(weights);
            const auto row = [&](int k) { return (first + k / PAIRS) * 8 + here.group; };
            Words h[GROUP * PAIRS];
            fetch(
                h, patience,
                [&](int k) -> const Words * {
                    const int b = row(k), unit = first_k(here, k % PAIRS);
                    const bool carried = b < at.carried;
                    const STORAGE *const from =
                        carried ? before + (b * D * H + unit) : h_0 + (here.states + b * H + unit);
                    return b < at.rows && unit < H && (carried || h_0) ? words_at(from) : nullptr;
                },
                [&](int k) { return row(k) < at.carried; }
            );
            multiply(weights, h, here, half + (here.warp * ROWS + first * 8) * STRIDE);
        }
        __syncthreads();
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            const Element my = element_of(e);
            const bool there = my.b < at.rows && my.unit < H, mine = there && my.unit < used;
            const long long n = at.first + my.b;
            const float h_before = h_state[e], c_before = c[e];
            Gates now;
            STORAGE h = {};
            if (mine) {
                float a[4];
#pragma unroll
                for (int k = 0; k < 4; k++) a[k] = input[e][k] + biases[e][k];
                add_parts(a, half + my.b * STRIDE + 4 * my.u);
                now = activated(a);
                c[e] = next_cell(now, c_before);
                store(&h, next_hidden(now, c[e]));
                h_state[e] = widened(h);
            }
            publish(&output[(n * D + d) * H + my.unit], h, there, my.u);
            if (there && c_prev) {
                store(&h_prev[((long long)d * N + n) * H + my.unit], h_before);
                store(&c_prev[((long long)d * N + n) * H + my.unit], c_before);
                ARITHMETIC *const gate = gates + (n * D + d) * 4 * H + my.unit;
                if (mine) gate[0] = now.i, gate[H] = now.f, gate[2 * H] = now.g, gate[3 * H] = now.o;
            }
        }
        at = next, next = after_next;
        take_input(input, gates, at, d, D, H, used);  // while h is on its way
        prefetch_input(gates, far, d, D, H, used);
    }
    give_back(h_n, h_state, here, H);
    give_back(c_state, c, here, H);
}
