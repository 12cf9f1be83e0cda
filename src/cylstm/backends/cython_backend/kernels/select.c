/* Which kernels there are, and which of them this processor can run: kernels.def as a table. */
#include <string.h>

#include "kernels.h"
#include "processor.h"

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
