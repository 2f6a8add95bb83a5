/*
 * Pages are found in files stored before, whatever has become of the index of pages: it proposes,
 * and its loss or falsehood costs bytes on disk, nothing else.
 */
#include "tests/unit/store_util.h"

#include "smfs/store/page_index.h"

#include <sys/wait.h>

#define PAGE 4096

enum { LEN = 20 * 1048576 };

static char *index_path(const struct fixture *f)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/" PAGE_INDEX_FILE, f->dir);
	return path;
}

static uint8_t *random_bytes(uint64_t seed)
{
	uint8_t *buf = malloc(LEN);

	fill_random(buf, LEN, seed);
	return buf;
}

/* The pages of `from` elsewhere, in an order of their own; every tenth is new. */
static uint8_t *shuffled(const uint8_t *from)
{
	uint8_t *buf = random_bytes(77);

	for (size_t i = 0; i < LEN / PAGE; i++)
		if (i % 10)
			memcpy(buf + i * PAGE, from + (i + 5) % (LEN / PAGE) * PAGE, PAGE);
	return buf;
}

/* Store it as the only file of a snapshot: what was new of it. */
static uint64_t put_file(struct fixture *f, const char *name, const uint8_t *buf,
			 struct smfs_content *c)
{
	struct smfs_ingest_stat st;
	struct smfs_ingest *ing;

	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	ok(f, smfs_ingest_mem(ing, buf, LEN, c, &f->err));
	smfs_ingest_stat(ing, &st);
	stage_file(f, ing, name, c, 0);
	ok(f, smfs_ingest_commit(ing, &f->err));
	read_equals(f, c, buf, LEN);
	return st.new_bytes;
}

static void check_clean(struct fixture *f)
{
	struct smfs_fsck k = {0};

	ok(f, smfs_fsck(f->s, SMFS_FSCK_READ_DATA, &k, &f->err));
	assert_int_equal(k.bad_frames, 0);
}

static void pages_of_another_file_are_found(void **state)
{
	struct fixture *f = *state;
	cleanup_free uint8_t *a = random_bytes(1), *b = shuffled(a);
	struct smfs_content c, d, again;

	assert_true(put_file(f, "a", a, &c) > LEN - PAGE);
	assert_true(put_file(f, "b", b, &d) < LEN / 8);
	/* The same again: the same map, though its regions are chunks nowhere. */
	reopen(f, 0);
	assert_int_equal(put_file(f, "b2", b, &again), 0);
	assert_memory_equal(&again, &d, sizeof(d));
	check_clean(f);
}

static void a_lost_index_costs_bytes_only(void **state)
{
	struct fixture *f = *state;
	cleanup_free uint8_t *a = random_bytes(1), *b = shuffled(a);
	struct smfs_content c;

	put_file(f, "a", a, &c);
	assert_int_equal(unlink(index_path(f)), 0);
	assert_true(put_file(f, "b", b, &c) > LEN / 2);
	check_clean(f);
}

/* Not a table, half a table, a table of another store, a directory. */
static void what_is_no_index_is_replaced(void **state)
{
	struct fixture *f = *state;
	cleanup_free uint8_t *a = random_bytes(1), *b = shuffled(a);
	struct smfs_content c;
	char junk[8192];

	memset(junk, 0x5a, sizeof(junk));
	for (int i = 0; i < 3; i++) {
		char name[2] = {(char)('a' + i), 0};
		cleanup_fd int fd = open(index_path(f), O_RDWR | O_CREAT | O_CLOEXEC, 0600);

		if (i == 0)
			assert_int_equal(pwrite(fd, junk, sizeof(junk), 0), sizeof(junk));
		else if (i == 1)
			assert_int_equal(ftruncate(fd, 100000), 0);
		else
			assert_int_equal(pwrite(fd, junk, 16, 16), 16);
		put_file(f, name, i == 1 ? b : a, &c);
		a[i] ^= 1;
	}
	/* A table again: of what is stored from now on, all but a changed page is found. */
	reopen(f, 0);
	fill_random(a, LEN, 8);
	put_file(f, "w", a, &c);
	reopen(f, 0);
	a[5 * MIB] ^= 1;
	assert_int_equal(put_file(f, "x", a, &c), PAGE);
	reopen(f, 0);
	assert_int_equal(unlink(index_path(f)), 0);
	assert_int_equal(mkdir(index_path(f), 0700), 0);
	fill_random(a, LEN, 9);
	put_file(f, "y", a, &c);
	check_clean(f);
}

/* Every entry says something else, now and again something that seems right. */
static void wrong_proposals_are_compared(void **state)
{
	struct fixture *f = *state;
	cleanup_free uint8_t *a = random_bytes(1), *b = shuffled(a);
	struct smfs_content c;

	put_file(f, "a", a, &c);
	for (int round = 0; round < 4; round++) {
		char name[2] = {(char)('b' + round), 0};
		cleanup_fd int fd = open(index_path(f), O_RDWR | O_CLOEXEC);
		off_t len = lseek(fd, 0, SEEK_END);
		uint64_t *e = malloc((size_t)len), x = (uint64_t)round + 3;

		assert_int_equal(pread(fd, e, (size_t)len, 0), len);
		for (size_t i = 512, n = (size_t)len / 8; i < n; i++) {
			if (round == 0 && e[i]) /* another page of the same chunk */
				e[i] ^= 1;
			else if (round == 1) /* another chunk's place under this tag */
				e[i] = (e[i] & ~(((uint64_t)1 << PLACE_BITS) - 1)) |
				       (e[512 + rnd(&x) % (n - 512)] &
					(((uint64_t)1 << PLACE_BITS) - 1));
			else if (round == 2)
				e[i] = rnd(&x) << 32 ^ rnd(&x);
			else
				e[i] = UINT64_MAX;
		}
		/* And a count that is none. */
		e[5] = round == 3 ? UINT64_MAX : e[5];
		assert_int_equal(pwrite(fd, e, (size_t)len, 0), len);
		free(e);
		put_file(f, name, b, &c);
		b[(size_t)round * 70000] ^= 1;
	}
	check_clean(f);
}

/* The index goes on proposing what was collected, and what was moved. */
static void collected_and_moved_frames(void **state)
{
	struct fixture *f = *state;
	cleanup_free uint8_t *a = random_bytes(1), *b = shuffled(a);
	struct smfs_gc g = {0};
	struct smfs_content c, d;

	put_file(f, "a", a, &c);
	put_file(f, "b", b, &d);
	/* What only `a` had goes; what `b` refers to of it is copied elsewhere. */
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "a", &f->err));
	reopen(f, 0);
	ok(f, smfs_gc(f->s, 0, &g, &f->err));
	read_equals(f, &d, b, LEN);
	put_file(f, "a2", a, &c);
	put_file(f, "b2", b, &d);
	check_clean(f);
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "a2", &f->err));
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "b", &f->err));
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "b2", &f->err));
	reopen(f, 0);
	ok(f, smfs_gc(f->s, 0, &g, &f->err));
	put_file(f, "b3", b, &d);
	check_clean(f);
}

/* Several processes fill one table, and make it larger under each other. */
static void many_writers_at_once(void **state)
{
	struct fixture *f = *state;
	pid_t pid[3];
	int status;

	smfs_store_close(f->s);
	f->s = NULL;
	for (int i = 0; i < 3; i++) {
		pid[i] = fork();
		if (pid[i])
			continue;
		uint8_t *buf = random_bytes(100 + (uint64_t)i / 2);
		struct smfs_content c;
		char name[8];

		ok(f, smfs_store_open(f->dir, 0, &f->s, &f->err));
		for (int k = 0; k < 3; k++) {
			snprintf(name, sizeof(name), "p%d-%d", i, k);
			put_file(f, name, buf, &c);
			fill_random(buf + LEN / 2, LEN / 4, (uint64_t)(i * 10 + k));
		}
		smfs_store_close(f->s);
		_exit(0);
	}
	for (int i = 0; i < 3; i++) {
		assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
		assert_int_equal(status, 0);
	}
	ok(f, smfs_store_open(f->dir, 0, &f->s, &f->err));
	check_clean(f);
}

/* ---- the table by itself ---- */

static uint64_t find(struct page_index *px, uint64_t hash)
{
	uint64_t place;

	page_index_find(px, &hash, 1, &place);
	return place;
}

static void the_table_grows_and_keeps(void **state)
{
	struct fixture *f = *state;
	enum { N = 200000 };
	struct page_index *px, *other;
	uint8_t uuid[UUID_LEN] = {1, 2, 3}, another[UUID_LEN] = {9};
	cleanup_free struct page_note *v = malloc(N * sizeof(*v));
	cleanup_fd int fd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	uint64_t x = 1;
	size_t found = 0;
	struct stat st;

	for (size_t i = 0; i < N; i++)
		v[i] = (struct page_note){rnd(&x) << 32 ^ rnd(&x), 1 + i};
	assert_int_equal(page_index_new(fd, uuid, &px), 0);
	assert_int_equal(find(px, v[0].hash), 0);
	/* A few at a time, many, and so many that it becomes twice as large. */
	for (size_t i = 0, n = 100; i < N; i += n, n = MIN(2 * n, N - i))
		page_index_add(px, v + i, n);
	for (size_t i = 0; i < N; i++)
		found += find(px, v[i].hash) == v[i].place;
	assert_true(found > N / 100 * 99);
	/* 11 bytes for a page, about. */
	assert_int_equal(stat(index_path(f), &st), 0);
	assert_true(st.st_size < 13 * N);
	/* It is there for the next, and only for this store. */
	page_index_free(px);
	assert_int_equal(page_index_new(fd, another, &other), 0);
	page_index_follow(other);
	assert_int_equal(find(other, v[N - 1].hash), 0);
	page_index_free(other);
	assert_int_equal(page_index_new(fd, uuid, &px), 0);
	page_index_follow(px);
	found = 0;
	for (size_t i = 0; i < N; i++)
		found += find(px, v[i].hash) == v[i].place;
	assert_true(found > N / 100 * 99);
	page_index_free(px);
}

/* What a table tells pages apart by is short, and the frame a wrong page leads to was read. */
static void a_page_is_not_taken_for_another(void **state)
{
	struct fixture *f = *state;
	enum { N = 1000 };
	struct page_index *px;
	uint8_t uuid[UUID_LEN] = {1};
	cleanup_fd int fd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct page_note v[N];
	uint64_t hash[N], place[N], x = 1;
	size_t frames = 0;

	for (size_t i = 0; i < N; i++)
		v[i] = (struct page_note){rnd(&x) << 32 | rnd(&x) >> 32,
					  (rnd(&x) >> (64 - PLACE_BITS)) | 1};
	assert_int_equal(page_index_new(fd, uuid, &px), 0);
	page_index_add(px, v, N);
	for (size_t i = 0; i < N; i++)
		hash[i] = i % 2 ? v[i].hash ^ (1 + (rnd(&x) & 0x7fffffff)) : v[i].hash;
	page_index_find(px, hash, N, place);
	for (size_t i = 0; i < N; i++) {
		if (i % 2 == 0)
			assert_int_equal(place[i], v[i].place);
		else
			for (size_t k = 0; k < N; k++)
				frames += place[i] >> PLACE_REGION == v[k].place >> PLACE_REGION;
	}
	assert_int_equal(frames, 0);
	page_index_free(px);
}

#define store_test(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		store_test(pages_of_another_file_are_found),
		store_test(a_lost_index_costs_bytes_only),
		store_test(what_is_no_index_is_replaced),
		store_test(wrong_proposals_are_compared),
		store_test(collected_and_moved_frames),
		store_test(many_writers_at_once),
		store_test(the_table_grows_and_keeps),
		store_test(a_page_is_not_taken_for_another),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
