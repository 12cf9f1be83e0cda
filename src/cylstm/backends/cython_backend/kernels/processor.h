/* What this processor runs, asked of itself and of the operating system: a compiler's own answer depends on a library that
 * not every compiler brings. The conditions of kernels.def. */
#ifndef CYLSTM_PROCESSOR_H
#define CYLSTM_PROCESSOR_H

#if defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(_WIN32)
#include <windows.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#endif

enum { AVX2 = 1, AVX_VNNI = 2, AVX512 = 4, AVX512_VNNI = 8, AVX512_BF16 = 16 }; /* of x86-64 */
enum { NEON_DOT = 1, NEON_BF16 = 2 }; /* of 64-bit Arm */
enum { ASKED = 128 };

#if defined(__APPLE__)
static int system_says(const char *name)
{
    int value = 0;
    size_t size = sizeof(value);
    return !sysctlbyname(name, &value, &size, NULL, 0) && value;
}
#endif

#if defined(__x86_64__)
/* The operating system must save the registers (XCR0): the halves of YMM; masks and ZMM. macOS says of the latter that it
 * will, where it does not yet. */
static int ask_processor(void)
{
    unsigned int eax, ebx, ecx, edx, saved, more = 0, unused, features;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx >> 27 & 1)) /* OSXSAVE */
        return 0;
    unsigned int fma = ecx >> 28 & ecx >> 12 & 1; /* and AVX */
    __asm__ __volatile__("xgetbv" : "=a"(saved), "=d"(edx) : "c"(0));
    if (!fma || (saved & 0x06) != 0x06 || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || !(ebx >> 5 & 1))
        return 0;
    if (eax >= 1 && !__get_cpuid_count(7, 1, &more, &unused, &unused, &unused))
        more = 0;
    features = AVX2 | (more >> 4 & 1 ? AVX_VNNI : 0);
#if defined(__APPLE__)
    saved |= system_says("hw.optional.avx512f") ? 0xe0 : 0;
#endif
    if ((saved & 0xe0) != 0xe0 || !(ebx >> 16 & ebx >> 17 & ebx >> 30 & ebx >> 31 & 1)) /* F, DQ, BW, VL */
        return features;
    features |= AVX512;
    if (!(ecx >> 11 & 1))
        return features;
    return features | AVX512_VNNI | (more >> 5 & 1 ? AVX512_BF16 : 0);
}
#elif defined(__aarch64__)
static int ask_processor(void)
{
#if defined(__linux__)
    int dot = getauxval(AT_HWCAP) >> 20 & 1, bf16 = getauxval(AT_HWCAP2) >> 14 & 1; /* HWCAP_ASIMDDP, HWCAP2_BF16 */
    return (dot ? NEON_DOT : 0) | (dot && bf16 ? NEON_BF16 : 0);
#elif defined(__APPLE__)
    int dot = system_says("hw.optional.arm.FEAT_DotProd"), bf16 = system_says("hw.optional.arm.FEAT_BF16");
    return (dot ? NEON_DOT : 0) | (dot && bf16 ? NEON_BF16 : 0);
#elif defined(_WIN32)
    /* PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE; of BF16 it says nothing */
    return IsProcessorFeaturePresent(43) ? NEON_DOT : 0;
#else
    return 0;
#endif
}
#else
static int ask_processor(void) { return 0; }
#endif

/* Asked once: under a hypervisor each question takes a microsecond or more. */
static inline int processor_has(int feature)
{
    static int features; /* atomic */
    int known = __atomic_load_n(&features, __ATOMIC_RELAXED);
    if (!known)
        __atomic_store_n(&features, known = ask_processor() | ASKED, __ATOMIC_RELAXED);
    return (known & feature) != 0;
}

#define CPU_AVX2 processor_has(AVX2)
#define CPU_AVX_VNNI processor_has(AVX_VNNI)
#define CPU_AVX512 processor_has(AVX512)
#define CPU_AVX512_VNNI processor_has(AVX512_VNNI)
#define CPU_AVX512_BF16 processor_has(AVX512_BF16)
#define CPU_NEON_DOT processor_has(NEON_DOT)
#define CPU_NEON_BF16 processor_has(NEON_BF16)

#endif
