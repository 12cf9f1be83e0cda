/* Lines of memory into the cache, all at once instead of one after the other when they are needed. */
#ifndef CYLSTM_PREFETCH_H
#define CYLSTM_PREFETCH_H

#include "kernels.h"

static inline void prefetch(const void *p, ptrdiff_t bytes)
{
    for (ptrdiff_t n = 0; n < bytes; n += LINE)
        __builtin_prefetch((const char *)p + n);
}

#endif
