/* AVX-512 with VNNI and BF16: products of int8 and of bfloat16. */
#define VNNI 1
#define BF16_DOT 1
#include "avx512.h"
