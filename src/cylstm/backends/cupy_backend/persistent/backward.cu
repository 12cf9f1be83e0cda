// The recurrent part of the backward pass of one layer in one launch, float16 or bfloat16. Not run on a GPU yet.
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
typedef float Sums[N_TILES][4];

// Adds the products of a chunk: x[0] are words of row `group` of the tile, x[1] of row group + 8.
INLINE void multiply(Sums &sums, const Weights &weights, int chunk, const Words (&x)[2 * CHUNK]) {
#pragma unroll
    for (int k = 0; k < CHUNK; k++)
#pragma unroll
        for (int odd = 0; odd < 2; odd++) {
            const Words &low = x[k], &high = x[CHUNK + k];
            const unsigned a[4] = {low.at[2 * odd], high.at[2 * odd], low.at[2 * odd + 1], high.at[2 * odd + 1]};
#pragma unroll
            for (int n = 0; n < N_TILES; n++) mma(sums[n], a, weights[2 * (chunk + k) + odd][n]);
        }
}

// Directions and sequences are those of a launch, as in the forward pass.
extern "C" __global__ void __launch_bounds__(THREADS, 1) persistent_backward(
    const Step *steps,  // (T, D), against the forward walk
    int T, int D, int d_0, int B, int b_0, long long N, int H, int used,
    const unsigned *fragments,   // (gridDim.y, blocks, WARPS, K_STEPS, N_TILES, 32, 2): weight_hh, see fragments.py
    const STORAGE *grad_output,  // (N, D, H), or null
    const STORAGE *grad_h_n,     // (D, B, H), or null
    const ARITHMETIC *gates,     // (N, D, 4, H): activated
    const STORAGE *c_prev,       // (D, N, H)
    ARITHMETIC *dc_state,        // (D, B, H): the gradient of c_n, becomes that of c_0
    STORAGE *da,                 // (N, D, 4, H), filled with 0xff
    int tries, int *failed
) {
    SHARED_MEMORY(shared);
    float *const parts = reinterpret_cast<float *>(shared);  // [2][WARPS][ROWS][UNITS]
    const Place here = place_of(d_0, B, b_0, H);
    const int d = here.d, K = 4 * H;
    Patience patience = {tries, failed};
    Weights weights;
    load(weights, fragments);
    float dc[EACH];
    take(dc, dc_state, here, H);
    for (int s = 0; s < T; s++) {
        const Step at = steps[s * D + d];
        float *const half = parts + (s & 1) * (WARPS * ROWS * UNITS);
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            if (tile * 16 >= at.carried) break;
            Sums sums = {};
#pragma unroll
            for (int chunk = 0; chunk < K_STEPS / 2; chunk += CHUNK) {
                Words x[2 * CHUNK];
                fetch(x, true, patience, [=](int k) {
                    const int b = tile * 16 + here.group + 8 * (k / CHUNK);
                    const int first = first_k(here, chunk + k % CHUNK);
                    const STORAGE *const row = da + ((long long)(at.before + b) * D + d) * K;
                    return b < at.carried && first < K ? reinterpret_cast<const Words *>(row + first) : nullptr;
                });
                multiply(sums, weights, chunk, x);
            }
            float *const to = half + (here.warp * ROWS + tile * 16 + here.group) * UNITS + 2 * here.member;
#pragma unroll
            for (int n = 0; n < N_TILES; n++)
#pragma unroll
                for (int r = 0; r < 4; r++) to[(r >> 1) * 8 * UNITS + n * 8 + (r & 1)] = sums[n][r];
        }
        __syncthreads();
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            const Element my = element_of(e);
            const bool there = my.b < at.rows && my.unit < H, mine = there && my.unit < used;
            const long long n = at.first + my.b;
            STORAGE rounded_da[4] = {};
            if (mine) {
                float dh = 0;
                if (my.b < at.carried) {
                    dh = summed(0, half, my.b, UNITS, my.u);
                } else if (grad_h_n) {
                    dh = widened(grad_h_n[here.states + (long long)my.b * H + my.unit]);
                }
                if (grad_output) dh += widened(grad_output[(n * D + d) * H + my.unit]);
                const ARITHMETIC *gate = gates + (n * D + d) * K + my.unit;
                float da_of[4];
                gate_gradients(
                    {gate[0], gate[H], gate[2 * H], gate[3 * H]}, widened(c_prev[((long long)d * N + n) * H + my.unit]),
                    dh, dc[e], da_of
                );
#pragma unroll
                for (int k = 0; k < 4; k++) store(&rounded_da[k], da_of[k]);
            }
#pragma unroll
            for (int k = 0; k < 4; k++)
                publish(da + (n * D + d) * K + (long long)k * H + my.unit, rounded_da[k], there, my);
        }
    }
    give_back(dc_state, dc, here, H);
}
