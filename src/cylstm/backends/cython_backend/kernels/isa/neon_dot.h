/* 64-bit Arm with the dot products of version 8.2: products of int8. */
#define NEON_DOT 1
#include "neon.h"
