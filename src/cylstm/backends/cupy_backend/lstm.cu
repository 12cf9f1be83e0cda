// One step of the LSTM, all directions, forward and backward. One launch is one step; schedule.py has the sequence.
//
// Every kernel is a product of the step's rows with a matrix, followed by arithmetic on each element of the product.
// A block computes ROWS rows x 32 units. Its threads are (32 units, SLICES): thread (u, s) adds up the s-th part of the
// sum over k of unit u, for all rows of the block, then the parts are added in order: no atomics, the same bits each
// time. Consecutive threads read consecutive elements of the matrix, and all threads of a warp the same h.
//
// gridDim is (rows / ROWS, units / 32, D), rounded up: blocks that run at the same time share columns of the matrix. A
// direction has its own step, with its own number of rows.
#include "lstm.h"

#define UNITS 32

// Adds up, for each of the block's rows and COLUMNS neighbouring columns per unit,
//     sums[row][column] = sum over k of left(row)[k] * matrix[k][unit][column]
// and leaves the parts in shared memory: parts[slice][row * COLUMNS + column][u].
template <int COLUMNS, class Left>
INLINE void multiply(const Left *const left[ROWS], const STORAGE *matrix, int K, int units, ARITHMETIC *parts) {
    const int u = threadIdx.x, slice = threadIdx.y;
    const int unit = min(int(blockIdx.y) * UNITS + u, units - 1);  // beyond the last: computed, not used
    const int length = (K + SLICES - 1) / SLICES;
    const int begin = slice * length, end = min(begin + length, K);
    ARITHMETIC sums[ROWS][COLUMNS] = {};
#pragma unroll(ROWS *COLUMNS < 64 ? 4 : 2)  // 64 sums fill the registers
    for (int k = begin; k < end; k++) {
        struct alignas(COLUMNS * sizeof(STORAGE)) Columns {
            STORAGE at[COLUMNS];
        };
        const Columns columns = reinterpret_cast<const Columns *>(matrix)[(long long)k * units + unit];
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
            const ARITHMETIC a = widened(left[row][k]);
#pragma unroll
            for (int column = 0; column < COLUMNS; column++) sums[row][column] += a * widened(columns.at[column]);
        }
    }
#pragma unroll
    for (int row = 0; row < ROWS; row++)
#pragma unroll
        for (int column = 0; column < COLUMNS; column++)
            parts[(slice * ROWS * COLUMNS + row * COLUMNS + column) * UNITS + u] = sums[row][column];
}

template <int COLUMNS>
INLINE ARITHMETIC added(const ARITHMETIC *parts, int row, int column) {
    ARITHMETIC sum = 0;
#pragma unroll
    for (int slice = 0; slice < SLICES; slice++)
        sum += parts[(slice * ROWS * COLUMNS + row * COLUMNS + column) * UNITS + threadIdx.x];
    return sum;
}

// What the kernels do once the parts are there: thread (u, s) takes the rows s, s + SLICES, ... of unit u.
#define EACH_ROW_OF_BLOCK(row, b, rows) \
    for (int row = threadIdx.y, b = blockIdx.x * ROWS + row; row < ROWS && b < rows; row += SLICES, b += SLICES)

// The vectors that a block multiplies: for each of its rows the one of its sequence. Beyond the last sequence that of the
// last is taken, and its sums are not used.
template <class Left, class OfSequence>
INLINE void find(const Left *left[ROWS], int rows, OfSequence vector) {
#pragma unroll
    for (int row = 0; row < ROWS; row++) left[row] = vector(min(int(blockIdx.x) * ROWS + row, rows - 1));
}

// (1)-(4) of step number `step` in the order of the walk. Without projection h goes to `output`, with it the h before
// the projection goes to `unprojected`, for `project`.
extern "C" __global__ void __launch_bounds__(UNITS *SLICES) forward(
    const Step *steps,  // (T, D)
    int step, int B, long long N, int H, int R,
    const STORAGE *matrix,   // (D, R, H, 4), weight_hh
    const STORAGE *h_0,      // (D, B, R)
    ARITHMETIC *gates,       // (N, D, 4, H): input product and biases; becomes the activated gates
    STORAGE *c,              // (D, B, H): the state, carried from step to step
    STORAGE *c_prev,         // (D, N, H), kept for the backward pass, or null
    STORAGE *output,         // (N, D, R)
    ARITHMETIC *unprojected  // (D, B, H), or null
) {
    __shared__ ARITHMETIC parts[SLICES * ROWS * 4 * UNITS];
    const int D = gridDim.z, d = blockIdx.z;
    const Step at = steps[step * D + d];
    if (int(blockIdx.x) * ROWS >= at.rows) return;  // the whole block: the other direction has more rows
    const STORAGE *left[ROWS];
    find(left, at.rows, [=](int b) {
        return b < at.carried ? output + ((long long)(at.before + b) * D + d) * R : h_0 + ((long long)d * B + b) * R;
    });
    multiply<4>(left, matrix + (long long)d * R * H * 4, R, H, parts);
    __syncthreads();
    const int unit = blockIdx.y * UNITS + threadIdx.x;
    if (unit >= H) return;
    EACH_ROW_OF_BLOCK(row, b, at.rows) {
        const long long n = at.first + b, state = ((long long)d * B + b) * H + unit;
        ARITHMETIC *const gate = gates + (n * D + d) * 4 * H + unit;
        ARITHMETIC a[4];
#pragma unroll
        for (int k = 0; k < 4; k++) a[k] = gate[(long long)k * H] + added<4>(parts, row, k);
        const Gates now = activated(a);
        gate[0] = now.i, gate[H] = now.f, gate[2 * H] = now.g, gate[3 * H] = now.o;
        if (c_prev) c_prev[((long long)d * N + n) * H + unit] = c[state];
        const ARITHMETIC cell = next_cell(now, widened(c[state])), h = next_hidden(now, cell);
        store(&c[state], cell);
        if (unprojected) unprojected[state] = h;
        else store(&output[(n * D + d) * R + unit], h);
    }
}

// (5)
extern "C" __global__ void __launch_bounds__(UNITS *SLICES) project(
    const Step *steps, int step, int B, int H, int P,
    const STORAGE *matrix,          // (D, H, P), weight_hr transposed
    const ARITHMETIC *unprojected,  // (D, B, H)
    STORAGE *output                 // (N, D, P)
) {
    __shared__ ARITHMETIC parts[SLICES * ROWS * UNITS];
    const int D = gridDim.z, d = blockIdx.z;
    const Step at = steps[step * D + d];
    if (int(blockIdx.x) * ROWS >= at.rows) return;
    const ARITHMETIC *left[ROWS];
    find(left, at.rows, [=](int b) { return unprojected + ((long long)d * B + b) * H; });
    multiply<1>(left, matrix + (long long)d * H * P, H, P, parts);
    __syncthreads();
    const int p = blockIdx.y * UNITS + threadIdx.x;
    if (p >= P) return;
    EACH_ROW_OF_BLOCK(row, b, at.rows) {
        store(&output[((long long)(at.first + b) * D + d) * P + p], added<1>(parts, row, 0));
    }
}

// The gates of one row and unit become the gradients of their sums, from the gradient of its h.
INLINE void backward_of_unit(ARITHMETIC dh, ARITHMETIC *gate, const STORAGE *c_prev, ARITHMETIC *dc, int H) {
    ARITHMETIC carried = *dc, da[4];
    gate_gradients({gate[0], gate[H], gate[2 * H], gate[3 * H]}, widened(*c_prev), dh, carried, da);
    *dc = carried;
    gate[0] = da[0], gate[H] = da[1], gate[2 * H] = da[2], gate[3 * H] = da[3];
}

// The gradient of h at this step, in the order of the backward walk: that of the output, and what the step before in
// this walk passes on through weight_hh, or the gradient of h_n where the walk begins. Without projection the gradients
// of the gates follow at once; with it dh is stored for `backward_projected`.
extern "C" __global__ void __launch_bounds__(UNITS *SLICES) backward(
    const Step *steps, int step, int B, long long N, int H, int R,
    const STORAGE *matrix,       // (D, 4 H, R), weight_hh
    const STORAGE *grad_output,  // (N, D, R), or null
    const STORAGE *grad_h_n,     // (D, B, R), or null
    ARITHMETIC *gates,           // (N, D, 4, H): activated; become the gradients of the sums
    const STORAGE *c_prev,       // (D, N, H)
    ARITHMETIC *dc,              // (D, B, H): carried from step to step
    ARITHMETIC *dh               // (N, D, R), or null without projection
) {
    __shared__ ARITHMETIC parts[SLICES * ROWS * UNITS];
    const int D = gridDim.z, d = blockIdx.z;
    const Step at = steps[step * D + d];
    if (int(blockIdx.x) * ROWS >= at.rows) return;
    const ARITHMETIC *left[ROWS];
    find(left, at.rows, [=](int b) {  // sequences that begin here add up numbers that are not used
        return gates + ((long long)(at.before + min(b, max(at.carried - 1, 0))) * D + d) * 4 * H;
    });
    if (int(blockIdx.x) * ROWS < at.carried) multiply<1>(left, matrix + (long long)d * 4 * H * R, 4 * H, R, parts);
    __syncthreads();
    const int unit = blockIdx.y * UNITS + threadIdx.x;
    if (unit >= R) return;
    EACH_ROW_OF_BLOCK(row, b, at.rows) {
        const long long n = at.first + b;
        ARITHMETIC sum = 0;
        if (b < at.carried) sum = added<1>(parts, row, 0);
        else if (grad_h_n) sum = widened(grad_h_n[((long long)d * B + b) * R + unit]);
        if (grad_output) sum += widened(grad_output[(n * D + d) * R + unit]);
        if (dh) {
            dh[(n * D + d) * R + unit] = sum;
        } else {
            backward_of_unit(
                sum, gates + (n * D + d) * 4 * H + unit, c_prev + ((long long)d * N + n) * H + unit,
                dc + ((long long)d * B + b) * H + unit, H
            );
        }
    }
}

// The rest of `backward` with projection: dh through weight_hr, then the gradients of the gates.
extern "C" __global__ void __launch_bounds__(UNITS *SLICES) backward_projected(
    const Step *steps, int step, int B, long long N, int H, int P,
    const STORAGE *matrix,  // (D, P, H), weight_hr
    const ARITHMETIC *dh,   // (N, D, P)
    ARITHMETIC *gates, const STORAGE *c_prev, ARITHMETIC *dc
) {
    __shared__ ARITHMETIC parts[SLICES * ROWS * UNITS];
    const int D = gridDim.z, d = blockIdx.z;
    const Step at = steps[step * D + d];
    if (int(blockIdx.x) * ROWS >= at.rows) return;
    const ARITHMETIC *left[ROWS];
    find(left, at.rows, [=](int b) { return dh + ((long long)(at.first + b) * D + d) * P; });
    multiply<1>(left, matrix + (long long)d * P * H, P, H, parts);
    __syncthreads();
    const int unit = blockIdx.y * UNITS + threadIdx.x;
    if (unit >= H) return;
    EACH_ROW_OF_BLOCK(row, b, at.rows) {
        const long long n = at.first + b;
        backward_of_unit(
            added<1>(parts, row, 0), gates + (n * D + d) * 4 * H + unit, c_prev + ((long long)d * N + n) * H + unit,
            dc + ((long long)d * B + b) * H + unit, H
        );
    }
}
