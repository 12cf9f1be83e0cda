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

enum { AVX2 = 1, AVX512 = 2, AVX512_VNNI = 4, AVX512_BF16 = 8, NEON_DOT = 16, ASKED = 32 };

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
    unsigned int eax, ebx, ecx, edx, saved, features;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx >> 27 & 1)) /* OSXSAVE */
        return 0;
    unsigned int fma = ecx >> 28 & ecx >> 12 & 1; /* and AVX */
    __asm__ __volatile__("xgetbv" : "=a"(saved), "=d"(edx) : "c"(0));
    if (!fma || (saved & 0x06) != 0x06 || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || !(ebx >> 5 & 1))
        return 0;
    features = AVX2;
#if defined(__APPLE__)
    saved |= system_says("hw.optional.avx512f") ? 0xe0 : 0;
#endif
    if ((saved & 0xe0) != 0xe0 || !(ebx >> 16 & ebx >> 17 & ebx >> 30 & ebx >> 31 & 1)) /* F, DQ, BW, VL */
        return features;
    features |= AVX512;
    if (!(ecx >> 11 & 1))
        return features;
    features |= AVX512_VNNI;
    if (eax >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && eax >> 5 & 1)
        features |= AVX512_BF16;
    return features;
}
#elif defined(__aarch64__)
static int ask_processor(void)
{
#if defined(__linux__)
    return getauxval(AT_HWCAP) >> 20 & 1 ? NEON_DOT : 0; /* HWCAP_ASIMDDP */
#elif defined(__APPLE__)
    return system_says("hw.optional.arm.FEAT_DotProd") ? NEON_DOT : 0;
#elif defined(_WIN32)
    return IsProcessorFeaturePresent(43) ? NEON_DOT : 0; /* PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE */
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
#define CPU_AVX512 processor_has(AVX512)
#define CPU_AVX512_VNNI processor_has(AVX512_VNNI)
#define CPU_AVX512_BF16 processor_has(AVX512_BF16)
#define CPU_NEON_DOT processor_has(NEON_DOT)

#endif
