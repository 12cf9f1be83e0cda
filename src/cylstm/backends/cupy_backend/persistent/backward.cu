// The recurrent part of the backward pass of one layer in one launch, on tensor cores.
//
// Block x owns UNITS hidden units. The gradient of h at a step is the product of the gradients of the gates at the step
// before it in this walk, (rows, 4 H), with the UNITS columns of weight_hh that stay in the block's registers: here the
// rows of the batch are A of the mma and the weights B. A tile is 16 rows. Blocks exchange the gradients of the gates,
// rounded to STORAGE, through `da`; those of units beyond the first `used` are 0. All other gradients are products over
// all rows, afterwards.
//
// Compile-time, beside those of persistent.h: CHUNK, pairs of k steps fetched at once; it divides K_STEPS / 2.
#define ROWS (TILES * 16)
#include "lstm.h"
#include "persistent.h"

#define N_TILES (UNITS / 8)

typedef unsigned Weights[K_STEPS][N_TILES][2];

INLINE void load(Weights &weights, const STORAGE *columns, const Place &here, int H) {
#pragma unroll
    for (int pair = 0; pair < PAIRS; pair++)
#pragma unroll
        for (int n = 0; n < N_TILES; n++) {
            const int unit = blockIdx.x * UNITS + n * 8 + here.group, k = first_k(here, pair);
            Words words = {{0, 0, 0, 0}};
            if (unit < H && k < 4 * H) words = *words_at(columns + ((long long)here.d * H + unit) * 4 * H + k);
#pragma unroll
            for (int r = 0; r < 4; r++) weights[2 * pair + r / 2][n][r & 1] = words.at[r];
        }
}

INLINE void renewed(Weights &weights) {
    if constexpr (K_STEPS * N_TILES > 8)  // the rests of fewer stay in registers
#pragma unroll
        for (int k = 0; k < K_STEPS * N_TILES * 2; k++) renew(weights[k / (2 * N_TILES)][k / 2 % N_TILES][k % 2]);
}

// Adds the products of a chunk: x[0] are words of row `group` of the tile, x[CHUNK] of row group + 8.
INLINE void add_chunk(float (&sums)[N_TILES][4], const Weights &weights, int chunk, const Words (&x)[2 * CHUNK]) {
    Sum of_chunk[N_TILES];
    sum_up(of_chunk, [&](auto careful) {
#pragma unroll
        for (int k = 0; k < 2 * CHUNK; k++)
#pragma unroll
            for (int n = 0; n < N_TILES; n++) {
                const Words &low = x[k / 2], &high = x[CHUNK + k / 2];
                const int r = 2 * (k & 1);
                const auto a = split<careful.value>({low.at[r], high.at[r], low.at[r + 1], high.at[r + 1]});
                add_product(of_chunk[n], a, split<careful.value>(weights[2 * chunk + k][n]));
            }
    });
#pragma unroll
    for (int n = 0; n < N_TILES; n++)
#pragma unroll
        for (int r = 0; r < 4; r++) sums[n][r] += total(of_chunk[n], r);
}

// What a step's elements take from memory, but for the gradients of h_n. It is asked for a step ahead.
struct Taken {
    float gate[4], c_prev, grad_output;
};
INLINE void take_step(
    Taken (&taken)[EACH], const ARITHMETIC *gates, const STORAGE *c_prev, const STORAGE *grad_output, const Step &at,
    const Place &here, int D, long long N, int H, int used
) {
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        const Element my = element_of(e);
        if (my.b >= at.rows || my.unit >= used) continue;
        const long long n = at.first + my.b, of_direction = (n * D + here.d) * H;
#pragma unroll
        for (int k = 0; k < 4; k++) taken[e].gate[k] = gates[4 * of_direction + (long long)k * H + my.unit];
        taken[e].c_prev = widened(c_prev[(here.d * N + n) * H + my.unit]);
        taken[e].grad_output = grad_output ? widened(grad_output[of_direction + my.unit]) : 0;
    }
}

// Directions and sequences are those of a launch, as in the forward pass.
extern "C" __global__ void __launch_bounds__(THREADS, 1) persistent_backward(
    const Step *steps,  // IN (T, D), against the forward walk
    int T, int D, int d_0, int B, int b_0, long long N, int H, int used,
    const STORAGE *columns,      // IN (D, H, 4 H): weight_hh by its columns
    const STORAGE *grad_output,  // IN (N, D, H), or null
    const STORAGE *grad_h_n,     // IN (D, B, H), or null
    const ARITHMETIC *gates,     // IN (N, D, 4, H): activated
    const STORAGE *c_prev,       // IN (D, N, H)
    ARITHMETIC *dc_state,        // IN, OUT (D, B, H): the gradient of c_n; of c_0
    STORAGE *da,                 // OUT (N, D, 4, H), filled with 0xff
    int tries, int *failed
) {
    SHARED_MEMORY(shared);
    float *const parts = reinterpret_cast<float *>(shared);  // [2][WARPS][ROWS][UNITS]
    const Place here = place_of(d_0, B, b_0, H);
    const int d = here.d, K = 4 * H;
    Patience patience = {tries, failed};
    Weights weights;
    load(weights, columns, here, H);
    float dc[EACH];
    take(dc, dc_state, here, H);
    Taken now[EACH] = {}, ahead[EACH] = {};
    Step at = steps[d];
    take_step(now, gates, c_prev, grad_output, at, here, D, N, H, used);
    for (int s = 0; s < T; s++) {
        const Step next = s + 1 < T ? steps[(s + 1) * D + d] : Step{0, 0, 0, 0};
        float *const half = parts + (s & 1) * (WARPS * ROWS * UNITS);
#pragma unroll 1
        for (int tile = 0; tile < TILES; tile++) {
            if (tile * 16 >= at.carried) break;
            renewed(weights);
            float sums[N_TILES][4] = {};
#pragma unroll
            for (int chunk = 0; chunk < PAIRS; chunk += CHUNK) {
                Words x[2 * CHUNK];
                fetch(
                    x, patience,
                    [&](int k) -> const Words * {
                        const int b = tile * 16 + here.group + 8 * (k / CHUNK);
                        const int first = first_k(here, chunk + k % CHUNK);
                        const STORAGE *const row = da + ((long long)(at.before + b) * D + d) * K;
                        return b < at.carried && first < K ? words_at(row + first) : nullptr;
                    },
                    [](int) { return true; }
                );
                add_chunk(sums, weights, chunk, x);
            }
            float *const to = half + (here.warp * ROWS + tile * 16 + here.group) * UNITS + 2 * here.member;
#pragma unroll
            for (int n = 0; n < N_TILES; n++)
#pragma unroll
                for (int high = 0; high < 2; high++)
                    *reinterpret_cast<float2 *>(to + high * 8 * UNITS + n * 8) =
                        float2{sums[n][2 * high], sums[n][2 * high + 1]};
        }
        take_step(ahead, gates, c_prev, grad_output, next, here, D, N, H, used);
        __syncthreads();
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            const Element my = element_of(e);
            const bool there = my.b < at.rows && my.unit < H, mine = there && my.unit < used;
            STORAGE rounded_da[4] = {};
            if (mine) {
                float dh = now[e].grad_output, da_of[4];
                if (my.b < at.carried) {
#pragma unroll
                    for (int w = 0; w < WARPS; w++) dh += half[(w * ROWS + my.b) * UNITS + my.u];
                } else if (grad_h_n) {
                    dh += widened(grad_h_n[here.states + (long long)my.b * H + my.unit]);
                }
                const float *const gate = now[e].gate;
                gate_gradients({gate[0], gate[1], gate[2], gate[3]}, now[e].c_prev, dh, dc[e], da_of);
#pragma unroll
                for (int k = 0; k < 4; k++) store(&rounded_da[k], da_of[k]);
            }
#pragma unroll
            for (int k = 0; k < 4; k++)
                publish(da + ((at.first + my.b) * (long long)D + d) * K + k * H + my.unit, rounded_da[k], there, my.u);
        }
        at = next;
#pragma unroll
        for (int e = 0; e < EACH; e++) now[e] = ahead[e];
    }
    give_back(dc_state, dc, here, H);
}
