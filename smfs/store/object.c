#include "smfs/store/object.h"

#include "smfs/base/cleanup.h"
#include "smfs/store/index_gc.h"
#include "smfs/store/map.h"
#include "smfs/store/quarantine.h"

#include <inttypes.h>
#include <string.h>

static const char *kind_word(uint8_t kind)
{
	return kind == FRAME_CHUNK ? "chunk" : kind == FRAME_MAP ? "map node" : "directory";
}

static int locate(struct smfs_store *s, uint8_t kind, const struct smfs_id *id,
		  struct frame_loc *loc, struct err *err)
{
	char hex[65];
	int r = index_find_any(s->ix, kind, id, loc, err);

	if (r == 0)
		return err_set(err, EBADMSG, "%s %.12s: not in the store", kind_word(kind),
			       smfs_id_hex(id, hex));
	return r < 0 ? r : 0;
}

int object_read_at(struct smfs_store *s, const struct frame_loc *loc, const struct smfs_id *id,
		   bool rehash, uint8_t *raw, struct err *err)
{
	struct scratch *sc = scratch_get(&s->scratch);
	uint8_t *buf = sc ? scratch_buf(sc, frame_disk_len(loc->stored_len)) : NULL;
	char hex[65];
	int r;

	if (!buf) {
		scratch_put(&s->scratch, sc);
		return err_set(err, ENOMEM, "read frame: out of memory");
	}
	r = pack_read_frame(s->packs, loc, id, buf, err);
	if (r == 0 && loc->codec == CODEC_RAW)
		memcpy(raw, buf + FRAME_HEAD_LEN, loc->raw_len);
	else if (r == 0 && scratch_decompress(sc, buf + FRAME_HEAD_LEN, loc->stored_len, raw,
					      loc->raw_len) < 0)
		r = err_set(err, EBADMSG,
			    "frame %.12s in pack %016" PRIx64 " at %" PRIu64
			    ": does not decompress",
			    smfs_id_hex(id, hex), loc->pack, loc->off);
	scratch_put(&s->scratch, sc);
	if (r < 0 || !rehash)
		return r;
	struct smfs_id got;
	frame_id(loc->kind, raw, loc->raw_len, &got);
	if (!id_equal(&got, id))
		return err_set(err, EBADMSG,
			       "frame %.12s in pack %016" PRIx64 " at %" PRIu64
			       ": its bytes hash to another id",
			       smfs_id_hex(id, hex), loc->pack, loc->off);
	return 0;
}

/* How often one frame may move while it is being read. */
#define MOVES_MAX 64

/*
 * object_read_at() for a place just looked up. The collector moves frames and then cuts their old
 * pack off (gc.h): whoever looked a place up before that finds no frame there, and looks again. It
 * is damage only if the frame is still said to be there.
 */
static int read_located(struct smfs_store *s, struct frame_loc *loc, const struct smfs_id *id,
			bool rehash, uint8_t *raw, struct err *err)
{
	struct err local = ERR_INIT;
	int r = object_read_at(s, loc, id, rehash, raw, &local);

	for (int moves = 0; r == -EBADMSG && moves < MOVES_MAX; moves++) {
		struct frame_loc now;

		if (index_find_any(s->ix, loc->kind, id, &now, NULL) != 1 ||
		    now.raw_len != loc->raw_len || (now.pack == loc->pack && now.off == loc->off))
			break;
		packs_forget(s->packs, loc->pack);
		*loc = now;
		err_clear(&local);
		r = object_read_at(s, loc, id, rehash, raw, &local);
	}
	if (r == -EBADMSG)
		quarantine_note(s, id, loc);
	if (r < 0 && err)
		*err = local;
	return r;
}

static int chunk_entry(struct smfs_store *s, const struct smfs_id *id, struct frame_loc *loc,
		       struct cache_entry **out, struct err *err)
{
	struct cache_entry *e = cache_entry_new(false, id, loc->raw_len);

	if (!e)
		return err_set(err, ENOMEM, "read chunk: out of memory");
	int r = read_located(s, loc, id, false, e->data, err);
	if (r < 0) {
		cache_put(e);
		return r;
	}
	*out = cache_add(s->cache, e);
	return 0;
}

static int chunk_range(struct smfs_store *s, const struct smfs_id *id, uint32_t off, uint8_t *buf,
		       uint32_t len, bool padded, struct err *err)
{
	cleanup_entry struct cache_entry *e = cache_get(s->cache, false, id);
	struct frame_loc loc;
	char hex[65];
	int r;

	if (!e) {
		r = locate(s, FRAME_CHUNK, id, &loc, err);
		if (r < 0)
			return r;
		if (off == 0 && len >= loc.raw_len && (len == loc.raw_len || padded)) {
			r = read_located(s, &loc, id, false, buf, err);
			if (r == 0)
				memset(buf + loc.raw_len, 0, len - loc.raw_len);
			return r;
		}
		/* Decided by the index before anything is read: no allocation for a bad range. */
		if (!padded && !range_ok(off, len, loc.raw_len))
			goto past;
		r = chunk_entry(s, id, &loc, &e, err);
		if (r < 0)
			return r;
	}
	if (!padded && !range_ok(off, len, e->len))
		goto past;
	uint32_t have = off < e->len ? MIN(len, e->len - off) : 0;
	memcpy(buf, e->data + off, have);
	memset(buf + have, 0, len - have);
	return 0;
past:
	return err_set(err, EBADMSG, "chunk %.12s: a map refers to bytes past its end",
		       smfs_id_hex(id, hex));
}

int object_chunk(struct smfs_store *s, const struct smfs_id *id, uint32_t off, void *buf,
		 uint32_t len, struct err *err)
{
	return chunk_range(s, id, off, buf, len, false, err);
}

int object_chunk_padded(struct smfs_store *s, const struct smfs_id *id, uint32_t off, void *buf,
			uint32_t len, struct err *err)
{
	return chunk_range(s, id, off, buf, len, true, err);
}

static int map_check(const void *node, size_t len, uint8_t level)
{
	return level ? map_inner_check(node, len, level) : map_leaf_check(node, len);
}

static int no_parse(const struct smfs_id *id, struct err *err)
{
	char hex[65];

	return err_set(err, EBADMSG, "map node %.12s: does not parse", smfs_id_hex(id, hex));
}

static int get_map(struct smfs_store *s, const struct smfs_id *id, uint8_t level, bool may_be_delta,
		   struct cache_entry **out, struct err *err);

/* The leaf that the delta in `*e` stands for, in its place. */
static int merge_delta(struct smfs_store *s, struct cache_entry **e, struct err *err)
{
	cleanup_entry struct cache_entry *base = NULL;
	cleanup_writer struct writer w = WRITER_INIT;
	const struct smfs_id *id = &(*e)->id;
	struct smfs_id base_id;

	if (map_delta_check((*e)->data, (*e)->len) < 0)
		return no_parse(id, err);
	map_delta_base((*e)->data, &base_id);
	int r = get_map(s, &base_id, 0, false, &base, err);
	if (r < 0)
		return r;
	r = map_delta_apply(base->data, (*e)->data, &w);
	if (r == -EBADMSG)
		return no_parse(id, err);
	struct cache_entry *merged = r == 0 ? cache_entry_new(true, id, (uint32_t)w.len) : NULL;
	if (!merged)
		return err_set(err, ENOMEM, "read map: out of memory");
	memcpy(merged->data, w.p, w.len);
	merged->delta = true;
	merged->base = base_id;
	cache_put(*e);
	*e = merged;
	return 0;
}

static int load_map(struct smfs_store *s, const struct smfs_id *id, uint8_t level,
		    bool may_be_delta, struct cache_entry **out, struct err *err)
{
	struct frame_loc loc;
	int r = locate(s, FRAME_MAP, id, &loc, err);

	if (r < 0)
		return r;
	struct cache_entry *e = cache_entry_new(true, id, loc.raw_len);
	if (!e)
		return err_set(err, ENOMEM, "read map: out of memory");
	r = read_located(s, &loc, id, true, e->data, err);
	/* Only nodes that are well-formed at the level first asked for are ever cached. */
	if (r == 0 && level == 0 && may_be_delta && map_is_delta(e->data, e->len))
		r = merge_delta(s, &e, err);
	else if (r == 0 && map_check(e->data, e->len, level) < 0)
		r = no_parse(id, err);
	if (r < 0) {
		cache_put(e);
		return r;
	}
	*out = cache_add(s->cache, e);
	return 0;
}

static int get_map(struct smfs_store *s, const struct smfs_id *id, uint8_t level, bool may_be_delta,
		   struct cache_entry **out, struct err *err)
{
	struct cache_entry *e = cache_get(s->cache, true, id);
	char hex[65];
	int r = e ? 0 : load_map(s, id, level, may_be_delta, &e, err);

	if (r < 0)
		return r;
	/* The same node may be reached again as if it were something else: a hostile tree. */
	if (map_level(e->data) != level || (e->delta && !may_be_delta)) {
		cache_put(e);
		return err_set(err, EBADMSG,
			       "map node %.12s: of another level than its parent says",
			       smfs_id_hex(id, hex));
	}
	*out = e;
	return 0;
}

int object_map(struct smfs_store *s, const struct smfs_id *id, uint8_t level,
	       struct cache_entry **out, struct err *err)
{
	return get_map(s, id, level, true, out, err);
}

int object_next_leaf(struct smfs_store *s, const struct smfs_content *c, uint64_t *index,
		     struct smfs_id *id, struct err *err)
{
	uint64_t want = *index;

restart:
	if (want * LEAF_SPAN >= c->size)
		return 0;
	*id = c->id;
	for (unsigned level = c->depth; level > 0; level--) {
		cleanup_entry struct cache_entry *node = NULL;
		int r = object_map(s, id, (uint8_t)level, &node, err);

		if (r < 0)
			return r;
		unsigned shift = 8 * (level - 1);
		uint32_t i = map_inner_find(node->data, (want >> shift) & (INNER_FANOUT - 1));
		if (i == map_count(node->data)) {
			/* Nothing more below this node: go on after its span. */
			if (level == c->depth)
				return 0;
			want = ((want >> (8 * level)) + 1) << (8 * level);
			goto restart;
		}
		struct map_child child;
		map_inner_at(node->data, i, &child);
		uint64_t at = ((want >> (8 * level)) << 8 | child.pos) << shift;
		if (at > want)
			want = at;
		*id = child.id;
	}
	if (want * LEAF_SPAN >= c->size)
		return 0;
	*index = want;
	return 1;
}

int object_dir(struct smfs_store *s, const struct smfs_id *id, uint8_t **out, size_t *len,
	       struct err *err)
{
	struct frame_loc loc;
	int r = locate(s, FRAME_DIR, id, &loc, err);

	if (r < 0)
		return r;
	cleanup_free uint8_t *buf = malloc(loc.raw_len);
	if (!buf)
		return err_set(err, ENOMEM, "read directory: out of memory");
	r = read_located(s, &loc, id, true, buf, err);
	if (r < 0)
		return r;
	*out = steal_ptr(&buf);
	*len = loc.raw_len;
	return 0;
}
