/* AVX-512 with VNNI: products of int8. */
#define VNNI 1
#include "avx512.h"
