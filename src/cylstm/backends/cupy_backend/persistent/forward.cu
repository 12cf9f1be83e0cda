// The whole forward pass of one layer in one launch, float16 or bfloat16, on tensor cores. Not run on a GPU yet.
//
// Block x owns UNITS hidden units, 4 * UNITS rows of weight_hh, for the whole sequence; they stay in registers as
// fragments of mma.m16n8k16 (A the weights, B the state, C the sums). A tile is 8 rows of the batch. Blocks exchange h
// through `output`. H is a multiple of 8, of which the first `used` units are computed; the h of the others is 0. All
// arrays begin at multiples of 16 bytes.
#define ROWS (TILES * 8)
#include "lstm.h"
#include "persistent.h"

#define M (4 * UNITS)
#define M_TILES (M / 16)

typedef unsigned Weights[K_STEPS][M_TILES][4];

// This warp's part of the sums of a tile: parts[row of the batch][4 u + gate].
INLINE void multiply(const Weights &weights, const Words (&h)[K_STEPS / 2], const Place &here, float *parts) {
    float sums[M_TILES][4] = {};
#pragma unroll
    for (int k = 0; k < K_STEPS; k++) {
        const unsigned b[2] = {h[k / 2].at[2 * (k & 1)], h[k / 2].at[2 * (k & 1) + 1]};
#pragma unroll
        for (int m = 0; m < M_TILES; m++) mma(sums[m], weights[k][m], b);
    }
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int r = 0; r < 4; r++)
            parts[(2 * here.member + (r & 1)) * M + m * 16 + here.group + 8 * (r >> 1)] = sums[m][r];
}

// Directions d_0 to d_0 + gridDim.y - 1 of D, sequences b_0 to b_0 + ROWS - 1 of B. The table of steps counts sequences
// from b_0 on: row b of a step is that of sequence b_0 + b.
extern "C" __global__ void __launch_bounds__(THREADS, 1) persistent_forward(
    const Step *steps,  // (T, D)
    int T, int D, int d_0, int B, int b_0, long long N, int H, int used,
    const unsigned *fragments,  // (gridDim.y, blocks, WARPS, K_STEPS, M_TILES, 32, 4): weight_hh, see fragments.py
    const STORAGE *h_0,         // (D, B, H), or null
    ARITHMETIC *gates,          // (N, D, 4, H): input product and biases; becomes the activated gates where c_prev is
    STORAGE *c_state,           // (D, B, H): c_0, becomes c_n
    STORAGE *c_prev,            // (D, N, H), or null
    STORAGE *output,            // (N, D, H), filled with 0xff
    int tries, int *failed
) {
    SHARED_MEMORY(shared);
    float *const parts = reinterpret_cast<float *>(shared);  // [2][WARPS][ROWS][M]
    const Place here = place_of(d_0, B, b_0, H);
    const int d = here.d;
    Patience patience = {tries, failed};
    Weights weights;
    load(weights, fragments);
    float c[EACH];
    take(c, c_state, here, H);
    for (int s = 0; s < T; s++) {
        const Step at = steps[s * D + d];
        float input[EACH][4];  // fetched while h is on its way
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            const Element my = element_of(e);
            if (my.b < at.rows && my.unit < used) {
                const ARITHMETIC *gate = gates + ((long long)(at.first + my.b) * D + d) * 4 * H + my.unit;
#pragma unroll
                for (int k = 0; k < 4; k++) input[e][k] = gate[(long long)k * H];
            }
        }
        float *const half = parts + (s & 1) * (WARPS * ROWS * M);  // the other one is being read by slower warps
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            if (tile * 8 >= at.rows) break;
            const int b = tile * 8 + here.group;
            const bool carried = b < at.carried;
            const STORAGE *row = h_0 ? h_0 + here.states + (long long)b * H : nullptr;
            if (carried) row = output + ((long long)(at.before + b) * D + d) * H;
            Words h[K_STEPS / 2];
            fetch(h, carried, patience, [=](int k) {
                const int first = first_k(here, k);
                return row && first < H && b < at.rows ? reinterpret_cast<const Words *>(row + first) : nullptr;
            });
            multiply(weights, h, here, half + (here.warp * ROWS + tile * 8) * M);
        }
        __syncthreads();
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            const Element my = element_of(e);
            const bool there = my.b < at.rows && my.unit < H, mine = there && my.unit < used;
            const long long n = at.first + my.b;
            STORAGE h = {};
            if (mine) {
                float a[4];
#pragma unroll
                for (int k = 0; k < 4; k++) a[k] = summed(input[e][k], half, my.b, M, 4 * my.u + k);
                const Gates now = activated(a);
                if (c_prev) {
                    ARITHMETIC *const gate = gates + (n * D + d) * 4 * H + my.unit;
                    gate[0] = now.i, gate[H] = now.f, gate[2 * H] = now.g, gate[3 * H] = now.o;
                    store(&c_prev[((long long)d * N + n) * H + my.unit], c[e]);
                }
                c[e] = next_cell(now, c[e]);
                store(&h, next_hidden(now, c[e]));
            }
            publish(&output[(n * D + d) * H + my.unit], h, there, my);
        }
    }
    give_back(c_state, c, here, H);
}
