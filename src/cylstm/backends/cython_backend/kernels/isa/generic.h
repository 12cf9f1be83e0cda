/* Any processor: vectors of 16 bytes, which the compiler makes of what there is. Multiply, then add: two roundings. */
#define VECTOR_BYTES 16
#define EACH_ROW_COUNT(X, ...) X(1, __VA_ARGS__) X(2, __VA_ARGS__) /* 8 sums of 16 registers; a product needs one too */
enum { MAX_ROWS = 2 };

#include "../vec.h"

INLINE vec fma_(vec a, vec b, vec c) { return a * b + c; } /* -ffp-contract=off: two roundings, always */

#define at_most plain_at_most
#define at_least plain_at_least
#define where_less plain_where_less
#define load_some plain_load_some
#define store_some plain_store_some

#include "../plain_dot.h"
