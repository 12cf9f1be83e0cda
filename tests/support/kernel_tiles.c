/* Tiles of one line of kernels.def, of numbers by chance: prints every h, c and product, for tests that compare the lines
 * of instruction sets that the machine lacks with others. KERNELS is the table of the line. */
#include <stdio.h>
#include <stdlib.h>
#include "lstm.c"

enum { MOST = 192 }; /* numbers of a row */
static const Kernels *kernels = &KERNELS;

static float drawn(void) {
    static uint32_t state = 1;
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / (1 << 23) - 1; /* -1 ... 1 */
}

static void *zeros(ptrdiff_t bytes) {
    void *memory = calloc((size_t)bytes + LINE, 1);
    return (char *)memory + (-(uintptr_t)memory & (LINE - 1));
}

static void *panel_of(const Factor *factor, ptrdiff_t K, ptrdiff_t lanes, int whole) {
    PackTask t = {.K = K, .stride = K};
    t.panel = zeros((K + factor->group - 1) / factor->group * factor->group_bytes + factor->tail_bytes);
    for (int v = 0; v < 4; v++) {
        float *scale = zeros(VL * 4), *wide = zeros(VL * K * 4);
        int8_t *small = zeros(VL * K);
        for (ptrdiff_t n = 0; n < lanes; n++) {
            scale[n] = whole ? (drawn() + 2) / 500 : drawn() + 2;
            for (ptrdiff_t k = 0; k < K; k++) {
                wide[n * K + k] = drawn() / 4;
                small[n * K + k] = (int8_t)(drawn() * 128);
            }
        }
        t.matrix[v] = whole ? (void *)small : wide;
        t.scale[v] = scale;
        t.lanes[v] = lanes;
    }
    factor->pack(&t);
    return (void *)t.panel;
}

static char *operands_of(const Factor *factor, ptrdiff_t rows, ptrdiff_t K, float *scale) {
    char *operands = zeros(rows * MOST * factor->operand_bytes);
    for (ptrdiff_t r = 0; r < rows; r++) {
        float row[MOST] = {0};
        for (ptrdiff_t k = 0; k < K; k++) row[k] = drawn();
        factor->convert(row, K, operands + r * MOST * factor->operand_bytes, scale + r);
    }
    return operands;
}

static void print(const float *numbers, ptrdiff_t count) {
    for (ptrdiff_t k = 0; k < count; k++) printf("%.9g\n", (double)numbers[k]);
}

static void tiles(ptrdiff_t I, ptrdiff_t R, ptrdiff_t lanes) {
    const int whole = kernels->state.tail_bytes != 0;
    const void *weight_ih = panel_of(&kernels->input, I, lanes, 0);
    const void *weight_hh = panel_of(&kernels->state, R, lanes, whole);
    float h_scale[MAX_ROWS], *start = zeros(4 * VL * 4), *c = zeros(MAX_ROWS * VL * 4),
                             *out = zeros(MAX_ROWS * MOST * 4);
    const void *input = operands_of(&kernels->input, MAX_ROWS, I, h_scale);
    const void *h = operands_of(&kernels->state, MAX_ROWS, R, h_scale);
    for (ptrdiff_t k = 0; k < 4 * VL; k++) start[k] = drawn();
    for (ptrdiff_t k = 0; k < MAX_ROWS * VL; k++) c[k] = drawn() * 3;
    GatesTile gates = {
        .lanes = lanes,
        .start = start,
        .input = input,
        .input_stride = MOST,
        .I = I,
        .h = h,
        .weight_ih = weight_ih,
        .h_scale = h_scale,
        .h_stride = MOST,
        .R = R,
        .weight_hh = weight_hh,
        .c = c,
        .h_out = out,
        .h_out_stride = MOST
    };
    ProductTile product = {
        .columns = 4 * VL - 1,
        .start = start,
        .a = input,
        .a_row = MOST,
        .a_k = 1,
        .K = I,
        .segments = 1,
        .panel = weight_ih,
        .out = out,
        .out_stride = MOST
    };
    for (ptrdiff_t rows = 1; rows <= MAX_ROWS; rows++) {
        gates.rows = product.rows = rows;
        kernels->gates(&gates);
        print(c, rows * VL);
        print(out, rows * MOST);
        kernels->product(&product);
        print(out, rows * MOST);
    }
    GatesTile pair[2] = {gates, gates};
    pair[1].c = c + VL, pair[1].h_out = out + MOST;
    kernels->gates_pair(pair);
    print(c, 2 * VL);
    print(out, 2 * MOST);
}

int main(void) {
    tiles(1, 1, VL);
    tiles(5, 7, VL - 1);
    tiles(64, 128, VL);
    tiles(33, 131, VL);
    return 0;
}
