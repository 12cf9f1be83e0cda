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
#define LEAN (K_STEPS * N_TILES >= 96)      // no register is left for what saves time elsewhere
#define CHAINS (LEAN ? 1 : SINGLE ? 2 : 4)  // of sums, so that an mma need not wait for the one before

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
INLINE void add_chunk(Sum (&sums)[CHAINS * N_TILES], const Weights &weights, int chunk, const Words (&x)[2 * CHUNK]) {
    sum_up(sums, [&](auto &to, auto careful) {
#pragma unroll
        for (int k = 0; k < 2 * CHUNK; k++)
#pragma unroll
            for (int n = 0; n < N_TILES; n++) {
                const Words &low = x[k / 2], &high = x[CHUNK + k / 2];
                const int r = 2 * (k & 1);
                const auto a = split<careful.value>({low.at[r], high.at[r], low.at[r + 1], high.at[r + 1]});
                add_product(to[k % CHAINS * N_TILES + n], a, split<careful.value>(weights[2 * chunk + k][n]));
            }
    });
}
// The sum in all chains.
INLINE float total(const Sum (&sums)[CHAINS * N_TILES], int n, int r) {
    float all = 0;
#pragma unroll
    for (int chain = 0; chain < CHAINS; chain++) all += sums[chain * N_TILES + n][0][r];
    return all;
}

// What a step's elements take from memory, but for the gradients of h_n.
struct Taken {
    float gate[4], c_prev, grad_output;
};
struct Sources {
    const ARITHMETIC *gates;              // (N, D, 4, H)
    const STORAGE *c_prev, *grad_output;  // (D, N, H); (N, D, H), or null
    long long N;
    int D, H;
};
// Calls `use` for each element of a step, with the addresses of what it takes: of its first gate, c_prev, grad_output.
template <class Use>
INLINE void each_source(const Sources &from, const Step &at, int d, int used, Use use) {
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        const Element my = element_of(e);
        if (my.b >= at.rows || my.unit >= used) continue;
        const long long n = at.first + my.b, of_direction = (n * from.D + d) * from.H;
        use(e, from.gates + 4 * of_direction + my.unit, from.c_prev + (d * from.N + n) * from.H + my.unit,
            from.grad_output ? from.grad_output + of_direction + my.unit : nullptr);
    }
}
INLINE void take_step(Taken (&taken)[EACH], const Sources &from, const Step &at, int d, int used) {
    each_source(from, at, d, used, [&](int e, const ARITHMETIC *gate, const STORAGE *c_prev, const STORAGE *grad) {
#pragma unroll
        for (int k = 0; k < 4; k++) taken[e].gate[k] = gate[k * from.H];
        taken[e].c_prev = widened(*c_prev);
        taken[e].grad_output = grad ? widened(*grad) : 0;
    });
}
INLINE void prefetch_step(const Sources &from, const Step &at, int d, int used) {
    each_source(from, at, d, used, [&](int, const ARITHMETIC *gate, const STORAGE *c_prev, const STORAGE *grad) {
#pragma unroll
        for (int k = 0; k < 4; k++) prefetch(gate + k * from.H);
        prefetch(c_prev);
        if (grad) prefetch(grad);
    });
}

// Directions and groups of sequences are those of a launch, as in the forward pass.
extern "C" __global__ void __launch_bounds__(THREADS, 1) persistent_backward(
    const Step *steps,  // IN (T, D), against the forward walk
    int T, int D, int d_0, int B, int group_0, long long N, int H, int used,
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
    const Place here = place_of(d_0, B, group_0, H);
    const int d = here.d, K = 4 * H;
    Patience patience = {tries, failed};
    Weights weights;
    load(weights, columns, here, H);
    float dc[EACH];
    take(dc, dc_state, here, H);
    const Sources from = {gates, c_prev, grad_output, N, D, H};
    Taken now[EACH] = {};
    Step at = step_of(steps, 0, T, D, here), next = step_of(steps, 1, T, D, here);
    take_step(now, from, at, d, used);
    for (int s = 0; s < T; s++) {
        const Step far = step_of(steps, s + FAR, T, D, here), after_next = step_of(steps, s + 2, T, D, here);
        float *const half = parts + (s & 1) * (WARPS * ROWS * UNITS);
        const STORAGE *const before = da + ((long long)at.before * D + d) * K;
#pragma unroll 1
        for (int tile = 0; tile < TILES; tile++) {
            if (tile * 16 >= at.carried) break;
            renewed(weights);
            Sum sums[CHAINS * N_TILES] = {};
#pragma unroll
            for (int chunk = 0; chunk < PAIRS; chunk += CHUNK) {
                Words x[2 * CHUNK];
                fetch(
                    x, patience,
                    [&](int k) -> const Words * {
                        const int b = tile * 16 + here.group + 8 * (k / CHUNK);
                        const int first = first_k(here, chunk + k % CHUNK);
                        return b < at.carried && first < K ? words_at(before + (b * D * K + first)) : nullptr;
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
                        float2{total(sums, n, 2 * high), total(sums, n, 2 * high + 1)};
        }
        __syncthreads();
        if constexpr (LEAN) take_step(now, from, at, d, used);
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
        at = LEAN ? step_of(steps, s + 1, T, D, here) : next, next = after_next;
        if constexpr (!LEAN) take_step(now, from, at, d, used);  // while the gradients are on their way
        if constexpr (!LEAN) prefetch_step(from, far, d, used);
    }
    give_back(dc_state, dc, here, H);
}
