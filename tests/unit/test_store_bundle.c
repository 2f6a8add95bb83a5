/* Bundles: what goes through, what is left out, and that nothing damaged or made to deceive does.
 */
#include "store_util.h"

#include <pthread.h>
#include <sys/mman.h>

#include "smfs/base/sha256.h"
#include "smfs/store/bundle.h"
#include "smfs/store/bundle_check.h"
#include "smfs/store/map.h"

#include <xxhash.h>

/* Two stores: bundles go from `a` to `b`. */
struct pair {
	struct fixture a, b;
};

static int pair_setup(void **state)
{
	struct pair *p = calloc(1, sizeof(*p));
	struct fixture *fx[2] = {&p->a, &p->b};

	for (int i = 0; i < 2; i++) {
		strcpy(fx[i]->dir, "/tmp/smfs-store.XXXXXX");
		if (!mkdtemp(fx[i]->dir) || smfs_store_init(fx[i]->dir, &fx[i]->err) < 0 ||
		    smfs_store_open(fx[i]->dir, 0, &fx[i]->s, &fx[i]->err) < 0) {
			fprintf(stderr, "setup: %s\n", fx[i]->err.msg);
			return -1;
		}
	}
	*state = p;
	return 0;
}

static int pair_teardown(void **state)
{
	struct pair *p = *state;

	smfs_store_close(p->a.s);
	smfs_store_close(p->b.s);
	rm_tree(p->a.dir);
	rm_tree(p->b.dir);
	free(p);
	return 0;
}

struct bytes {
	uint8_t *p;
	size_t len;
};

static struct bytes export_to_memory(struct fixture *f, const char *const *names, size_t n,
				     const char *base)
{
	struct smfs_name v[8], b;
	struct smfs_bundle_stat st;
	cleanup_fd int fd = memfd_create("bundle", MFD_CLOEXEC);
	struct bytes out;

	for (size_t i = 0; i < n; i++)
		ok(f, smfs_name_get(f->s, SMFS_SNAPSHOT, names[i], &v[i], &f->err));
	if (base)
		ok(f, smfs_name_get(f->s, SMFS_SNAPSHOT, base, &b, &f->err));
	ok(f, smfs_bundle_write(f->s, v, n, &b, base ? 1 : 0, fd, NULL, &st, &f->err));
	out.len = (size_t)lseek(fd, 0, SEEK_END);
	assert_int_equal(out.len, st.stream_bytes);
	out.p = malloc(out.len + 64);
	assert_int_equal(pread(fd, out.p, out.len, 0), out.len);
	return out;
}

static int import_from_memory(struct fixture *f, const void *p, size_t len, const char *as)
{
	struct smfs_bundle_stat st;
	cleanup_fd int fd = memfd_create("bundle", MFD_CLOEXEC);

	assert_int_equal(pwrite(fd, p, len, 0), len);
	return smfs_bundle_read(f->s, fd, as, NULL, &st, &f->err);
}

static void assert_nothing_visible(struct fixture *f)
{
	struct smfs_store_stat st;
	struct smfs_fsck k = {0};

	ok(f, smfs_store_stat(f->s, &st, &f->err));
	assert_int_equal(st.snapshots + st.images + st.layers, 0);
	assert_int_equal(st.chunks, 0);
	ok(f, smfs_fsck(f->s, SMFS_FSCK_READ_DATA, &k, &f->err));
}

static void refused(struct fixture *f, int want, const void *p, size_t len, const char *says)
{
	int r = import_from_memory(f, p, len, NULL);

	if (r != want || !strstr(f->err.msg, says))
		fail_msg("got %d: %s; wanted %d: %s", r, f->err.msg, want, says);
}

/* ---- what goes through ---- */

static void names_arrive_as_they_were(void **state)
{
	struct pair *p = *state;
	enum { LEN = 40 << 20 };
	cleanup_free uint8_t *big = malloc(LEN), *small = malloc(5000);
	struct smfs_content cb, cs, got;
	struct smfs_fsck k = {0};

	fill_mixed(big, LEN, 1);
	fill_random(small, 5000, 2);
	put_snapshot(&p->a, "big", big, LEN, &cb);
	put_snapshot(&p->a, "small", small, 5000, &cs);
	struct bytes x = export_to_memory(&p->a, (const char *const[]){"big", "small"}, 2, NULL);
	ok(&p->b, import_from_memory(&p->b, x.p, x.len, NULL));
	ok(&p->b, get_snapshot(&p->b, "big", &got));
	assert_memory_equal(&got, &cb, sizeof(got));
	read_equals(&p->b, &got, big, LEN);
	ok(&p->b, get_snapshot(&p->b, "small", &got));
	read_equals(&p->b, &got, small, 5000);
	ok(&p->b, smfs_fsck(p->b.s, SMFS_FSCK_READ_DATA, &k, &p->b.err));
	assert_int_equal(k.garbage_frames, 0);

	/* the same stream again, under other names: EEXIST, and nothing new */
	assert_int_equal(import_from_memory(&p->b, x.p, x.len, NULL), -EEXIST);
	assert_int_equal(import_from_memory(&p->b, x.p, x.len, "other"), -EINVAL);
	free(x.p);
}

static void a_layer_of_every_kind_of_entry(void **state)
{
	struct pair *p = *state;
	const char *layer = "sha256:"
			    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
	struct smfs_xattr xattr = {"user.x", "value", 5};
	struct smfs_entry e[] = {
		{.name = "zeros", .mode = S_IFREG | 0600, .nlink = 1, .content.size = 1 << 20},
		{.name = "one", .mode = S_IFREG | 04755, .nlink = 2, .link = 7},
		{.name = "two", .mode = S_IFREG | 04755, .nlink = 2, .link = 7},
		{.name = "link", .mode = S_IFLNK | 0777, .nlink = 1, .target = "one"},
		{.name = "null", .mode = S_IFCHR | 0666, .nlink = 1, .rdev_major = 1},
		{.name = "pipe",
		 .mode = S_IFIFO | 0600,
		 .nlink = 1,
		 .xattrs = &xattr,
		 .nxattrs = 1},
		{.name = "sub", .mode = S_IFDIR | 01777, .nlink = 1},
		{.name = "same", .mode = S_IFDIR | 0755, .nlink = 1},
	};
	struct smfs_entry attr = {
		.mode = 0750, .uid = 3, .gid = 4, .mtime_sec = -5, .mtime_nsec = 250000000};
	struct smfs_bundle_stat st;
	struct smfs_ingest *ing;
	struct smfs_name n, got;
	struct smfs_id root;
	int fd[2];

	ok(&p->a, smfs_ingest_begin(p->a.s, &ing, &p->a.err));
	ok(&p->a, smfs_ingest_mem(ing, "content", 7, &e[1].content, &p->a.err));
	e[2].content = e[1].content;
	ok(&p->a, smfs_ingest_dir(ing, e, 6, &e[6].dir, &p->a.err));
	e[7].dir = e[6].dir;
	ok(&p->a, smfs_ingest_dir(ing, e, ARRAY_SIZE(e), &root, &p->a.err));
	ok(&p->a, smfs_ingest_name(ing, SMFS_LAYER, layer, &root, &attr, 0, &p->a.err));
	ok(&p->a, smfs_ingest_commit(ing, &p->a.err));
	ok(&p->a, smfs_name_get(p->a.s, SMFS_LAYER, layer, &n, &p->a.err));
	assert_int_equal(pipe(fd), 0);
	/* small enough for the pipe's buffer */
	ok(&p->a, smfs_bundle_write(p->a.s, &n, 1, NULL, 0, fd[1], NULL, &st, &p->a.err));
	close(fd[1]);
	ok(&p->b, smfs_bundle_read(p->b.s, fd[0], NULL, NULL, &st, &p->b.err));
	close(fd[0]);
	ok(&p->b, smfs_name_get(p->b.s, SMFS_LAYER, layer, &got, &p->b.err));
	/* the id is of all that is below */
	assert_memory_equal(&got.root, &n.root, sizeof(n.root));
	assert_int_equal(got.logical_bytes, n.logical_bytes);
	assert_int_equal(got.mode, 0750);
	assert_int_equal(got.uid, 3);
	assert_int_equal(got.gid, 4);
	assert_true(got.mtime == n.mtime && got.mtime == -4750000000);
}

struct piped {
	struct fixture *f;
	struct smfs_name n;
	int fd;
};

static void *export_thread(void *arg)
{
	struct piped *p = arg;
	struct smfs_bundle_stat st;
	struct err err = ERR_INIT;
	long r = smfs_bundle_write(p->f->s, &p->n, 1, NULL, 0, p->fd, NULL, &st, &err);

	close(p->fd);
	return (void *)r;
}

static void a_pipe_will_do_and_the_name_may_change(void **state)
{
	struct pair *p = *state;
	enum { LEN = 3 << 20 };
	cleanup_free uint8_t *buf = malloc(LEN);
	struct piped pipe_end = {.f = &p->a};
	struct smfs_bundle_stat st;
	struct smfs_content c;
	int fd[2];
	pthread_t t;
	void *r;

	fill_random(buf, LEN, 3);
	put_snapshot(&p->a, "x", buf, LEN, &c);
	ok(&p->a, smfs_name_get(p->a.s, SMFS_SNAPSHOT, "x", &pipe_end.n, &p->a.err));
	assert_int_equal(pipe(fd), 0);
	pipe_end.fd = fd[1];
	assert_int_equal(pthread_create(&t, NULL, export_thread, &pipe_end), 0);
	ok(&p->b, smfs_bundle_read(p->b.s, fd[0], "y", NULL, &st, &p->b.err));
	pthread_join(t, &r);
	assert_int_equal((long)r, 0);
	close(fd[0]);
	assert_int_equal(get_snapshot(&p->b, "x", &c), -ENOENT);
	ok(&p->b, get_snapshot(&p->b, "y", &c));
	read_equals(&p->b, &c, buf, LEN);
}

static void only_what_the_base_has_not(void **state)
{
	struct pair *p = *state;
	enum { LEN = 20 << 20 };
	cleanup_free uint8_t *buf = malloc(LEN);
	struct smfs_content c;

	fill_random(buf, LEN, 4);
	put_snapshot(&p->a, "parent", buf, LEN, &c);
	fill_random(buf + (5 << 20), 65536, 5);
	put_snapshot(&p->a, "child", buf, LEN, &c);
	struct bytes full = export_to_memory(&p->a, (const char *const[]){"parent"}, 1, NULL);
	struct bytes diff = export_to_memory(&p->a, (const char *const[]){"child"}, 1, "parent");
	/* one chunk, one leaf, one inner node, one directory */
	assert_true(diff.len < 65536 * 2);

	refused(&p->b, -ENOENT, diff.p, diff.len, "snapshot parent (");
	assert_nothing_visible(&p->b);
	/* what counts is the content, not its name */
	ok(&p->b, import_from_memory(&p->b, full.p, full.len, "elsewhere"));
	ok(&p->b, import_from_memory(&p->b, diff.p, diff.len, NULL));
	ok(&p->b, get_snapshot(&p->b, "child", &c));
	read_equals(&p->b, &c, buf, LEN);
	free(full.p);
	free(diff.p);
}

/* ---- damage ---- */

static struct bytes small_bundle(struct pair *p)
{
	uint8_t buf[700];
	struct smfs_content c;

	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = "it is the same again, or nearly "[i % 32] + (i % 97 == 0);
	put_snapshot(&p->a, "s", buf, sizeof(buf), &c);
	return export_to_memory(&p->a, (const char *const[]){"s"}, 1, NULL);
}

static void every_flipped_byte_is_found(void **state)
{
	struct pair *p = *state;
	struct bytes x = small_bundle(p);

	assert_true(x.len < 2000);
	for (size_t i = 0; i < x.len; i++) {
		x.p[i] ^= 0x10;
		if (import_from_memory(&p->b, x.p, x.len, NULL) == 0)
			fail_msg("byte %zu of %zu flipped, and accepted", i, x.len);
		x.p[i] ^= 0x10;
	}
	assert_nothing_visible(&p->b);
	ok(&p->b, import_from_memory(&p->b, x.p, x.len, NULL));
	free(x.p);
}

static void every_truncation_is_found(void **state)
{
	struct pair *p = *state;
	struct bytes x = small_bundle(p);

	for (size_t n = 0; n < x.len; n++)
		refused(&p->b, -EBADMSG, x.p, n, "cut short");
	x.p[x.len] = 0;
	refused(&p->b, -EBADMSG, x.p, x.len + 1, "bytes follow");
	assert_nothing_visible(&p->b);
	free(x.p);
}

/* ---- deceit: every checksum right ---- */

struct forge {
	struct writer w;
	struct bundle_tail t;
};

static void forge_begin(struct forge *g, const struct smfs_id *root)
{
	struct smfs_name n = {.kind = SMFS_SNAPSHOT, .name = "s", .root = *root, .mode = 0755};
	struct writer table = WRITER_INIT;
	uint8_t head[BUNDLE_HEAD_LEN];

	*g = (struct forge){0};
	bundle_name_put(&table, &n);
	put_zero(&table, align_up(table.len, 8) - table.len);
	struct bundle_head h = {
		.nnames = 1, .table_len = table.len, .table_sum = XXH3_64bits(table.p, table.len)};
	bundle_head_encode(&h, head);
	put_bytes(&g->w, head, sizeof(head));
	put_bytes(&g->w, table.p, table.len);
	writer_free(&table);
}

static void forge_frame(struct forge *g, uint8_t kind, const struct smfs_id *id, const void *raw,
			uint32_t len)
{
	struct frame_head h = {.kind = kind, .raw_len = len, .stored_len = len, .id = *id};
	uint8_t head[FRAME_HEAD_LEN];

	frame_head_encode(&h, raw, head);
	put_bytes(&g->w, head, sizeof(head));
	put_bytes(&g->w, raw, len);
	put_zero(&g->w, frame_disk_len(len) - FRAME_HEAD_LEN - len);
	g->t.frames++;
	g->t.raw += len;
	g->t.stored += frame_disk_len(len);
}

static void forge_end(struct forge *g, struct fixture *f, int want, const char *says)
{
	uint8_t tail[BUNDLE_TAIL_LEN];

	g->t.length = g->w.len;
	sha256(g->w.p, g->w.len, g->t.digest);
	bundle_tail_encode(&g->t, tail);
	put_bytes(&g->w, tail, sizeof(tail));
	assert_false(g->w.failed);
	if (want)
		refused(f, want, g->w.p, g->w.len, says);
	else
		ok(f, import_from_memory(f, g->w.p, g->w.len, NULL));
	writer_free(&g->w);
}

/* A directory with one file. */
static struct writer dir_node(const struct smfs_content *c, uint64_t logical, struct smfs_id *id)
{
	struct writer w = WRITER_INIT;

	put_u32(&w, 0x52494453);
	put_u32(&w, 1);
	put_u64(&w, logical);
	put_u8(&w, 4);
	put_bytes(&w, "data", 5);
	put_u32(&w, S_IFREG | 0644);
	for (int i = 0; i < 3; i++)
		put_u32(&w, 0);
	put_u64(&w, 0);
	put_u64(&w, 0);
	put_u32(&w, 1);
	content_put(&w, c);
	put_u16(&w, 0);
	frame_id(FRAME_DIR, w.p, w.len, id);
	return w;
}

static struct writer leaf_node(const struct map_extent *e, struct smfs_id *id)
{
	struct writer w = WRITER_INIT;

	map_leaf_head(&w, 1);
	map_leaf_entry(&w, e);
	frame_id(FRAME_MAP, w.p, w.len, id);
	return w;
}

static void a_frame_must_hash_to_its_id(void **state)
{
	struct fixture *f = &((struct pair *)*state)->b;
	struct smfs_content c = {.size = 100, .kind = SMFS_CHUNK};
	uint8_t data[100];
	struct smfs_id root;
	struct forge g;

	fill_random(data, sizeof(data), 1);
	frame_id(FRAME_CHUNK, data, sizeof(data), &c.id);
	struct writer dir = dir_node(&c, 100, &root);

	/* the forger's own tools make a good one, too */
	forge_begin(&g, &root);
	data[7] ^= 1;
	forge_frame(&g, FRAME_CHUNK, &c.id, data, sizeof(data));
	forge_frame(&g, FRAME_DIR, &root, dir.p, (uint32_t)dir.len);
	forge_end(&g, f, -EBADMSG, "hash to another id");
	assert_nothing_visible(f);

	data[7] ^= 1;
	forge_begin(&g, &root);
	forge_frame(&g, FRAME_CHUNK, &c.id, data, sizeof(data));
	forge_frame(&g, FRAME_CHUNK, &c.id, data, sizeof(data));
	forge_frame(&g, FRAME_DIR, &root, dir.p, (uint32_t)dir.len);
	forge_end(&g, f, -EBADMSG, "comes twice");

	forge_begin(&g, &root);
	forge_frame(&g, FRAME_DIR, &root, dir.p, (uint32_t)dir.len);
	forge_frame(&g, FRAME_CHUNK, &c.id, data, sizeof(data));
	forge_end(&g, f, -EBADMSG, "neither in the stream before");

	forge_begin(&g, &root);
	forge_frame(&g, FRAME_CHUNK, &c.id, data, sizeof(data));
	forge_end(&g, f, -EBADMSG, "directory");

	/* the chunk as a directory: its id is that of other bytes */
	forge_begin(&g, &c.id);
	forge_frame(&g, FRAME_CHUNK, &c.id, data, sizeof(data));
	forge_end(&g, f, -EBADMSG, "directory");
	assert_nothing_visible(f);

	forge_begin(&g, &root);
	forge_frame(&g, FRAME_CHUNK, &c.id, data, sizeof(data));
	forge_frame(&g, FRAME_DIR, &root, dir.p, (uint32_t)dir.len);
	forge_end(&g, f, 0, "");
	writer_free(&dir);
}

static void references_must_fit(void **state)
{
	struct fixture *f = &((struct pair *)*state)->b;
	struct smfs_content c = {.size = 100000, .kind = SMFS_MAP};
	struct smfs_content shorter = {.size = 50, .kind = SMFS_CHUNK};
	struct map_extent e = {.off = 0, .len = 101};
	uint8_t data[100];
	struct smfs_id root;
	struct forge g;

	fill_random(data, sizeof(data), 1);
	frame_id(FRAME_CHUNK, data, sizeof(data), &e.id);
	shorter.id = e.id;
	struct writer leaf = leaf_node(&e, &c.id);
	struct writer dir = dir_node(&c, 100000, &root);
	forge_begin(&g, &root);
	forge_frame(&g, FRAME_CHUNK, &e.id, data, sizeof(data));
	forge_frame(&g, FRAME_MAP, &c.id, leaf.p, (uint32_t)leaf.len);
	forge_frame(&g, FRAME_DIR, &root, dir.p, (uint32_t)dir.len);
	forge_end(&g, f, -EBADMSG, "another length");
	writer_free(&leaf);
	writer_free(&dir);

	dir = dir_node(&shorter, 50, &root);
	forge_begin(&g, &root);
	forge_frame(&g, FRAME_CHUNK, &e.id, data, sizeof(data));
	forge_frame(&g, FRAME_DIR, &root, dir.p, (uint32_t)dir.len);
	forge_end(&g, f, -EBADMSG, "another length");
	writer_free(&dir);

	/* a leaf where a node of level 1 belongs: 17 MiB need depth 1 */
	e.len = 100;
	leaf = leaf_node(&e, &c.id);
	c.size = 17 << 20;
	c.depth = 1;
	dir = dir_node(&c, c.size, &root);
	forge_begin(&g, &root);
	forge_frame(&g, FRAME_CHUNK, &e.id, data, sizeof(data));
	forge_frame(&g, FRAME_MAP, &c.id, leaf.p, (uint32_t)leaf.len);
	forge_frame(&g, FRAME_DIR, &root, dir.p, (uint32_t)dir.len);
	forge_end(&g, f, -EBADMSG, "another level");
	writer_free(&dir);

	c.size = 100000;
	c.depth = 0;
	dir = dir_node(&c, 99999, &root);
	forge_begin(&g, &root);
	forge_frame(&g, FRAME_CHUNK, &e.id, data, sizeof(data));
	forge_frame(&g, FRAME_MAP, &c.id, leaf.p, (uint32_t)leaf.len);
	forge_frame(&g, FRAME_DIR, &root, dir.p, (uint32_t)dir.len);
	forge_end(&g, f, -EBADMSG, "size is not that of its files");
	writer_free(&dir);
	assert_nothing_visible(f);

	dir = dir_node(&c, 100000, &root);
	forge_begin(&g, &root);
	forge_frame(&g, FRAME_CHUNK, &e.id, data, sizeof(data));
	forge_frame(&g, FRAME_MAP, &c.id, leaf.p, (uint32_t)leaf.len);
	forge_frame(&g, FRAME_DIR, &root, dir.p, (uint32_t)dir.len);
	forge_end(&g, f, 0, "");
	writer_free(&leaf);
	writer_free(&dir);
}

static void a_damaged_source_is_not_exported(void **state)
{
	struct pair *p = *state;
	cleanup_free uint8_t *buf = malloc(200000);
	struct smfs_bundle_stat st;
	struct smfs_content c;
	struct smfs_name n;
	char cmd[256];

	fill_random(buf, 200000, 9);
	put_snapshot(&p->a, "x", buf, 200000, &c);
	snprintf(cmd, sizeof(cmd),
		 "for f in %s/packs/*; do printf XXXX | dd of=$f bs=1 seek=70000 conv=notrunc "
		 "2>/dev/null; "
		 "done",
		 p->a.dir);
	assert_int_equal(system(cmd), 0);
	reopen(&p->a, SMFS_RDONLY);
	ok(&p->a, smfs_name_get(p->a.s, SMFS_SNAPSHOT, "x", &n, &p->a.err));
	cleanup_fd int fd = memfd_create("bundle", MFD_CLOEXEC);
	assert_int_equal(smfs_bundle_write(p->a.s, &n, 1, NULL, 0, fd, NULL, &st, &p->a.err),
			 -EBADMSG);
	assert_non_null(strstr(p->a.err.msg, "snapshot x: data: frame"));
}

/* What a copy elsewhere has whole makes this store's copy whole, names and all. */
static void a_stream_heals(void **state)
{
	struct pair *p = *state;
	cleanup_free uint8_t *buf = malloc(200000), *got = malloc(200000);
	struct smfs_store_stat st;
	struct smfs_fsck k = {0};
	struct smfs_content c;
	struct smfs_file *file;
	char cmd[256];

	fill_random(buf, 200000, 9);
	put_snapshot(&p->a, "x", buf, 200000, &c);
	struct bytes x = export_to_memory(&p->a, (const char *const[]){"x"}, 1, NULL);
	ok(&p->b, import_from_memory(&p->b, x.p, x.len, NULL));
	snprintf(cmd, sizeof(cmd),
		 "for f in %s/packs/*; do printf XXXX | dd of=$f bs=1 seek=70000 conv=notrunc "
		 "2>/dev/null; done",
		 p->b.dir);
	assert_int_equal(system(cmd), 0);
	reopen(&p->b, 0);
	ok(&p->b, smfs_file_open(p->b.s, &c, &file, &p->b.err));
	assert_int_equal(smfs_file_pread(file, got, 200000, 0, &p->b.err), -EBADMSG);
	smfs_file_close(file);
	ok(&p->b, import_from_memory(&p->b, x.p, x.len, "again"));
	read_equals(&p->b, &c, buf, 200000);
	ok(&p->b, smfs_store_stat(p->b.s, &st, &p->b.err));
	assert_int_equal(st.healed, 1);
	ok(&p->b, smfs_fsck(p->b.s, SMFS_FSCK_READ_DATA, &k, &p->b.err));
	assert_int_equal(k.quarantined, 0);
	free(x.p);
}

/* ---- deltas ---- */

enum { TINY = 1024 };

/* A leaf of `n` extents of TINY bytes, each the first of one chunk. */
static void put_leaf(struct fixture *f, struct smfs_ingest *ing, uint32_t n, struct smfs_id *leaf,
		     struct smfs_id *chunk)
{
	cleanup_writer struct writer w = WRITER_INIT;
	uint8_t data[TINY];

	fill_random(data, sizeof(data), 1);
	ok(f, ingest_put(ing, FRAME_CHUNK, data, sizeof(data), 0, chunk, &f->err));
	map_leaf_head(&w, n);
	for (uint32_t i = 0; i < n; i++)
		map_leaf_entry(&w, &(struct map_extent){i * TINY, TINY, 0, *chunk});
	ok(f, ingest_put(ing, FRAME_MAP, w.p, (uint32_t)w.len, 0, leaf, &f->err));
}

/* A delta of one entry of the chunk, or of zeros (NULL). */
static int check_delta(struct fixture *f, struct smfs_ingest *ing, const struct smfs_id *leaf,
		       uint32_t off, uint32_t len, const struct smfs_id *chunk)
{
	cleanup_writer struct writer w = WRITER_INIT;
	uint64_t note;

	put_bytes(&w, "DELT", 4);
	put_u32(&w, 0);
	put_u32(&w, 1);
	put_u32(&w, chunk ? 1 : 0);
	put_bytes(&w, leaf->b, SMFS_ID_LEN);
	if (chunk)
		put_bytes(&w, chunk->b, SMFS_ID_LEN);
	put_u32(&w, off);
	put_u32(&w, len);
	put_u32(&w, 0);
	put_u32(&w, chunk ? 0 : UINT32_MAX);
	return bundle_check_map(ing, w.p, (uint32_t)w.len, &note, &f->err);
}

static void deltas_of(struct fixture *f, struct smfs_ingest *ing, const struct smfs_id *few,
		      const struct smfs_id *full, const struct smfs_id *chunk)
{
	ok(f, check_delta(f, ing, few, 0, TINY, NULL));
	ok(f, check_delta(f, ing, few, 100, 50, chunk));
	/* Nothing is left. */
	assert_int_equal(check_delta(f, ing, few, 0, LEAF_SPAN, NULL), -EBADMSG);
	/* Two extents out of one, in a leaf that has no room. */
	ok(f, check_delta(f, ing, full, 0, TINY / 2, NULL));
	assert_int_equal(check_delta(f, ing, full, 100, 50, chunk), -EBADMSG);
	assert_non_null(strstr(f->err.msg, "make none together"));
	/* Past the end of the chunk. */
	assert_int_equal(check_delta(f, ing, few, 0, TINY + 1, chunk), -EBADMSG);
	/* No leaf is there. */
	assert_int_equal(check_delta(f, ing, chunk, 0, TINY, NULL), -EBADMSG);
}

/* The leaf that a delta stands for is checked, whether its base comes in the stream or is there. */
static void a_delta_must_make_a_leaf(void **state)
{
	struct pair *p = *state;
	struct fixture *f = &p->a;
	struct smfs_id few, full, chunk;
	struct smfs_ingest *ing;

	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	put_leaf(f, ing, 3, &few, &chunk);
	put_leaf(f, ing, LEAF_MAX, &full, &chunk);
	deltas_of(f, ing, &few, &full, &chunk);
	ok(f, smfs_ingest_commit(ing, &f->err));
	ok(f, smfs_ingest_begin(f->s, &ing, &f->err));
	deltas_of(f, ing, &few, &full, &chunk);
	smfs_ingest_abort(ing);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, pair_setup, pair_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(names_arrive_as_they_were),
		T(a_layer_of_every_kind_of_entry),
		T(a_pipe_will_do_and_the_name_may_change),
		T(only_what_the_base_has_not),
		T(every_flipped_byte_is_found),
		T(every_truncation_is_found),
		T(a_frame_must_hash_to_its_id),
		T(references_must_fit),
		T(a_damaged_source_is_not_exported),
		T(a_stream_heals),
		T(a_delta_must_make_a_leaf),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
