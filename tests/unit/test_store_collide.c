/*
 * Hashes that collide: this program is linked with frame_id(), chunk_ids() and the hash of pages
 * replaced (see the Makefile), so that ids and proposals meet as those of an attacker would who can
 * make them meet. Two contents never become one: each is read as it was given, or was refused.
 */
#include "store_util.h"

#include <xxhash.h>

#include "smfs/base/sha256.h"
#include "smfs/store/format.h"

void __real_frame_id(uint8_t kind, const void *raw, size_t len, struct smfs_id *out);
void __wrap_frame_id(uint8_t kind, const void *raw, size_t len, struct smfs_id *out);
void __wrap_chunk_ids(struct sha256_msg *chunks, size_t n);
XXH64_hash_t __real_XXH3_64bits(const void *p, size_t len);
XXH64_hash_t __wrap_XXH3_64bits(const void *p, size_t len);

static enum { REAL, ALL_EQUAL, ONE_BYTE } ids;
static bool pages_equal;
static unsigned hashed_pages;

void __wrap_frame_id(uint8_t kind, const void *raw, size_t len, struct smfs_id *out)
{
	__real_frame_id(kind, raw, len, out);
	if (ids != REAL)
		memset(out->b + 1, 0x77, SMFS_ID_LEN - 1);
	if (ids == ALL_EQUAL)
		out->b[0] = 0x77;
}

void __wrap_chunk_ids(struct sha256_msg *chunks, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct smfs_id id;

		__wrap_frame_id(FRAME_CHUNK, chunks[i].p, chunks[i].len, &id);
		memcpy(chunks[i].out, id.b, SMFS_ID_LEN);
	}
}

/* Of checksums, which are not of a page's length, nothing changes. */
XXH64_hash_t __wrap_XXH3_64bits(const void *p, size_t len)
{
	if (!pages_equal || len != 4096)
		return __real_XXH3_64bits(p, len);
	__atomic_fetch_add(&hashed_pages, 1, __ATOMIC_RELAXED);
	return 0x1234567800000000ull;
}

static int setup(void **state)
{
	ids = REAL;
	pages_equal = false;
	hashed_pages = 0;
	return fixture_setup(state);
}

static int try_put(struct fixture *f, const char *name, const void *buf, size_t len)
{
	struct smfs_entry e = {.name = "data", .mode = S_IFREG | 0644, .nlink = 1};
	struct smfs_ingest *ing;
	struct smfs_id dir;
	int r;

	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	if ((r = smfs_ingest_mem(ing, buf, len, &e.content, &f->err)) == 0 &&
	    (r = smfs_ingest_dir(ing, &e, 1, &dir, &f->err)) == 0 &&
	    (r = smfs_ingest_name(ing, SMFS_SNAPSHOT, name, &dir, NULL, 0, &f->err)) == 0)
		return smfs_ingest_commit(ing, &f->err);
	smfs_ingest_abort(ing);
	return r;
}

static void refused(struct fixture *f, int r)
{
	assert_int_equal(r, -EBADMSG);
	assert_non_null(strstr(f->err.msg, "two different contents"));
}

static void holds(struct fixture *f, const char *name, const void *want, size_t len)
{
	struct smfs_content c;

	ok(f, get_snapshot(f, name, &c));
	read_equals(f, &c, want, len);
}

static void clean(struct fixture *f)
{
	struct smfs_fsck k = {0};

	ok(f, smfs_fsck(f->s, SMFS_FSCK_READ_DATA, &k, &f->err));
}

/* A chunk and a directory with one id: neither is ever found in place of the other. */
static void chunk_and_node_of_one_id(void **state)
{
	struct fixture *f = *state;
	uint8_t buf[1000];

	ids = ALL_EQUAL;
	fill_random(buf, sizeof(buf), 1);
	ok(f, try_put(f, "a", buf, sizeof(buf)));
	for (int i = 0; i < 3; i++)
		holds(f, "a", buf, sizeof(buf));
	reopen(f, 0);
	holds(f, "a", buf, sizeof(buf));
	clean(f);
}

/* A map and a directory share their name space: the second is refused, not taken for the first. */
static void map_and_directory_of_one_id(void **state)
{
	struct fixture *f = *state;
	cleanup_free uint8_t *buf = malloc(2 * FRAME_SIZE);

	ids = ALL_EQUAL;
	fill_random(buf, FRAME_SIZE, 1);
	memcpy(buf + FRAME_SIZE, buf, FRAME_SIZE);
	refused(f, try_put(f, "a", buf, 2 * FRAME_SIZE));
	assert_int_equal(smfs_name_get(f->s, SMFS_SNAPSHOT, "a", &(struct smfs_name){0}, NULL),
			 -ENOENT);
	/* and so it is when the map is there from an earlier commit */
	struct smfs_ingest *ing;
	struct smfs_content c;
	struct smfs_id dir;

	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	ok(f, smfs_ingest_dir(ing, NULL, 0, &dir, &f->err));
	ok(f, smfs_ingest_name(ing, SMFS_SNAPSHOT, "empty", &dir, NULL, 0, &f->err));
	ok(f, smfs_ingest_commit(ing, &f->err));
	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	int r = smfs_ingest_mem(ing, buf, 2 * FRAME_SIZE, &c, &f->err);
	if (r == 0)
		r = smfs_ingest_commit(ing, &f->err);
	else
		smfs_ingest_abort(ing);
	refused(f, r);
	clean(f);
}

/* The lengths are known without reading anything. */
static void lengths_are_always_compared(void **state)
{
	struct fixture *f = *state;
	uint8_t buf[1000];

	ids = ALL_EQUAL;
	fill_random(buf, sizeof(buf), 1);
	ok(f, try_put(f, "a", buf, 500));
	refused(f, try_put(f, "b", buf, 501));
	holds(f, "a", buf, 500);
	clean(f);
}

/* 256 ids for more contents of one length than that; bytes are compared. */
static void contents_of_one_length_and_id(void **state)
{
	struct fixture *f = *state;
	unsigned stored = 0, turned_away = 0;
	bool there[400];
	uint8_t buf[3000];
	char name[16];

	ids = ONE_BYTE;
	reopen(f, SMFS_COMPARE);
	for (unsigned i = 0; i < ARRAY_SIZE(there); i++) {
		snprintf(name, sizeof(name), "s%u", i);
		fill_random(buf, sizeof(buf), i);
		int r = try_put(f, name, buf, sizeof(buf));
		there[i] = r == 0;
		if (r < 0)
			refused(f, r);
		stored += r == 0;
		turned_away += r < 0;
	}
	assert_true(stored >= 10 && turned_away >= 10);
	for (unsigned i = 0; i < ARRAY_SIZE(there); i++) {
		struct smfs_content c;

		snprintf(name, sizeof(name), "s%u", i);
		fill_random(buf, sizeof(buf), i);
		if (there[i])
			holds(f, name, buf, sizeof(buf));
		else
			assert_int_equal(get_snapshot(f, name, &c), -ENOENT);
	}
	/* what is there already is found, not refused */
	for (unsigned i = 0; i < ARRAY_SIZE(there); i++) {
		fill_random(buf, sizeof(buf), i);
		snprintf(name, sizeof(name), "t%u", i);
		if (there[i])
			ok(f, try_put(f, name, buf, sizeof(buf)));
	}
	clean(f);
}

/* Two ingests that write different chunks of one id at once: the second to commit is refused. */
static void collision_between_two_ingests(void **state)
{
	struct fixture *f = *state;
	struct smfs_ingest *ing[2];
	struct smfs_content c[2];
	uint8_t buf[2][700];

	ids = ALL_EQUAL;
	reopen(f, SMFS_COMPARE);
	for (int i = 0; i < 2; i++) {
		fill_random(buf[i], sizeof(buf[i]), (uint64_t)i);
		ok(f, smfs_ingest_begin(f->s, &ing[i], &f->err));
		ok(f, smfs_ingest_mem(ing[i], buf[i], sizeof(buf[i]), &c[i], &f->err));
	}
	stage_file(f, ing[0], "first", &c[0], 0);
	stage_file(f, ing[1], "second", &c[1], 0);
	ok(f, smfs_ingest_commit(ing[0], &f->err));
	refused(f, smfs_ingest_commit(ing[1], &f->err));
	holds(f, "first", buf[0], sizeof(buf[0]));
	assert_int_equal(get_snapshot(f, "second", &c[1]), -ENOENT);
	clean(f);
}

/* Every page looks like one that came before: a hash of pages proposes, bytes decide. */
static void pages_that_hash_alike(void **state)
{
	struct fixture *f = *state;
	const size_t len = 6 * MIB;
	cleanup_free uint8_t *buf = malloc(len);
	struct smfs_content c;

	pages_equal = true;
	fill_random(buf, len, 5);
	/* some really are alike, at other places of their chunks */
	for (size_t at = 3 * MIB; at < 4 * MIB; at += 4096)
		memcpy(buf + at, buf + (at * 7) % (2 * MIB) / 4096 * 4096, 4096);
	memset(buf + 5 * MIB, 0, 300000);
	put_snapshot(f, "ram", buf, len, &c);
	assert_true(hashed_pages > 500);
	read_equals(f, &c, buf, len);
	reopen(f, 0);
	read_equals(f, &c, buf, len);
	clean(f);
}

/* So do those of files that came earlier, in this commit and in others. */
static void pages_of_other_files_that_hash_alike(void **state)
{
	struct fixture *f = *state;
	const size_t len = 2 * MIB;
	cleanup_free uint8_t *buf = malloc(len);
	struct smfs_content c[4];
	char name[16];

	pages_equal = true;
	for (unsigned i = 0; i < ARRAY_SIZE(c); i++) {
		snprintf(name, sizeof(name), "ram%u", i);
		fill_random(buf, len, i);
		/* Half of it is the first file's, a page further on. */
		fill_random(buf + 4096, len / 2, 0);
		put_snapshot(f, name, buf, len, &c[i]);
		assert_true(hashed_pages > 100);
		hashed_pages = 0;
		reopen(f, 0);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(c); i++) {
		fill_random(buf, len, i);
		fill_random(buf + 4096, len / 2, 0);
		read_equals(f, &c[i], buf, len);
	}
	clean(f);
}

#define CASE(t) cmocka_unit_test_setup_teardown(t, setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(chunk_and_node_of_one_id),
		CASE(map_and_directory_of_one_id),
		CASE(lengths_are_always_compared),
		CASE(contents_of_one_length_and_id),
		CASE(collision_between_two_ingests),
		CASE(pages_that_hash_alike),
		CASE(pages_of_other_files_that_hash_alike),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
