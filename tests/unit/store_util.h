/* store_util.h - scratch stores and pseudo-random content for the store's tests. */
#ifndef TESTS_UNIT_STORE_UTIL_H
#define TESTS_UNIT_STORE_UTIL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"
#include "smfs/store/store.h"

struct fixture {
	char dir[64];
	struct smfs_store *s;
	struct err err;
};

/* Success, or the message. */
#define ok(f, expr)                                                       \
	do {                                                              \
		long r_ = (long)(expr);                                   \
		if (r_ < 0)                                               \
			fail_msg("%s: %ld: %s", #expr, r_, (f)->err.msg); \
	} while (0)

static inline int rm_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st, (void)flag, (void)ftw;
	return remove(path);
}

static inline void rm_tree(const char *path)
{
	nftw(path, rm_one, 16, FTW_DEPTH | FTW_PHYS);
}

static inline int fixture_setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/smfs-store.XXXXXX");
	if (!mkdtemp(f->dir) || smfs_store_init(f->dir, &f->err) < 0 ||
	    smfs_store_open(f->dir, 0, &f->s, &f->err) < 0) {
		fprintf(stderr, "setup: %s\n", f->err.msg);
		return -1;
	}
	*state = f;
	return 0;
}

static inline int fixture_teardown(void **state)
{
	struct fixture *f = *state;

	smfs_store_close(f->s);
	rm_tree(f->dir);
	free(f);
	return 0;
}

static inline void reopen(struct fixture *f, unsigned flags)
{
	smfs_store_close(f->s);
	f->s = NULL;
	ok(f, smfs_store_open(f->dir, flags, &f->s, &f->err));
}

/* xorshift; the same seed gives the same bytes. */
static inline uint64_t rnd(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

static inline void fill_random(void *p, size_t n, uint64_t seed)
{
	uint64_t x = seed * 0x9e3779b97f4a7c15ull + 1;
	uint8_t *b = p;

	for (size_t i = 0; i < n; i++)
		b[i] = (uint8_t)(rnd(&x) >> 24);
}

/* Like RAM: zero pages, text-like pages, random pages. */
static inline void fill_mixed(void *p, size_t n, uint64_t seed)
{
	uint8_t *b = p;

	for (size_t at = 0; at < n; at += 4096) {
		size_t len = MIN(n - at, (size_t)4096);
		uint64_t x = seed + at * 31 + 7;

		switch ((seed + at / 4096 / 16) % 4) {
		case 0:
		case 1:
			memset(b + at, 0, len);
			break;
		case 2:
			for (size_t i = 0; i < len; i++)
				b[at + i] = "the quick brown fox "[(i + (rnd(&x) & 1)) % 20];
			break;
		default:
			fill_random(b + at, len, seed + at);
		}
	}
}

static inline void read_equals(struct fixture *f, const struct smfs_content *c, const void *want,
			       size_t len)
{
	cleanup_free uint8_t *got = malloc(len + 1);
	struct smfs_file *file;

	assert_int_equal(c->size, len);
	ok(f, smfs_file_open(f->s, c, &file, &f->err));
	ssize_t n = smfs_file_pread(file, got, len + 1, 0, &f->err);
	if (n < 0)
		fail_msg("read: %s", f->err.msg);
	assert_int_equal(n, len);
	if (memcmp(got, want, len) != 0)
		fail_msg("content of %zu bytes differs", len);
	smfs_file_close(file);
}

/* One file as the tree { "data": file } under a snapshot name. */
static inline void stage_file(struct fixture *f, struct smfs_ingest *ing, const char *name,
			      const struct smfs_content *c, unsigned flags)
{
	struct smfs_entry e = {.name = "data", .mode = S_IFREG | 0644, .nlink = 1, .content = *c};
	struct smfs_id dir;

	ok(f, smfs_ingest_dir(ing, &e, 1, &dir, &f->err));
	ok(f, smfs_ingest_name(ing, SMFS_SNAPSHOT, name, &dir, NULL, flags, &f->err));
}

static inline void put_snapshot(struct fixture *f, const char *name, const void *buf, size_t len,
				struct smfs_content *c)
{
	struct smfs_ingest *ing;

	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	ok(f, smfs_ingest_mem(ing, buf, len, c, &f->err));
	stage_file(f, ing, name, c, 0);
	ok(f, smfs_ingest_commit(ing, &f->err));
}

/* The content of "data" of a snapshot made by stage_file(). */
static inline int get_snapshot(struct fixture *f, const char *name, struct smfs_content *c)
{
	struct smfs_name n;
	struct smfs_dir *d;
	int r = smfs_name_get(f->s, SMFS_SNAPSHOT, name, &n, &f->err);

	if (r == 0)
		r = smfs_dir_open(f->s, &n.root, &d, &f->err);
	if (r < 0)
		return r;
	const struct smfs_entry *e = smfs_dir_find(d, "data");
	assert_non_null(e);
	*c = e->content;
	smfs_dir_close(d);
	return 0;
}

#endif
