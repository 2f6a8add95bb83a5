#include "smfs/store/bundle_check.h"

#include "smfs/base/cleanup.h"
#include "smfs/store/dir.h"
#include "smfs/store/map.h"
#include "smfs/store/object.h"

#include <string.h>
#include <sys/stat.h>

/* What bundle_check_map() notes of a delta, which is a leaf too, but not one for a delta to be of.
 */
#define LEVEL_DELTA 0x100u

int bundle_unpack(struct smfs_store *s, const struct frame_head *h, const void *payload, void *raw,
		  struct err *err)
{
	struct scratch *sc = NULL;
	struct smfs_id got;
	char hex[65];
	int r = 0;

	smfs_id_hex(&h->id, hex);
	if (!frame_payload_ok(h, payload))
		return err_set(err, EBADMSG, "frame %.12s: bad checksum", hex);
	if (h->codec == CODEC_RAW) {
		memcpy(raw, payload, h->raw_len);
	} else {
		sc = scratch_get(&s->scratch);
		r = sc ? scratch_decompress(sc, payload, h->stored_len, raw, h->raw_len) : -ENOMEM;
		scratch_put(&s->scratch, sc);
	}
	if (r == -ENOMEM)
		return err_set(err, ENOMEM, "frame %.12s: out of memory", hex);
	if (r < 0)
		return err_set(err, EBADMSG, "frame %.12s: does not decompress", hex);
	frame_id(h->kind, raw, h->raw_len, &got);
	if (!id_equal(&got, &h->id))
		return err_set(err, EBADMSG, "frame %.12s: its bytes hash to another id", hex);
	return 0;
}

static int missing(struct err *err, const char *what, const struct smfs_id *id)
{
	char hex[65];

	return err_set(err, EBADMSG,
		       "%s %.12s: neither in the stream before it is referred to, nor "
		       "in the store",
		       what, smfs_id_hex(id, hex));
}

/* A chunk of at least `min` and at most `max` bytes. */
static int check_chunk(struct smfs_ingest *ing, const struct smfs_id *id, uint64_t min,
		       uint64_t max, struct err *err)
{
	uint32_t len;
	uint64_t note;
	char hex[65];
	bool own;
	int r = ingest_find_frame(ing, FRAME_CHUNK, id, &len, &note, &own, err);

	if (r == 0)
		return missing(err, "chunk", id);
	if (r == 1 && (len < min || len > max))
		return err_set(err, EBADMSG, "chunk %.12s: of another length than is referred to",
			       smfs_id_hex(id, hex));
	return r == 1 && !own ? ingest_refer(ing, FRAME_CHUNK, id, 0, err) : MIN(r, 0);
}

static int check_child(struct smfs_ingest *ing, const struct smfs_id *id, uint8_t level,
		       struct err *err)
{
	cleanup_entry struct cache_entry *node = NULL;
	uint32_t len;
	uint64_t have;
	char hex[65];
	bool own;
	int r = ingest_find_frame(ing, FRAME_MAP, id, &len, &have, &own, err);

	if (r == 0)
		return missing(err, "map node", id);
	if (r == 1 && !own) {
		r = object_map(ing->s, id, level, &node, err);
		return r < 0 ? r : ingest_refer(ing, FRAME_MAP, id, level, err);
	}
	if (r == 1 && have != level && !(level == 0 && have == LEVEL_DELTA))
		return err_set(err, EBADMSG, "map node %.12s: of another level than is referred to",
			       smfs_id_hex(id, hex));
	return r < 0 ? r : 0;
}

/* The leaf a delta is of: its note in *have, its bytes in *leaf, which *entry or *own keeps. */
static int read_base(struct smfs_ingest *ing, const struct smfs_id *id, uint64_t *have,
		     struct cache_entry **entry, uint8_t **own, const void **leaf, struct err *err)
{
	struct frame_loc loc;
	uint32_t len;
	bool mine;
	int r = ingest_find_frame(ing, FRAME_MAP, id, &len, have, &mine, err);

	if (r <= 0)
		return r < 0 ? r : missing(err, "map node", id);
	/* Of another level, and checked as that. */
	if (mine && *have)
		return 0;
	if (mine && ingest_written(ing, FRAME_MAP, id, &loc)) {
		*own = malloc(loc.raw_len);
		if (!*own)
			return err_set(err, ENOMEM, "out of memory");
		*leaf = *own;
		return object_read_at(ing->s, &loc, id, true, *own, err);
	}
	r = object_map(ing->s, id, 0, entry, err);
	if (r < 0)
		return r;
	*have = (*entry)->delta ? LEVEL_DELTA : 0;
	*leaf = (*entry)->data;
	return mine ? 0 : ingest_refer(ing, FRAME_MAP, id, 0, err);
}

static int check_delta(struct smfs_ingest *ing, const uint8_t *raw, uint32_t len, uint64_t *note,
		       struct err *err)
{
	cleanup_entry struct cache_entry *entry = NULL;
	cleanup_writer struct writer merged = WRITER_INIT;
	cleanup_free uint8_t *own = NULL;
	const void *leaf = NULL;
	struct map_extent e;
	struct smfs_id id;
	uint64_t have = 0;
	bool zeros;

	if (map_delta_check(raw, len) < 0)
		return err_set(err, EBADMSG, "a map node does not parse");
	map_delta_base(raw, &id);
	int r = read_base(ing, &id, &have, &entry, &own, &leaf, err);
	if (r == 0 && have != 0)
		r = err_set(err, EBADMSG, "a map node is a delta of what is no leaf");
	if (r == 0 && (r = map_delta_apply(leaf, raw, &merged)) < 0)
		r = err_set(err, -r,
			    r == -ENOMEM ? "out of memory"
					 : "a map node and the leaf it is a delta of make "
					   "none together");
	for (uint32_t i = 0, n = map_count(raw); i < n && r == 0; i++) {
		map_delta_at(raw, i, &e, &zeros);
		if (!zeros)
			r = check_chunk(ing, &e.id, (uint64_t)e.chunk_off + e.len, FRAME_SIZE, err);
	}
	*note = LEVEL_DELTA;
	return r;
}

int bundle_check_map(struct smfs_ingest *ing, const uint8_t *raw, uint32_t len, uint64_t *note,
		     struct err *err)
{
	if (map_is_delta(raw, len))
		return check_delta(ing, raw, len, note, err);
	uint32_t level = len >= MAP_HEAD_LEN ? map_level(raw) : UINT32_MAX;
	int r = 0;

	if (level > MAP_DEPTH_MAX ||
	    (level ? map_inner_check(raw, len, (uint8_t)level) : map_leaf_check(raw, len)) < 0)
		return err_set(err, EBADMSG, "a map node does not parse");
	for (uint32_t i = 0, n = map_count(raw); i < n && r == 0; i++) {
		struct map_extent e;
		struct map_child c;

		if (level == 0) {
			map_leaf_at(raw, i, &e);
			r = check_chunk(ing, &e.id, (uint64_t)e.chunk_off + e.len, FRAME_SIZE, err);
		} else {
			map_inner_at(raw, i, &c);
			r = check_child(ing, &c.id, (uint8_t)(level - 1), err);
		}
	}
	*note = level;
	return r;
}

static int check_entry(struct smfs_ingest *ing, const struct smfs_entry *e, uint64_t *logical,
		       struct err *err)
{
	const struct smfs_content *c = &e->content;
	uint32_t len;
	bool own;
	int r;

	*logical = 0;
	if (S_ISREG(e->mode)) {
		*logical = c->size;
		if (c->kind == SMFS_CHUNK)
			return check_chunk(ing, &c->id, 1, c->size, err);
		return c->kind == SMFS_MAP ? check_child(ing, &c->id, c->depth, err) : 0;
	}
	if (!S_ISDIR(e->mode))
		return 0;
	r = ingest_find_frame(ing, FRAME_DIR, &e->dir, &len, logical, &own, err);
	if (r == 0)
		return missing(err, "directory", &e->dir);
	return r == 1 && !own ? ingest_has_dir(ing, &e->dir, logical, err) : MIN(r, 0);
}

int bundle_check_dir(struct smfs_ingest *ing, uint8_t *raw, uint32_t len, uint64_t *note,
		     struct err *err)
{
	uint64_t sum = 0, one;
	struct smfs_dir *d;
	int r = dir_logical(raw, len, note, err);

	if (r < 0) {
		free(raw);
		return r;
	}
	r = dir_decode(raw, len, &d, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < smfs_dir_count(d) && r == 0; i++) {
		const struct smfs_entry *e = smfs_dir_at(d, i);

		r = check_entry(ing, e, &one, err);
		if (r == 0 && add_overflow_u64(sum, one, &sum))
			r = err_set(err, EBADMSG, "larger than any tree");
		if (r < 0)
			err_wrap(err, r, "entry %s", e->name);
	}
	smfs_dir_close(d);
	if (r == 0 && sum != *note)
		r = err_set(err, EBADMSG, "a directory's size is not that of its files");
	return r;
}
