/* Where the files of an EROFS image lie: of a real one by mkfs.erofs, and of every damaged copy of
 * it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pull/erofs_cuts.h"
#include "smfs/base/bytes.h"
#include "smfs/base/err.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

static uint8_t *image; /* of a tree of `files` and folders */
static size_t image_len;

static const struct {
	const char *path;
	size_t size;
	uint8_t fill;
} files[] = {
	{"a", 4096, 'a'},      {"b", 10000, 'b'}, {"d/c", 1, 'c'},
	{"d/e/f", 65537, 'f'}, {"empty", 0, 0},
};

static void run(const char *fmt, ...)
{
	char cmd[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	assert_int_equal(system(cmd), 0);
}

static int make_image(void **state)
{
	char dir[] = "/tmp/erofs_cuts.XXXXXX", path[512];
	static uint8_t buf[65537];

	assert_non_null(mkdtemp(dir));
	run("mkdir -p %s/t/d/e", dir);
	/* A folder of more than one block. */
	run("i=0; while [ $i -lt 60 ]; do : "
	    ">%s/t/d/some-rather-longer-name-than-most-files-would-ever-have-in-a-folder-$i; "
	    "i=$((i + 1)); done",
	    dir);
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		snprintf(path, sizeof(path), "%s/t/%s", dir, files[i].path);
		int fd = open(path, O_WRONLY | O_CREAT, 0644);

		memset(buf, files[i].fill, files[i].size);
		assert_int_equal(write_full(fd, buf, files[i].size), 0);
		close(fd);
	}
	run("mkfs.erofs --quiet -Enoinline_data %s/i %s/t", dir, dir);
	snprintf(path, sizeof(path), "%s/i", dir);
	assert_int_equal(read_file(AT_FDCWD, path, 1 << 24, (char **)&image, &image_len, NULL), 0);
	run("rm -r %s", dir);
	return 0;
}

static int free_image(void **state)
{
	free(image);
	return 0;
}

static int cuts_of(const uint8_t *p, size_t len, uint64_t **cuts, size_t *n, struct err *err)
{
	int fd = memfd_create("image", MFD_CLOEXEC), r;

	assert_int_equal(write_full(fd, p, len), 0);
	r = erofs_cuts(fd, cuts, n, err);
	close(fd);
	return r;
}

static bool has(const uint64_t *cuts, size_t n, uint64_t at)
{
	for (size_t i = 0; i < n; i++)
		if (cuts[i] == at)
			return true;
	return false;
}

static void each_file_begins_and_ends_at_a_cut(void **state)
{
	struct err err = ERR_INIT;
	uint64_t *cuts;
	size_t n;

	assert_int_equal(cuts_of(image, image_len, &cuts, &n, &err), 0);
	for (size_t i = 0; i + 1 < n; i++)
		assert_true(cuts[i] < cuts[i + 1]);
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		uint8_t *want = malloc(files[i].size + 1);
		bool found = files[i].size == 0;

		memset(want, files[i].fill, files[i].size);
		for (size_t k = 0; k < n && !found; k++)
			found = range_ok(cuts[k], files[i].size, image_len) &&
				memcmp(image + cuts[k], want, files[i].size) == 0 &&
				(files[i].size % 4096 == 0 ||
				 has(cuts, n, cuts[k] + files[i].size));
		assert_true(found);
		free(want);
	}
	/* Four files with content, three of them with padding, which may end where the image does.
	 */
	assert_in_range(n, 7, 7);
	free(cuts);
}

static void every_shortened_image_is_survived(void **state)
{
	uint64_t *cuts;
	size_t n;

	for (size_t len = 0; len < image_len; len += len < 2048 ? 61 : 1021) {
		struct err err = ERR_INIT;

		if (cuts_of(image, len, &cuts, &n, &err) == 0)
			free(cuts);
		else
			assert_true(err.code == EBADMSG || err.code == EIO);
	}
	assert_int_equal(cuts_of(image, 1000, &cuts, &n, NULL), -EBADMSG);
}

/* Each byte of the metadata, changed in one of three ways. */
static void every_damaged_image_is_survived(void **state)
{
	uint64_t *cuts;
	size_t n;
	int fd = memfd_create("image", MFD_CLOEXEC);

	assert_int_equal(write_full(fd, image, image_len), 0);
	for (size_t at = 1024; at < MIN(image_len, (size_t)12288); at++) {
		static const uint8_t changes[] = {0xff, 0x01, 0x80};
		uint8_t changed = image[at] ^ changes[at % ARRAY_SIZE(changes)];

		assert_int_equal(pwrite(fd, &changed, 1, (off_t)at), 1);
		if (erofs_cuts(fd, &cuts, &n, NULL) == 0) {
			for (size_t i = 0; i < n; i++)
				assert_true(cuts[i] <= image_len);
			free(cuts);
		}
		assert_int_equal(pwrite(fd, &image[at], 1, (off_t)at), 1);
	}
	close(fd);
}

/* A folder that holds itself under another name: the walk ends at its bound. */
static void a_folder_loop_ends(void **state)
{
	uint8_t small[8192] = {0};
	struct writer w = WRITER_INIT;
	uint64_t *cuts;
	size_t n;

	put_zero(&w, 1024);
	put_u32(&w, 0xE0F5E1E2);
	put_zero(&w, 8);
	put_u8(&w, 12); /* 4 KiB blocks */
	put_u8(&w, 0);
	put_u16(&w, 36); /* root: slot 36, byte 1152 */
	put_u64(&w, 2);	 /* inodes */
	put_zero(&w, 20);
	put_zero(&w, 1152 - w.len);
	for (unsigned k = 0; k < 2; k++) { /* two inodes, each the other's child, data in block 1 */
		put_u16(&w, 0);
		put_u16(&w, 0);
		put_u16(&w, S_IFDIR);
		put_u16(&w, 2);
		put_u32(&w, 26);
		put_u32(&w, 0);
		put_u32(&w, 1);
		put_zero(&w, 12);
	}
	put_zero(&w, 4096 - w.len);
	for (unsigned k = 0; k < 2; k++) {
		put_u64(&w, 36 + k);
		put_u16(&w, 24 + k);
		put_u8(&w, 2);
		put_u8(&w, 0);
	}
	put_bytes(&w, "xy", 2);
	memcpy(small, w.p, w.len);
	writer_free(&w);
	assert_int_equal(cuts_of(small, sizeof(small), &cuts, &n, NULL), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_file_begins_and_ends_at_a_cut),
		cmocka_unit_test(every_shortened_image_is_survived),
		cmocka_unit_test(every_damaged_image_is_survived),
		cmocka_unit_test(a_folder_loop_ends),
	};

	return cmocka_run_group_tests(tests, make_image, free_image);
}
