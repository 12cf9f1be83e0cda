/* Which tiles this processor can run. */
#include "kernels.h"
#include <string.h>

extern const Kernels cylstm_generic_float32, cylstm_generic_float64;
#if defined(__x86_64__)
extern const Kernels cylstm_avx2_float32, cylstm_avx2_float64, cylstm_avx512_float32, cylstm_avx512_float64;

static int has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
static int has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
#endif
static int always(void) { return 1; }

static const struct {
    const Kernels *float32, *float64;
    int (*runs_here)(void); /* asks the operating system too, whether it saves the registers */
} TABLES[] = { /* best first */
#if defined(__x86_64__)
    {&cylstm_avx512_float32, &cylstm_avx512_float64, has_avx512},
    {&cylstm_avx2_float32, &cylstm_avx2_float64, has_avx2},
#endif
    {&cylstm_generic_float32, &cylstm_generic_float64, always},
};

const Kernels *cylstm_kernels(const char *isa, ptrdiff_t itemsize)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
    for (size_t k = 0; k < sizeof(TABLES) / sizeof(*TABLES); k++) {
        const Kernels *table = itemsize == 8 ? TABLES[k].float64 : TABLES[k].float32;
        if ((!isa || !strcmp(isa, table->isa)) && TABLES[k].runs_here())
            return table;
    }
    return NULL;
}
