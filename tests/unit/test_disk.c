/* Disks and what they were: against a model, across fork(2), and where something runs out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runner/devices/disk.h"
#include "smfs/base/num.h"

/* 12 clusters and a short one, and an odd tail that is no sector. */
#define BYTES	   (12 * DISK_CLUSTER + 5 * DISK_SECTOR)
#define FILE_BYTES (BYTES + 100)

struct fixture {
	char dir[32], path[64];
	unsigned seed;
};

static void must(int ret, const struct err *err)
{
	if (ret < 0)
		fail_msg("%s", err->msg);
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	int fd;

	strcpy(f->dir, "/tmp/disk-test.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	setenv("SMVM_CACHE_DIR", f->dir, 1);
	snprintf(f->path, sizeof(f->path), "%s/file", f->dir);
	fd = open(f->path, O_RDWR | O_CREAT, 0600);
	assert_int_equal(ftruncate(fd, FILE_BYTES), 0);
	close(fd);
	f->seed = 1;
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	int ret;

	unlink(f->path);
	/* No private file has a name that stays. */
	ret = rmdir(f->dir);
	free(f);
	return ret;
}

static struct disk *file_disk(struct fixture *f)
{
	struct err err = ERR_INIT;
	struct disk *d;

	must(disk_open("disk0", f->path, false, &d, &err), &err);
	return d;
}

static struct disk_view *frozen(struct disk *d)
{
	struct err err = ERR_INIT;
	struct disk_view *v;

	must(disk_freeze(d, "disk0", &v, &err), &err);
	return v;
}

static struct disk *private_of(struct disk_view *v)
{
	struct err err = ERR_INIT;
	struct disk *d;

	must(disk_private("disk0", v, &d, &err), &err);
	return d;
}

/* Some bytes somewhere: within a cluster, over several, to the end. */
static void scribble(struct fixture *f, struct disk *d, uint8_t *model)
{
	static uint8_t buf[3 * DISK_CLUSTER];
	uint64_t off = (uint64_t)rand_r(&f->seed) % (BYTES / DISK_SECTOR) * DISK_SECTOR;
	size_t len =
		(1 + (size_t)rand_r(&f->seed) % (rand_r(&f->seed) % 4 ? 16 : 384)) * DISK_SECTOR;

	len = MIN(len, BYTES - off);
	memset(buf, 1 + rand_r(&f->seed) % 255, len);
	assert_int_equal(disk_write(d, buf, len, off), 0);
	memcpy(model + off, buf, len);
}

static void disk_is(struct disk *d, const uint8_t *model)
{
	static uint8_t buf[BYTES];

	assert_int_equal(disk_read(d, buf, BYTES, 0), 0);
	assert_memory_equal(buf, model, BYTES);
	assert_int_equal(disk_read(d, buf, 3 * DISK_SECTOR, DISK_CLUSTER - DISK_SECTOR), 0);
	assert_memory_equal(buf, model + DISK_CLUSTER - DISK_SECTOR, 3 * DISK_SECTOR);
}

/* By its bytes, and by its runs: what is said to be a hole is zeros. */
static bool view_holds(const struct disk_view *v, const uint8_t *model)
{
	static uint8_t buf[BYTES], zeros[BYTES];
	struct disk_run run;
	uint64_t off = 0;

	if (disk_view_read(v, buf, BYTES, 0) < 0 || memcmp(buf, model, BYTES) != 0)
		return false;
	for (; off < BYTES; off += run.len) {
		if (disk_view_run(v, off, &run, NULL) < 0 || !run.len || off + run.len > BYTES)
			return false;
		if (!run.data && memcmp(model + off, zeros, run.len) != 0)
			return false;
	}
	return true;
}

static void size_is_whole_sectors(void **state)
{
	struct disk *d = file_disk(*state);
	struct disk_view *v = frozen(d);

	assert_int_equal(disk_bytes(d), BYTES);
	assert_int_equal(disk_view_bytes(v), BYTES);
	assert_int_equal(disk_view_origin(v), -1);
	disk_view_put(v);
	disk_free(d);
}

/* Disks that are written, frozen, and made private copies of, in any order. */
static void everything_is_as_it_was(void **state)
{
	enum { DISKS = 6, VIEWS = 8, STEPS = 3000 };
	struct fixture *f = *state;
	struct disk *disk[DISKS] = {file_disk(f)};
	struct disk_view *view[VIEWS] = {0};
	static uint8_t model[DISKS][BYTES], was[VIEWS][BYTES];
	unsigned depth[DISKS] = {1}, vdepth[VIEWS] = {0};

	for (unsigned i = 0; i < STEPS; i++) {
		const unsigned d = (unsigned)rand_r(&f->seed) % DISKS,
			       v = (unsigned)rand_r(&f->seed) % VIEWS;

		switch (rand_r(&f->seed) % 8) {
		case 0:
			if (!disk[d] || depth[d] == DISK_DEPTH_MAX)
				break;
			disk_view_put(view[v]);
			view[v] = frozen(disk[d]);
			vdepth[v] = depth[d];
			memcpy(was[v], model[d], BYTES);
			break;
		case 1:
			/* Anew from a view; what was there goes, whoever looks into it. */
			if (!view[v] || vdepth[v] >= 4)
				break;
			disk_free(disk[d]);
			disk[d] = private_of(view[v]);
			depth[d] = vdepth[v] + 1;
			memcpy(model[d], was[v], BYTES);
			break;
		case 2:
			if (view[v] && !view_holds(view[v], was[v]))
				fail_msg("step %u: view %u has changed", i, v);
			break;
		default:
			if (disk[d]) {
				scribble(f, disk[d], model[d]);
				disk_is(disk[d], model[d]);
			}
		}
	}
	for (unsigned v = 0; v < VIEWS; v++) {
		assert_true(!view[v] || view_holds(view[v], was[v]));
		disk_view_put(view[v]);
	}
	for (unsigned d = 0; d < DISKS; d++)
		disk_free(disk[d]);
}

/* What a fork's child does, while the parent writes, and when that is gone. */
static void a_child_sees_what_was(void **state)
{
	struct fixture *f = *state;
	struct disk *d = file_disk(f);
	static uint8_t model[BYTES], was[BYTES];
	struct disk_view *v;
	int status, go[2];
	pid_t pid;

	for (int i = 0; i < 20; i++)
		scribble(f, d, model);
	v = frozen(d);
	memcpy(was, model, BYTES);
	assert_int_equal(pipe(go), 0);
	pid = fork();
	if (pid == 0) {
		char byte;
		ssize_t n;

		close(go[1]);
		for (int flags = fcntl(go[0], F_SETFL, O_NONBLOCK); flags == 0;) {
			if (!view_holds(v, was))
				_exit(1);
			n = read(go[0], &byte, 1);
			if (n == 0)
				break;
		}
		/* On what it sees it has a disk of its own. */
		struct disk *own = private_of(v);
		uint64_t at = 5 * DISK_CLUSTER + DISK_SECTOR;
		uint8_t sector[DISK_SECTOR];

		memset(sector, 77, sizeof(sector));
		if (disk_write(own, sector, sizeof(sector), at) < 0)
			_exit(2);
		memcpy(was + at, sector, sizeof(sector));
		struct disk_view *again = frozen(own);
		_exit(view_holds(again, was) ? 0 : 3);
	}
	disk_view_put(v);
	close(go[0]);
	for (int i = 0; i < 2000; i++)
		scribble(f, d, model);
	disk_is(d, model);
	disk_free(d);
	/* It is the child's, so not to be taken by others. */
	int fd = open(f->path, O_RDWR);
	assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), -1);
	close(go[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
	close(fd);
}

static void runs_tell_own_from_base(void **state)
{
	struct fixture *f = *state;
	uint8_t sector[DISK_SECTOR] = {1};
	struct err err = ERR_INIT;
	struct disk_view *base, *v;
	struct disk_run run;
	struct disk *d;
	int fd = open(f->path, O_RDWR);

	assert_int_equal(pwrite(fd, sector, sizeof(sector), 3 * DISK_CLUSTER), sizeof(sector));
	must(disk_view_of_file(fd, BYTES, &base, &err), &err);
	d = private_of(base);
	assert_int_equal(disk_write(d, sector, sizeof(sector), 8 * DISK_CLUSTER + 512), 0);
	v = frozen(d);
	assert_int_equal(disk_view_origin(v), disk_view_origin(base));
	must(disk_view_run(v, 0, &run, &err), &err);
	assert_true(!run.own && !run.data && run.len == 3 * DISK_CLUSTER);
	must(disk_view_run(v, run.len, &run, &err), &err);
	assert_true(!run.own && run.data && run.len >= DISK_SECTOR && run.len <= DISK_CLUSTER);
	must(disk_view_run(v, 8 * DISK_CLUSTER, &run, &err), &err);
	assert_true(run.own && run.data && run.len == DISK_CLUSTER);
	must(disk_view_run(v, 9 * DISK_CLUSTER, &run, &err), &err);
	assert_true(!run.own && !run.data && run.len == BYTES - 9 * DISK_CLUSTER);
	disk_view_put(v);
	disk_view_put(base);
	disk_free(d);
}

static void views_are_bounded(void **state)
{
	struct disk *d = file_disk(*state), *deep[DISK_DEPTH_MAX];
	struct disk_view *v[DISK_VIEWS_MAX], *more;
	struct err err = ERR_INIT;
	unsigned n = 0;

	/* Those that are gone do not count. */
	for (int i = 0; i < 3 * DISK_VIEWS_MAX; i++)
		disk_view_put(frozen(d));
	for (int i = 0; i < DISK_VIEWS_MAX; i++)
		v[i] = frozen(d);
	assert_int_equal(disk_freeze(d, "disk0", &more, &err), -EBUSY);
	disk_view_put(v[7]);
	v[7] = frozen(d);
	for (int i = 0; i < DISK_VIEWS_MAX; i++)
		disk_view_put(v[i]);

	more = frozen(d);
	for (;;) {
		deep[n] = private_of(more);
		disk_view_put(more);
		if (disk_freeze(deep[n++], "disk0", &more, &err) < 0)
			break;
		assert_true(n < DISK_DEPTH_MAX);
	}
	assert_int_equal(err.code, EBUSY);
	assert_int_equal(n, DISK_DEPTH_MAX);
	while (n--)
		disk_free(deep[n]);
	disk_free(d);
}

/* The machine's own writes go on; the view says what it has lost, and has all the rest. */
static void no_room_to_put_aside(void **state)
{
	struct fixture *f = *state;
	static uint8_t model[BYTES], was[BYTES], buf[DISK_CLUSTER];
	char small[64];
	struct disk *d;
	struct disk_view *v;
	unsigned lost = 0;

	snprintf(small, sizeof(small), "%s/small", f->dir);
	assert_int_equal(mkdir(small, 0700), 0);
	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("small", small, "tmpfs", 0, "size=256k") < 0) {
		print_message("# no tmpfs: %s\n", strerror(errno));
		rmdir(small);
		skip();
	}
	setenv("SMVM_CACHE_DIR", small, 1);
	d = file_disk(f);
	for (uint64_t off = 0; off < BYTES; off += DISK_SECTOR) {
		memset(model + off, (int)(off / DISK_SECTOR % 255), DISK_SECTOR);
		assert_int_equal(disk_write(d, model + off, DISK_SECTOR, off), 0);
	}
	memcpy(was, model, BYTES);
	v = frozen(d);
	memset(buf, 0xaa, sizeof(buf));
	for (unsigned c = 0; c < 10; c++) {
		assert_int_equal(disk_write(d, buf, sizeof(buf), c * DISK_CLUSTER), 0);
		memcpy(model + c * DISK_CLUSTER, buf, sizeof(buf));
	}
	disk_is(d, model);
	for (unsigned c = 0; c < 12; c++) {
		int ret = disk_view_read(v, buf, sizeof(buf), c * DISK_CLUSTER);

		if (ret == 0)
			assert_memory_equal(buf, was + c * DISK_CLUSTER, sizeof(buf));
		else
			assert_int_equal(ret, -EIO);
		lost += ret < 0;
	}
	/* 256 KiB are four clusters. */
	assert_in_range(lost, 6, 7);
	disk_view_put(v);
	disk_free(d);
	assert_int_equal(umount(small), 0);
	rmdir(small);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(size_is_whole_sectors), TEST(everything_is_as_it_was),
		TEST(a_child_sees_what_was), TEST(runs_tell_own_from_base),
		TEST(views_are_bounded),     TEST(no_room_to_put_aside),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
