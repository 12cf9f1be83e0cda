// One step of the LSTM, all directions, forward and backward. One launch is one step; schedule.py has the sequence.
//
// Every kernel is a product of the step's rows with a matrix, followed by arithmetic on each element of the product.
// A block computes ROWS rows x UNITS units. Its threads are (32 lanes, SLICES): lane l of slice s adds up the part
// l / UNITS + 4 s of the sums over k of unit l % UNITS, for all rows of the block, then the parts are added in order:
// no atomics, the same bits each time. k is taken in fours; matrices are packed so that each four is one load.
//
// gridDim is (rows / ROWS, units / UNITS, D), rounded up. A direction has its own step, with its own number of rows.
//
// Where the arrays of a call lie, and which steps come next, stands in device memory. So launches that were recorded
// once serve every call: other parameters, other lengths.
#include "lstm.h"

#define UNITS 8
#define PARTS (4 * SLICES)
#define WINDOW 64  // steps that `advance` brings at once, at most

struct Bound {
    const Step *steps;                     // (T, D)
    int taken;                             // steps that `advance` has brought
    const STORAGE *weight_hh, *weight_hr;  // packed for the pass, see weights.py
    // Forward.
    const ARITHMETIC *bias;   // (D, 4, H), the sum of both, or null
    const STORAGE *h_0;       // (D, B, R)
    STORAGE *h_n;             // (D, B, R): that of the last step so far
    STORAGE *c;               // (D, B, H): the state, carried from step to step
    STORAGE *output;          // (N, D, R)
    ARITHMETIC *unprojected;  // (D, B, H), or null without projection
    STORAGE *h_prev;          // (N, D, R), kept for the backward pass, or null
    // Both.
    ARITHMETIC *gates;  // (N, D, 4, H): input product; becomes the activated gates
    STORAGE *c_prev;    // (N, D, H), or null in a forward pass that keeps nothing
    // Backward.
    const STORAGE *grad_output;  // (N, D, R), or null
    const STORAGE *grad_h_n;     // (D, B, R), or null
    ARITHMETIC *dc;              // (D, B, H): carried from step to step
    STORAGE *da;                 // (N, D, 4, H): the gradients of the sums of the gates
    STORAGE *dh;                 // (N, D, R), or null without projection
    Step window[WINDOW * 2];     // the steps that the next launches take
};

// Where the arrays of the next call lie.
extern "C" __global__ void __launch_bounds__(32 * SLICES) bind_forward(
    Bound *bound, const Step *steps, const STORAGE *weight_hh, const STORAGE *weight_hr, const ARITHMETIC *bias,
    const STORAGE *h_0, STORAGE *h_n, STORAGE *c, STORAGE *output, ARITHMETIC *unprojected, STORAGE *h_prev,
    ARITHMETIC *gates, STORAGE *c_prev
) {
    if (threadIdx.x || threadIdx.y) return;
    bound->steps = steps, bound->taken = 0;
    bound->weight_hh = weight_hh, bound->weight_hr = weight_hr, bound->bias = bias;
    bound->h_0 = h_0, bound->h_n = h_n, bound->c = c, bound->output = output;
    bound->unprojected = unprojected, bound->h_prev = h_prev, bound->gates = gates, bound->c_prev = c_prev;
}

extern "C" __global__ void __launch_bounds__(32 * SLICES) bind_backward(
    Bound *bound, const Step *steps, const STORAGE *weight_hh, const STORAGE *weight_hr, ARITHMETIC *gates,
    STORAGE *c_prev, const STORAGE *grad_output, const STORAGE *grad_h_n, ARITHMETIC *dc, STORAGE *da, STORAGE *dh
) {
    if (threadIdx.x || threadIdx.y) return;
    bound->steps = steps, bound->taken = 0;
    bound->weight_hh = weight_hh, bound->weight_hr = weight_hr, bound->gates = gates, bound->c_prev = c_prev;
    bound->grad_output = grad_output, bound->grad_h_n = grad_h_n, bound->dc = dc, bound->da = da, bound->dh = dh;
}

// The next steps of the table into the window. One block.
extern "C" __global__ void __launch_bounds__(32 * SLICES) advance(Bound *bound, int count, int D) {
    const int thread = threadIdx.y * 32 + threadIdx.x, taken = bound->taken;
    for (int k = thread; k < count * D; k += 32 * SLICES) bound->window[k] = bound->steps[taken * D + k];
    __syncthreads();
    if (thread == 0) bound->taken = taken + count;
}

// Products ------------------------------------------------------------------------------------------------------------

template <class T>
struct alignas(4 * sizeof(T)) Four {
    T at[4];
};

// The elements k ... k + 3 of a row of K elements. WHOLE: K is a multiple of 4, and so each four is aligned.
template <bool WHOLE, class T>
INLINE void load_four(ARITHMETIC to[4], const T *row, int k, int K) {
    if constexpr (WHOLE) {
        const Four<T> four = *reinterpret_cast<const Four<T> *>(row + k);
#pragma unroll
        for (int j = 0; j < 4; j++) to[j] = widened(four.at[j]);
    } else {
#pragma unroll
        for (int j = 0; j < 4; j++) to[j] = k + j < K ? widened(row[k + j]) : ARITHMETIC(0);
    }
}

template <int COLUMNS, bool WHOLE, class Left>
INLINE void multiply_fours(
    ARITHMETIC sums[ROWS][COLUMNS], const Left *const left[ROWS], const STORAGE *matrix, int K, int units
) {
    const int unit = min(int(blockIdx.y * UNITS + threadIdx.x % UNITS), units - 1);  // beyond the last: not used
    for (int k = 4 * int(threadIdx.x / UNITS + 4 * threadIdx.y); k < K; k += 4 * PARTS) {
        const Four<STORAGE> *const fours =
            reinterpret_cast<const Four<STORAGE> *>(matrix) + (long long)(k / 4 * (long long)units + unit) * COLUMNS;
        ARITHMETIC w[COLUMNS][4];
#pragma unroll
        for (int column = 0; column < COLUMNS; column++) {
            const Four<STORAGE> four = fours[column];
#pragma unroll
            for (int j = 0; j < 4; j++) w[column][j] = widened(four.at[j]);
        }
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
            ARITHMETIC a[4];
            load_four<WHOLE>(a, left[row], k, K);
#pragma unroll
            for (int column = 0; column < COLUMNS; column++)
#pragma unroll
                for (int j = 0; j < 4; j++) sums[row][column] += a[j] * w[column][j];
        }
    }
}

// Adds to `sums`, for each of the block's rows and COLUMNS columns per unit, this thread's part of
//     sums[row][column] = sum over k of left(row)[k] * matrix[k / 4][unit][column][k % 4]
template <int COLUMNS, class Left>
INLINE void multiply(
    ARITHMETIC sums[ROWS][COLUMNS], const Left *const left[ROWS], const STORAGE *matrix, int K, int units
) {
    if (K % 4 == 0) multiply_fours<COLUMNS, true>(sums, left, matrix, K, units);
    else multiply_fours<COLUMNS, false>(sums, left, matrix, K, units);
}

// Leaves the sums of each slice in shared memory: parts[slice][row * COLUMNS + column][u].
template <int COLUMNS>
INLINE void leave(const ARITHMETIC sums[ROWS][COLUMNS], ARITHMETIC *parts) {
#pragma unroll
    for (int row = 0; row < ROWS; row++)
#pragma unroll
        for (int column = 0; column < COLUMNS; column++) {
            ARITHMETIC sum = sums[row][column];
            sum += __shfl_xor_sync(0xffffffffu, sum, UNITS);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2 * UNITS);
            if (threadIdx.x < UNITS)
                parts[((int)threadIdx.y * ROWS * COLUMNS + row * COLUMNS + column) * UNITS + threadIdx.x] = sum;
        }
}

template <int COLUMNS, class Left>
INLINE void multiply(const Left *const left[ROWS], const STORAGE *matrix, int K, int units, ARITHMETIC *parts) {
    ARITHMETIC sums[ROWS][COLUMNS] = {};
    multiply<COLUMNS>(sums, left, matrix, K, units);
    leave<COLUMNS>(sums, parts);
}

template <int COLUMNS>
INLINE ARITHMETIC added(const ARITHMETIC *parts, int row, int column) {
    ARITHMETIC sum = 0;
#pragma unroll
    for (int slice = 0; slice < SLICES; slice++)
        sum += parts[(slice * ROWS * COLUMNS + row * COLUMNS + column) * UNITS + threadIdx.x % UNITS];
    return sum;
}

// What the kernels do once the parts are there: each thread takes some of the rows of one unit.
#define EACH_ROW_OF_BLOCK(row, b, rows) \
    for (int row = threadIdx.x / UNITS + 4 * threadIdx.y, b = blockIdx.x * ROWS + row; row < ROWS && b < rows; \
         row += PARTS, b += PARTS)

// The vectors that a block multiplies: for each of its rows the one of its sequence. Beyond the last sequence that of the
// last is taken, and its sums are not used.
template <class Left, class OfSequence>
INLINE void find(const Left *left[ROWS], int rows, OfSequence vector) {
#pragma unroll
    for (int row = 0; row < ROWS; row++) left[row] = vector(min(int(blockIdx.x) * ROWS + row, rows - 1));
}

// The elements of a matrix of one direction: K rows, in fours.
INLINE long long packed(int K, int units, int columns) { return (long long)((K + 3) / 4) * units * columns * 4; }

// Steps ---------------------------------------------------------------------------------------------------------------

// (1)-(4) of step number `step` of the window. Without projection h goes to `output`, with it the h before the
// projection goes to `unprojected`, for `project`.
extern "C" __global__ void __launch_bounds__(32 * SLICES) forward(const Bound *bound, int step, int B, int H, int R) {
    __shared__ ARITHMETIC parts[SLICES * ROWS * 4 * UNITS];
    const int D = gridDim.z, d = blockIdx.z;
    const Step at = bound->window[step * D + d];
    if (int(blockIdx.x) * ROWS >= at.rows)
        return;  // the whole block: the other direction, or the longest step, has more
    STORAGE *const output = bound->output;
    const STORAGE *const h_0 = bound->h_0;
    const auto before = [=](int b) -> const STORAGE * {
        return b < at.carried ? output + ((long long)(at.before + b) * D + d) * R : h_0 + ((long long)d * B + b) * R;
    };
    const STORAGE *left[ROWS];
    find(left, at.rows, before);
    multiply<4>(left, bound->weight_hh + d * packed(R, H, 4), R, H, parts);
    __syncthreads();
    const int unit = blockIdx.y * UNITS + threadIdx.x % UNITS;
    if (unit >= H) return;
    EACH_ROW_OF_BLOCK(row, b, at.rows) {
        const long long n = (long long)(at.first + b) * D + d, state = ((long long)d * B + b) * H + unit;
        ARITHMETIC *const gate = bound->gates + n * 4 * H + unit;
        ARITHMETIC a[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            a[k] = gate[(long long)k * H] + added<4>(parts, row, k);
            if (bound->bias) a[k] += bound->bias[(d * 4 + k) * H + unit];
        }
        const Gates now = activated(a);
        gate[0] = now.i, gate[H] = now.f, gate[2 * H] = now.g, gate[3 * H] = now.o;
        STORAGE *const c = bound->c + state;
        if (bound->c_prev) bound->c_prev[n * H + unit] = *c;
        if (bound->h_prev && unit < R) bound->h_prev[n * R + unit] = before(b)[unit];
        const ARITHMETIC cell = next_cell(now, widened(*c)), h = next_hidden(now, cell);
        store(c, cell);
        if (bound->unprojected) {
            bound->unprojected[state] = h;
        } else {
            store(&output[n * R + unit], h);
            store(&bound->h_n[((long long)d * B + b) * R + unit], h);
        }
    }
}

// (5)
extern "C" __global__ void __launch_bounds__(32 * SLICES) project(const Bound *bound, int step, int B, int H, int P) {
    __shared__ ARITHMETIC parts[SLICES * ROWS * UNITS];
    const int D = gridDim.z, d = blockIdx.z;
    const Step at = bound->window[step * D + d];
    if (int(blockIdx.x) * ROWS >= at.rows) return;
    const ARITHMETIC *const unprojected = bound->unprojected, *left[ROWS];
    find(left, at.rows, [=](int b) { return unprojected + ((long long)d * B + b) * H; });
    multiply<1>(left, bound->weight_hr + d * packed(H, P, 1), H, P, parts);
    __syncthreads();
    const int p = blockIdx.y * UNITS + threadIdx.x % UNITS;
    if (p >= P) return;
    EACH_ROW_OF_BLOCK(row, b, at.rows) {
        const ARITHMETIC h = added<1>(parts, row, 0);
        store(&bound->output[((long long)(at.first + b) * D + d) * P + p], h);
        store(&bound->h_n[((long long)d * B + b) * P + p], h);
    }
}

// The gradients of the sums of the gates of unit u in row n (of all directions), from the gradient of its h.
INLINE void backward_of_unit(const Bound *bound, ARITHMETIC dh, long long n, long long state, int unit, int H) {
    const ARITHMETIC *const gate = bound->gates + n * 4 * H + unit;
    STORAGE *const da = bound->da + n * 4 * H + unit;
    ARITHMETIC carried = bound->dc[state], a[4];
    gate_gradients({gate[0], gate[H], gate[2 * H], gate[3 * H]}, widened(bound->c_prev[n * H + unit]), dh, carried, a);
    bound->dc[state] = carried;
#pragma unroll
    for (int k = 0; k < 4; k++) store(&da[(long long)k * H], a[k]);
}

// The gradient of h at this step, in the order of the backward walk: that of the output, and what the step before in
// this walk passes on through weight_hh, or the gradient of h_n where the walk begins. Without projection the gradients
// of the gates follow at once; with it dh is stored for `backward_projected`.
extern "C" __global__ void __launch_bounds__(32 * SLICES) backward(const Bound *bound, int step, int B, int H, int R) {
    __shared__ ARITHMETIC parts[SLICES * ROWS * UNITS];
    const int D = gridDim.z, d = blockIdx.z;
    const Step at = bound->window[step * D + d];
    if (int(blockIdx.x) * ROWS >= at.rows) return;
    const STORAGE *const da = bound->da, *left[ROWS];
    find(left, at.rows, [=](int b) {  // sequences that begin here add up numbers that are not used
        return da + ((long long)(at.before + min(b, max(at.carried - 1, 0))) * D + d) * 4 * H;
    });
    if (int(blockIdx.x) * ROWS < at.carried)
        multiply<1>(left, bound->weight_hh + d * packed(4 * H, R, 1), 4 * H, R, parts);
    __syncthreads();
    const int unit = blockIdx.y * UNITS + threadIdx.x % UNITS;
    if (unit >= R) return;
    EACH_ROW_OF_BLOCK(row, b, at.rows) {
        const long long n = (long long)(at.first + b) * D + d;
        ARITHMETIC sum = 0;
        if (b < at.carried) sum = added<1>(parts, row, 0);
        else if (bound->grad_h_n) sum = widened(bound->grad_h_n[((long long)d * B + b) * R + unit]);
        if (bound->grad_output) sum += widened(bound->grad_output[n * R + unit]);
        if (bound->dh) store(&bound->dh[n * R + unit], sum);
        else backward_of_unit(bound, sum, n, ((long long)d * B + b) * H + unit, unit, H);
    }
}

// The rest of `backward` with projection: dh through weight_hr, then the gradients of the gates.
extern "C" __global__ void __launch_bounds__(32 * SLICES) backward_projected(
    const Bound *bound, int step, int B, int H, int P
) {
    __shared__ ARITHMETIC parts[SLICES * ROWS * UNITS];
    const int D = gridDim.z, d = blockIdx.z;
    const Step at = bound->window[step * D + d];
    if (int(blockIdx.x) * ROWS >= at.rows) return;
    const STORAGE *const dh = bound->dh, *left[ROWS];
    find(left, at.rows, [=](int b) { return dh + ((long long)(at.first + b) * D + d) * P; });
    multiply<1>(left, bound->weight_hr + d * packed(P, H, 1), P, H, parts);
    __syncthreads();
    const int unit = blockIdx.y * UNITS + threadIdx.x % UNITS;
    if (unit >= H) return;
    EACH_ROW_OF_BLOCK(row, b, at.rows) {
        const long long n = (long long)(at.first + b) * D + d;
        backward_of_unit(bound, added<1>(parts, row, 0), n, ((long long)d * B + b) * H + unit, unit, H);
    }
}

// Streams -------------------------------------------------------------------------------------------------------------

// (1)-(4) of one step of one layer, for B rows: the products with x and with h are one sum. Without projection h goes to
// `h`, with it to `unprojected`. Nothing but the arguments says where arrays lie, and they are the same in each step, so
// a stream is one graph, or two that take turns: one reads the h that the other has written.
extern "C" __global__ void __launch_bounds__(32 * SLICES) stream(
    const STORAGE *x, const STORAGE *h_prev, const STORAGE *weight_ih, const STORAGE *weight_hh, const ARITHMETIC *bias,
    STORAGE *c, STORAGE *h, ARITHMETIC *unprojected, int B, int I, int H, int R
) {
    __shared__ ARITHMETIC parts[SLICES * ROWS * 4 * UNITS];
    ARITHMETIC sums[ROWS][4] = {};
    const STORAGE *left[ROWS];
    find(left, B, [=](int b) { return x + (long long)b * I; });
    multiply<4>(sums, left, weight_ih, I, H);
    find(left, B, [=](int b) { return h_prev + (long long)b * R; });
    multiply<4>(sums, left, weight_hh, R, H);
    leave<4>(sums, parts);
    __syncthreads();
    const int unit = blockIdx.y * UNITS + threadIdx.x % UNITS;
    if (unit >= H) return;
    EACH_ROW_OF_BLOCK(row, b, B) {
        ARITHMETIC a[4];
#pragma unroll
        for (int k = 0; k < 4; k++) a[k] = added<4>(parts, row, k) + (bias ? bias[(long long)k * H + unit] : 0);
        const Gates now = activated(a);
        const long long state = (long long)b * H + unit;
        const ARITHMETIC cell = next_cell(now, widened(c[state])), h_full = next_hidden(now, cell);
        store(&c[state], cell);
        if (unprojected) unprojected[state] = h_full;
        else store(&h[state], h_full);
    }
}

// (5)
extern "C" __global__ void __launch_bounds__(32 * SLICES) stream_projected(
    const ARITHMETIC *unprojected, const STORAGE *weight_hr, STORAGE *h, int B, int H, int P
) {
    __shared__ ARITHMETIC parts[SLICES * ROWS * UNITS];
    const ARITHMETIC *left[ROWS];
    find(left, B, [=](int b) { return unprojected + (long long)b * H; });
    multiply<1>(left, weight_hr, H, P, parts);
    __syncthreads();
    const int p = blockIdx.y * UNITS + threadIdx.x % UNITS;
    if (p >= P) return;
    EACH_ROW_OF_BLOCK(row, b, B) store(&h[(long long)b * P + p], added<1>(parts, row, 0));
}
