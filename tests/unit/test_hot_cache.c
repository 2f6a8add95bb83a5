/* The cache of materialised content: whole or absent, bounded, least recently used out first. */
#include "tests/unit/store_util.h"

#include <dirent.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>

#include "smfs/mount/hot_cache.h"

#define SIZE ((size_t)4 << 20)
#define HUGE (2 * MIB)

struct cached {
	struct fixture *f;
	struct hot_cache *c;
	uint8_t *data[3];
	struct smfs_content content[3];
};

static void open_cache(struct cached *t, unsigned flags, uint64_t limit)
{
	hot_cache_close(t->c);
	t->c = NULL;
	ok(t->f, hot_cache_open(t->f->dir, flags, limit, &t->c, &t->f->err));
}

static int setup(void **state)
{
	struct cached *t = calloc(1, sizeof(*t));

	*state = t;
	if (fixture_setup((void **)&t->f) < 0)
		return -1;
	for (int i = 0; i < 3; i++) {
		char name[8];

		t->data[i] = malloc(SIZE);
		fill_mixed(t->data[i], SIZE, 11 + (uint64_t)i);
		snprintf(name, sizeof(name), "s%d", i);
		put_snapshot(t->f, name, t->data[i], SIZE, &t->content[i]);
	}
	open_cache(t, 0, HOT_LIMIT_KEEP);
	return 0;
}

static int teardown(void **state)
{
	struct cached *t = *state;

	hot_cache_close(t->c);
	for (int i = 0; i < 3; i++)
		free(t->data[i]);
	fixture_teardown((void **)&t->f);
	free(t);
	return 0;
}

static int make(struct cached *t, int i, struct hot_progress *p)
{
	return hot_cache_make(t->c, t->f->s, &t->content[i], p, &t->f->err);
}

static bool there(struct cached *t, int i)
{
	int fd = hot_cache_get(t->c, &t->content[i], &t->f->err);

	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

static char *path_of(struct cached *t, int i)
{
	static char path[256];
	char hex[65];

	snprintf(path, sizeof(path), "%s/cache/%s-%zu", t->f->dir,
		 smfs_id_hex(&t->content[i].id, hex), SIZE);
	return path;
}

static void is_whole(struct cached *t, int i, int fd)
{
	uint8_t *got = malloc(SIZE);

	assert_int_equal(pread(fd, got, SIZE, 0), SIZE);
	assert_memory_equal(got, t->data[i], SIZE);
	free(got);
}

/* ---- the file ------------------------------------------------------------------------------ */

static void made_file_is_the_content_and_sparse(void **state)
{
	struct cached *t = *state;
	struct stat st;

	assert_int_equal(hot_cache_get(t->c, &t->content[0], &t->f->err), -ENOENT);
	int fd = make(t, 0, NULL);
	ok(t->f, fd);
	is_whole(t, 0, fd);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0400);
	/* fill_mixed() leaves half of it zero. */
	assert_true((size_t)st.st_blocks * 512 < SIZE * 3 / 4);
	char byte = 1;
	assert_int_equal(pwrite(fd, &byte, 1, 0), -1);
	close(fd);
	fd = hot_cache_get(t->c, &t->content[0], &t->f->err);
	ok(t->f, fd);
	is_whole(t, 0, fd);
	close(fd);
}

static void small_and_zero_content_is_not_taken(void **state)
{
	struct cached *t = *state;
	const struct smfs_content zero = {.size = SIZE}, none = {.size = 100, .kind = SMFS_CHUNK};

	assert_int_equal(hot_cache_make(t->c, t->f->s, &zero, NULL, &t->f->err), -EINVAL);
	assert_int_equal(hot_cache_make(t->c, t->f->s, &none, NULL, &t->f->err), -EINVAL);
	assert_int_equal(hot_cache_get(t->c, &none, &t->f->err), -ENOENT);
}

static void another_size_of_the_same_object_is_another_file(void **state)
{
	struct cached *t = *state;
	struct smfs_content longer = t->content[0];

	close(make(t, 0, NULL));
	longer.size += 4096;
	assert_int_equal(hot_cache_get(t->c, &longer, &t->f->err), -ENOENT);
}

/* Page faults of touching every page of a mapping that may use large pages. */
static long faults_of(int fd)
{
	struct rusage before, after;
	uint8_t *area = mmap(NULL, SIZE + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(area, MAP_FAILED);
	uint8_t *at = (uint8_t *)align_up((uintptr_t)area, HUGE);
	volatile uint8_t *p = mmap(at, SIZE, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0);
	assert_ptr_not_equal((void *)p, MAP_FAILED);
	getrusage(RUSAGE_SELF, &before);
	for (size_t off = 0; off < SIZE; off += 4096)
		(void)p[off];
	getrusage(RUSAGE_SELF, &after);
	munmap(area, SIZE + HUGE);
	assert_int_equal(after.ru_majflt, before.ru_majflt);
	return after.ru_minflt - before.ru_minflt;
}

/* Do the kernel and the file system keep large folios at all? Asked of a file without holes. */
static bool has_large_folios(struct cached *t)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/cache/probe", t->f->dir);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0 && unlink(path) == 0);
	assert_int_equal(pwrite(fd, t->data[0], SIZE, 0), SIZE);
	assert_int_equal(fsync(fd), 0);
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	void *m = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(m, MAP_FAILED);
	bool yes =
		madvise(m, SIZE, MADV_HUGEPAGE) == 0 && madvise(m, SIZE, MADV_POPULATE_READ) == 0;
	munmap(m, SIZE);
	yes = yes && faults_of(fd) <= (long)(SIZE / HUGE);
	close(fd);
	return yes;
}

/* A page of data among three of none: it is written by the page. */
static void made_file_is_loaded_in_large_folios(void **state)
{
	struct cached *t = *state;
	uint8_t *sparse = calloc(1, SIZE);

	if (!has_large_folios(t)) {
		free(sparse);
		print_message("# no large folios in the page cache of the file system here\n");
		skip();
	}
	for (size_t off = 0; off < SIZE; off += 4 * 4096)
		memset(sparse + off, 1 + (int)(off >> 14) % 255, 4096);
	put_snapshot(t->f, "sparse", sparse, SIZE, &t->content[0]);
	free(sparse);
	int fd = make(t, 0, NULL);
	ok(t->f, fd);
	assert_in_range(faults_of(fd), 1, SIZE / HUGE);
	close(fd);
}

/* ---- never half a file --------------------------------------------------------------------- */

static bool stop_at_two(void *arg, uint64_t done)
{
	return done < 2 * MIB;
}

static void stopped_making_leaves_nothing(void **state)
{
	struct cached *t = *state;
	struct hot_progress p = {.go_on = stop_at_two};
	char path[256];

	assert_int_equal(make(t, 0, &p), -ECANCELED);
	assert_false(there(t, 0));
	snprintf(path, sizeof(path), "%s/cache/making", t->f->dir);
	assert_int_equal(access(path, F_OK), -1);
}

static bool die_at_two(void *arg, uint64_t done)
{
	if (done >= 2 * MIB)
		_exit(0);
	return true;
}

static void maker_killed_half_way_is_followed_by_another(void **state)
{
	struct cached *t = *state;
	int status;

	/* A store handle does not bear fork(2): the child opens its own. */
	smfs_store_close(t->f->s);
	t->f->s = NULL;
	pid_t pid = fork();
	if (pid == 0) {
		struct hot_progress p = {.go_on = die_at_two};

		if (smfs_store_open(t->f->dir, SMFS_RDONLY, &t->f->s, NULL) < 0)
			_exit(1);
		make(t, 0, &p);
		_exit(2);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	ok(t->f, smfs_store_open(t->f->dir, 0, &t->f->s, &t->f->err));
	assert_false(there(t, 0));
	int fd = make(t, 0, NULL);
	ok(t->f, fd);
	is_whole(t, 0, fd);
	close(fd);
}

static void no_room_while_writing_leaves_nothing(void **state)
{
	struct cached *t = *state;
	struct rlimit old, small;

	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	small = old;
	small.rlim_cur = SIZE / 2;
	setrlimit(RLIMIT_FSIZE, &small);
	int fd = make(t, 0, NULL);
	setrlimit(RLIMIT_FSIZE, &old);
	assert_int_equal(fd, -EFBIG);
	assert_false(there(t, 0));
	close(make(t, 0, NULL));
	assert_true(there(t, 0));
}

/* What fsync and rename cannot vouch for: each of these must be a miss, and gone. */
static void files_that_do_not_fit_their_seal_are_removed(void **state)
{
	struct cached *t = *state;
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1}};

	for (int how = 0; how < 5; how++) {
		int fd = make(t, 0, NULL);

		ok(t->f, fd);
		close(fd);
		char *path = path_of(t, 0), other[256];
		assert_int_equal(chmod(path, 0600), 0);
		switch (how) {
		case 0: /* cut short, the time put back */
			assert_int_equal(truncate(path, SIZE - 4096), 0);
			break;
		case 1: /* another time */
			assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
			break;
		case 2:
			assert_int_equal(removexattr(path, "trusted.smfs.seal"), 0);
			break;
		case 3:
			assert_int_equal(setxattr(path, "trusted.smfs.seal", t->data[0], 68, 0), 0);
			break;
		default: /* sealed, but for something else */
			strcpy(other, path);
			close(make(t, 1, NULL));
			assert_int_equal(rename(path_of(t, 1), other), 0);
			assert_int_equal(chmod(other, 0400), 0);
		}
		if (how < 4)
			assert_int_equal(chmod(path, 0400), 0);
		assert_false(there(t, 0));
		assert_int_equal(access(path_of(t, 0), F_OK), -1);
	}
}

static void check_finds_what_the_disk_corrupted(void **state)
{
	struct cached *t = *state;
	struct timespec times[2];
	struct stat st;

	close(make(t, 0, NULL));
	close(make(t, 1, NULL));
	assert_int_equal(stat(path_of(t, 0), &st), 0);
	int fd = open(path_of(t, 0), O_WRONLY);
	assert_true(fd >= 0);
	uint8_t flipped = t->data[0][SIZE - 1] ^ 1;
	assert_int_equal(pwrite(fd, &flipped, 1, SIZE - 1), 1);
	times[0] = st.st_atim;
	times[1] = st.st_mtim;
	assert_int_equal(futimens(fd, times), 0);
	close(fd);
	assert_int_equal(hot_cache_check(t->c, t->f->s, &t->content[1], &t->f->err), 0);
	assert_int_equal(hot_cache_check(t->c, t->f->s, &t->content[2], &t->f->err), -ENOENT);
	assert_true(there(t, 0));
	assert_int_equal(hot_cache_check(t->c, t->f->s, &t->content[0], &t->f->err), 1);
	assert_false(there(t, 0));
	assert_true(there(t, 1));
}

static void damaged_frame_makes_no_file(void **state)
{
	struct cached *t = *state;
	char path[300];
	DIR *d;
	struct dirent *e;

	snprintf(path, sizeof(path), "%s/packs", t->f->dir);
	d = opendir(path);
	while ((e = readdir(d))) {
		char pack[600];
		struct stat st;

		snprintf(pack, sizeof(pack), "%s/%s", path, e->d_name);
		int fd = open(pack, O_RDWR);
		if (e->d_name[0] == '.' || fd < 0)
			continue;
		fstat(fd, &st);
		/* Somewhere in the frames of the first snapshot. */
		char junk[4096] = {1};
		assert_int_equal(pwrite(fd, junk, sizeof(junk), st.st_size / 8), sizeof(junk));
		close(fd);
	}
	closedir(d);
	reopen(t->f, 0);
	int bad = 0;
	for (int i = 0; i < 3; i++) {
		int fd = make(t, i, NULL);

		if (fd >= 0) {
			is_whole(t, i, fd);
			close(fd);
		} else {
			assert_int_equal(fd, -EBADMSG);
			assert_false(there(t, i));
			bad++;
		}
	}
	assert_true(bad > 0);
}

/* ---- room ---------------------------------------------------------------------------------- */

static uint64_t bytes(struct cached *t)
{
	struct hot_cache_stat st;

	ok(t->f, hot_cache_stat(t->c, &st, &t->f->err));
	return st.bytes;
}

static void use_at(struct cached *t, int i, time_t when)
{
	struct timespec times[2] = {{.tv_sec = when}, {.tv_nsec = UTIME_OMIT}};

	assert_int_equal(utimensat(AT_FDCWD, path_of(t, i), times, 0), 0);
}

static void least_recently_used_goes_first(void **state)
{
	struct cached *t = *state;
	struct hot_progress p = {0};

	close(make(t, 0, NULL));
	close(make(t, 1, NULL));
	open_cache(t, 0, bytes(t) + 4096);
	use_at(t, 0, 1000);
	use_at(t, 1, 2000);
	assert_true(there(t, 0)); /* is a use */
	int fd = make(t, 2, &p);
	ok(t->f, fd);
	close(fd);
	assert_int_equal(p.evicted, 1);
	assert_true(there(t, 0));
	assert_false(there(t, 1));
	assert_true(bytes(t) <= 5 * MIB);
}

static void what_is_in_use_stays(void **state)
{
	struct cached *t = *state;
	int one = make(t, 0, NULL), two;

	ok(t->f, one);
	open_cache(t, 0, bytes(t) + 4096);
	assert_int_equal(hot_cache_drop(t->c, &t->content[0], &t->f->err), -EBUSY);
	assert_int_equal(make(t, 1, NULL), -ENOSPC);
	assert_true(there(t, 0));
	/* The lock is the open file's: a second descriptor of it is as good. */
	two = dup(one);
	close(one);
	assert_int_equal(make(t, 1, NULL), -ENOSPC);
	close(two);
	close(make(t, 1, NULL));
	assert_false(there(t, 0));
	assert_int_equal(hot_cache_drop(t->c, &t->content[1], &t->f->err), 0);
	assert_int_equal(hot_cache_drop(t->c, &t->content[1], &t->f->err), -ENOENT);
}

static void nothing_is_evicted_for_what_never_fits(void **state)
{
	struct cached *t = *state;

	close(make(t, 0, NULL));
	open_cache(t, 0, MIB);
	assert_int_equal(make(t, 1, NULL), -ENOSPC);
	assert_true(there(t, 0));
}

static void the_limit_is_kept(void **state)
{
	struct cached *t = *state;
	struct hot_cache_stat st;

	ok(t->f, hot_cache_stat(t->c, &st, &t->f->err));
	assert_true(st.limit > 0 && st.limit <= HOT_LIMIT_MAX);
	open_cache(t, 0, 123 * MIB);
	open_cache(t, 0, HOT_LIMIT_KEEP);
	ok(t->f, hot_cache_stat(t->c, &st, &t->f->err));
	assert_int_equal(st.limit, 123 * MIB);
}

static void read_only_uses_and_makes_nothing(void **state)
{
	struct cached *t = *state;

	close(make(t, 0, NULL));
	open_cache(t, HOT_CACHE_RDONLY, HOT_LIMIT_KEEP);
	assert_true(there(t, 0));
	assert_int_equal(make(t, 1, NULL), -EROFS);
	assert_int_equal(hot_cache_drop(t->c, &t->content[0], &t->f->err), -EROFS);
}

static void listed_with_content_and_use(void **state)
{
	struct cached *t = *state;
	struct hot_entry *v;
	size_t n;
	int fd = make(t, 1, NULL);

	close(make(t, 0, NULL));
	ok(t->f, hot_cache_list(t->c, &v, &n, &t->f->err));
	assert_int_equal(n, 2);
	for (size_t i = 0; i < n; i++) {
		bool second = memcmp(&v[i].content.id, &t->content[1].id, SMFS_ID_LEN) == 0;

		assert_int_equal(v[i].in_use, second);
		assert_int_equal(v[i].content.size, SIZE);
		assert_true(v[i].bytes > 0 && v[i].bytes < SIZE);
	}
	free(v);
	close(fd);
}

static void two_makers_make_one_file(void **state)
{
	struct cached *t = *state;
	int status;

	smfs_store_close(t->f->s);
	t->f->s = NULL;
	pid_t pid[2];
	for (int k = 0; k < 2; k++) {
		pid[k] = fork();
		if (pid[k] == 0) {
			if (smfs_store_open(t->f->dir, SMFS_RDONLY, &t->f->s, NULL) < 0)
				_exit(1);
			int fd = make(t, 0, NULL);
			uint8_t *got = malloc(SIZE);
			bool same = fd >= 0 && pread(fd, got, SIZE, 0) == (ssize_t)SIZE &&
				    memcmp(got, t->data[0], SIZE) == 0;
			_exit(same ? 0 : 2);
		}
	}
	for (int k = 0; k < 2; k++) {
		assert_int_equal(waitpid(pid[k], &status, 0), pid[k]);
		assert_int_equal(status, 0);
	}
	ok(t->f, smfs_store_open(t->f->dir, 0, &t->f->s, &t->f->err));
	struct hot_cache_stat st;
	ok(t->f, hot_cache_stat(t->c, &st, &t->f->err));
	assert_int_equal(st.files, 1);
}

/* ---- main ---------------------------------------------------------------------------------- */

static bool can_seal(void)
{
	char path[] = "/tmp/smfs-seal.XXXXXX";
	int fd = mkstemp(path);
	bool ok = fd >= 0 && fsetxattr(fd, "trusted.smfs.test", "x", 1, 0) == 0;

	if (fd >= 0) {
		close(fd);
		unlink(path);
	}
	return ok;
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(made_file_is_the_content_and_sparse),
		T(made_file_is_loaded_in_large_folios),
		T(small_and_zero_content_is_not_taken),
		T(another_size_of_the_same_object_is_another_file),
		T(stopped_making_leaves_nothing),
		T(maker_killed_half_way_is_followed_by_another),
		T(no_room_while_writing_leaves_nothing),
		T(files_that_do_not_fit_their_seal_are_removed),
		T(check_finds_what_the_disk_corrupted),
		T(damaged_frame_makes_no_file),
		T(least_recently_used_goes_first),
		T(what_is_in_use_stays),
		T(nothing_is_evicted_for_what_never_fits),
		T(the_limit_is_kept),
		T(read_only_uses_and_makes_nothing),
		T(listed_with_content_and_use),
		T(two_makers_make_one_file),
	};

	if (!can_seal()) {
		printf("1..1\nok 1 - hot cache # SKIP needs root, and trusted xattrs in /tmp\n");
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
