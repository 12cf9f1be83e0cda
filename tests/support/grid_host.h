// Runs a kernel whose blocks wait for one another on the CPU: every thread of every block is a fiber, and chance says
// which warp goes on, so that warps and blocks overtake each other as they may on a GPU. Some are slow for a while.
// A barrier, a shuffle and a mma are what all threads of a block or of a warp come to. Memory is sequentially
// consistent: what a weaker one does is not seen here.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <setjmp.h>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__ static
#define __launch_bounds__(...)

struct float2 {
    float x, y;
};
struct float4 {
    float x, y, z, w;
};
struct Index {
    int x, y, z;
};
struct Meeting {  // of all threads of a block, or of a warp
    int arrived = 0;
    long phase = 0;
};
struct Warp {
    Meeting meeting;
    unsigned a[32][4], b[32][2], word[32];
};
struct Block {
    Index index;
    Meeting meeting;
    std::vector<float4> shared;
    std::vector<Warp> warps;
};
struct Fiber {
    ucontext_t first;  // where it starts; after that, `at`
    jmp_buf at;
    bool begun = false, done = false;
    std::unique_ptr<char[]> stack;
    Block *block;
    Index thread;
};
static const int STACK = 1 << 15;
static Index gridDim, blockDim;
static std::vector<Block> blocks;
static std::vector<Fiber> fibers;
static Fiber *now;
static jmp_buf scheduler;
static std::function<void()> body;
static std::mt19937 chance;
#define blockIdx (now->block->index)
#define threadIdx (now->thread)
#define SHARED_MEMORY(name) float4 *const name = now->block->shared.data()

static void yield_to_scheduler() {
    if (!_setjmp(now->at)) _longjmp(scheduler, 1);
}
static void meet(Meeting &meeting, int all) {
    const long mine = meeting.phase;
    if (++meeting.arrived == all) {
        meeting.arrived = 0;
        meeting.phase++;
    }
    while (meeting.phase == mine) yield_to_scheduler();
}
static Warp &warp_here() { return now->block->warps[now->thread.x / 32]; }
static void __syncthreads() {
    meet(now->block->meeting, blockDim.x);
    for (int turns = chance() % 64 ? 0 : 300; turns > 0; turns--) yield_to_scheduler();  // some threads fall behind
}
static void __syncwarp() { meet(warp_here().meeting, 32); }

static void live() {
    body();
    now->done = true;
    for (;;) yield_to_scheduler();
}
static void resume(Fiber &fiber) {
    now = &fiber;
    if (_setjmp(scheduler)) return;
    if (fiber.begun) _longjmp(fiber.at, 1);
    fiber.begun = true;
    getcontext(&fiber.first);
    fiber.stack.reset(new char[STACK]);
    fiber.first.uc_stack.ss_sp = fiber.stack.get();
    fiber.first.uc_stack.ss_size = STACK;
    makecontext(&fiber.first, live, 0);
    setcontext(&fiber.first);
}
static void make_blocks(int shared_bytes) {
    const int threads = blockDim.x;
    blocks.assign(gridDim.x * gridDim.y * gridDim.z, Block{});
    fibers.clear();
    fibers.resize(blocks.size() * threads);
    for (size_t k = 0; k < blocks.size(); k++) {
        blocks[k].index = {int(k) % gridDim.x, int(k) / gridDim.x % gridDim.y, int(k) / gridDim.x / gridDim.y};
        blocks[k].shared.assign(shared_bytes / sizeof(float4) + 1, float4{NAN, NAN, NAN, NAN});
        blocks[k].warps.resize(threads / 32);
        for (int t = 0; t < threads; t++) {
            fibers[k * threads + t].block = &blocks[k];
            fibers[k * threads + t].thread = {t, 0, 0};
        }
    }
}
// Whether all threads came to their end within so many turns. In a turn a warp goes on, each of its threads to the next
// place where others might come in between.
static bool run_grid(unsigned seed, int shared_bytes, long turns) {
    make_blocks(shared_bytes);
    chance.seed(seed);
    std::vector<bool> slow(fibers.size() / 32);
    std::vector<size_t> alive(slow.size());
    for (size_t k = 0; k < alive.size(); k++) alive[k] = k;
    while (!alive.empty() && turns-- > 0) {
        const size_t pick = chance() % alive.size(), warp = alive[pick];
        if (slow[warp] && chance() % 64) continue;
        if (!(chance() % 128)) slow[warp] = !(chance() % 4);
        bool done = true;
        for (size_t lane = 0; lane < 32; lane++) {
            Fiber &fiber = fibers[warp * 32 + lane];
            if (!fiber.done) resume(fiber);
            done &= fiber.done;
        }
        if (!done) continue;
        alive[pick] = alive.back();
        alive.pop_back();
    }
    return alive.empty();
}

template <class... Types, size_t... k>
static void set_body(void (*kernel)(Types...), void **arguments, std::index_sequence<k...>) {
    body = [=] { kernel(*static_cast<Types *>(arguments[k])...); };
}
// 0: done. 1: some threads did not come to their end. 2: the sizes of the arguments are not those of the parameters.
// `limits` are the seed, the bytes of shared memory of a block, and the turns.
template <class... Types>
static int launch(
    void (*kernel)(Types...), const int *grid, const int *block, void **arguments, const int *sizes, int n,
    const long *limits
) {
    const int expected[] = {int(sizeof(Types))...};
    if (n != int(sizeof...(Types)) || std::memcmp(sizes, expected, sizeof(expected))) return 2;
    gridDim = {grid[0], grid[1], grid[2]}, blockDim = {block[0], block[1], block[2]};
    set_body(kernel, arguments, std::index_sequence_for<Types...>());
    return run_grid(unsigned(limits[0]), int(limits[1]), limits[2]) ? 0 : 1;
}
