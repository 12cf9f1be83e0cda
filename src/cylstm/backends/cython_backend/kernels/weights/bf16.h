/* Weights and operands in bfloat16, sums in float32. */
#include "bf16_products.h"

#define HEADROOM BF16_HEADROOM
#define CONVERT to_operand
#define SPEED BF16_SPEED
#include "unscaled.h"
