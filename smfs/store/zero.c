#include "smfs/store/zero.h"

#include <string.h>

/* Compiled to vector code; 64 bytes a round is a cache line. */
typedef uint64_t line_t __attribute__((vector_size(64), aligned(1), may_alias));

static bool line_is_zero(const uint8_t *p)
{
	line_t v = *(const line_t *)p;

	return !(v[0] | v[1] | v[2] | v[3] | v[4] | v[5] | v[6] | v[7]);
}

size_t zero_trim(const uint8_t *p, size_t n)
{
	while (n % 64 && p[n - 1] == 0)
		n--;
	if (n % 64)
		return n;
	while (n && line_is_zero(p + n - 64))
		n -= 64;
	while (n && p[n - 1] == 0)
		n--;
	return n;
}
