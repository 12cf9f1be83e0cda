/* Products of int8 for an instruction set that has none: one k at a time, widened to int32 when it is loaded. */
#if !DOUBLE
#define DOT_GROUP 1
#define DOT_OFFSET 0
#define DOT_SPEED 1
typedef int32_t dot_operand;
typedef ivec dot_weights;
typedef int8_t quarter __attribute__((vector_size(VECTOR_BYTES / 4), aligned(1), may_alias));

INLINE dot_weights all_dot(const void *p) { return word_at(p) - (ivec){0}; }
INLINE dot_weights load_dot_weights(const int8_t *p) { return __builtin_convertvector(*(const quarter *)p, ivec); }
INLINE ivec int8_dot(ivec sum, dot_weights x, dot_weights w) { return sum + x * w; }
#endif
