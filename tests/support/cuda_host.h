// Runs a CUDA kernel on the CPU, block by block. Each thread of a block is a fiber, so that __syncthreads() can let the
// others run; a block in which some threads wait and the others have returned is an error, as it is on a GPU.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <setjmp.h>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__ static
#define __shared__ static thread_local  // one block runs at a time in each thread of the host
#define __launch_bounds__(threads)

using std::max;
using std::min;

struct Index {
    int x, y, z;
};
static thread_local Index gridDim, blockDim, blockIdx, threadIdx;

struct Fiber {
    ucontext_t first;  // where it starts; after that, `at`
    jmp_buf at;
    bool waiting = false, begun = false;
    std::unique_ptr<char[]> stack{new char[1 << 16]};
};
static thread_local std::vector<Fiber> fibers;
static thread_local jmp_buf scheduler;
static thread_local int current;
static thread_local const std::function<void()> *body;

static void yield_to_scheduler() {
    if (!_setjmp(fibers[current].at)) _longjmp(scheduler, 1);
}
static void __syncthreads() {
    fibers[current].waiting = true;
    yield_to_scheduler();
}
// All threads of the block call it, and so may wait for all.
static thread_local double shuffled[1024];
template <class T>
static T __shfl_xor_sync(unsigned, T value, int mask) {
    const int thread = threadIdx.y * blockDim.x + threadIdx.x;
    shuffled[thread] = value;
    __syncthreads();
    const T other = T(shuffled[thread ^ mask]);
    __syncthreads();
    return other;
}
static void live() {  // one fiber serves the same thread of all blocks
    for (;;) {
        fibers[current].waiting = false;
        (*body)();
        fibers[current].waiting = false;
        yield_to_scheduler();
    }
}
static void resume(int thread) {
    current = thread;
    threadIdx = {thread % blockDim.x, thread / blockDim.x, 0};
    if (_setjmp(scheduler)) return;
    Fiber &fiber = fibers[thread];
    if (fiber.begun) _longjmp(fiber.at, 1);
    fiber.begun = true;
    getcontext(&fiber.first);
    fiber.first.uc_stack.ss_sp = fiber.stack.get();
    fiber.first.uc_stack.ss_size = 1 << 16;
    makecontext(&fiber.first, live, 0);
    setcontext(&fiber.first);
}
static int run_block() {
    const int threads = blockDim.x * blockDim.y;
    for (;;) {
        int waiting = 0;
        for (int thread = 0; thread < threads; thread++) {
            resume(thread);
            waiting += fibers[thread].waiting;
        }
        if (!waiting) return 0;
        if (waiting != threads) return 1;
    }
}
template <class... Types, size_t... k>
static int run_grid(void (*kernel)(Types...), void **arguments, std::index_sequence<k...>) {
    const std::function<void()> call = [=] { kernel(*static_cast<Types *>(arguments[k])...); };
    body = &call;
    if ((int)fibers.size() != blockDim.x * blockDim.y) {
        fibers.clear();
        fibers.resize(blockDim.x * blockDim.y);
    }
    for (blockIdx.z = 0; blockIdx.z < gridDim.z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < gridDim.y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++)
                if (run_block()) return 1;
    return 0;
}
// 0: done. 1: threads of a block do not meet. 2: the sizes of the arguments are not those of the parameters.
template <class... Types>
static int launch(
    void (*kernel)(Types...), const int *grid, const int *block, void **arguments, const int *sizes, int n
) {
    const int expected[] = {int(sizeof(Types))...};
    if (n != int(sizeof...(Types)) || std::memcmp(sizes, expected, sizeof(expected))) return 2;
    gridDim = {grid[0], grid[1], grid[2]}, blockDim = {block[0], block[1], block[2]};
    return run_grid(kernel, arguments, std::index_sequence_for<Types...>());
}
