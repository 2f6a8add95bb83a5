/*
 * sweep_store.h - the small store that test_store_sweep.c damages: something of every kind.
 */
#ifndef TESTS_UNIT_SWEEP_STORE_H
#define TESTS_UNIT_SWEEP_STORE_H

#include "store_util.h"

#include <signal.h>
#include <sys/wait.h>

#define CHUNKS	8
#define CHUNK	4096u
#define SPAN	(4 * CHUNK) /* a chunk, and a hole */
#define RAM_LEN (CHUNKS * SPAN)
#define LAYER	"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

/* Small chunks, so that maps are of some size and little is read. */
static inline void fill_ram(uint8_t *p)
{
	for (size_t i = 0; i < CHUNKS; i++) {
		uint8_t unit[16];

		fill_random(unit, sizeof(unit), 500 + i);
		for (size_t at = 0; at < CHUNK; at += sizeof(unit))
			memcpy(p + i * CHUNK + at, unit, sizeof(unit));
	}
}

static inline int stage_ram(struct smfs_ingest *ing, const uint8_t *ram, struct smfs_content *c,
			    struct err *err)
{
	struct smfs_stream *st;
	int r = smfs_stream_open(ing, 0, &st, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < CHUNKS && r == 0; i++)
		if ((r = smfs_stream_cut(st, err)) == 0 &&
		    (r = smfs_stream_write(st, ram + i * CHUNK, CHUNK, err)) == 0)
			r = smfs_stream_hole(st, SPAN - CHUNK, err);
	if (r == 0)
		return smfs_stream_finish(st, c, err);
	smfs_stream_abort(st);
	return r;
}

static inline int stage_base(struct smfs_ingest *ing, const uint8_t *ram, struct smfs_content *c,
			     struct smfs_id *root, struct err *err)
{
	static const struct smfs_xattr xattrs[] = {
		{.name = "user.one", .value = "1", .len = 1},
		{.name = "user.two", .value = "second", .len = 6},
	};
	struct smfs_entry sub[] = {
		{.name = "one", .mode = S_IFREG | 0600, .nlink = 2, .link = 7},
		{.name = "two", .mode = S_IFREG | 0600, .nlink = 2, .link = 7},
		{.name = "pipe", .mode = S_IFIFO | 0622, .nlink = 1},
		{.name = "dev",
		 .mode = S_IFCHR | 0600,
		 .nlink = 1,
		 .rdev_major = 5,
		 .rdev_minor = 1},
	};
	struct smfs_entry top[] = {
		{.name = "ram", .mode = S_IFREG | 0644, .nlink = 1, .uid = 3, .gid = 4},
		{.name = "sub",
		 .mode = S_IFDIR | 0755,
		 .nlink = 1,
		 .mtime_sec = 1234567,
		 .xattrs = xattrs,
		 .nxattrs = 2},
		{.name = "link", .mode = S_IFLNK | 0777, .nlink = 1, .target = "sub/one"},
	};
	uint8_t small[700];
	int r;

	fill_random(small, sizeof(small), 1);
	if ((r = smfs_ingest_mem(ing, small, sizeof(small), &sub[0].content, err)) < 0)
		return r;
	sub[1].content = sub[0].content;
	if ((r = stage_ram(ing, ram, c, err)) < 0 ||
	    (r = smfs_ingest_dir(ing, sub, ARRAY_SIZE(sub), &top[1].dir, err)) < 0)
		return r;
	top[0].content = *c;
	return smfs_ingest_dir(ing, top, ARRAY_SIZE(top), root, err);
}

/* A page of the base changed, and one that is zero before and after: a delta leaf. */
static inline int stage_child(struct smfs_ingest *ing, const struct smfs_content *base,
			      struct smfs_id *root, struct err *err)
{
	struct smfs_entry e = {.name = "ram", .mode = S_IFREG | 0644, .nlink = 1};
	struct smfs_stream *st;
	uint8_t page[4096];
	int r = smfs_stream_open_diff(ing, base, 0, &st, err);

	if (r < 0)
		return r;
	fill_random(page, sizeof(page), 900);
	memset(page, 'x', 3500);
	if ((r = smfs_stream_same(st, SPAN, err)) < 0 ||
	    (r = smfs_stream_write(st, page, sizeof(page), err)) < 0 ||
	    (r = smfs_stream_hole(st, sizeof(page), err)) < 0 ||
	    (r = smfs_stream_same(st, RAM_LEN - SPAN - 8192, err)) < 0) {
		smfs_stream_abort(st);
		return r;
	}
	r = smfs_stream_finish(st, &e.content, err);
	return r < 0 ? r : smfs_ingest_dir(ing, &e, 1, root, err);
}

/* Both trees under names made of `suffix`, or just the one. */
static inline void put_all(struct fixture *f, const char *suffix)
{
	cleanup_free uint8_t *ram = malloc(CHUNKS * CHUNK);
	struct smfs_entry attr = {.mode = S_IFDIR | 0750, .uid = 8, .mtime_sec = 99};
	struct smfs_ingest *ing;
	struct smfs_content c;
	struct smfs_id root;
	char name[64];

	fill_ram(ram);
	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	ok(f, stage_base(ing, ram, &c, &root, &f->err));
	snprintf(name, sizeof(name), "base%s", suffix);
	ok(f, smfs_ingest_name(ing, SMFS_SNAPSHOT, name, &root, &attr, 0, &f->err));
	if (!*suffix) {
		ok(f, smfs_ingest_name(ing, SMFS_LAYER, LAYER, &root, NULL, 0, &f->err));
		ok(f, smfs_ingest_name(ing, SMFS_IMAGE, "localhost/small/it:1", &root, NULL, 0,
				       &f->err));
	}
	ok(f, smfs_ingest_commit(ing, &f->err));
	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	ok(f, stage_child(ing, &c, &root, &f->err));
	snprintf(name, sizeof(name), *suffix ? "child%s" : "dlihc%s", suffix);
	ok(f, smfs_ingest_name(ing, SMFS_SNAPSHOT, name, &root, NULL, 0, &f->err));
	ok(f, smfs_ingest_commit(ing, &f->err));
}

static inline void put_small(struct fixture *f, const char *name, uint64_t seed)
{
	uint8_t buf[300];
	struct smfs_content c;

	fill_random(buf, sizeof(buf), seed);
	put_snapshot(f, name, buf, sizeof(buf), &c);
}

static inline void close_store(struct fixture *f)
{
	smfs_store_close(f->s);
	f->s = NULL;
}

/* With names gone and renamed, frames condemned and pages of the index free. */
static inline void make_store(struct fixture *f)
{
	struct smfs_gc g = {.compact_percent = 101};
	uint64_t limit = 1 * GIB;
	int p[2];

	put_all(f, "");
	ok(f, smfs_name_rename(f->s, SMFS_SNAPSHOT, "dlihc", "child", &f->err));
	put_small(f, "gone", 2);
	ok(f, smfs_store_set_limit(f->s, &limit, NULL, &f->err));
	/* Somebody who began before keeps them condemned. */
	assert_int_equal(pipe(p), 0);
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		struct smfs_store *s;

		if (smfs_store_open(f->dir, 0, &s, NULL) == 0 && write(p[1], "", 1) == 1)
			pause();
		_exit(1);
	}
	assert_int_equal(read(p[0], &(char){0}, 1), 1);
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "gone", &f->err));
	ok(f, smfs_gc(f->s, 0, &g, &f->err));
	assert_true(g.waiting_frames > 0);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	close(p[0]);
	close(p[1]);
	put_small(f, "last", 3);
	close_store(f);
}

#endif
