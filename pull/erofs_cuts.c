/*
 * The on-disk format is that of Linux's fs/erofs/erofs_fs.h: a superblock at byte 1024; inodes of
 * 32 (compact) or 64 (extended) bytes at 32-byte slots from meta_blkaddr, extended attributes
 * behind them; directories as blocks of 12-byte entries followed by the names.
 */
#include "pull/erofs_cuts.h"

#include <stdlib.h>
#include <sys/stat.h>

#include "smfs/base/bytes.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/err.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

#define SB_OFFSET     1024
#define SB_SIZE	      128
#define EROFS_MAGIC   0xE0F5E1E2u
#define SLOT	      32u
#define DIRENT_SIZE   12u
#define LAYOUT_PLAIN  0
#define LAYOUT_INLINE 2
#define BLOCK_MAX     65536u
/* Entries of all directories, and directories waiting to be read: far above what a tree may hold.
 */
#define ENTRIES_MAX (8u << 20)
#define CUTS_MAX    (8u << 20)

enum { EROFS_REG = 1, EROFS_DIR = 2 }; /* a directory entry's file_type */

struct list {
	uint64_t *v;
	size_t n, cap;
};

struct image {
	int fd;
	uint64_t size, meta; /* bytes */
	uint32_t block;
	uint32_t entries; /* seen so far */
	uint64_t inodes, dirs_read;
	struct list cuts, dirs;
	struct err *err;
};

struct location {
	uint64_t size;	      /* of the file */
	uint64_t data;	      /* where whole blocks begin */
	uint64_t data_len;    /* the bytes there */
	uint64_t inline_data; /* where the rest is, in the metadata */
};

static int corrupt(struct image *im, const char *what)
{
	return err_set(im->err, EBADMSG, "EROFS image: %s", what);
}

static int push(struct image *im, struct list *l, uint64_t v, size_t max)
{
	if (l->n == max)
		return corrupt(im, "more files than any tree may hold");
	if (l->n == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 1024;
		uint64_t *p = realloc(l->v, cap * sizeof(*p));

		if (!p)
			return err_set(im->err, ENOMEM, "EROFS image: out of memory");
		l->v = p;
		l->cap = cap;
	}
	l->v[l->n++] = v;
	return 0;
}

static int read_at(struct image *im, void *buf, size_t n, uint64_t off)
{
	if (!range_ok(off, n, im->size))
		return corrupt(im, "an address beyond its end");
	return pread_full(im->fd, buf, n, off) < 0 ? err_set(im->err, EIO, "read EROFS image") : 0;
}

static int read_superblock(struct image *im, uint64_t *root)
{
	uint8_t sb[SB_SIZE];
	struct reader r = reader_of(sb, sizeof(sb));
	int ret = read_at(im, sb, sizeof(sb), SB_OFFSET);
	unsigned bits;

	if (ret < 0)
		return ret;
	if (get_u32(&r) != EROFS_MAGIC)
		return corrupt(im, "no superblock");
	get_view(&r, 8); /* checksum, feature_compat */
	bits = get_u8(&r);
	get_u8(&r);
	*root = get_u16(&r);
	im->inodes = get_u64(&r);
	get_view(&r, 16); /* build_time, build_time_nsec, blocks */
	if (bits < 9 || (1u << bits) > BLOCK_MAX)
		return corrupt(im, "block size out of range");
	im->block = 1u << bits;
	im->meta = (uint64_t)get_u32(&r) << bits;
	return 0;
}

/* 1 = located, 0 = a layout without a place of its own. */
static int locate(struct image *im, uint64_t nid, struct location *out)
{
	uint8_t raw[64] = {0};
	struct reader r = reader_of(raw, sizeof(raw));
	uint64_t off;
	unsigned format, xattrs, layout, header;
	uint32_t addr;
	int ret;

	if (mul_overflow_u64(nid, SLOT, &off) || add_overflow_u64(off, im->meta, &off))
		return corrupt(im, "an inode number out of range");
	ret = read_at(im, raw, SLOT, off);
	if (ret < 0)
		return ret;
	format = get_u16(&r);
	xattrs = get_u16(&r);
	header = format & 1 ? 64 : 32;
	layout = (format >> 1) & 7;
	get_view(&r, 4); /* mode, nlink or reserved */
	out->size = header == 64 ? get_u64(&r) : get_u32(&r);
	if (header == 32)
		get_u32(&r);
	addr = get_u32(&r);
	if (layout != LAYOUT_PLAIN && layout != LAYOUT_INLINE)
		return 0;
	out->data = (uint64_t)addr * im->block;
	out->data_len = layout == LAYOUT_PLAIN ? out->size : align_down(out->size, im->block);
	out->inline_data = off + header + (xattrs ? 12 + 4 * ((uint64_t)xattrs - 1) : 0);
	if (out->data_len && !range_ok(out->data, out->data_len, im->size))
		return corrupt(im, "file data beyond its end");
	return 1;
}

static int add_file(struct image *im, uint64_t nid)
{
	struct location at;
	int r = locate(im, nid, &at);

	if (r <= 0 || at.data_len == 0)
		return r < 0 ? r : 0;
	r = push(im, &im->cuts, at.data, CUTS_MAX);
	/* The padding of the last block is no part of the file: its own chunk of zeros. */
	if (r == 0 && at.data_len % im->block)
		r = push(im, &im->cuts, at.data + at.data_len, CUTS_MAX);
	return r;
}

/* One block of a directory: entries first, then names; the first name's offset tells their count.
 */
static int read_dir_block(struct image *im, const uint8_t *block, size_t len, uint64_t self)
{
	struct reader r = reader_of(block, len);
	uint32_t count = 0;

	for (uint32_t i = 0; i == 0 || i < count; i++) {
		uint64_t nid = get_u64(&r);
		unsigned name = get_u16(&r), type = get_u8(&r);
		int ret = 0;

		get_u8(&r);
		if (i == 0)
			count = name / DIRENT_SIZE;
		if (!reader_ok(&r) || name >= len || count == 0)
			return corrupt(im, "a malformed directory");
		if (++im->entries > ENTRIES_MAX)
			return corrupt(im, "more files than any tree may hold");
		/* "." and "..", the only ones that lead back. */
		bool dot = block[name] == '.' &&
			   (name + 1 == len || !block[name + 1] || block[name + 1] == '.') &&
			   type == EROFS_DIR;

		if (type == EROFS_REG)
			ret = add_file(im, nid);
		else if (type == EROFS_DIR && nid != self && !dot)
			ret = push(im, &im->dirs, nid, ENTRIES_MAX);
		if (ret < 0)
			return ret;
	}
	return 0;
}

static int read_dir(struct image *im, uint64_t nid)
{
	cleanup_free uint8_t *block = malloc(im->block);
	struct location at;
	int r = locate(im, nid, &at);

	/* Each is read once, unless they form a loop. */
	if (++im->dirs_read > im->inodes)
		return corrupt(im, "more folders than inodes");
	if (!block)
		return err_set(im->err, ENOMEM, "EROFS image: out of memory");
	if (r == 0)
		return corrupt(im, "a compressed directory");
	for (uint64_t off = 0; r > 0 && off < at.size;) {
		size_t len = MIN(at.size - off, (uint64_t)im->block);
		uint64_t from = off < at.data_len ? at.data + off : at.inline_data;
		int ret = read_at(im, block, len, from);

		if (ret == 0)
			ret = read_dir_block(im, block, len, nid);
		if (ret < 0)
			return ret;
		off += len;
	}
	return r < 0 ? r : 0;
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static size_t sort_distinct(uint64_t *v, size_t n)
{
	size_t kept = 0;

	if (n)
		qsort(v, n, sizeof(*v), by_value);
	for (size_t i = 0; i < n; i++)
		if (kept == 0 || v[i] != v[kept - 1])
			v[kept++] = v[i];
	return kept;
}

int erofs_cuts(int fd, uint64_t **cuts, size_t *n, struct err *err)
{
	struct image im = {.fd = fd, .err = err};
	struct stat st;
	uint64_t root = 0;
	int r;

	if (fstat(fd, &st) < 0)
		return err_errno(err, "stat EROFS image");
	im.size = st.st_size;
	r = read_superblock(&im, &root);
	if (r == 0)
		r = push(&im, &im.dirs, root, ENTRIES_MAX);
	while (r == 0 && im.dirs.n)
		r = read_dir(&im, im.dirs.v[--im.dirs.n]);
	free(im.dirs.v);
	if (r < 0) {
		free(im.cuts.v);
		return r;
	}
	*n = sort_distinct(im.cuts.v, im.cuts.n);
	*cuts = im.cuts.v;
	return 0;
}
