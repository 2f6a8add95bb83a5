/* What a collection must keep, and what it must not, where that is not plain to see. */
#include "tests/unit/gc_util.h"

/* A pin keeps what was there when it was taken, and not what was garbage before. */
static void a_later_ingest_keeps_no_earlier_garbage(void **state)
{
	struct fixture *f = *state;
	struct smfs_ingest *before, *after;
	struct smfs_gc g;

	put(f, "keep", 1, 3 * BLOCK);
	put(f, "drop", 2, 10 * BLOCK);
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "drop", &f->err));
	ok(f, smfs_ingest_begin(f->s, &before, &f->err));
	ok(f, collect(f, &g, 25));
	assert_int_equal(g.condemned_frames, 12);
	assert_int_equal(g.freed_frames, 0);
	ok(f, smfs_ingest_begin(f->s, &after, &f->err));
	smfs_ingest_abort(before);
	ok(f, collect(f, &g, 25));
	assert_int_equal(g.freed_frames, 12);
	assert_int_equal(g.waiting_frames, 0);
	smfs_ingest_abort(after);
}

/*
 * A shorter diff is a delta of the base's leaf, which has chunks beyond the diff's end. They are
 * the base's still, whichever of the two is looked at first.
 */
static void shorter_diff(struct fixture *f, const char *base_name, const char *name)
{
	const size_t len = 200 * BLOCK, half = 100 * BLOCK;
	cleanup_free uint8_t *p = content(21, len);
	struct smfs_content base, c;
	struct smfs_ingest *ing;
	struct smfs_stream *st;
	struct smfs_gc g;

	put(f, base_name, 21, len);
	ok(f, get_snapshot(f, base_name, &base));
	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	ok(f, smfs_stream_open_diff(ing, &base, SMFS_STREAM_CHANGED, &st, &f->err));
	fill_random(p, 4096, 22);
	ok(f, smfs_stream_write(st, p, 4096, &f->err));
	ok(f, smfs_stream_same(st, half - 4096, &f->err));
	ok(f, smfs_stream_finish(st, &c, &f->err));
	stage_file(f, ing, name, &c, 0);
	ok(f, smfs_ingest_commit(ing, &f->err));
	for (int i = 0; i < 3; i++)
		ok(f, collect(f, &g, 1));
	reopen(f, 0);
	holds(f, base_name, 21, len);
	read_equals(f, &c, p, half);
	fsck_clean(f);
	/* Alone, it still has all of the leaf that the next diff of the base may find. */
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, base_name, &f->err));
	for (int i = 0; i < 3; i++)
		ok(f, collect(f, &g, 1));
	put(f, base_name, 21, len);
	reopen(f, 0);
	holds(f, base_name, 21, len);
	read_equals(f, &c, p, half);
	fsck_clean(f);
}

static void diff_shorter_than_its_base(void **state)
{
	shorter_diff(*state, "z", "a");
}

static void diff_shorter_than_its_base_seen_last(void **state)
{
	shorter_diff(*state, "a", "z");
}

#define CASE(t) cmocka_unit_test_setup_teardown(t, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(a_later_ingest_keeps_no_earlier_garbage),
		CASE(diff_shorter_than_its_base),
		CASE(diff_shorter_than_its_base_seen_last),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
