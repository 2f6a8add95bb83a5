/* Reading content: a position of a file to a leaf, an extent, a chunk. */
#include "smfs/store/index_gc.h"
#include "smfs/store/map.h"
#include "smfs/store/object.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/*
 * Data is reported in units of this many bytes: chunks end where their trailing zeros begin, and
 * a hole smaller than a page is worth nothing to anyone.
 */
#define HOLE_GRAIN 4096u

struct smfs_file {
	struct smfs_store *s;
	struct smfs_content c;
};

int smfs_file_open(struct smfs_store *s, const struct smfs_content *c, struct smfs_file **out,
		   struct err *err)
{
	uint8_t buf[SMFS_CONTENT_LEN];
	struct smfs_content checked;

	smfs_content_encode(c, buf);
	int r = smfs_content_decode(buf, sizeof(buf), &checked, err);
	if (r < 0)
		return r;
	struct smfs_file *f = malloc(sizeof(*f));
	if (!f)
		return err_set(err, ENOMEM, "open file: out of memory");
	*f = (struct smfs_file){s, checked};
	*out = f;
	return 0;
}

void smfs_file_close(struct smfs_file *f)
{
	free(f);
}

/* The first leaf at or after *index, loaded: 1, or 0 when none follows. */
static int next_leaf(struct smfs_file *f, uint64_t *index, struct cache_entry **out,
		     struct err *err)
{
	struct smfs_id id;
	int r = object_next_leaf(f->s, &f->c, index, &id, err);

	if (r <= 0)
		return r;
	r = object_map(f->s, &id, 0, out, err);
	return r < 0 ? r : 1;
}

static int read_leaf(struct smfs_file *f, const void *leaf, uint8_t *buf, uint32_t off,
		     uint32_t len, struct err *err)
{
	uint32_t i = map_leaf_find(leaf, off), n = map_count(leaf), end = off + len;

	while (off < end) {
		struct map_extent e = {.off = UINT32_MAX};

		if (i < n)
			map_leaf_at(leaf, i++, &e);
		if (e.off > off) {
			uint32_t gap = MIN(e.off, end) - off;

			memset(buf, 0, gap);
			buf += gap;
			off += gap;
			if (off == end)
				break;
		}
		uint32_t skip = off - e.off, take = MIN(e.len - skip, end - off);
		int r = object_chunk(f->s, &e.id, e.chunk_off + skip, buf, take, err);
		if (r < 0)
			return r;
		buf += take;
		off += take;
	}
	return 0;
}

static int read_map(struct smfs_file *f, uint8_t *buf, size_t len, uint64_t off, struct err *err)
{
	while (len) {
		uint64_t want = off / LEAF_SPAN, found = want;
		size_t n = MIN(len, LEAF_SPAN - off % LEAF_SPAN);
		cleanup_entry struct cache_entry *leaf = NULL;
		int r = next_leaf(f, &found, &leaf, err);

		if (r < 0)
			return r;
		if (r == 1 && found == want) {
			r = read_leaf(f, leaf->data, buf, (uint32_t)(off % LEAF_SPAN), (uint32_t)n,
				      err);
			if (r < 0)
				return r;
		} else {
			n = r == 0 ? len : MIN(len, found * LEAF_SPAN - off);
			memset(buf, 0, n);
		}
		buf += n;
		off += n;
		len -= n;
	}
	return 0;
}

ssize_t smfs_file_pread(struct smfs_file *f, void *buf, size_t len, uint64_t off, struct err *err)
{
	int r = 0;

	if (off >= f->c.size)
		return 0;
	len = MIN(len, f->c.size - off);
	len = MIN(len, (size_t)GIB);
	switch (f->c.kind) {
	case SMFS_ZERO:
		memset(buf, 0, len);
		break;
	case SMFS_CHUNK:
		r = object_chunk_padded(f->s, &f->c.id, (uint32_t)off, buf, (uint32_t)len, err);
		break;
	default:
		r = read_map(f, buf, len, off, err);
	}
	return r < 0 ? r : (ssize_t)len;
}

/* ---- holes ---- */

/*
 * The first run of data that ends after `off`, in HOLE_GRAIN units and within the file: 1 with
 * [*start, *end), 0 when none follows. Runs that touch are one.
 */
static int next_data(struct smfs_file *f, uint64_t off, uint64_t *start, uint64_t *end,
		     struct err *err)
{
	uint64_t index = off / LEAF_SPAN;
	bool have = false;

	for (;; index++) {
		cleanup_entry struct cache_entry *leaf = NULL;
		int r = next_leaf(f, &index, &leaf, err);

		if (r < 0)
			return r;
		if (r == 0)
			return have;
		uint64_t base = index * LEAF_SPAN;
		if (have && base > *end)
			return 1;
		for (uint32_t i = 0, n = map_count(leaf->data); i < n; i++) {
			struct map_extent e;

			map_leaf_at(leaf->data, i, &e);
			uint64_t a = align_down(base + e.off, HOLE_GRAIN);
			uint64_t b = MIN(align_up(base + e.off + e.len, HOLE_GRAIN), f->c.size);
			if (b <= off || a >= f->c.size)
				continue;
			if (have && a > *end)
				return 1;
			if (!have)
				*start = a;
			*end = b;
			have = true;
		}
	}
}

int smfs_file_seek(struct smfs_file *f, uint64_t off, int whence, uint64_t *out, struct err *err)
{
	uint64_t start = 0, end = f->c.size;
	int r = 1;

	if (whence != SEEK_DATA && whence != SEEK_HOLE)
		return err_set(err, EINVAL, "seek: whence %d", whence);
	if (off >= f->c.size)
		return err_set(err, ENXIO, "seek: past end of file");
	if (f->c.kind == SMFS_ZERO)
		r = 0;
	else if (f->c.kind == SMFS_MAP)
		r = next_data(f, off, &start, &end, err);
	if (r < 0)
		return r;
	if (whence == SEEK_HOLE) {
		*out = r == 0 || start > off ? off : end;
		return 0;
	}
	if (r == 0)
		return err_set(err, ENXIO, "seek: no data after this offset");
	*out = MAX(start, off);
	return 0;
}

/* ---- extents ---- */

static ssize_t chunk_extent(struct smfs_file *f, uint64_t off, struct smfs_extent *out, size_t max,
			    struct err *err)
{
	struct frame_loc loc;
	char hex[65];
	int r = index_find_any(f->s->ix, FRAME_CHUNK, &f->c.id, &loc, err);

	if (r == 0)
		r = err_set(err, EBADMSG, "chunk %.12s: not in the store",
			    smfs_id_hex(&f->c.id, hex));
	if (r < 0 || !max || off >= loc.raw_len)
		return r < 0 ? r : 0;
	*out = (struct smfs_extent){.len = (uint32_t)MIN(loc.raw_len, f->c.size), .chunk = f->c.id};
	return 1;
}

ssize_t smfs_file_extents(struct smfs_file *f, uint64_t off, uint64_t len, struct smfs_extent *out,
			  size_t max, struct err *err)
{
	size_t got = 0;

	if (off >= f->c.size || f->c.kind == SMFS_ZERO)
		return 0;
	uint64_t end = off + MIN(len, f->c.size - off);
	if (f->c.kind == SMFS_CHUNK)
		return chunk_extent(f, off, out, max, err);
	for (uint64_t index = off / LEAF_SPAN; index * LEAF_SPAN < end && got < max; index++) {
		cleanup_entry struct cache_entry *leaf = NULL;
		int r = next_leaf(f, &index, &leaf, err);

		if (r <= 0)
			return r < 0 ? r : (ssize_t)got;
		uint64_t base = index * LEAF_SPAN;
		uint32_t i = off > base ? map_leaf_find(leaf->data, (uint32_t)(off - base)) : 0;
		for (uint32_t n = map_count(leaf->data); i < n && got < max; i++) {
			struct map_extent e;

			map_leaf_at(leaf->data, i, &e);
			if (base + e.off >= end)
				break;
			out[got++] = (struct smfs_extent){base + e.off, e.len, e.chunk_off, e.id};
		}
	}
	return (ssize_t)got;
}

/* ---- usage ---- */

static int frame_cost(struct smfs_file *f, uint8_t kind, const struct smfs_id *id, uint64_t *bytes,
		      struct err *err)
{
	struct frame_loc loc;
	int r = index_find(f->s->ix, kind, id, &loc, err);

	if (r == 1)
		*bytes += frame_disk_len(loc.stored_len);
	return r < 0 ? r : 0;
}

struct id_vec {
	struct smfs_id *v;
	size_t n, cap;
};

static int id_push(struct id_vec *x, const struct smfs_id *id)
{
	if (x->n == x->cap) {
		size_t cap = x->cap ? x->cap * 2 : 1024;
		struct smfs_id *v = reallocarray(x->v, cap, sizeof(*v));

		if (!v)
			return -ENOMEM;
		x->v = v;
		x->cap = cap;
	}
	x->v[x->n++] = *id;
	return 0;
}

static int by_id(const void *a, const void *b)
{
	return memcmp(a, b, SMFS_ID_LEN);
}

static int collect(struct smfs_file *f, struct id_vec *ids, uint64_t *data, struct err *err)
{
	uint64_t end = 0;

	for (uint64_t index = 0;; index++) {
		cleanup_entry struct cache_entry *leaf = NULL;
		int r = next_leaf(f, &index, &leaf, err);

		if (r <= 0)
			return r;
		for (uint32_t i = 0, n = map_count(leaf->data); i < n; i++) {
			struct map_extent e;

			map_leaf_at(leaf->data, i, &e);
			uint64_t a = index * LEAF_SPAN + e.off, b = a + e.len;
			a = MAX(align_down(a, HOLE_GRAIN), end);
			b = MIN(align_up(b, HOLE_GRAIN), f->c.size);
			if (b > a)
				*data += b - a;
			end = MAX(end, b);
			if (id_push(ids, &e.id) < 0)
				return err_set(err, ENOMEM, "measure file: out of memory");
		}
	}
}

int smfs_file_usage(struct smfs_file *f, uint64_t *data_bytes, uint64_t *stored_bytes,
		    struct err *err)
{
	struct id_vec ids = {0};
	int r = 0;

	*data_bytes = *stored_bytes = 0;
	if (f->c.kind == SMFS_ZERO)
		return 0;
	if (f->c.kind == SMFS_CHUNK) {
		*data_bytes = f->c.size;
		return frame_cost(f, FRAME_CHUNK, &f->c.id, stored_bytes, err);
	}
	r = collect(f, &ids, data_bytes, err);
	if (ids.n)
		qsort(ids.v, ids.n, sizeof(*ids.v), by_id);
	for (size_t i = 0; i < ids.n && r == 0; i++)
		if (i == 0 || !id_equal(&ids.v[i - 1], &ids.v[i]))
			r = frame_cost(f, FRAME_CHUNK, &ids.v[i], stored_bytes, err);
	free(ids.v);
	return r;
}
