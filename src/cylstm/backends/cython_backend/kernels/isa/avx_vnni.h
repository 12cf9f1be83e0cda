/* x86-64 with AVX2 and AVX-VNNI: products of int8. */
#define VNNI 1
#include "avx2.h"
