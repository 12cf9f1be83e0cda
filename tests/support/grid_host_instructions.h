// The instructions of a GPU that persistent.h names, for a CPU. A thread may linger before each access to
// memory that others see.
static void linger() {
    while (chance() % 4 == 0) yield_to_scheduler();
}
static Words load_relaxed(const Words *from) {
    Words words;
    for (int r = 0; r < 4; r++) {  // a vector of words is no single access
        linger();
        words.at[r] = reinterpret_cast<const volatile Words *>(from)->at[r];
    }
    return words;
}
static void store_relaxed(unsigned *to, unsigned word) {
    yield_to_scheduler();
    linger();
    *static_cast<volatile unsigned *>(to) = word;
}
static void rest() { yield_to_scheduler(); }

static unsigned with_next(STORAGE mine) {
    Warp &warp = warp_here();
    const int lane = threadIdx.x & 31;
    warp.word[lane] = mine.bits;
    __syncwarp();
    const unsigned word = mine.bits | warp.word[lane == 31 ? 31 : lane + 1] << 16;
    __syncwarp();
    return word;
}

static float half_of(unsigned word, int k) { return widened(STORAGE{(unsigned short)(word >> 16 * k)}); }

// Lane 4 g + m has rows g and g + 8 of a and column g of b; of c it has rows g, g + 8 and columns 2 m, 2 m + 1.
static void mma(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    Warp &warp = warp_here();
    const int lane = threadIdx.x & 31;
    std::memcpy(warp.a[lane], a, sizeof warp.a[lane]);
    std::memcpy(warp.b[lane], b, sizeof warp.b[lane]);
    __syncwarp();
    for (int r = 0; r < 4; r++) {
        const int row = (lane >> 2) + 8 * (r >> 1), column = 2 * (lane & 3) + (r & 1);
        for (int k = 0; k < 16; k++)
            c[r] += half_of(warp.a[row % 8 * 4 + k % 8 / 2][(row >= 8) + 2 * (k >= 8)], k % 2) *
                    half_of(warp.b[column * 4 + k % 8 / 2][k >= 8], k % 2);
    }
    __syncwarp();
}
