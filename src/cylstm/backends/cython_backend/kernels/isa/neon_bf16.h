/* 64-bit Arm with dot products and BF16: products of int8 and of bfloat16. */
#define NEON_DOT 1
#define BF16_DOT 1
#include "neon.h"
