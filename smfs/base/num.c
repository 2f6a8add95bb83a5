#include "smfs/base/num.h"

#include "smfs/base/err.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static int parse_prefix(const char *s, uint64_t *out, const char **end)
{
	char *e;

	if (!isdigit((unsigned char)s[0]))
		return -EINVAL;
	errno = 0;
	unsigned long long v = strtoull(s, &e, 10);
	if (errno)
		return -ERANGE;
	*out = v;
	*end = e;
	return 0;
}

int parse_u64(const char *s, uint64_t min, uint64_t max, uint64_t *out, struct err *err)
{
	const char *end;

	if (parse_prefix(s, out, &end) < 0 || *end)
		return err_set(err, EINVAL, "'%s' is not a whole number", s);
	if (*out < min || *out > max)
		return err_set(err, EINVAL, "%s is not between %llu and %llu", s,
			       (unsigned long long)min, (unsigned long long)max);
	return 0;
}

int parse_size(const char *s, uint64_t min, uint64_t max, uint64_t *out, struct err *err)
{
	static const char units[] = "KMGT";
	const char *end;
	uint64_t mul = 1;

	if (parse_prefix(s, out, &end) < 0)
		return err_set(err, EINVAL, "'%s' is not a size such as 512M or 4G", s);
	if (*end) {
		const char *u = strchr(units, toupper((unsigned char)*end));

		if (u) {
			mul = (uint64_t)1 << (10 * (u - units + 1));
			end++;
		}
		if (*end && strcasecmp(end, "B") != 0 && strcasecmp(end, "iB") != 0)
			return err_set(err, EINVAL, "'%s' is not a size such as 512M or 4G", s);
	}
	if (mul_overflow_u64(*out, mul, out) || *out < min || *out > max) {
		char lo[SIZE_STR_MAX], hi[SIZE_STR_MAX];

		return err_set(err, EINVAL, "size %s is not between %s and %s", s,
			       format_size(min, lo), format_size(max, hi));
	}
	return 0;
}

const char *format_size(uint64_t bytes, char *buf)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double v = (double)bytes;
	size_t u = 0;

	while (v >= 1024 && u + 1 < ARRAY_SIZE(units)) {
		v /= 1024;
		u++;
	}
	snprintf(buf, SIZE_STR_MAX, u == 0 || v >= 100 ? "%.0f %s" : "%.1f %s", v, units[u]);
	return buf;
}
