/* The store: what goes in comes out, once, by name, and only after commit. */
#include "store_util.h"

static void content_of_every_size_comes_back(void **state)
{
	static const size_t sizes[] = {
		0,
		1,
		63,
		64,
		4095,
		4096,
		65535,
		65536,
		65537,
		131072,
		1048575,
		1048577,
		16 * MIB - 1,
		16 * MIB,
		16 * MIB + 1,
		33 * MIB + 12345,
	};
	struct fixture *f = *state;
	struct smfs_content c[ARRAY_SIZE(sizes)];
	cleanup_free uint8_t *buf = malloc(sizes[ARRAY_SIZE(sizes) - 1]);
	struct smfs_ingest *ing;

	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		fill_mixed(buf, sizes[i], i);
		ok(f, smfs_ingest_mem(ing, buf, sizes[i], &c[i], &f->err));
	}
	ok(f, smfs_ingest_commit(ing, &f->err));
	reopen(f, SMFS_RDONLY);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		fill_mixed(buf, sizes[i], i);
		read_equals(f, &c[i], buf, sizes[i]);
	}
}

/* How a file is handed over must not show in what is stored: pieces, holes, stable or not. */
static void writes_of_any_shape_give_one_content(void **state)
{
	struct fixture *f = *state;
	enum { LEN = 3 * 1048576 + 777 };
	cleanup_free uint8_t *buf = calloc(1, LEN);
	struct smfs_content want, c;
	struct smfs_ingest *ing;
	struct smfs_stream *st;
	uint64_t x = 42;

	fill_mixed(buf, LEN, 1);
	memset(buf + 300000, 0, 1500000);
	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	ok(f, smfs_ingest_mem(ing, buf, LEN, &want, &f->err));
	for (int stable = 0; stable < 2; stable++) {
		ok(f, smfs_stream_open(ing, stable ? SMFS_STREAM_STABLE : 0, &st, &f->err));
		for (size_t at = 0; at < LEN;) {
			size_t n = MIN(LEN - at, rnd(&x) % 200000 + 1);

			if (at >= 300000 && at < 1800000) {
				n = MIN(n, 1800000 - at);
				ok(f, smfs_stream_hole(st, n, &f->err));
			} else {
				ok(f, smfs_stream_write(st, buf + at, n, &f->err));
			}
			at += n;
		}
		ok(f, smfs_stream_finish(st, &c, &f->err));
		assert_memory_equal(&c, &want, sizeof(c));
	}
	ok(f, smfs_ingest_commit(ing, &f->err));
	read_equals(f, &want, buf, LEN);
}

static void reads_at_any_offset_agree(void **state)
{
	struct fixture *f = *state;
	enum { LEN = 18 * 1048576 + 3333 };
	cleanup_free uint8_t *buf = malloc(LEN), *got = malloc(LEN);
	struct smfs_content c;
	struct smfs_ingest *ing;
	struct smfs_stream *st;
	struct smfs_file *file;
	uint64_t x = 7;

	fill_mixed(buf, LEN, 3);
	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	ok(f, smfs_stream_open(ing, 0, &st, &f->err));
	for (size_t at = 0; at < LEN;) {
		/* cuts everywhere, so chunks lie across the edge between two spans, too */
		size_t n = MIN(LEN - at, rnd(&x) % 90000 + 1);

		ok(f, smfs_stream_write(st, buf + at, n, &f->err));
		ok(f, smfs_stream_cut(st, &f->err));
		at += n;
	}
	ok(f, smfs_stream_finish(st, &c, &f->err));
	ok(f, smfs_ingest_commit(ing, &f->err));
	read_equals(f, &c, buf, LEN);
	ok(f, smfs_file_open(f->s, &c, &file, &f->err));
	for (int i = 0; i < 2000; i++) {
		size_t off = rnd(&x) % LEN, len = rnd(&x) % 150000;

		if (i % 10 == 0)
			off = 16 * MIB - rnd(&x) % 70000;
		ssize_t n = smfs_file_pread(file, got, len, off, &f->err);
		ok(f, n);
		assert_int_equal(n, MIN(len, LEN - off));
		assert_memory_equal(got, buf + off, n);
	}
	assert_int_equal(smfs_file_pread(file, got, 10, LEN, &f->err), 0);
	smfs_file_close(file);
}

static void one_byte_differs_only_where_it_was_written(void **state)
{
	struct fixture *f = *state;
	enum { LEN = 64 * 1048576 };
	cleanup_free uint8_t *buf = malloc(LEN);
	struct smfs_ingest_stat st;
	struct smfs_ingest *ing;
	struct smfs_content a, b;

	fill_random(buf, LEN, 9);
	put_snapshot(f, "a", buf, LEN, &a);
	buf[40 * MIB] ^= 1;
	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	ok(f, smfs_ingest_mem(ing, buf, LEN, &b, &f->err));
	smfs_ingest_stat(ing, &st);
	assert_int_equal(st.logical_bytes, LEN);
	/* Its page: the others of the chunk are found where they are. */
	assert_int_equal(st.new_bytes, 4096);
	/* random chunks, too, end in a zero now and then, which is trimmed */
	assert_int_equal(st.dup_bytes + st.zero_bytes, LEN - 4096);
	assert_true(st.zero_bytes < 100);
	/* the page, the leaf of its 16 MiB, the root: not a map of the whole file */
	assert_true(st.stored_bytes < 4096 + 16384 + 1024);
	ok(f, smfs_ingest_commit(ing, &f->err));
	read_equals(f, &b, buf, LEN);
	buf[40 * MIB] ^= 1;
	read_equals(f, &a, buf, LEN);
}

static void equal_content_is_stored_once(void **state)
{
	struct fixture *f = *state;
	enum { LEN = 1 << 20 };
	cleanup_free uint8_t *buf = malloc(LEN);
	struct smfs_store_stat before, after;
	struct smfs_content a, b;

	fill_random(buf, LEN, 5);
	put_snapshot(f, "a", buf, LEN, &a);
	ok(f, smfs_store_stat(f->s, &before, &f->err));
	put_snapshot(f, "b", buf, LEN, &b);
	ok(f, smfs_store_stat(f->s, &after, &f->err));
	assert_memory_equal(&a, &b, sizeof(a));
	assert_int_equal(before.stored_bytes, after.stored_bytes);
	assert_int_equal(before.chunks, 16);
	assert_int_equal(after.chunks, 16);
	assert_int_equal(after.snapshots, 2);
	assert_int_equal(after.logical_bytes, 2 * LEN);
}

/* A file inside an image, cut where it begins, is the file's own chunks. */
static void cuts_share_a_file_inside_an_image(void **state)
{
	struct fixture *f = *state;
	enum { FILE_LEN = 200000, AT = 12288, LEN = AT + 204800 };
	cleanup_free uint8_t *image = calloc(1, LEN);
	struct smfs_ingest_stat before, after;
	struct smfs_content c;
	struct smfs_ingest *ing;
	struct smfs_stream *st;

	fill_random(image, AT, 1);
	fill_random(image + AT, FILE_LEN, 2);
	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	ok(f, smfs_ingest_mem(ing, image + AT, FILE_LEN, &c, &f->err));
	smfs_ingest_stat(ing, &before);
	ok(f, smfs_stream_open(ing, 0, &st, &f->err));
	ok(f, smfs_stream_write(st, image, AT, &f->err));
	ok(f, smfs_stream_cut(st, &f->err));
	ok(f, smfs_stream_write(st, image + AT, LEN - AT, &f->err));
	ok(f, smfs_stream_finish(st, &c, &f->err));
	smfs_ingest_stat(ing, &after);
	assert_int_equal(after.new_bytes - before.new_bytes, AT);
	ok(f, smfs_ingest_commit(ing, &f->err));
	read_equals(f, &c, image, LEN);
}

static void holes_are_found_and_cost_nothing(void **state)
{
	struct fixture *f = *state;
	cleanup_free uint8_t *data = malloc(65536);
	struct smfs_ingest_stat st_in;
	struct smfs_ingest *ing;
	struct smfs_stream *st;
	struct smfs_file *file;
	struct smfs_content c;
	uint64_t at, bytes, stored;
	uint8_t byte = 1;

	fill_random(data, 65536, 1);
	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	ok(f, smfs_stream_open(ing, 0, &st, &f->err));
	ok(f, smfs_stream_hole(st, 5 * TIB, &f->err));
	ok(f, smfs_stream_write(st, data, 65536, &f->err));
	ok(f, smfs_stream_hole(st, 5 * TIB, &f->err));
	ok(f, smfs_stream_finish(st, &c, &f->err));
	smfs_ingest_stat(ing, &st_in);
	assert_int_equal(st_in.new_bytes, 65536);
	assert_int_equal(st_in.zero_bytes, 10 * TIB);
	ok(f, smfs_ingest_commit(ing, &f->err));

	assert_int_equal(c.size, 10 * TIB + 65536);
	ok(f, smfs_file_open(f->s, &c, &file, &f->err));
	ok(f, smfs_file_seek(file, 0, SEEK_DATA, &at, &f->err));
	assert_int_equal(at, 5 * TIB);
	ok(f, smfs_file_seek(file, at, SEEK_HOLE, &at, &f->err));
	assert_int_equal(at, 5 * TIB + 65536);
	ok(f, smfs_file_seek(file, 77, SEEK_HOLE, &at, &f->err));
	assert_int_equal(at, 77);
	ok(f, smfs_file_seek(file, 5 * TIB + 100, SEEK_DATA, &at, &f->err));
	assert_int_equal(at, 5 * TIB + 100);
	assert_int_equal(smfs_file_seek(file, 5 * TIB + 65536, SEEK_DATA, &at, &f->err), -ENXIO);
	assert_int_equal(smfs_file_seek(file, c.size, SEEK_HOLE, &at, &f->err), -ENXIO);
	assert_int_equal(smfs_file_pread(file, &byte, 1, 9 * TIB, &f->err), 1);
	assert_int_equal(byte, 0);
	assert_int_equal(smfs_file_pread(file, &byte, 1, 5 * TIB + 9, &f->err), 1);
	assert_int_equal(byte, data[9]);
	ok(f, smfs_file_usage(file, &bytes, &stored, &f->err));
	assert_int_equal(bytes, 65536);
	assert_true(stored >= 65536 && stored < 66000);
	smfs_file_close(file);
}

/* Walking SEEK_DATA and SEEK_HOLE as cp does finds every byte that is not zero. */
static void holes_hide_no_data(void **state)
{
	struct fixture *f = *state;
	enum { LEN = 40 * 1048576 + 5000 };
	cleanup_free uint8_t *buf = calloc(1, LEN), *got = calloc(1, LEN);
	struct smfs_content c;
	struct smfs_file *file;
	uint64_t x = 11, at = 0, data, hole, total = 0, bytes, stored;

	for (int i = 0; i < 60; i++) {
		size_t off = rnd(&x) % LEN;

		fill_random(buf + off, MIN(LEN - off, rnd(&x) % 100000), i + 1);
	}
	put_snapshot(f, "a", buf, LEN, &c);
	ok(f, smfs_file_open(f->s, &c, &file, &f->err));
	while (at < LEN && smfs_file_seek(file, at, SEEK_DATA, &data, &f->err) == 0) {
		ok(f, smfs_file_seek(file, data, SEEK_HOLE, &hole, &f->err));
		assert_true(hole > data && data >= at);
		ok(f, smfs_file_pread(file, got + data, hole - data, data, &f->err));
		total += hole - data;
		at = hole;
	}
	assert_memory_equal(got, buf, LEN);
	ok(f, smfs_file_usage(file, &bytes, &stored, &f->err));
	assert_int_equal(bytes, total);
	assert_true(total < LEN / 2);
	smfs_file_close(file);
}

static void files_are_ingested_with_their_holes_and_cuts(void **state)
{
	struct fixture *f = *state;
	enum { LEN = 5 * 1048576 };
	char path[] = "/tmp/smfs-src.XXXXXX";
	cleanup_free uint8_t *buf = calloc(1, LEN);
	cleanup_fd int fd = mkstemp(path);
	static const uint64_t cuts[] = {0, 4096, 70000, 2 * MIB + 1, 4 * MIB, LEN, LEN + 9};
	struct smfs_content c;
	struct smfs_ingest *ing;

	unlink(path);
	fill_random(buf + 4096, 100000, 1);
	fill_random(buf + 4 * MIB, 50000, 2);
	assert_int_equal(ftruncate(fd, LEN), 0);
	assert_int_equal(pwrite(fd, buf + 4096, 100000, 4096), 100000);
	assert_int_equal(pwrite(fd, buf + 4 * MIB, 50000, 4 * MIB), 50000);
	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	ok(f, smfs_ingest_fd(ing, fd, cuts, ARRAY_SIZE(cuts), &c, &f->err));
	ok(f, smfs_ingest_commit(ing, &f->err));
	read_equals(f, &c, buf, LEN);
}

static void nothing_is_visible_before_commit(void **state)
{
	struct fixture *f = *state;
	struct smfs_content c;
	struct smfs_ingest *ing;
	struct smfs_name n;
	uint64_t seq = smfs_store_seq(f->s);
	struct smfs_store_stat st;

	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	ok(f, smfs_ingest_mem(ing, "hello", 5, &c, &f->err));
	stage_file(f, ing, "x", &c, 0);
	assert_int_equal(smfs_name_get(f->s, SMFS_SNAPSHOT, "x", &n, &f->err), -ENOENT);
	smfs_ingest_abort(ing);
	assert_int_equal(smfs_name_get(f->s, SMFS_SNAPSHOT, "x", &n, &f->err), -ENOENT);
	assert_int_equal(smfs_store_seq(f->s), seq);
	ok(f, smfs_store_stat(f->s, &st, &f->err));
	assert_int_equal(st.chunks, 0);
	put_snapshot(f, "x", "hello", 5, &c);
	ok(f, smfs_name_get(f->s, SMFS_SNAPSHOT, "x", &n, &f->err));
	assert_int_equal(smfs_store_seq(f->s), seq + 1);
	assert_int_equal(n.seq, seq + 1);
	assert_int_equal(n.logical_bytes, 5);
}

static void names_are_taken_once(void **state)
{
	struct fixture *f = *state;
	struct smfs_content a, b, c;
	struct smfs_ingest *ing;

	put_snapshot(f, "x", "one", 3, &a);
	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	ok(f, smfs_ingest_mem(ing, "two", 3, &b, &f->err));
	stage_file(f, ing, "x", &b, 0);
	assert_int_equal(smfs_ingest_commit(ing, &f->err), -EEXIST);
	ok(f, get_snapshot(f, "x", &c));
	read_equals(f, &c, "one", 3);
	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	ok(f, smfs_ingest_mem(ing, "two", 3, &b, &f->err));
	stage_file(f, ing, "x", &b, SMFS_REPLACE);
	ok(f, smfs_ingest_commit(ing, &f->err));
	ok(f, get_snapshot(f, "x", &c));
	read_equals(f, &c, "two", 3);
}

static void names_move_and_go(void **state)
{
	struct fixture *f = *state;
	struct smfs_content a, b, c;
	struct smfs_name v[4];

	put_snapshot(f, "a", "one", 3, &a);
	put_snapshot(f, "b", "two", 3, &b);
	assert_int_equal(smfs_name_rename(f->s, SMFS_SNAPSHOT, "a", "b", &f->err), -EEXIST);
	assert_int_equal(smfs_name_rename(f->s, SMFS_SNAPSHOT, "zz", "y", &f->err), -ENOENT);
	assert_int_equal(smfs_name_rename(f->s, SMFS_SNAPSHOT, "a", "../y", &f->err), -EINVAL);
	ok(f, smfs_name_rename(f->s, SMFS_SNAPSHOT, "a", "c", &f->err));
	assert_int_equal(get_snapshot(f, "a", &c), -ENOENT);
	ok(f, get_snapshot(f, "c", &c));
	read_equals(f, &c, "one", 3);
	assert_int_equal(smfs_name_list(f->s, SMFS_SNAPSHOT, NULL, v, 4, &f->err), 2);
	assert_string_equal(v[0].name, "b");
	assert_string_equal(v[1].name, "c");
	assert_int_equal(smfs_name_list(f->s, SMFS_SNAPSHOT, "b", v, 4, &f->err), 1);
	assert_string_equal(v[0].name, "c");
	assert_int_equal(smfs_name_list(f->s, SMFS_SNAPSHOT, NULL, v, 1, &f->err), 1);
	assert_int_equal(smfs_name_list(f->s, SMFS_IMAGE, NULL, v, 4, &f->err), 0);
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "b", &f->err));
	assert_int_equal(smfs_name_remove(f->s, SMFS_SNAPSHOT, "b", &f->err), -ENOENT);
	assert_int_equal(smfs_store_seq(f->s), 4);
	reopen(f, SMFS_RDONLY);
	assert_int_equal(smfs_name_list(f->s, SMFS_SNAPSHOT, NULL, v, 4, &f->err), 1);
	assert_int_equal(smfs_name_remove(f->s, SMFS_SNAPSHOT, "c", &f->err), -EROFS);
	struct smfs_ingest *ing;
	assert_int_equal(smfs_ingest_begin(f->s, &ing, &f->err), -EROFS);
}

static void names_that_could_reach_a_path_are_refused(void **state)
{
	static const struct {
		enum smfs_kind kind;
		const char *name;
		bool valid;
	} cases[] = {
		{SMFS_SNAPSHOT, "x", true},
		{SMFS_SNAPSHOT, "warm.v1_2-3", true},
		{SMFS_SNAPSHOT, "", false},
		{SMFS_SNAPSHOT, ".", false},
		{SMFS_SNAPSHOT, "..", false},
		{SMFS_SNAPSHOT, ".hidden", false},
		{SMFS_SNAPSHOT, "a/b", false},
		{SMFS_SNAPSHOT, "a\nb", false},
		{SMFS_SNAPSHOT, "\xc3\xa9", false},
		{SMFS_IMAGE, "docker.io/library/alpine:3.20", true},
		{SMFS_IMAGE, "localhost:5000/a/b_c-d:v1", true},
		{SMFS_IMAGE, "localhost:5000/a", false},
		{SMFS_IMAGE, "alpine:3.20", false},
		{SMFS_IMAGE, "docker.io/../alpine:3", false},
		{SMFS_IMAGE, "docker.io/a//b:3", false},
		{SMFS_IMAGE, "docker.io/a:.", false},
		{SMFS_IMAGE, "docker.io/a:", false},
		{SMFS_IMAGE, "host:port/a:b", false},
		{SMFS_IMAGE, "../a:b", false},
		{SMFS_LAYER,
		 "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", true},
		{SMFS_LAYER,
		 "sha256:0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef", false},
		{SMFS_LAYER, "sha256:01", false},
		{SMFS_LAYER, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
		 false},
		{(enum smfs_kind)9, "x", false},
	};
	struct err err;
	char big[SMFS_REF_MAX + 9];

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		if ((smfs_name_check(cases[i].kind, cases[i].name, &err) == 0) != cases[i].valid)
			fail_msg("%s: wrong verdict", cases[i].name);
	memset(big, 'a', sizeof(big) - 1);
	big[sizeof(big) - 1] = 0;
	assert_int_equal(smfs_name_check(SMFS_SNAPSHOT, big, &err), -EINVAL);
}

static void directories_keep_every_attribute(void **state)
{
	struct fixture *f = *state;
	struct smfs_xattr xattrs[] = {{"user.b", "two", 3}, {"security.capability", "\0\1\2", 3}};
	struct smfs_content c;
	struct smfs_ingest *ing;
	struct smfs_id sub, id, id2;
	struct smfs_dir *d;
	char longname[256];

	memset(longname, 'n', 255);
	longname[255] = 0;
	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	ok(f, smfs_ingest_mem(ing, "content", 7, &c, &f->err));
	ok(f, smfs_ingest_dir(ing, NULL, 0, &sub, &f->err));
	struct smfs_entry e[] = {
		{.name = "z",
		 .mode = S_IFREG | 04755,
		 .uid = 1000,
		 .gid = 4294967294u,
		 .mtime_sec = -5,
		 .mtime_nsec = 999999999,
		 .nlink = 2,
		 .link = 77,
		 .content = c,
		 .xattrs = xattrs,
		 .nxattrs = 2},
		{.name = longname, .mode = S_IFREG | 04755, .nlink = 2, .link = 77, .content = c},
		{.name = "link", .mode = S_IFLNK | 0777, .target = "../../etc/passwd"},
		{.name = "dir", .mode = S_IFDIR | 01777, .dir = sub},
		{.name = "null", .mode = S_IFCHR | 0666, .rdev_major = 1, .rdev_minor = 3},
		{.name = "pipe", .mode = S_IFIFO | 0600},
	};
	ok(f, smfs_ingest_dir(ing, e, ARRAY_SIZE(e), &id, &f->err));
	/* the order given does not matter */
	struct smfs_entry swapped[ARRAY_SIZE(e)];
	for (size_t i = 0; i < ARRAY_SIZE(e); i++)
		swapped[i] = e[ARRAY_SIZE(e) - 1 - i];
	ok(f, smfs_ingest_dir(ing, swapped, ARRAY_SIZE(e), &id2, &f->err));
	assert_memory_equal(&id, &id2, sizeof(id));
	struct smfs_entry attr = {.mode = S_IFDIR | 0711, .uid = 5, .gid = 6, .mtime_sec = 10};
	ok(f, smfs_ingest_name(ing, SMFS_SNAPSHOT, "t", &id, &attr, 0, &f->err));
	ok(f, smfs_ingest_commit(ing, &f->err));

	reopen(f, SMFS_RDONLY);
	struct smfs_name n;
	ok(f, smfs_name_get(f->s, SMFS_SNAPSHOT, "t", &n, &f->err));
	assert_int_equal(n.mode, 0711);
	assert_int_equal(n.mtime, 10000000000);
	assert_int_equal(n.logical_bytes, 14);
	ok(f, smfs_dir_open(f->s, &n.root, &d, &f->err));
	assert_int_equal(smfs_dir_count(d), ARRAY_SIZE(e));
	for (size_t i = 1; i < smfs_dir_count(d); i++)
		assert_true(strcmp(smfs_dir_at(d, i - 1)->name, smfs_dir_at(d, i)->name) < 0);
	const struct smfs_entry *z = smfs_dir_find(d, "z");
	assert_non_null(z);
	assert_int_equal(z->mode, S_IFREG | 04755);
	assert_int_equal(z->uid, 1000);
	assert_int_equal(z->gid, 4294967294u);
	assert_int_equal(z->mtime_sec, -5);
	assert_int_equal(z->mtime_nsec, 999999999);
	assert_int_equal(z->link, 77);
	assert_int_equal(z->nlink, 2);
	assert_memory_equal(&z->content, &c, sizeof(c));
	assert_int_equal(z->nxattrs, 2);
	assert_string_equal(z->xattrs[0].name, "security.capability");
	assert_memory_equal(z->xattrs[0].value, "\0\1\2", 3);
	assert_string_equal(z->xattrs[1].name, "user.b");
	assert_non_null(smfs_dir_find(d, longname));
	assert_string_equal(smfs_dir_find(d, "link")->target, "../../etc/passwd");
	assert_memory_equal(&smfs_dir_find(d, "dir")->dir, &sub, sizeof(sub));
	assert_int_equal(smfs_dir_find(d, "null")->rdev_minor, 3);
	assert_null(smfs_dir_find(d, "absent"));
	assert_null(smfs_dir_at(d, 6));
	smfs_dir_close(d);
}

static void impossible_entries_are_refused(void **state)
{
	struct fixture *f = *state;
	struct smfs_content none = {.size = 5, .kind = SMFS_CHUNK, .id.b = {1}};
	struct smfs_xattr twice[] = {{"user.a", "", 0}, {"user.a", "x", 1}};
	struct smfs_xattr big = {"user.a", "", SMFS_XATTR_MAX};
	struct smfs_entry bad[] = {
		{.name = ".", .mode = S_IFIFO},
		{.name = "..", .mode = S_IFIFO},
		{.name = "", .mode = S_IFIFO},
		{.name = "a/b", .mode = S_IFIFO},
		{.name = "a", .mode = 0},
		{.name = "a", .mode = S_IFIFO | 0200000},
		{.name = "a", .mode = S_IFIFO, .mtime_nsec = 1000000000},
		{.name = "a", .mode = S_IFREG, .content = none},
		{.name = "a", .mode = S_IFDIR, .dir.b = {1}},
		{.name = "a", .mode = S_IFLNK, .target = ""},
		{.name = "a", .mode = S_IFLNK},
		{.name = "a", .mode = S_IFIFO, .xattrs = twice, .nxattrs = 2},
		{.name = "a", .mode = S_IFIFO, .xattrs = &big, .nxattrs = 1},
		{.name = "a", .mode = S_IFIFO, .nlink = 2},
	};
	struct smfs_entry same[] = {{.name = "a", .mode = S_IFIFO}, {.name = "a", .mode = S_IFIFO}};
	struct smfs_ingest *ing;
	struct smfs_id id = {{1}};

	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (smfs_ingest_dir(ing, &bad[i], 1, &id, &f->err) >= 0)
			fail_msg("entry %zu was accepted", i);
	assert_int_equal(smfs_ingest_dir(ing, same, 2, &id, &f->err), -EINVAL);
	id = (struct smfs_id){{1}};
	assert_int_equal(smfs_ingest_name(ing, SMFS_SNAPSHOT, "a", &id, NULL, 0, &f->err), -EINVAL);
	/* a refusal is no failure of the ingest */
	ok(f, smfs_ingest_dir(ing, same, 1, &id, &f->err));
	ok(f, smfs_ingest_commit(ing, &f->err));
}

static void a_store_is_opened_once_in_a_process(void **state)
{
	struct fixture *f = *state;
	struct smfs_store *s;

	assert_int_equal(smfs_store_open(f->dir, 0, &s, &f->err), -EBUSY);
	assert_int_equal(smfs_store_init(f->dir, &f->err), -EEXIST);
	assert_int_equal(smfs_store_open("/tmp/no-such-store", 0, &s, &f->err), -ENOENT);
	assert_int_equal(smfs_store_open("/tmp", 0, &s, &f->err), -ENOENT);
	reopen(f, 0);
}

static void content_references_parse_strictly(void **state)
{
	struct smfs_content c = {.size = 100, .kind = SMFS_CHUNK, .id.b = {7}}, d;
	uint8_t buf[SMFS_CONTENT_LEN];
	struct err err;

	smfs_content_encode(&c, buf);
	assert_int_equal(smfs_content_decode(buf, sizeof(buf), &d, &err), 0);
	assert_memory_equal(&c, &d, sizeof(c));
	assert_int_equal(smfs_content_decode(buf, sizeof(buf) - 1, &d, &err), -EBADMSG);
	struct smfs_content bad[] = {
		{.size = 65537, .kind = SMFS_CHUNK},
		{.size = 0, .kind = SMFS_CHUNK},
		{.size = 1, .kind = SMFS_ZERO, .id.b = {1}},
		{.size = 100, .kind = SMFS_MAP, .depth = 1},
		{.size = 1ull << 60, .kind = SMFS_ZERO},
		{.size = 1, .kind = 3},
	};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		smfs_content_encode(&bad[i], buf);
		assert_int_equal(smfs_content_decode(buf, sizeof(buf), &d, &err), -EBADMSG);
	}
}

/* What two names share is shared by both; what only one has is nobody else's. */
static void usage_tells_own_from_shared(void **state)
{
	struct fixture *f = *state;
	enum { LEN = 20 * 65536 };
	cleanup_free uint8_t *buf = malloc(LEN);
	struct smfs_usage a, b;
	struct smfs_content c;

	fill_random(buf, LEN, 1);
	memset(buf + 5 * 65536, 0, 5 * 65536);
	put_snapshot(f, "a", buf, LEN, &c);
	ok(f, smfs_name_usage(f->s, SMFS_SNAPSHOT, "a", &a, &f->err));
	assert_int_equal(a.logical_bytes, LEN);
	assert_int_equal(a.data_bytes, 15 * 65536);
	assert_int_equal(a.shared_bytes, 0);
	assert_true(a.stored_bytes > 15 * 65536 && a.stored_bytes < 15 * 65536 + 4096);
	buf[0] ^= 1;
	put_snapshot(f, "b", buf, LEN, &c);
	ok(f, smfs_name_usage(f->s, SMFS_SNAPSHOT, "a", &a, &f->err));
	ok(f, smfs_name_usage(f->s, SMFS_SNAPSHOT, "b", &b, &f->err));
	assert_int_equal(a.shared_bytes, b.shared_bytes);
	/* fourteen chunks of fifteen; the map and the directory differ */
	assert_true(a.shared_bytes >= 14 * 65536 && a.shared_bytes < 15 * 65536);
	ok(f, smfs_name_remove(f->s, SMFS_SNAPSHOT, "b", &f->err));
	ok(f, smfs_name_usage(f->s, SMFS_SNAPSHOT, "a", &a, &f->err));
	assert_int_equal(a.shared_bytes, 0);
	assert_int_equal(smfs_name_usage(f->s, SMFS_SNAPSHOT, "b", &b, &f->err), -ENOENT);
}

#define store_test(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		store_test(content_of_every_size_comes_back),
		store_test(writes_of_any_shape_give_one_content),
		store_test(reads_at_any_offset_agree),
		store_test(one_byte_differs_only_where_it_was_written),
		store_test(equal_content_is_stored_once),
		store_test(cuts_share_a_file_inside_an_image),
		store_test(holes_are_found_and_cost_nothing),
		store_test(holes_hide_no_data),
		store_test(files_are_ingested_with_their_holes_and_cuts),
		store_test(nothing_is_visible_before_commit),
		store_test(names_are_taken_once),
		store_test(names_move_and_go),
		store_test(names_that_could_reach_a_path_are_refused),
		store_test(directories_keep_every_attribute),
		store_test(impossible_entries_are_refused),
		store_test(usage_tells_own_from_shared),
		store_test(a_store_is_opened_once_in_a_process),
		cmocka_unit_test(content_references_parse_strictly),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
