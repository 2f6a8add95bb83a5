/*
 * repair_store.h - for the tests of repair: a store of some history, and what must be true of it.
 */
#ifndef TESTS_UNIT_REPAIR_STORE_H
#define TESTS_UNIT_REPAIR_STORE_H

#include "store_util.h"

#include <signal.h>
#include <sys/wait.h>

#define NAMES 4
#define LEN   3000

static const char *const names[NAMES] = {"one", "two", "four", "five"};

static inline void quiet(void *arg, const char *line)
{
	unsigned *n = arg;

	*n += 1;
	if (getenv("SHOW"))
		printf("#   %s\n", line);
}

static inline void content(unsigned i, uint8_t buf[LEN])
{
	/* Half of each is common, in a frame of its own tree. */
	fill_random(buf, LEN, 100 + i);
}

static inline void put_name(struct fixture *f, const char *name, unsigned i)
{
	uint8_t buf[LEN];
	struct smfs_content c;

	content(i, buf);
	put_snapshot(f, name, buf, LEN, &c);
}

static inline void close_store(struct fixture *f)
{
	smfs_store_close(f->s);
	f->s = NULL;
}

/* Some history: names that stay, one renamed, one removed. */
static inline void make_store(struct fixture *f)
{
	put_name(f, "one", 0);
	put_name(f, "wto", 1);
	put_name(f, "three", 9);
	ok(f, smfs_name_rename(f->s, SMFS_SNAPSHOT, "wto", "two", &f->err));
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "three", &f->err));
	put_name(f, "four", 2);
	put_name(f, "five", 3);
	close_store(f);
}

/* How many of the names read as they were; the rest must be refused as damaged or be gone. */
static inline unsigned right_names(struct fixture *f)
{
	unsigned right = 0;

	for (unsigned i = 0; i < NAMES; i++) {
		uint8_t want[LEN], got[LEN];
		struct smfs_content c;
		struct smfs_file *file;
		int r = get_snapshot(f, names[i], &c);

		if (r < 0) {
			assert_true(r == -ENOENT || r == -EBADMSG);
			continue;
		}
		content(i, want);
		ok(f, smfs_file_open(f->s, &c, &file, &f->err));
		ssize_t n = smfs_file_pread(file, got, LEN, 0, &f->err);
		smfs_file_close(file);
		if (n < 0) {
			assert_int_equal(n, -EBADMSG);
			continue;
		}
		assert_memory_equal(got, want, LEN);
		right++;
	}
	return right;
}

static inline int repair(struct fixture *f, struct smfs_fsck *k, unsigned *lines)
{
	*k = (struct smfs_fsck){.report = quiet, .arg = lines};
	*lines = 0;
	return smfs_repair(f->dir, k, &f->err);
}

/* 0 or the result of the open or the check. */
static inline int checked(struct fixture *f, unsigned *lines)
{
	struct smfs_fsck k = {.report = quiet, .arg = lines};
	int r = smfs_store_open(f->dir, 0, &f->s, &f->err);

	*lines = 0;
	return r < 0 ? r : smfs_fsck(f->s, SMFS_FSCK_READ_DATA, &k, &f->err);
}

static inline void wholly_repaired(struct fixture *f)
{
	struct smfs_fsck k;
	unsigned lines;

	ok(f, repair(f, &k, &lines));
	assert_int_equal(k.guesses, 0);
	ok(f, checked(f, &lines));
	assert_int_equal(right_names(f), NAMES);
	assert_int_equal(get_snapshot(f, "three", &(struct smfs_content){0}), -ENOENT);
	assert_int_equal(get_snapshot(f, "wto", &(struct smfs_content){0}), -ENOENT);
	/* and goes on to be a store */
	put_name(f, "after", 20);
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "after", &f->err));
	close_store(f);
	ok(f, smfs_repair_done(f->dir, &f->err));
	ok(f, checked(f, &lines));
	close_store(f);
}

static inline void sh(const char *fmt, const char *a, const char *b)
{
	char cmd[400];

	snprintf(cmd, sizeof(cmd), fmt, a, b);
	assert_int_equal(system(cmd), 0);
}

/* A writer that stores `len` bytes of the seed as one chunk and dies before its commit. */
static inline void die_writing(struct fixture *f, uint64_t seed, const void *data, size_t len)
{
	cleanup_free uint8_t *buf = malloc(len);
	struct smfs_ingest *ing;
	struct smfs_content c;

	if (data)
		memcpy(buf, data, len);
	else
		fill_random(buf, len, seed);
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		if (smfs_store_open(f->dir, 0, &f->s, &f->err) == 0 &&
		    smfs_ingest_begin(f->s, &ing, &f->err) == 0)
			smfs_ingest_mem(ing, buf, len, &c, &f->err);
		kill(getpid(), SIGKILL);
	}
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static inline uint64_t file_size(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_size;
}

#endif
