/*
 * num.h - checked arithmetic, rounding, and numbers from text.
 *
 * Every size or offset that comes from a file, the network or a guest is combined with these.
 */
#ifndef SMFS_BASE_NUM_H
#define SMFS_BASE_NUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)
#define TIB ((uint64_t)1 << 40)

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
/* Each argument is evaluated once: it may read from a cursor, or a clock. Not for constants. */
#define MIN(a, b)	      NUM_PICK(a, <, b, __COUNTER__)
#define MAX(a, b)	      NUM_PICK(a, >, b, __COUNTER__)
#define NUM_PICK(a, op, b, n) NUM_PICK_NAMED(a, op, b, n)
#define NUM_PICK_NAMED(a, op, b, n)                             \
	({                                                      \
		__auto_type pick_a##n = (a);                    \
		__auto_type pick_b##n = (b);                    \
		pick_a##n op pick_b##n ? pick_a##n : pick_b##n; \
	})

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* true = overflow, *out undefined. */
static inline bool add_overflow_u64(uint64_t a, uint64_t b, uint64_t *out)
{
	return __builtin_add_overflow(a, b, out);
}

static inline bool mul_overflow_u64(uint64_t a, uint64_t b, uint64_t *out)
{
	return __builtin_mul_overflow(a, b, out);
}

/* [off, off+len) lies within [0, size). Never overflows. */
static inline bool range_ok(uint64_t off, uint64_t len, uint64_t size)
{
	return off <= size && len <= size - off;
}

/* `align` is a power of two. */
static inline uint64_t align_down(uint64_t v, uint64_t align)
{
	return v & ~(align - 1);
}

static inline uint64_t align_up(uint64_t v, uint64_t align)
{
	return align_down(v + align - 1, align);
}

/* Whole-string decimal number within [min, max]. -EINVAL with what was wrong. */
int parse_u64(const char *s, uint64_t min, uint64_t max, uint64_t *out, struct err *err);

/* A size in bytes: "512M", "4GiB", "65536"; suffixes K M G T, powers of 1024. */
int parse_size(const char *s, uint64_t min, uint64_t max, uint64_t *out, struct err *err);

/* Human form of a byte count, such as "1.5 GiB". `buf` of at least 16 bytes; returns buf. */
#define SIZE_STR_MAX 16
const char *format_size(uint64_t bytes, char *buf);

#endif
