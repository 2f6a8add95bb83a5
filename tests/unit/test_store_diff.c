/* A file given as what it changes of another: whatever was changed, and however often, it reads
 * back. */
#include "tests/unit/store_util.h"

#define PAGE 4096u

/* Across three leaves of a map, and not a whole number of pages. */
enum { LEN = 36 * 1048576 + 5000, PAGES = (LEN + PAGE - 1) / PAGE };

struct model {
	uint8_t *bytes;
	bool changed[PAGES];
	struct smfs_content c;
};

/* The next diff of what is stored: changed pages written, the rest said to be the same. */
static void put_diff(struct fixture *f, struct model *m, unsigned flags,
		     struct smfs_ingest_stat *stat)
{
	struct smfs_ingest *ing;
	struct smfs_stream *st;

	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	ok(f, smfs_stream_open_diff(ing, &m->c, flags, &st, &f->err));
	for (size_t i = 0, end; i < PAGES; i = end) {
		for (end = i; end < PAGES && m->changed[end] == m->changed[i]; end++)
			;
		size_t off = i * PAGE, len = MIN(end * PAGE, (size_t)LEN) - off;

		if (m->changed[i])
			ok(f, smfs_stream_write(st, m->bytes + off, len, &f->err));
		else
			ok(f, smfs_stream_same(st, len, &f->err));
	}
	ok(f, smfs_stream_finish(st, &m->c, &f->err));
	smfs_ingest_stat(ing, stat);
	stage_file(f, ing, "m", &m->c, SMFS_REPLACE);
	ok(f, smfs_ingest_commit(ing, &f->err));
	memset(m->changed, 0, sizeof(m->changed));
}

static struct model *model_new(struct fixture *f)
{
	struct model *m = calloc(1, sizeof(*m));

	m->bytes = malloc(LEN);
	fill_mixed(m->bytes, LEN, 9);
	put_snapshot(f, "m", m->bytes, LEN, &m->c);
	return m;
}

static void model_free(struct model *m)
{
	free(m->bytes);
	free(m);
}

/* Page `i` gets content of its own, or becomes zero. */
static void change(struct model *m, size_t i, uint64_t seed)
{
	size_t off = i * PAGE, len = MIN(PAGE, LEN - off);

	if (seed % 5 == 0)
		memset(m->bytes + off, 0, len);
	else
		fill_random(m->bytes + off, len, seed);
	m->changed[i] = true;
}

static void changed_pages_cost_their_bytes(void **state)
{
	struct fixture *f = *state;
	struct model *m = model_new(f);
	struct smfs_ingest_stat st;
	uint64_t x = 77;

	for (int i = 0; i < 1000; i++)
		change(m, rnd(&x) % PAGES, 5 * rnd(&x) + 1);
	size_t n = 0;
	for (size_t i = 0; i < PAGES; i++)
		n += m->changed[i];
	put_diff(f, m, SMFS_STREAM_CHANGED, &st);
	read_equals(f, &m->c, m->bytes, LEN);
	/* They are random bytes, so nothing is had by compression. */
	assert_true(st.new_bytes <= n * PAGE + 8 * PAGE);
	assert_true(st.stored_bytes <= n * PAGE * 11 / 10 + 65536);
	model_free(m);
}

static void nothing_changed_is_the_same_content(void **state)
{
	struct fixture *f = *state;
	struct model *m = model_new(f);
	struct smfs_content base = m->c;
	struct smfs_ingest_stat st;

	put_diff(f, m, 0, &st);
	assert_memory_equal(&m->c, &base, sizeof(base));
	assert_int_equal(st.stored_bytes, 0);
	/* Also when it is not said but found. */
	memset(m->changed, 1, sizeof(m->changed));
	put_diff(f, m, 0, &st);
	assert_memory_equal(&m->c, &base, sizeof(base));
	assert_int_equal(st.stored_bytes, 0);
	model_free(m);
}

static void depth_changes_nothing(void **state)
{
	struct fixture *f = *state;
	struct model *m = model_new(f);
	struct smfs_ingest_stat st;
	struct smfs_fsck k = {0};
	uint64_t x = 5;

	for (int depth = 0; depth < 64; depth++) {
		/* Half of the changes hit the same few regions again and again. */
		for (int i = 0; i < 40; i++)
			change(m, i % 2 ? rnd(&x) % PAGES : 4090 + rnd(&x) % 40, rnd(&x));
		/* Some pages are written and have not changed. */
		for (int i = 0; i < 20; i++)
			m->changed[rnd(&x) % PAGES] = true;
		put_diff(f, m, depth % 2 ? SMFS_STREAM_CHANGED : 0, &st);
		assert_true(st.new_bytes < 8 * 60 * PAGE);
		if (depth % 9 == 0 || depth == 63)
			read_equals(f, &m->c, m->bytes, LEN);
	}
	reopen(f, 0);
	ok(f, smfs_fsck(f->s, SMFS_FSCK_READ_DATA, &k, &f->err));
	read_equals(f, &m->c, m->bytes, LEN);
	model_free(m);
}

/* Frames that 64 KiB at `off` come from. */
static unsigned frames_at(struct fixture *f, const struct smfs_content *c, uint64_t off)
{
	struct smfs_extent e[64];
	unsigned n = 0;
	struct smfs_file *file;

	ok(f, smfs_file_open(f->s, c, &file, &f->err));
	ssize_t got = smfs_file_extents(file, off, 65536, e, 64, &f->err);
	ok(f, got);
	assert_true(got < 64);
	for (ssize_t i = 0; i < got; i++) {
		ssize_t k = 0;

		while (memcmp(&e[k].chunk, &e[i].chunk, sizeof(e[k].chunk)) != 0)
			k++;
		n += k == i;
	}
	smfs_file_close(file);
	return n;
}

static void no_region_comes_from_more_frames_than_the_budget(void **state)
{
	struct fixture *f = *state;
	struct model *m = model_new(f);
	struct smfs_ingest_stat st;
	unsigned most = 0;
	uint64_t x = 6, packed = 0;

	for (int depth = 0; depth < 40; depth++) {
		for (int i = 0; i < 16; i++)
			change(m, 256 * i + rnd(&x) % 16, 5 * rnd(&x) + 1);
		put_diff(f, m, SMFS_STREAM_CHANGED, &st);
		packed += st.new_bytes;
		for (int i = 0; i < 16; i++)
			most = MAX(most, frames_at(f, &m->c, i * 1048576));
	}
	/* It is used, and it holds. */
	assert_int_equal(most, SMFS_DIFF_FRAMES);
	/* A changed page is packed again less than once on average. */
	assert_true(packed <= 2ull * 40 * 16 * PAGE);
	read_equals(f, &m->c, m->bytes, LEN);
	model_free(m);
}

/* Written in odd pieces, longer and shorter than the base. */
static void any_length_against_any_base(void **state)
{
	struct fixture *f = *state;
	const size_t lens[] = {4095, 70000, 16777216 + 1, LEN};
	cleanup_free uint8_t *a = malloc(LEN), *b = malloc(LEN);
	uint64_t x = 4;

	fill_mixed(a, LEN, 3);
	for (size_t i = 0; i < ARRAY_SIZE(lens); i++)
		for (size_t k = 0; k < ARRAY_SIZE(lens); k++) {
			struct smfs_content base, c;
			struct smfs_ingest *ing;
			struct smfs_stream *st;
			char name[32];

			snprintf(name, sizeof(name), "b%zu-%zu", i, k);
			put_snapshot(f, name, a, lens[i], &base);
			ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
			ok(f, smfs_stream_open_diff(ing, &base, 0, &st, &f->err));
			for (size_t at = 0, n; at < lens[k]; at += n) {
				n = rnd(&x) % 3000000 + 1;
				n = MIN(lens[k] - at, n);
				if (at + n <= lens[i] && rnd(&x) % 2) {
					memcpy(b + at, a + at, n);
					ok(f, smfs_stream_same(st, n, &f->err));
				} else if (rnd(&x) % 3 == 0) {
					memset(b + at, 0, n);
					ok(f, smfs_stream_hole(st, n, &f->err));
				} else {
					memcpy(b + at, a + at, n);
					b[at] ^= 1;
					ok(f, smfs_stream_write(st, b + at, n, &f->err));
				}
			}
			ok(f, smfs_stream_finish(st, &c, &f->err));
			snprintf(name, sizeof(name), "c%zu-%zu", i, k);
			stage_file(f, ing, name, &c, 0);
			ok(f, smfs_ingest_commit(ing, &f->err));
			read_equals(f, &c, b, lens[k]);
		}
}

/* ---- differences ---- */

struct found {
	bool page[PAGES + 64];
	uint64_t end;
	size_t ranges;
};

static int note(void *arg, uint64_t off, uint64_t len, struct err *err)
{
	struct found *k = arg;

	/* Ascending, and never two ranges that touch. */
	assert_true(len > 0 && (k->ranges == 0 || off > k->end));
	assert_int_equal(off % PAGE, 0);
	for (uint64_t i = off / PAGE; i <= (off + len - 1) / PAGE; i++)
		k->page[i] = true;
	k->end = off + len;
	k->ranges++;
	return 0;
}

static void differs_in(struct fixture *f, const struct smfs_content *a,
		       const struct smfs_content *b, const uint8_t *x, const uint8_t *y)
{
	struct found *k = calloc(1, sizeof(*k));
	size_t size = MAX(a->size, b->size);
	struct smfs_range own[16];

	ok(f, smfs_content_diff(f->s, a, b, 0, note, k, &f->err));
	for (size_t i = 0; i * PAGE < size; i++) {
		size_t len = MIN(PAGE, size - i * PAGE);

		assert_int_equal(k->page[i], memcmp(x + i * PAGE, y + i * PAGE, len) != 0);
	}
	free(k);
	/* Outside of what is said to be its own, `b` is `a`, in however few ranges. */
	ssize_t n = smfs_content_own(f->s, a, b, own, ARRAY_SIZE(own), &f->err);
	ok(f, n);
	uint64_t at = 0;
	for (ssize_t i = 0; i <= n; i++) {
		uint64_t to = i < n ? own[i].off : b->size;

		assert_true(to >= at && to <= b->size);
		assert_memory_equal(x + at, y + at, to - at);
		at = i < n ? to + own[i].len : at;
		assert_true(at <= b->size);
	}
}

static void differences_are_the_pages_that_differ(void **state)
{
	struct fixture *f = *state;
	const size_t lens[] = {0, 4095, 70000, 16777216 + 1, LEN};
	struct smfs_content c[2][ARRAY_SIZE(lens)];
	uint8_t *x = calloc(1, LEN), *y = calloc(1, LEN);
	cleanup_free uint8_t *a = malloc(LEN), *b = malloc(LEN);
	uint64_t seed = 8;

	fill_mixed(a, LEN, 3);
	memcpy(b, a, LEN);
	for (int i = 0; i < 200; i++)
		b[rnd(&seed) % LEN] ^= 1;
	for (size_t i = 0; i < ARRAY_SIZE(lens); i++) {
		put_snapshot(f, (char[]){'a', (char)('0' + i), 0}, a, lens[i], &c[0][i]);
		put_snapshot(f, (char[]){'b', (char)('0' + i), 0}, b, lens[i], &c[1][i]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(lens); i++)
		for (size_t k = 0; k < ARRAY_SIZE(lens); k++) {
			memset(x, 0, LEN);
			memset(y, 0, LEN);
			memcpy(x, a, lens[i]);
			memcpy(y, b, lens[k]);
			differs_in(f, &c[0][i], &c[1][k], x, y);
		}
	free(x);
	free(y);
}

static void a_diff_differs_in_what_was_changed(void **state)
{
	struct fixture *f = *state;
	struct model *m = model_new(f);
	struct smfs_content base = m->c;
	cleanup_free uint8_t *before = malloc(LEN);
	struct smfs_range own[PAGES];
	struct smfs_ingest_stat st;

	memcpy(before, m->bytes, LEN);
	for (size_t i = 3; i < PAGES; i += 500)
		change(m, i, 5 * i + 1);
	put_diff(f, m, SMFS_STREAM_CHANGED, &st);
	differs_in(f, &base, &m->c, before, m->bytes);
	/* With room enough, exactly those pages. */
	ssize_t n = smfs_content_own(f->s, &base, &m->c, own, PAGES, &f->err);
	assert_int_equal(n, (PAGES - 3 + 499) / 500);
	for (ssize_t i = 0; i < n; i++) {
		assert_int_equal(own[i].off, (3 + i * 500) * PAGE);
		assert_int_equal(own[i].len, PAGE);
	}
	model_free(m);
}

static void same_needs_a_base(void **state)
{
	struct fixture *f = *state;
	struct smfs_ingest *ing;
	struct smfs_stream *st;
	struct smfs_content c = {.size = LEN, .kind = SMFS_MAP, .depth = 1, .id = {{7}}};

	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	ok(f, smfs_stream_open(ing, 0, &st, &f->err));
	assert_int_equal(smfs_stream_same(st, 4096, &f->err), -EINVAL);
	smfs_stream_abort(st);
	/* Nothing can be the same as what is not there. */
	assert_int_equal(smfs_stream_open_diff(ing, &c, 0, &st, &f->err), -EINVAL);
	smfs_ingest_abort(ing);
}

#define store_test(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		store_test(changed_pages_cost_their_bytes),
		store_test(nothing_changed_is_the_same_content),
		store_test(depth_changes_nothing),
		store_test(no_region_comes_from_more_frames_than_the_budget),
		store_test(any_length_against_any_base),
		store_test(differences_are_the_pages_that_differ),
		store_test(a_diff_differs_in_what_was_changed),
		store_test(same_needs_a_base),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
