/* Which kernels there are, and which of them this processor can run: kernels.def as a table. */
#include "kernels.h"
#include <string.h>

/* Lines for other architectures vanish. */
#define FOR_any(...) __VA_ARGS__
#if defined(__x86_64__)
#define FOR_x86_64(...) __VA_ARGS__
#else
#define FOR_x86_64(...)
#endif
#if defined(__aarch64__)
#define FOR_aarch64(...) __VA_ARGS__
#else
#define FOR_aarch64(...)
#endif

/* These ask the operating system too, whether it saves the registers. */
#define CPU(feature) __builtin_cpu_supports(feature)
#define CPU_AVX2 (CPU("avx2") && CPU("fma"))
#define CPU_AVX512 (CPU_AVX2 && CPU("avx512f") && CPU("avx512dq") && CPU("avx512bw") && CPU("avx512vl"))
#define CPU_AVX512_VNNI (CPU_AVX512 && CPU("avx512vnni"))
#define CPU_AVX512_BF16 (CPU_AVX512_VNNI && CPU("avx512bf16"))
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#define CPU_NEON_DOT (getauxval(AT_HWCAP) >> 20 & 1) /* HWCAP_ASIMDDP */
#else
#define CPU_NEON_DOT 0
#endif

#define ISA(architecture, name, flags, condition) FOR_##architecture(static int runs_##name(void) { return condition; })
#define KERNELS(architecture, isa, precision, state, weights) \
    FOR_##architecture(extern const Kernels cylstm_##isa##_##precision;)
#include "kernels.def"
#undef ISA
#undef KERNELS

static const struct {
    const Kernels *kernels;
    int (*runs_here)(void);
} LINES[] = {
#define ISA(architecture, name, flags, condition)
#define KERNELS(architecture, isa, precision, state, weights) \
    FOR_##architecture({&cylstm_##isa##_##precision, runs_##isa}, )
#include "kernels.def"
};

enum { COUNT = sizeof(LINES) / sizeof(*LINES) };

const Kernels *cylstm_kernels_line(ptrdiff_t index)
{
    return index >= 0 && index < COUNT ? LINES[index].kernels : NULL;
}

int cylstm_kernels_run_here(const Kernels *kernels)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
    for (ptrdiff_t k = 0; k < COUNT; k++)
        if (LINES[k].kernels == kernels)
            return LINES[k].runs_here();
    return 0;
}

const Kernels *cylstm_kernels(const char *isa, const char *precision)
{
    for (ptrdiff_t k = 0; k < COUNT; k++) {
        const Kernels *kernels = LINES[k].kernels;
        if (!strcmp(isa, kernels->isa) && !strcmp(precision, kernels->precision))
            return cylstm_kernels_run_here(kernels) ? kernels : NULL;
    }
    return NULL;
}
