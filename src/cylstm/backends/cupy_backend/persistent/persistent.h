// What the persistent kernels have in common. Plain C++ but for some instructions of a GPU, which a shim has for a CPU.
//
// Blocks meet nowhere. What they exchange, h forward and the gradients of the gates backward, was filled with 0xff
// bytes before the launch, and a warp polls the words that it needs until none is 0xffffffff: rounding never gives that,
// since nan is 0x7fff or has a zero in its last places, and of float32 nan is 0x7fffffff. Each step has rows of its own,
// so nothing is written twice, and no fence, flag, atomic or barrier of the grid is needed, only that all blocks are
// resident. A thread that has polled `tries` times says so in `failed` and goes on with what it has, which is nan: the
// launch ends.
//
// Compile-time, beside those of lstm.h: UNITS, hidden units of a block; WARPS of a block, which split the sums over k;
// K_STEPS, of K_STEP k, of a warp, an even number; TILES of rows; ROWS of the batch in them; MMA, the shape and the
// types of the instruction mma.
#pragma once

#define THREADS (WARPS * 32)
#define MISSING 0xffffffffu
#define SINGLE (sizeof(STORAGE) == 4)  // float32; else 16 bits

constexpr int PER_WORDS = 16 / sizeof(STORAGE);  // numbers
constexpr int K_STEP = 2 * PER_WORDS;            // of an mma
constexpr int PAIRS = K_STEPS / 2;               // of k steps: a thread has the numbers of one in its Words
constexpr int PRODUCTS = SINGLE ? 3 : 1;         // of an mma for a product

struct alignas(16) Words {
    unsigned at[4];
};

#ifdef __CUDACC__
#define SHARED_MEMORY(name) extern __shared__ float4 name[]
// Words that other blocks write meanwhile, where they are `wanted`; others stay as they are.
INLINE void load_relaxed(Words &to, const Words *from, bool wanted) {
    asm volatile("{ .reg .pred wanted;\n setp.ne.s32 wanted, %5, 0;\n"
                 "@wanted ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4]; }"
                 : "+r"(to.at[0]), "+r"(to.at[1]), "+r"(to.at[2]), "+r"(to.at[3])
                 : "l"(from), "r"(int(wanted))
                 : "memory");
}
INLINE void store_relaxed(unsigned *to, unsigned word) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" : : "l"(to), "r"(word) : "memory");
}
// What is far away is asked for some steps before it is read.
INLINE void prefetch(const void *from) { asm volatile("prefetch.global.L2 [%0];" : : "l"(from)); }
// The number of this lane and that of the next one in one word. All lanes of a warp call it.
INLINE unsigned with_next(unsigned bits) { return bits | __shfl_down_sync(0xffffffffu, bits, 1) << 16; }
INLINE bool any_lane(bool mine) { return __any_sync(0xffffffffu, mine); }
// A number that the compiler takes for a new one each time. So what follows from it is not kept from step to step, for
// which there may be no registers.
INLINE void renew(unsigned &word) { asm volatile("" : "+r"(word)); }
// The nearest number with 10 bits behind the point.
INLINE unsigned tf32(float a) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(a));
    return bits;
}
// c += a b, of (16, K_STEP) and (K_STEP, 8): fragments of mma.
INLINE void mma(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm("mma.sync.aligned." MMA " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#else  // of the shim
static void load_relaxed(Words &to, const Words *from, bool wanted);
static void store_relaxed(unsigned *to, unsigned word);
static void prefetch(const void *) {}
static unsigned with_next(unsigned bits);
static bool any_lane(bool mine);
static void renew(unsigned &) {}
static unsigned tf32(float a);
static void mma(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]);
#endif

// Products ------------------------------------------------------------------------------------------------------------
//
// Those of float32 are three of TF32: what is left where a factor has been rounded to 11 bits is a factor of its own. Of
// the 24 bits of a product all but the last one or two are there. Where a factor is not finite the rests are not
// numbers, and so are the sums: then all is done again, CAREFUL, with rests of 0.

typedef float Sum[PRODUCTS][4];  // the parts of a fragment of sums

// The factors of a fragment, of float32 with their rests; `beside` are the factors that rests are multiplied with.
template <int COUNT>
struct Factors {
    unsigned high[COUNT], rest[COUNT], beside[COUNT];
};
template <bool CAREFUL, int COUNT>
INLINE Factors<COUNT> split(const unsigned (&words)[COUNT]) {
    Factors<COUNT> f;
#pragma unroll
    for (int k = 0; k < COUNT; k++) {
        f.high[k] = words[k];
        if constexpr (SINGLE) {
            const float a = float_of(words[k]);
            const bool rests = !CAREFUL || (words[k] & 0x7f800000) != 0x7f800000;
            // What is cut off does not make a number inf; nan is to stay nan.
            f.high[k] = !CAREFUL ? tf32(a) : rests ? words[k] & 0xffffe000 : a == a ? words[k] : 0x7fffffff;
            f.rest[k] = rests ? bits_of(a - float_of(f.high[k])) : 0;
            f.beside[k] = rests ? f.high[k] : 0;
        }
    }
    return f;
}
INLINE void add_product(Sum &sum, const Factors<4> &a, const Factors<2> &b) {
    mma(sum[0], a.high, b.high);
    if constexpr (SINGLE) {
        mma(sum[1], a.rest, b.beside);
        mma(sum[2], a.beside, b.rest);
    }
}
INLINE float total(const Sum &sum, int r) {
    float all = sum[0][r];
#pragma unroll
    for (int p = 1; p < PRODUCTS; p++) all += sum[p][r];
    return all;
}
template <bool YES>
struct Careful {
    static constexpr bool value = YES;
};
// Adds to sums what `add_all(sums, careful)` adds to those it is given. All lanes of a warp call it.
template <int COUNT, class AddAll>
INLINE void sum_up(Sum (&sums)[COUNT], AddAll add_all) {
    if constexpr (!SINGLE) {
        add_all(sums, Careful<false>());
    } else {
        Sum fresh[COUNT] = {};
        add_all(fresh, Careful<false>());
        bool again = false;
#pragma unroll
        for (int k = 0; k < 4 * COUNT; k++) again |= total(fresh[k / 4], k % 4) != total(fresh[k / 4], k % 4);
        if (any_lane(again)) {
#pragma unroll
            for (int k = 0; k < 4 * PRODUCTS * COUNT; k++) fresh[k / 4 / PRODUCTS][k / 4 % PRODUCTS][k % 4] = 0;
            add_all(fresh, Careful<true>());
        }
#pragma unroll
        for (int k = 0; k < 4 * COUNT; k++) sums[k / 4][0][k % 4] += total(fresh[k / 4], k % 4);
    }
}

// The exchange of words ------------------------------------------------------------------------------------------------

// How long a thread polls.
struct Patience {
    int tries;
    int *failed;
};

INLINE bool has_missing(const Words &words) {
    bool missing = false;
#pragma unroll
    for (int r = 0; r < 4; r++) missing |= words.at[r] == MISSING;
    return missing;
}

// Fetches the words at `place(0)`, `place(1)` ...; a null pointer stands for zeros. Those that it `waits` for are
// fetched again until they are there. All lanes of a warp call it.
template <int COUNT, class Place, class Waits>
INLINE void fetch(Words (&words)[COUNT], Patience &patience, Place place, Waits waits) {
#pragma unroll
    for (int k = 0; k < COUNT; k++) {
        words[k] = {{0, 0, 0, 0}};
        load_relaxed(words[k], place(k), place(k) != nullptr);
    }
    bool missing = true;
    for (int tries = 0; missing && tries < patience.tries; tries++) {
        missing = false;
#pragma unroll
        for (int k = 0; k < COUNT; k++) {
            const bool again = waits(k) && has_missing(words[k]);
            load_relaxed(words[k], place(k), again);
            missing |= again;
        }
    }
    if (missing) {
        *patience.failed = 1;
        patience.tries = 0;
    }
    __syncwarp();
}

// Lets other blocks see the number of a unit, of 16 bits those of two neighbouring units in a word, where they are
// `there`. All lanes of a warp call it; `u` is the unit.
template <class T>
INLINE void publish(T *to, T mine, bool there, int u) {
    if constexpr (sizeof(T) == 4) {
        if (there) store_relaxed(reinterpret_cast<unsigned *>(to), mine == mine ? bits_of(mine) : 0x7fffffff);
    } else {
        const unsigned word = with_next(mine.bits);
        if (there && !(u & 1)) store_relaxed(reinterpret_cast<unsigned *>(to), word);
    }
}

// Places --------------------------------------------------------------------------------------------------------------

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

// Where a thread is: its direction and warp, its place in the fragments of an mma; the sequences of its group, from b_0
// on; and where their states begin in arrays (D, B, H). Sequences know nothing of each other, so groups don't either.
struct Place {
    int d, warp, group, member, b_0, sequences;
    long long states;
};
INLINE Place place_of(int d_0, int B, int group_0, int H) {
    const int d = d_0 + blockIdx.y, lane = threadIdx.x & 31, b_0 = (group_0 + blockIdx.z) * ROWS;
    return {d,
            int(threadIdx.x) >> 5,
            lane >> 2,
            lane & 3,
            b_0,
            B - b_0 < ROWS ? B - b_0 : ROWS,
            ((long long)d * B + b_0) * H};
}
INLINE int of_group(int sequences, int b_0) {
    return sequences <= b_0 ? 0 : sequences - b_0 < ROWS ? sequences - b_0 : ROWS;
}
// Step s of the table (T, D) for a group: its row b is that of sequence b_0 + b. Behind the last step there are no rows.
INLINE Step step_of(const Step *steps, int s, int T, int D, const Place &here) {
    if (s >= T) return {0, 0, 0, 0};
    const Step at = steps[s * D + here.d];
    return {at.first + here.b_0, of_group(at.rows, here.b_0), at.before + here.b_0, of_group(at.carried, here.b_0)};
}
#define FAR 4  // steps that what is in no cache is asked for before it is read

// The first k of those that a pair of k steps gives to this thread: a sum may take its terms in any order, so the k of
// the two steps are those that lie side by side in memory.
INLINE int first_k(const Place &here, int pair) {
    return (here.warp * K_STEPS + 2 * pair) * K_STEP + here.member * PER_WORDS;
}
INLINE const Words *words_at(const STORAGE *number) { return reinterpret_cast<const Words *>(number); }

// The states of a thread's elements from an array (D, B, H), zeros where there is none, and back.
template <class T>
INLINE void take(float (&states)[EACH], const T *array, const Place &here, int H) {
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        const Element my = element_of(e);
        const bool there = array && my.b < here.sequences && my.unit < H;
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
