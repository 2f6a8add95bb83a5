/* gc_util.h - for the tests of collection: names with known content, a collection, a check. */
#ifndef TESTS_UNIT_GC_UTIL_H
#define TESTS_UNIT_GC_UTIL_H

#include "tests/unit/store_util.h"

#define BLOCK 65536u

static inline int collect(struct fixture *f, struct smfs_gc *g, unsigned percent)
{
	*g = (struct smfs_gc){.compact_percent = percent};
	return smfs_gc(f->s, 0, g, &f->err);
}

static inline void fsck_line(void *arg, const char *line)
{
	fprintf(stderr, "# fsck: %s\n", line);
}

static inline void fsck_clean(struct fixture *f)
{
	struct smfs_fsck c = {.report = fsck_line};

	ok(f, smfs_fsck(f->s, SMFS_FSCK_READ_DATA, &c, &f->err));
}

static inline uint8_t *content(uint64_t seed, size_t len)
{
	uint8_t *p = malloc(len);

	assert_non_null(p);
	fill_random(p, len, seed);
	return p;
}

static inline void put(struct fixture *f, const char *name, uint64_t seed, size_t len)
{
	cleanup_free uint8_t *p = content(seed, len);
	struct smfs_content c;

	put_snapshot(f, name, p, len, &c);
}

static inline void holds(struct fixture *f, const char *name, uint64_t seed, size_t len)
{
	cleanup_free uint8_t *p = content(seed, len);
	struct smfs_content c;

	ok(f, get_snapshot(f, name, &c));
	read_equals(f, &c, p, len);
}

#endif
