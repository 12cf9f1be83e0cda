// The instructions of a GPU that persistent.h names, for a CPU. A thread may linger before each access to
// memory that others see.
static void linger() {
    while (chance() % 4 == 0) yield_to_scheduler();
}
static void load_relaxed(Words &to, const Words *from, bool wanted) {
    for (int r = 0; r < 4; r++) {  // a vector of words is no single access
        linger();
        if (wanted) to.at[r] = reinterpret_cast<const volatile Words *>(from)->at[r];
    }
}
static void store_relaxed(unsigned *to, unsigned word) {
    yield_to_scheduler();
    linger();
    *static_cast<volatile unsigned *>(to) = word;
}
static unsigned with_next(unsigned bits) {
    Warp &warp = warp_here();
    const int lane = threadIdx.x & 31;
    warp.word[lane] = bits;
    __syncwarp();
    const unsigned word = bits | warp.word[lane == 31 ? 31 : lane + 1] << 16;
    __syncwarp();
    return word;
}
static bool any_lane(bool mine) {
    Warp &warp = warp_here();
    warp.word[threadIdx.x & 31] = mine;
    __syncwarp();
    bool any = false;
    for (unsigned word : warp.word) any |= word;
    __syncwarp();
    return any;
}
// To the nearest, ties away from zero. What is above the largest becomes inf; nan stays nan.
static unsigned tf32(float a) {
    const unsigned bits = bits_of(a);
    return a == a ? (bits + 0x1000) & 0xffffe000 : 0x7fffffff;
}

// Number k of those that a word of a fragment holds. Of TF32 an mma reads the upper 19 bits.
template <class T>
static float factor_of(unsigned word, int k) {
    if constexpr (sizeof(T) == 4) return float_of(word & 0xffffe000);
    else return widened(T{(unsigned short)(word >> 16 * k)});
}

// Lane 4 g + m has rows g and g + 8 of a and column g of b; of c it has rows g, g + 8 and columns 2 m, 2 m + 1. Each of
// its words holds the numbers of one place k, or of two side by side.
static void mma(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    constexpr int of_word = 4 / sizeof(STORAGE), half = 4 * of_word;
    Warp &warp = warp_here();
    const int lane = threadIdx.x & 31;
    std::memcpy(warp.a[lane], a, sizeof warp.a[lane]);
    std::memcpy(warp.b[lane], b, sizeof warp.b[lane]);
    __syncwarp();
    for (int r = 0; r < 4; r++) {
        const int row = (lane >> 2) + 8 * (r >> 1), column = 2 * (lane & 3) + (r & 1);
        for (int k = 0; k < 2 * half; k++) {
            const int member = k % half / of_word, high = k >= half, place = k % of_word;
            c[r] += factor_of<STORAGE>(warp.a[row % 8 * 4 + member][(row >= 8) + 2 * high], place) *
                    factor_of<STORAGE>(warp.b[column * 4 + member][high], place);
        }
    }
    __syncwarp();
}
