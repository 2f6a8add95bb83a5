/* Pages that came before in the same file are not stored again, and never taken on a hash's word.
 */
#include "tests/unit/store_util.h"

#include <dirent.h>
#include <time.h>

#define PAGE 4096

enum { LEN = 24 * 1048576, SRC = 2 * 1048576, DST = 12 * 1048576, SPAN = 3 * 1048576 };

/* SPAN bytes at SRC come again at DST, five pages off their places in the chunks. */
static uint8_t *shifted(void)
{
	uint8_t *buf = malloc(LEN);

	fill_random(buf, LEN, 5);
	/* A chunk that ends in zeros, and a page that does; and a page of zeros inside a chunk. */
	memset(buf + SRC + 11 * 65536 - 9000, 0, 9000);
	memset(buf + SRC + 20 * 65536 + 3 * PAGE, 0, PAGE);
	memcpy(buf + DST + 5 * PAGE, buf + SRC, SPAN);
	return buf;
}

static void pages_at_other_places_are_stored_once(void **state)
{
	struct fixture *f = *state;
	cleanup_free uint8_t *buf = shifted();
	struct smfs_ingest_stat st;
	struct smfs_ingest *ing;
	struct smfs_content c;
	struct smfs_usage u;
	struct smfs_fsck k = {0};

	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	ok(f, smfs_ingest_mem(ing, buf, LEN, &c, &f->err));
	smfs_ingest_stat(ing, &st);
	stage_file(f, ing, "a", &c, 0);
	ok(f, smfs_ingest_commit(ing, &f->err));
	read_equals(f, &c, buf, LEN);
	/* All but the two chunks at the edges of the copy. */
	assert_true(st.dup_bytes > SPAN - 3 * 65536 && st.dup_bytes <= SPAN);
	assert_int_equal(st.new_bytes + st.dup_bytes + st.zero_bytes, LEN);
	ok(f, smfs_name_usage(f->s, SMFS_SNAPSHOT, "a", &u, &f->err));
	/* The page of zeros inside a chunk is a hole only where runs go around it. */
	assert_int_equal(u.data_bytes, LEN - 2 * PAGE - 3 * PAGE);
	assert_true(u.stored_bytes < LEN - SPAN + 4 * 65536 + 65536);
	reopen(f, 0);
	ok(f, smfs_fsck(f->s, SMFS_FSCK_READ_DATA, &k, &f->err));
	assert_int_equal(k.garbage_frames, 0);
}

static void reads_across_runs_agree(void **state)
{
	struct fixture *f = *state;
	cleanup_free uint8_t *buf = shifted(), *got = malloc(200000);
	struct smfs_content c;
	struct smfs_file *file;
	uint64_t x = 11;

	put_snapshot(f, "a", buf, LEN, &c);
	ok(f, smfs_file_open(f->s, &c, &file, &f->err));
	for (int i = 0; i < 1000; i++) {
		size_t off = DST - 65536 + rnd(&x) % (SPAN + 131072), len = rnd(&x) % 200000;

		ok(f, smfs_file_pread(file, got, len, off, &f->err));
		assert_memory_equal(got, buf + off, len);
	}
	smfs_file_close(file);
}

/* However it is written, and whatever the workers do: the same map. */
static void one_content_has_one_map(void **state)
{
	struct fixture *f = *state;
	cleanup_free uint8_t *buf = shifted();
	struct smfs_content want, c;
	uint64_t x = 3;

	put_snapshot(f, "a", buf, LEN, &want);
	for (int i = 0; i < 4; i++) {
		struct smfs_ingest *ing;
		struct smfs_stream *st;
		struct smfs_ingest_stat stat;

		ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
		ok(f, smfs_stream_open(ing, 0, &st, &f->err));
		for (size_t at = 0, n; at < LEN; at += n) {
			n = MIN(LEN - at, rnd(&x) % 300000 + 1);
			ok(f, smfs_stream_write(st, buf + at, n, &f->err));
		}
		ok(f, smfs_stream_finish(st, &c, &f->err));
		assert_memory_equal(&c, &want, sizeof(c));
		smfs_ingest_stat(ing, &stat);
		assert_int_equal(stat.new_bytes, 0);
		smfs_ingest_abort(ing);
	}
}

/* Pages from all over: a region takes what seven chunks have of it, so that eight are read. */
static void a_region_is_of_few_chunks(void **state)
{
	struct fixture *f = *state;
	cleanup_free uint8_t *buf = malloc(LEN);
	struct smfs_extent e[64];
	struct smfs_ingest_stat st;
	struct smfs_ingest *ing;
	struct smfs_content c;
	struct smfs_file *file;

	fill_random(buf, LEN, 6);
	for (int i = 0; i < 256; i++)
		memcpy(buf + DST + i * PAGE, buf + SRC + i * 37 % 256 * PAGE, PAGE);
	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	ok(f, smfs_ingest_mem(ing, buf, LEN, &c, &f->err));
	smfs_ingest_stat(ing, &st);
	assert_true(st.new_bytes < LEN && st.new_bytes > LEN - MIB);
	stage_file(f, ing, "a", &c, 0);
	ok(f, smfs_ingest_commit(ing, &f->err));
	read_equals(f, &c, buf, LEN);
	ok(f, smfs_file_open(f->s, &c, &file, &f->err));
	for (int r = 0; r < LEN / 65536; r++) {
		ssize_t n = smfs_file_extents(file, (uint64_t)r * 65536, 65536, e, 64, &f->err);
		int chunks = 0;

		ok(f, n);
		for (ssize_t i = 0; i < n; i++) {
			ssize_t k = 0;

			while (memcmp(&e[k].chunk, &e[i].chunk, sizeof(e[k].chunk)) != 0)
				k++;
			chunks += k == i;
		}
		assert_true(chunks <= 8);
	}
	smfs_file_close(file);
}

/* Overwrite everything behind the header of the only pack. */
static void spoil_pack(struct fixture *f)
{
	char path[128], name[512] = "";
	struct dirent *e;

	snprintf(path, sizeof(path), "%s/packs", f->dir);
	cleanup_dir DIR *d = opendir(path);
	while ((e = readdir(d)))
		if (e->d_name[0] != '.')
			snprintf(name, sizeof(name), "%s/%s", path, e->d_name);
	cleanup_fd int fd = open(name, O_RDWR | O_CLOEXEC);
	off_t end = lseek(fd, 0, SEEK_END);
	cleanup_free uint8_t *junk = malloc(65536);
	memset(junk, 0x55, 65536);
	for (off_t at = 64; at < end; at += 65536)
		assert_true(pwrite(fd, junk, MIN(65536, end - at), at) > 0);
}

/*
 * The chunks with the first copy are no longer what they were when the second comes: every one of
 * the second's proposals fails its comparison, and it is stored.
 */
static void what_does_not_compare_equal_is_stored(void **state)
{
	struct fixture *f = *state;
	cleanup_free uint8_t *buf = shifted(), *got = malloc(SPAN);
	struct timespec nap = {.tv_nsec = 1000000};
	struct smfs_ingest_stat st;
	struct smfs_ingest *ing;
	struct smfs_stream *stream;
	struct smfs_content c;
	struct smfs_file *file;

	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	ok(f, smfs_stream_open(ing, 0, &stream, &f->err));
	ok(f, smfs_stream_write(stream, buf, DST, &f->err));
	/* All but the job that is being filled. */
	for (int i = 0;; i++) {
		smfs_ingest_stat(ing, &st);
		if (st.new_bytes + st.zero_bytes >= DST - 1048576)
			break;
		assert_true(i < 20000);
		nanosleep(&nap, NULL);
	}
	spoil_pack(f);
	ok(f, smfs_stream_write(stream, buf + DST, LEN - DST, &f->err));
	ok(f, smfs_stream_finish(stream, &c, &f->err));
	smfs_ingest_stat(ing, &st);
	assert_int_equal(st.dup_bytes, 0);
	ok(f, smfs_ingest_commit(ing, &f->err));
	ok(f, smfs_file_open(f->s, &c, &file, &f->err));
	ok(f, smfs_file_pread(file, got, SPAN, DST, &f->err));
	assert_memory_equal(got, buf + DST, SPAN);
	assert_int_equal(smfs_file_pread(file, got, PAGE, SRC, &f->err), -EBADMSG);
	smfs_file_close(file);
}

#define store_test(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		store_test(pages_at_other_places_are_stored_once),
		store_test(reads_across_runs_agree),
		store_test(one_content_has_one_map),
		store_test(a_region_is_of_few_chunks),
		store_test(what_does_not_compare_equal_is_stored),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
