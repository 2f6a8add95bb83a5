/* Nodes whose hash and checksum are right and whose content is hostile: refused, never believed. */
#include "store_util.h"

#include "smfs/base/bytes.h"
#include "smfs/store/dir.h"
#include "smfs/store/map.h"

/* A frame of any bytes, as only a hostile writer would make it, and a commit so that it can be
 * read. */
static void plant(struct fixture *f, uint8_t kind, const void *raw, size_t len, struct smfs_id *id)
{
	struct smfs_ingest *ing;

	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	ok(f, ingest_put(ing, kind, raw, (uint32_t)len, 0, id, &f->err));
	ok(f, smfs_ingest_commit(ing, &f->err));
}

static struct writer leaf(const struct map_extent *e, uint32_t n)
{
	struct writer w = WRITER_INIT;

	map_leaf_head(&w, n);
	for (uint32_t i = 0; i < n; i++)
		map_leaf_entry(&w, &e[i]);
	return w;
}

static void leaves_hold_their_invariants(void **state)
{
	static const struct {
		const char *what;
		uint32_t n;
		struct map_extent e[2];
		int want;
	} cases[] = {
		{"one", 1, {{.off = 0, .len = 65536}}, 0},
		{"last byte", 1, {{.off = LEAF_SPAN - 1, .len = 1}}, 0},
		{"two that touch", 2, {{.off = 0, .len = 5}, {.off = 5, .len = 5}}, 0},
		{"second half of a chunk", 1, {{.off = 0, .len = 5, .chunk_off = 65531}}, 0},
		{"none", 0, {{0}}, -EBADMSG},
		{"empty extent", 1, {{.off = 0, .len = 0}}, -EBADMSG},
		{"overlap", 2, {{.off = 0, .len = 6}, {.off = 5, .len = 5}}, -EBADMSG},
		{"descending", 2, {{.off = 9, .len = 1}, {.off = 5, .len = 1}}, -EBADMSG},
		{"past the span", 1, {{.off = LEAF_SPAN - 1, .len = 2}}, -EBADMSG},
		{"past a chunk", 1, {{.off = 0, .len = 6, .chunk_off = 65531}}, -EBADMSG},
		{"wrapping", 1, {{.off = UINT32_MAX, .len = 2}}, -EBADMSG},
		{"wrapping in the chunk",
		 1,
		 {{.off = 0, .len = 2, .chunk_off = UINT32_MAX}},
		 -EBADMSG},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		cleanup_writer struct writer w = leaf(cases[i].e, cases[i].n);

		if (map_leaf_check(w.p, w.len) != cases[i].want)
			fail_msg("%s", cases[i].what);
		/* every other length is refused */
		for (size_t n = 0; n < w.len; n++)
			assert_int_equal(map_leaf_check(w.p, n), -EBADMSG);
	}
}

static void inner_nodes_hold_their_invariants(void **state)
{
	cleanup_writer struct writer w = WRITER_INIT;

	map_inner_head(&w, 1, 2);
	map_inner_entry(&w, &(struct map_child){.pos = 3});
	map_inner_entry(&w, &(struct map_child){.pos = 255});
	assert_int_equal(map_inner_check(w.p, w.len, 1), 0);
	assert_int_equal(map_inner_check(w.p, w.len, 2), -EBADMSG);
	assert_int_equal(map_inner_check(w.p, w.len, 0), -EBADMSG);
	assert_int_equal(map_leaf_check(w.p, w.len), -EBADMSG);
	for (size_t n = 0; n < w.len; n++)
		assert_int_equal(map_inner_check(w.p, n, 1), -EBADMSG);
	patch_u32(&w, MAP_HEAD_LEN, 255); /* twice the same position */
	assert_int_equal(map_inner_check(w.p, w.len, 1), -EBADMSG);
	patch_u32(&w, MAP_HEAD_LEN, 256);
	assert_int_equal(map_inner_check(w.p, w.len, 1), -EBADMSG);
}

static int read_one(struct fixture *f, const struct smfs_content *c, uint64_t off)
{
	struct smfs_file *file;
	uint8_t b[4096];

	ok(f, smfs_file_open(f->s, c, &file, &f->err));
	ssize_t r = smfs_file_pread(file, b, sizeof(b), off, &f->err);
	smfs_file_close(file);
	return r < 0 ? (int)r : 0;
}

/* A delta of `base` with one extent, entry by entry. */
static struct writer delta(const struct smfs_id *base, uint32_t n, uint32_t nids,
			   const uint32_t (*e)[4])
{
	struct writer w = WRITER_INIT;
	static const struct smfs_id id = {{9}};

	put_u32(&w, 0x544c4544);
	put_u32(&w, 0);
	put_u32(&w, n);
	put_u32(&w, nids);
	put_bytes(&w, base->b, SMFS_ID_LEN);
	for (uint32_t i = 0; i < nids; i++)
		put_bytes(&w, id.b, SMFS_ID_LEN);
	for (uint32_t i = 0; i < n; i++)
		for (int k = 0; k < 4; k++)
			put_u32(&w, e[i][k]);
	return w;
}

static void deltas_hold_their_invariants(void **state)
{
	static const uint32_t none = UINT32_MAX, span = LEAF_SPAN;
	const struct {
		const char *what;
		uint32_t n, nids;
		uint32_t e[2][4];
		int want;
	} cases[] = {
		{"one", 1, 1, {{0, 4096, 0, 0}}, 0},
		{"zeros", 1, 0, {{0, span, 0, none}}, 0},
		{"two that touch", 2, 1, {{0, 5, 0, 0}, {5, 5, 9, 0}}, 0},
		{"nothing", 0, 0, {{0}}, -EBADMSG},
		{"more ids than entries", 1, 2, {{0, 5, 0, 0}}, -EBADMSG},
		{"an id that is not there", 1, 1, {{0, 5, 0, 1}}, -EBADMSG},
		{"zeros of a chunk", 1, 1, {{0, 5, 1, none}}, -EBADMSG},
		{"empty extent", 1, 1, {{0, 0, 0, 0}}, -EBADMSG},
		{"overlap", 2, 1, {{0, 6, 0, 0}, {5, 5, 9, 0}}, -EBADMSG},
		{"past the span", 1, 1, {{span - 1, 2, 0, 0}}, -EBADMSG},
		{"past a chunk", 1, 1, {{0, 5, 65532, 0}}, -EBADMSG},
		{"wrapping", 1, 1, {{none, 2, 0, 0}}, -EBADMSG},
		{"wrapping in the chunk", 1, 1, {{0, 2, none, 0}}, -EBADMSG},
	};
	const struct smfs_id base = {{1}};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		cleanup_writer struct writer w =
			delta(&base, cases[i].n, cases[i].nids, cases[i].e);

		if (map_delta_check(w.p, w.len) != cases[i].want)
			fail_msg("%s", cases[i].what);
		for (size_t n = 0; n < w.len; n++)
			assert_int_equal(map_delta_check(w.p, n), -EBADMSG);
	}
}

static void delta_reads(struct fixture *f, const char *what, const struct smfs_id *base,
			const uint32_t (*e)[4], int want, struct smfs_id *id)
{
	struct smfs_content c = {.size = LEAF_SPAN, .kind = SMFS_MAP};
	cleanup_writer struct writer w = delta(base, 1, e[0][3] == 0, e);
	struct smfs_file *file;
	uint8_t byte;

	plant(f, FRAME_MAP, w.p, w.len, &c.id);
	ok(f, smfs_file_open(f->s, &c, &file, &f->err));
	ssize_t r = smfs_file_pread(file, &byte, 1, 70000, &f->err);
	if (r != want)
		fail_msg("%s: %zd: %s", what, r, f->err.msg);
	smfs_file_close(file);
	*id = c.id;
}

/* One level and no more, and the base has to be there and be a leaf. */
static void deltas_that_lie_are_refused_on_reading(void **state)
{
	struct fixture *f = *state;
	static const uint32_t zero_some[1][4] = {{70000, 10, 0, UINT32_MAX}},
			      zero_all[1][4] = {{0, LEAF_SPAN, 0, UINT32_MAX}};
	cleanup_writer struct writer inner = WRITER_INIT;
	const struct smfs_id nowhere = {{3}};
	struct map_extent e = {.off = 65536, .len = 5000};
	struct smfs_id base, good, up, any;
	uint8_t chunk[5000];

	plant(f, FRAME_CHUNK, memset(chunk, 7, sizeof(chunk)), sizeof(chunk), &e.id);
	cleanup_writer struct writer w = leaf(&e, 1);
	plant(f, FRAME_MAP, w.p, w.len, &base);
	map_inner_head(&inner, 1, 1);
	map_inner_entry(&inner, &(struct map_child){.id = base});
	plant(f, FRAME_MAP, inner.p, inner.len, &up);

	delta_reads(f, "a good one", &base, zero_some, 1, &good);
	delta_reads(f, "of a delta", &good, zero_some, -EBADMSG, &any);
	reopen(f, 0);
	delta_reads(f, "of a delta not in the cache", &good, zero_some, -EBADMSG, &any);
	delta_reads(f, "of an inner node", &up, zero_some, -EBADMSG, &any);
	delta_reads(f, "of nothing", &nowhere, zero_some, -EBADMSG, &any);
	delta_reads(f, "that leaves nothing", &base, zero_all, -EBADMSG, &any);
}

static void maps_that_lie_are_refused_on_reading(void **state)
{
	struct fixture *f = *state;
	struct smfs_content c = {.size = 100000, .kind = SMFS_MAP};
	struct map_extent e = {.off = 0, .len = 11};
	struct smfs_id chunk, id;
	struct smfs_fsck k = {0};

	plant(f, FRAME_CHUNK, "ten bytes.", 10, &chunk);
	/* more of the chunk than there is */
	e.id = chunk;
	struct writer w = leaf(&e, 1);
	plant(f, FRAME_MAP, w.p, w.len, &c.id);
	writer_free(&w);
	assert_int_equal(read_one(f, &c, 0), -EBADMSG);
	ok(f, read_one(f, &c, 50000));
	/* a chunk that is not there */
	e.len = 10;
	e.id.b[5] ^= 1;
	w = leaf(&e, 1);
	plant(f, FRAME_MAP, w.p, w.len, &c.id);
	assert_int_equal(read_one(f, &c, 0), -EBADMSG);
	/* a leaf where an inner node must be, and the other way about */
	c.size = LEAF_SPAN * 2;
	c.depth = 1;
	assert_int_equal(read_one(f, &c, 0), -EBADMSG);
	writer_free(&w);
	map_inner_head(&w, 1, 1);
	map_inner_entry(&w, &(struct map_child){.pos = 0, .id = c.id});
	plant(f, FRAME_MAP, w.p, w.len, &id);
	c.id = id;
	ok(f, read_one(f, &c, LEAF_SPAN));
	c.size = 100000;
	c.depth = 0;
	assert_int_equal(read_one(f, &c, 0), -EBADMSG);
	/* a directory */
	writer_free(&w);
	struct smfs_ingest *ing;
	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	ok(f, smfs_ingest_dir(ing, NULL, 0, &c.id, &f->err));
	ok(f, smfs_ingest_commit(ing, &f->err));
	assert_int_equal(read_one(f, &c, 0), -EBADMSG);
	/* none of it is reachable, so the store as such is sound */
	ok(f, smfs_fsck(f->s, SMFS_FSCK_READ_DATA, &k, &f->err));
	assert_true(k.garbage_frames > 0);
}

/* The bytes of a node as a file: its chunk has another id, and is found as a chunk only. */
static void a_file_cannot_pose_as_a_directory(void **state)
{
	struct fixture *f = *state;
	struct smfs_entry e = {.name = "passwd", .mode = S_IFREG | 06777};
	struct smfs_id dir, chunk, forged;
	struct smfs_ingest *ing;
	struct smfs_dir *d;
	uint8_t *raw, bytes[512] = "smfs dir node 1";
	size_t len;

	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	ok(f, smfs_ingest_dir(ing, &e, 1, &dir, &f->err));
	ok(f, smfs_ingest_commit(ing, &f->err));
	ok(f, object_dir(f->s, &dir, &raw, &len, &f->err));
	raw[5 + 16] ^= 1; /* another directory, which is not in the store */
	memcpy(bytes + 16, raw, len);
	frame_id(FRAME_DIR, raw, len, &forged);
	free(raw);
	/* the worst case: a file that is the node with its prefix, and so has the very id */
	plant(f, FRAME_CHUNK, bytes, 16 + len, &chunk);
	assert_memory_equal(&chunk, &forged, sizeof(chunk));
	assert_int_equal(smfs_dir_open(f->s, &forged, &d, &f->err), -EBADMSG);
	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	assert_int_equal(smfs_ingest_name(ing, SMFS_SNAPSHOT, "x", &forged, NULL, 0, &f->err),
			 -EINVAL);
	smfs_ingest_abort(ing);
}

/* Any mutation of a directory node either decodes to something within bounds or is refused. */
static void mutated_directories_stay_in_bounds(void **state)
{
	struct fixture *f = *state;
	struct smfs_xattr x[] = {{"user.a", "1", 1}, {"user.b", "22", 2}};
	struct smfs_entry e[] = {
		{.name = "file", .mode = S_IFREG | 0644, .xattrs = x, .nxattrs = 2},
		{.name = "link", .mode = S_IFLNK | 0777, .target = "there"},
		{.name = "dev", .mode = S_IFBLK | 0600, .rdev_major = 8},
		{.name = "sub", .mode = S_IFDIR | 0755},
	};
	struct smfs_ingest *ing;
	struct smfs_id id;
	struct smfs_dir *d;
	uint8_t *raw;
	size_t len, refused = 0, total = 0;
	uint64_t seed = 3;

	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	ok(f, smfs_ingest_dir(ing, NULL, 0, &e[3].dir, &f->err));
	ok(f, smfs_ingest_dir(ing, e, ARRAY_SIZE(e), &id, &f->err));
	ok(f, smfs_ingest_commit(ing, &f->err));
	ok(f, object_dir(f->s, &id, &raw, &len, &f->err));
	for (int round = 0; round < 20000; round++, total++) {
		uint8_t *m = malloc(len); /* exact, so that ASan sees a read past it */
		size_t n = len;

		memcpy(m, raw, len);
		if (round < (int)len) {
			n = (size_t)round;
		} else {
			for (uint64_t i = 0, k = rnd(&seed) % 3 + 1; i < k; i++)
				m[rnd(&seed) % len] = (uint8_t)rnd(&seed);
		}
		uint8_t *exact = malloc(n ? n : 1);
		memcpy(exact, m, n);
		free(m);
		if (dir_decode(exact, n, &d, &f->err) < 0) {
			refused++;
			continue;
		}
		for (size_t i = 0; i < smfs_dir_count(d); i++) {
			const struct smfs_entry *g = smfs_dir_at(d, i);

			assert_true(strlen(g->name) <= SMFS_NAME_MAX);
			assert_ptr_equal(smfs_dir_find(d, g->name), g);
			for (size_t j = 0; j < g->nxattrs; j++)
				assert_true(strlen(g->xattrs[j].name) + g->xattrs[j].len <=
					    SMFS_XATTR_MAX);
		}
		smfs_dir_close(d);
	}
	free(raw);
	assert_true(refused > len && refused < total);
}

#define store_test(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(leaves_hold_their_invariants),
		cmocka_unit_test(inner_nodes_hold_their_invariants),
		cmocka_unit_test(deltas_hold_their_invariants),
		store_test(deltas_that_lie_are_refused_on_reading),
		store_test(maps_that_lie_are_refused_on_reading),
		store_test(a_file_cannot_pose_as_a_directory),
		store_test(mutated_directories_stay_in_bounds),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
