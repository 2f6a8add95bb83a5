/*
 * A stream with a base: which pages are the base's, which are zero, and where the rest goes.
 *
 * The file is taken in REGIONS of FRAME_SIZE, aligned in the file. When a region is complete, each
 * of its pages is
 *   SAME  the base's: its extents there are copied, clipped to the page
 *   ZERO  no extent
 *   DATA  goes into the pack, a chunk of changed pages from this and other regions
 * A region without a SAME page is a chunk of its own, as in any stream, so that equal regions
 * of unrelated files meet. All pages of a region go into one pack, so a region gains one frame
 * by each diff; when it would come from more than SMFS_DIFF_FRAMES, the SAME pages of the frames
 * that contribute least become DATA until half that many are left. Half, so that the next diffs
 * have room: a page is packed again once in several diffs, not in each.
 *
 * Spans that are SAME as a whole are taken over as leaves, by id; leaves that differ little from
 * the base's are stored as deltas of it (map.h).
 */
#include "smfs/store/stream.h"

#include "smfs/store/object.h"
#include "smfs/store/zero.h"

#include <stdlib.h>
#include <string.h>

#define FRAGS_MAX 64u

enum page { PAGE_SAME, PAGE_ZERO, PAGE_DATA };

/* Bytes of the region that are the base's, and in which of its frames. */
struct frag {
	uint32_t off; /* in the region */
	uint32_t len, chunk_off;
	struct smfs_id id;
	unsigned frame; /* index of the first fragment of the same chunk */
};

struct diff {
	struct smfs_content content; /* of the base */
	struct smfs_file *base;
	bool compare;

	/* The region that begins at st->start. */
	uint32_t fill;
	uint8_t page[CHUNK_PAGES]; /* enum page */
	uint8_t *bytes;		   /* of DATA pages */
	uint8_t *old;		   /* the base's, when old_loaded */
	bool old_loaded;
	struct frag frag[FRAGS_MAX];
	unsigned nfrags;

	/* The base's leaf last used; `leaf` NULL: its span is empty. */
	uint64_t leaf_index;
	bool leaf_loaded;
	struct cache_entry *leaf;

	/* The slot of the extent last copied, to grow while what follows continues it. */
	uint64_t last_index; /* of its leaf */
	struct slot *last;

	uint8_t *pack;
	uint32_t pack_fill;
	struct place place[CHUNK_PAGES];
	unsigned nplaces;
};

static uint32_t page_off(unsigned i)
{
	return i * PAGE_LEN;
}

static unsigned region_pages(const struct diff *d)
{
	return (d->fill + PAGE_LEN - 1) / PAGE_LEN;
}

static unsigned count_pages(const struct diff *d, enum page what)
{
	unsigned n = 0;

	for (unsigned i = 0; i < region_pages(d); i++)
		n += d->page[i] == what;
	return n;
}

/* The first page from `i` on that is not what `i` is. */
static unsigned run_end(const struct diff *d, unsigned i)
{
	unsigned end = i;

	while (end < region_pages(d) && d->page[end] == d->page[i])
		end++;
	return end;
}

/* ---- the base ---- */

/* Bytes of the base, zeros after its end. */
static int read_base(struct diff *d, uint8_t *buf, uint32_t len, uint64_t off, struct err *err)
{
	ssize_t n = smfs_file_pread(d->base, buf, len, off, err);

	if (n < 0)
		return err_wrap(err, (int)n, "read the base");
	memset(buf + n, 0, len - (size_t)n);
	return 0;
}

static int load_old(struct smfs_stream *st, struct err *err)
{
	struct diff *d = st->diff;

	if (d->old_loaded)
		return 0;
	int r = read_base(d, d->old, FRAME_SIZE, st->start, err);
	d->old_loaded = r == 0;
	return r;
}

static int load_leaf(struct smfs_stream *st, struct err *err)
{
	struct diff *d = st->diff;
	uint64_t index = st->start / LEAF_SPAN, found = index;
	struct smfs_id id;

	if (d->leaf_loaded && d->leaf_index == index)
		return 0;
	if (d->leaf)
		cache_put(d->leaf);
	d->leaf = NULL;
	d->leaf_loaded = false;
	int r = d->content.kind == SMFS_MAP
			? object_next_leaf(st->ing->s, &d->content, &found, &id, err)
			: 0;
	if (r == 1 && found == index)
		r = object_map(st->ing->s, &id, 0, &d->leaf, err);
	if (r < 0)
		return r;
	d->leaf_index = index;
	d->leaf_loaded = true;
	return 0;
}

/* Which earlier fragment is of the same chunk. */
static unsigned frame_of(const struct diff *d, const struct smfs_id *id)
{
	unsigned i = 0;

	while (i < d->nfrags && !id_equal(&d->frag[i].id, id))
		i++;
	return i;
}

/* The base's extents within [from, to) of the region; false: more than there is room for. */
static bool collect_run(struct smfs_stream *st, uint32_t from, uint32_t to)
{
	struct diff *d = st->diff;
	const void *leaf = d->leaf->data;
	uint32_t base = (uint32_t)(st->start % LEAF_SPAN), n = map_count(leaf);

	for (uint32_t i = map_leaf_find(leaf, base + from); i < n; i++) {
		struct map_extent e;

		map_leaf_at(leaf, i, &e);
		if (e.off >= base + to)
			break;
		if (d->nfrags == FRAGS_MAX)
			return false;
		uint32_t a = MAX(e.off, base + from), b = MIN(e.off + e.len, base + to);
		d->frag[d->nfrags] = (struct frag){.off = a - base,
						   .len = b - a,
						   .chunk_off = e.chunk_off + (a - e.off),
						   .id = e.id,
						   .frame = frame_of(d, &e.id)};
		d->nfrags++;
	}
	return true;
}

static bool collect(struct smfs_stream *st)
{
	struct diff *d = st->diff;
	uint64_t left = d->content.size > st->start ? d->content.size - st->start : 0;
	uint32_t size = (uint32_t)MIN(left, d->fill);

	d->nfrags = 0;
	for (unsigned i = 0, end; d->leaf && i < region_pages(d); i = end) {
		end = run_end(d, i);
		if (d->page[i] == PAGE_SAME && page_off(i) < size &&
		    !collect_run(st, page_off(i), MIN(page_off(end), size)))
			return false;
	}
	return true;
}

/* ---- what the pages are ---- */

static void find_zeros(struct diff *d)
{
	for (unsigned i = 0; i < region_pages(d); i++)
		if (d->page[i] == PAGE_DATA && zero_trim(d->bytes + page_off(i), PAGE_LEN) == 0)
			d->page[i] = PAGE_ZERO;
}

static int find_same(struct smfs_stream *st, struct err *err)
{
	struct diff *d = st->diff;

	for (unsigned i = 0; i < region_pages(d); i++) {
		if (d->page[i] != PAGE_DATA)
			continue;
		int r = load_old(st, err);
		if (r < 0)
			return r;
		if (memcmp(d->bytes + page_off(i), d->old + page_off(i), PAGE_LEN) == 0)
			d->page[i] = PAGE_SAME;
	}
	return 0;
}

static void take_page(struct diff *d, unsigned i)
{
	if (d->page[i] != PAGE_SAME)
		return;
	memcpy(d->bytes + page_off(i), d->old + page_off(i), PAGE_LEN);
	d->page[i] = PAGE_DATA;
}

/* Every SAME page: the region will be a chunk of its own. */
static int take_all(struct smfs_stream *st, struct err *err)
{
	int r = load_old(st, err);

	for (unsigned i = 0; r == 0 && i < region_pages(st->diff); i++)
		take_page(st->diff, i);
	if (r == 0)
		find_zeros(st->diff);
	return r;
}

/* Bytes that each frame contributes, at its first fragment; returns how many frames. */
static unsigned weigh(const struct diff *d, uint32_t weight[FRAGS_MAX])
{
	unsigned frames = 0;

	memset(weight, 0, FRAGS_MAX * sizeof(*weight));
	for (unsigned i = 0; i < d->nfrags; i++) {
		weight[d->frag[i].frame] += d->frag[i].len;
		frames += d->frag[i].frame == i;
	}
	return frames;
}

/* Take the pages of the frame that contributes least. */
static void take_lightest(struct diff *d, uint32_t weight[FRAGS_MAX])
{
	unsigned least = FRAGS_MAX;

	for (unsigned i = 0; i < d->nfrags; i++)
		if (weight[i] && (least == FRAGS_MAX || weight[i] < weight[least]))
			least = i;
	if (least == FRAGS_MAX)
		return;
	weight[least] = 0;
	for (unsigned i = 0; i < d->nfrags; i++) {
		const struct frag *f = &d->frag[i];

		for (uint32_t p = f->off / PAGE_LEN;
		     f->frame == least && p <= (f->off + f->len - 1) / PAGE_LEN; p++)
			take_page(d, p);
	}
}

static bool crowded(const struct smfs_stream *st)
{
	return st->leaf && st->leaf->index == st->start / LEAF_SPAN &&
	       st->leaf->nslots >= LEAF_CUTS;
}

/* Settle the fragments: at most SMFS_DIFF_FRAMES frames with the pack's, none if that is hopeless.
 */
static int keep_budget(struct smfs_stream *st, struct err *err)
{
	struct diff *d = st->diff;
	uint32_t weight[FRAGS_MAX];
	int r = load_leaf(st, err);

	if (r < 0)
		return r;
	/* A small base has no map to copy from. */
	if (d->content.kind == SMFS_CHUNK || !collect(st) || crowded(st))
		return take_all(st, err);
	unsigned frames = weigh(d, weight);
	if (count_pages(d, PAGE_DATA) == 0 || frames + 1 <= SMFS_DIFF_FRAMES)
		return 0;
	r = load_old(st, err);
	if (r < 0)
		return r;
	for (; frames + 1 > SMFS_DIFF_FRAMES / 2; frames--)
		take_lightest(d, weight);
	/* A page may be zero although the base has extents there. */
	find_zeros(d);
	return collect(st) ? 0 : take_all(st, err);
}

/* ---- where they go ---- */

static int flush_pack(struct smfs_stream *st, struct err *err)
{
	struct diff *d = st->diff;
	int r = 0;

	if (d->nplaces)
		r = stream_pack(st, d->pack, d->pack_fill, d->place, d->nplaces, err);
	d->nplaces = 0;
	d->pack_fill = 0;
	return r;
}

static int pack_pages(struct smfs_stream *st, uint32_t off, uint32_t len, struct err *err)
{
	struct diff *d = st->diff;
	struct slot *slot;
	int r = leaf_add(st, st->start + off, &slot, err);

	if (r < 0)
		return r;
	slot->e.len = len;
	slot->e.chunk_off = d->pack_fill;
	atomic_fetch_add(&st->leaf->refs, 1);
	d->place[d->nplaces++] = (struct place){st->leaf, slot};
	memcpy(d->pack + d->pack_fill, d->bytes + off, len);
	d->pack_fill += len;
	return 0;
}

static int copy_extent(struct smfs_stream *st, const struct frag *f, struct err *err)
{
	struct diff *d = st->diff;
	struct map_extent *e = d->last ? &d->last->e : NULL;
	uint64_t off = st->start + f->off;
	struct slot *slot;

	if (e && d->last_index == off / LEAF_SPAN && st->leaf && st->leaf->index == d->last_index &&
	    e->off + e->len == off % LEAF_SPAN && e->chunk_off + e->len == f->chunk_off &&
	    id_equal(&e->id, &f->id)) {
		e->len += f->len;
		return 0;
	}
	int r = ingest_refer(st->ing, FRAME_CHUNK, &f->id, 0, err);
	if (r == 0)
		r = leaf_add(st, off, &slot, err);
	if (r != 0)
		return r;
	slot->e.len = f->len;
	slot->e.chunk_off = f->chunk_off;
	slot->e.id = f->id;
	d->last = slot;
	d->last_index = st->leaf->index;
	return 0;
}

/* SAME, ZERO and DATA pages side by side. */
static int emit_mixed(struct smfs_stream *st, struct err *err)
{
	struct diff *d = st->diff;
	unsigned next = 0;
	int r = 0;

	if (d->pack_fill + page_off(count_pages(d, PAGE_DATA)) > FRAME_SIZE)
		r = flush_pack(st, err);
	for (unsigned i = 0, end; r == 0 && i < region_pages(d); i = end) {
		end = run_end(d, i);
		uint32_t from = page_off(i), to = MIN(page_off(end), d->fill);

		if (d->page[i] == PAGE_DATA)
			r = pack_pages(st, from, to - from, err);
		else if (d->page[i] == PAGE_ZERO)
			atomic_fetch_add(&st->ing->zero, to - from);
		else
			atomic_fetch_add(&st->ing->dup, to - from);
		for (; r == 0 && next < d->nfrags && d->frag[next].off < to; next++)
			r = copy_extent(st, &d->frag[next], err);
	}
	st->start += d->fill;
	return r;
}

static int emit_region(struct smfs_stream *st, struct err *err)
{
	struct diff *d = st->diff;

	if (count_pages(d, PAGE_DATA) == 0) {
		stream_skip(st, d->fill);
		return 0;
	}
	for (unsigned i = 0; i < region_pages(d); i++)
		if (d->page[i] == PAGE_ZERO)
			memset(d->bytes + page_off(i), 0, PAGE_LEN);
	return stream_chunk(st, d->bytes, d->fill, err);
}

static int region_done(struct smfs_stream *st, struct err *err)
{
	struct diff *d = st->diff;
	int r = 0;

	memset(d->bytes + d->fill, 0, align_up(d->fill, PAGE_LEN) - d->fill);
	find_zeros(d);
	if (d->compare)
		r = find_same(st, err);
	if (r == 0 && count_pages(d, PAGE_SAME))
		r = keep_budget(st, err);
	if (r == 0)
		r = count_pages(d, PAGE_SAME) ? emit_mixed(st, err) : emit_region(st, err);
	d->fill = 0;
	d->old_loaded = false;
	return r;
}

/* ---- the map ---- */

int diff_leaf(struct smfs_stream *st, uint64_t index, struct writer *w, struct smfs_id *id,
	      struct err *err)
{
	cleanup_entry struct cache_entry *leaf = NULL, *whole = NULL;
	struct smfs_store *s = st->ing->s;
	struct writer delta = WRITER_INIT;
	uint64_t found = index;

	if (st->diff->content.kind != SMFS_MAP)
		return 0;
	int r = object_next_leaf(s, &st->diff->content, &found, id, err);
	if (r <= 0 || found != index)
		return MIN(r, 0);
	r = object_map(s, id, 0, &leaf, err);
	/* A delta is of a whole leaf, so a diff of a diff is of the leaf the first was of. */
	if (r == 0 && leaf->delta) {
		*id = leaf->base;
		r = object_map(s, id, 0, &whole, err);
	}
	if (r < 0)
		return r;
	r = map_delta_make(whole ? whole->data : leaf->data, id, w->p, w->len, &delta);
	/* Named by the delta, or taken as it is. */
	if (r > 0) {
		int kept = ingest_refer(st->ing, FRAME_MAP, id, 0, err);

		r = kept < 0 ? kept : r;
	}
	if (r != 1 || delta.failed) {
		writer_free(&delta);
		return r == 2;
	}
	writer_free(w);
	*w = delta;
	return 0;
}

/* ---- taking the file in ---- */

/* `len` bytes within the page at d->fill. `p`: the bytes of DATA. */
static int put_in_page(struct smfs_stream *st, enum page what, const uint8_t *p, uint32_t len,
		       struct err *err)
{
	struct diff *d = st->diff;
	uint8_t *to = d->bytes + d->fill;
	uint8_t *page = &d->page[d->fill / PAGE_LEN];
	int r = 0;

	if (len == PAGE_LEN) {
		*page = what;
	} else {
		/* A page of several parts is compared as a whole. */
		*page = PAGE_DATA;
		if (what == PAGE_SAME)
			r = read_base(d, to, len, st->start + d->fill, err);
		else if (what == PAGE_ZERO)
			memset(to, 0, len);
	}
	if (what == PAGE_DATA)
		memcpy(to, p, len);
	d->fill += len;
	return r;
}

static int put_in_region(struct smfs_stream *st, enum page what, const uint8_t *p, uint32_t len,
			 struct err *err)
{
	struct diff *d = st->diff;
	int r = 0;

	while (len && r == 0) {
		uint32_t n = MIN(len, PAGE_LEN - d->fill % PAGE_LEN);

		r = put_in_page(st, what, p, n, err);
		p = p ? p + n : NULL;
		len -= n;
	}
	return r == 0 && d->fill == FRAME_SIZE ? region_done(st, err) : r;
}

/*
 * Whole spans of the base from st->start on: *done of `len` bytes. Not the base's last one if it
 * ends within: the new file may have more there.
 */
static int copy_spans(struct smfs_stream *st, uint64_t len, uint64_t *done, struct err *err)
{
	struct diff *d = st->diff;
	uint64_t index = st->start / LEAF_SPAN, found = index;
	uint64_t left = d->content.size > st->start ? d->content.size - st->start : 0;
	struct smfs_id id;

	*done = 0;
	len = align_down(MIN(len, left), LEAF_SPAN);
	if (st->start % LEAF_SPAN || len == 0 || d->content.kind != SMFS_MAP)
		return 0;
	int r = object_next_leaf(st->ing->s, &d->content, &found, &id, err);
	if (r < 0)
		return r;
	if (r == 1 && found == index) {
		*done = LEAF_SPAN;
		r = ingest_refer(st->ing, FRAME_MAP, &id, 0, err);
		if (r == 0)
			r = leaf_copy(st, index, &id, err);
	} else {
		*done = r == 0 ? len : MIN(len, (found - index) * LEAF_SPAN);
		r = 0;
	}
	st->start += *done;
	atomic_fetch_add(&st->ing->dup, *done);
	return r;
}

static int put(struct smfs_stream *st, enum page what, const uint8_t *p, uint64_t len,
	       struct err *err)
{
	struct diff *d = st->diff;
	int r = 0;

	while (len && r == 0) {
		uint64_t n = 0;

		if (d->fill == 0 && what == PAGE_SAME)
			r = copy_spans(st, len, &n, err);
		else if (d->fill == 0 && what == PAGE_ZERO) {
			n = align_down(len, FRAME_SIZE);
			stream_skip(st, n);
		}
		if (r == 0 && n == 0) {
			n = MIN(len, FRAME_SIZE - d->fill);
			r = put_in_region(st, what, p, (uint32_t)n, err);
		}
		p = p ? p + n : NULL;
		len -= n;
	}
	return r;
}

int diff_write(struct smfs_stream *st, const uint8_t *p, uint64_t len, struct err *err)
{
	return put(st, PAGE_DATA, p, len, err);
}

int diff_hole(struct smfs_stream *st, uint64_t len, struct err *err)
{
	return put(st, PAGE_ZERO, NULL, len, err);
}

void diff_room(struct smfs_stream *st, uint8_t **p, size_t *len)
{
	*p = st->diff->bytes + st->diff->fill;
	*len = FRAME_SIZE - st->diff->fill;
}

int diff_filled(struct smfs_stream *st, size_t len, struct err *err)
{
	struct diff *d = st->diff;

	memset(&d->page[d->fill / PAGE_LEN], PAGE_DATA,
	       (d->fill + len + PAGE_LEN - 1) / PAGE_LEN - d->fill / PAGE_LEN);
	d->fill += (uint32_t)len;
	return d->fill == FRAME_SIZE ? region_done(st, err) : 0;
}

uint32_t diff_held(const struct smfs_stream *st)
{
	return st->diff->fill;
}

int diff_finish(struct smfs_stream *st, struct err *err)
{
	int r = st->diff->fill ? region_done(st, err) : 0;

	return r < 0 ? r : flush_pack(st, err);
}

void diff_free(struct smfs_stream *st)
{
	struct diff *d = st->diff;

	if (!d)
		return;
	for (unsigned i = 0; i < d->nplaces; i++)
		leaf_put(d->place[i].leaf);
	if (d->leaf)
		cache_put(d->leaf);
	smfs_file_close(d->base);
	free(d->bytes);
	free(d->old);
	free(d->pack);
	free(d);
	st->diff = NULL;
}

int smfs_stream_open_diff(struct smfs_ingest *ing, const struct smfs_content *base, unsigned flags,
			  struct smfs_stream **out, struct err *err)
{
	struct smfs_stream *st;
	int r = ingest_has_content(ing, base, err);

	if (r == 0)
		r = smfs_stream_open(ing, flags, &st, err);
	if (r != 0)
		return r;
	struct diff *d = st->diff = calloc(1, sizeof(*d));
	if (d) {
		d->content = *base;
		d->compare = !(flags & SMFS_STREAM_CHANGED);
		d->bytes = malloc(FRAME_SIZE);
		d->old = malloc(FRAME_SIZE);
		d->pack = malloc(FRAME_SIZE);
	}
	if (!d || !d->bytes || !d->old || !d->pack)
		r = err_set(err, ENOMEM, "open stream: out of memory");
	else
		r = smfs_file_open(ing->s, base, &d->base, err);
	if (r < 0) {
		smfs_stream_abort(st);
		return r;
	}
	*out = st;
	return 0;
}

static int same(struct smfs_stream *st, uint64_t len, struct err *err)
{
	int r = ingest_check(st->ing, err);

	if (r == 0 && !st->diff)
		r = err_set(err, EINVAL, "stream: the same as what? it was opened without a base");
	if (r == 0)
		r = stream_grow(st, len, err);
	return r < 0 ? r : put(st, PAGE_SAME, NULL, len, err);
}

int smfs_stream_same(struct smfs_stream *st, uint64_t len, struct err *err)
{
	int r = same(st, len, err);

	st->failed |= r < 0;
	return r;
}
