// What the persistent kernels have in common. Plain C++ but for four instructions of a GPU, which a shim has for a CPU.
//
// Blocks meet nowhere. What they exchange, h forward and the gradients of the gates backward, was filled with 0xff
// bytes before the launch, and a warp polls the words that it needs until none is 0xffffffff: rounding never gives that,
// since nan is 0x7fff or has a zero in its last places. Each step has rows of its own, so nothing is written twice, and
// no fence, flag, atomic or barrier of the grid is needed, only that all blocks are resident. A thread that has polled
// `patience` times says so in `failed` and goes on without waiting: the launch ends, and its results are not used.
//
// Compile-time, beside those of lstm.h: UNITS, hidden units of a block; WARPS of a block, which split the sums over k;
// K_STEPS, of 16 k, of a warp, an even number; TILES of rows; ROWS of the batch in them; MMA_TYPE, "f16" or "bf16".
#pragma once

#define THREADS (WARPS * 32)
#define MISSING 0xffffffffu

struct alignas(16) Words {
    unsigned at[4];
};

#ifdef __CUDACC__
#define SHARED_MEMORY(name) extern __shared__ float4 name[]
INLINE Words load_relaxed(const Words *from) {
    Words w;
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(w.at[0]), "=r"(w.at[1]), "=r"(w.at[2]), "=r"(w.at[3])
                 : "l"(from)
                 : "memory");
    return w;
}
INLINE void store_relaxed(unsigned *to, unsigned word) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" : : "l"(to), "r"(word) : "memory");
}
INLINE void rest() { __nanosleep(20); }
// The number of this lane and that of the next one in one word. All lanes of a warp call it.
INLINE unsigned with_next(STORAGE mine) {
    const unsigned bits = mine.bits;
    return bits | __shfl_down_sync(0xffffffffu, bits, 1) << 16;
}
// c += a b, of (16, 16) and (16, 8): fragments of mma.m16n8k16.
INLINE void mma(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." MMA_TYPE "." MMA_TYPE ".f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#else  // of the shim
static Words load_relaxed(const Words *from);
static void store_relaxed(unsigned *to, unsigned word);
static void rest();
static unsigned with_next(STORAGE mine);
static void mma(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]);
#endif

// How long a thread polls.
struct Patience {
    int tries;
    int *failed;
};

// Fetches the words at `place(0)`, `place(1)` ...; a null pointer stands for zeros. Where it `waits`, it polls until all
// of them are there. All lanes of a warp call it.
template <int COUNT, class Place>
INLINE void fetch(Words (&words)[COUNT], bool waits, Patience &patience, Place place) {
    bool missing;
    for (int tries = 0;; rest()) {
        missing = false;
#pragma unroll
        for (int k = 0; k < COUNT; k++) {
            const Words *const from = place(k);
            words[k] = from ? load_relaxed(from) : Words{{0, 0, 0, 0}};
        }
#pragma unroll
        for (int k = 0; k < COUNT; k++)
#pragma unroll
            for (int r = 0; r < 4; r++) missing |= words[k].at[r] == MISSING;
        missing &= waits;
        if (!missing || ++tries >= patience.tries) break;
    }
    if (missing) {
        *patience.failed = 1;
        patience.tries = 0;
    }
    __syncwarp();
}

// The elements of a step that a thread computes, once the products are there: row b of the batch and a unit. They are
// the same ones in every step, so that states carried from step to step stay in registers.
#define EACH ((ROWS * UNITS + THREADS - 1) / THREADS)

struct Element {
    int b, u, unit;  // u is that of the block
};
INLINE Element element_of(int number) {
    const int place = threadIdx.x + number * THREADS, u = place % UNITS;
    return {place / UNITS, u, int(blockIdx.x) * UNITS + u};
}

// Where a thread is: its direction and warp, its place in the fragments of an mma; the sequences of this launch, at most
// ROWS of them, from b_0 on; and where their states begin in arrays (D, B, H).
struct Place {
    int d, warp, group, member, sequences;
    long long states;
};
INLINE Place place_of(int d_0, int B, int b_0, int H) {
    const int d = d_0 + blockIdx.y, lane = threadIdx.x & 31, left = B - b_0;
    return {d, int(threadIdx.x) >> 5, lane >> 2, lane & 3, left < ROWS ? left : ROWS, ((long long)d * B + b_0) * H};
}
// The first k of the eight that pair `pair` of the steps over k gives to this thread.
INLINE int first_k(const Place &here, int pair) { return (here.warp * K_STEPS + 2 * pair) * 16 + here.member * 8; }

// The fragments of this warp, (K_STEPS, COUNT, 32, WORDS) of each, see fragments.py.
template <int COUNT, int WORDS>
INLINE void load(unsigned (&weights)[K_STEPS][COUNT][WORDS], const unsigned *fragments) {
    struct alignas(4 * WORDS) Fragment {
        unsigned at[WORDS];
    };
    const long long warp = ((long long)blockIdx.y * gridDim.x + blockIdx.x) * WARPS + (threadIdx.x >> 5);
    const Fragment *const from =
        reinterpret_cast<const Fragment *>(fragments) + warp * (K_STEPS * COUNT * 32) + (threadIdx.x & 31);
#pragma unroll
    for (int k = 0; k < K_STEPS; k++)
#pragma unroll
        for (int m = 0; m < COUNT; m++) {
            const Fragment fragment = from[(k * COUNT + m) * 32];
#pragma unroll
            for (int r = 0; r < WORDS; r++) weights[k][m][r] = fragment.at[r];
        }
}

// The states of a thread's elements from an array (D, B, H), and back.
template <class T>
INLINE void take(float (&states)[EACH], const T *array, const Place &here, int H) {
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        const Element my = element_of(e);
        const bool there = my.b < here.sequences && my.unit < H;
        states[e] = there ? widened(array[here.states + (long long)my.b * H + my.unit]) : 0;
    }
}
template <class T>
INLINE void give_back(T *array, const float (&states)[EACH], const Place &here, int H) {
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        const Element my = element_of(e);
        if (my.b < here.sequences && my.unit < H) store(&array[here.states + (long long)my.b * H + my.unit], states[e]);
    }
}

// A sum that begins with `sum`, of the parts [WARPS][ROWS][width] of the warps.
INLINE float summed(float sum, const float *parts, int b, int width, int column) {
#pragma unroll
    for (int w = 0; w < WARPS; w++) sum += parts[(w * ROWS + b) * width + column];
    return sum;
}

// Lets other blocks see the numbers of neighbouring units, where they are `there`, two in a word. All lanes call it.
INLINE void publish(STORAGE *to, STORAGE mine, bool there, const Element &my) {
    const unsigned word = with_next(mine);
    if (there && !(my.u & 1)) store_relaxed(reinterpret_cast<unsigned *>(to), word);
}
