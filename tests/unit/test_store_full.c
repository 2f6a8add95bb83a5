/* A full file system: ENOSPC, nothing visible changes, and space given back is used again. */
#include "store_util.h"

#include <sys/mount.h>
#include <sys/statvfs.h>

#define LEN (1 << 20)

static int mount_small(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	const uint64_t nothing = 0; /* kept free: it shall run out everywhere */

	strcpy(f->dir, "/tmp/smfs-full.XXXXXX");
	*state = f;
	if (!mkdtemp(f->dir) || mount("tmpfs", f->dir, "tmpfs", 0, "size=10m,mode=0700") < 0)
		return 0; /* the test skips */
	return smfs_store_init(f->dir, &f->err) < 0 ||
			       smfs_store_open(f->dir, 0, &f->s, &f->err) < 0 ||
			       smfs_store_set_limit(f->s, NULL, &nothing, &f->err) < 0
		       ? -1
		       : 0;
}

static int unmount_small(void **state)
{
	struct fixture *f = *state;

	smfs_store_close(f->s);
	umount2(f->dir, MNT_DETACH);
	rmdir(f->dir);
	free(f);
	return 0;
}

static int try_snapshot(struct fixture *f, const char *name, const void *buf, size_t len)
{
	struct smfs_ingest *ing;
	struct smfs_content c;
	struct smfs_entry e = {.name = "data", .mode = S_IFREG | 0644};
	struct smfs_id id;
	int r;

	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	if ((r = smfs_ingest_mem(ing, buf, len, &c, &f->err)) == 0) {
		e.content = c;
		if ((r = smfs_ingest_dir(ing, &e, 1, &id, &f->err)) == 0)
			r = smfs_ingest_name(ing, SMFS_SNAPSHOT, name, &id, NULL, 0, &f->err);
	}
	if (r == 0)
		return smfs_ingest_commit(ing, &f->err);
	smfs_ingest_abort(ing);
	return r;
}

static void intact(struct fixture *f, const char *name, const void *want, size_t len)
{
	struct smfs_content c;

	ok(f, get_snapshot(f, name, &c));
	read_equals(f, &c, want, len);
}

static uint64_t room(struct fixture *f)
{
	struct statvfs v;

	assert_int_equal(statvfs(f->dir, &v), 0);
	return v.f_bavail * v.f_frsize;
}

static void big_ingests_fail_whole(void **state)
{
	struct fixture *f = *state;
	cleanup_free uint8_t *buf = malloc(8 * LEN);
	struct smfs_fsck k = {0};
	char name[16];
	int n = 0, r;

	if (!f->s)
		skip();
	for (;; n++) {
		snprintf(name, sizeof(name), "s%d", n);
		fill_random(buf, LEN, (uint64_t)n);
		r = try_snapshot(f, name, buf, LEN);
		if (r < 0)
			break;
		assert_true(n < 20);
	}
	assert_int_equal(r, -ENOSPC);
	assert_non_null(strstr(f->err.msg, "left"));
	/* much more than fits, so that it fails in the middle of a pack */
	fill_random(buf, 8 * LEN, 99);
	uint64_t before = room(f);
	assert_int_equal(try_snapshot(f, "big", buf, 8 * LEN), -ENOSPC);
	assert_true(room(f) + 65536 >= before);
	for (int i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "s%d", i);
		fill_random(buf, LEN, (uint64_t)i);
		intact(f, name, buf, LEN);
	}
	ok(f, smfs_fsck(f->s, SMFS_FSCK_READ_DATA, &k, &f->err));
	assert_int_equal(k.names, n);
}

/* With every amount of room left, from none to enough: pack, journal and index each run out. */
static void every_step_may_run_out(void **state)
{
	struct fixture *f = *state;
	uint8_t buf[20000], first[20000];
	char path[96], name[16];
	struct smfs_fsck k = {0};
	int done = 0, full = 0;

	if (!f->s)
		skip();
	fill_random(first, sizeof(first), 1);
	ok(f, try_snapshot(f, "first", first, sizeof(first)));
	snprintf(path, sizeof(path), "%s/tmp/filler", f->dir);
	for (uint64_t left = 0; left < 30; left++) {
		cleanup_fd int fd = open(path, O_RDWR | O_CREAT, 0600);
		uint64_t take = room(f) - left * 4096;

		assert_int_equal(posix_fallocate(fd, 0, (off_t)take), 0);
		snprintf(name, sizeof(name), "n%d", (int)left);
		fill_random(buf, sizeof(buf), left + 2);
		int r = try_snapshot(f, name, buf, sizeof(buf));
		if (r < 0)
			assert_int_equal(r, -ENOSPC);
		else
			done++;
		full += r < 0;
		intact(f, "first", first, sizeof(first));
		ok(f, smfs_fsck(f->s, SMFS_FSCK_READ_DATA, &k, &f->err));
		assert_int_equal(k.names, 1 + done);
		assert_int_equal(ftruncate(fd, 0), 0);
		/* what failed for want of room goes through now that there is some */
		if (r < 0) {
			ok(f, try_snapshot(f, name, buf, sizeof(buf)));
			done++;
		}
	}
	assert_true(full >= 3);
	reopen(f, 0);
	ok(f, smfs_fsck(f->s, SMFS_FSCK_READ_DATA, &k, &f->err));
	assert_int_equal(k.names, 31);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(big_ingests_fail_whole, mount_small, unmount_small),
		cmocka_unit_test_setup_teardown(every_step_may_run_out, mount_small, unmount_small),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
