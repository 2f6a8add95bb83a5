#include "smfs/store/walk.h"

#include "smfs/store/map.h"
#include "smfs/store/object.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int path_push(struct walk *w, const char *name, struct err *err)
{
	size_t n = strlen(name), need = w->path_len + n + 2;

	if (need > w->path_cap) {
		size_t cap = MAX(w->path_cap * 2, need + 256);
		char *p = realloc(w->path, cap);

		if (!p)
			return err_set(err, ENOMEM, "walk: out of memory");
		w->path = p;
		w->path_cap = cap;
	}
	if (w->path_len)
		w->path[w->path_len++] = '/';
	memcpy(w->path + w->path_len, name, n + 1);
	w->path_len += n;
	return 0;
}

static void path_pop(struct walk *w, size_t len)
{
	w->path_len = len;
	w->path[len] = '\0';
}

static int give_up(struct walk *w, struct err *err)
{
	w->trouble++;
	return w->bad(w, err);
}

static int walk_leaf(struct walk *w, const void *leaf, uint64_t base, uint64_t size,
		     struct err *err)
{
	for (uint32_t i = 0, n = map_count(leaf); i < n; i++) {
		struct map_extent e;

		map_leaf_at(leaf, i, &e);
		w->start = base + e.off;
		w->end = MIN(base + e.off + e.len, size);
		int r = w->chunk(w, &e.id, e.chunk_off, e.len, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/*
 * `base`: where the node's span begins in the file. What a node has beyond the file's end is
 * visited as well: the node may be in a longer file, too, and no visitor comes to it twice.
 */
static int walk_map(struct walk *w, const struct smfs_id *id, uint8_t level, uint64_t base,
		    uint64_t size, struct err *err)
{
	cleanup_entry struct cache_entry *node = NULL;
	uint64_t trouble = w->trouble;

	w->start = base;
	w->end = MIN(base + map_span(level), size);
	int r = w->node(w, FRAME_MAP, id, err);
	if (r <= 0)
		return r;
	r = object_map(w->s, id, level, &node, err);
	if (r < 0)
		return give_up(w, err);
	/* The leaf it is a delta of is needed with all it refers to, also where the delta hides it.
	 */
	if (level == 0 && node->delta && (r = walk_map(w, &node->base, 0, base, size, err)) < 0)
		return r;
	if (level == 0) {
		r = walk_leaf(w, node->data, base, size, err);
	} else {
		for (uint32_t i = 0, n = map_count(node->data); i < n && r == 0; i++) {
			struct map_child c;

			map_inner_at(node->data, i, &c);
			r = walk_map(w, &c.id, level - 1, base + c.pos * map_span(level - 1), size,
				     err);
		}
	}
	if (r == 0 && w->clean && w->trouble == trouble)
		w->clean(w, FRAME_MAP, id);
	return r;
}

static int walk_content(struct walk *w, const struct smfs_content *c, struct err *err)
{
	int r = 0;

	w->in_file = true;
	w->start = 0;
	w->end = c->size;
	if (c->kind == SMFS_CHUNK)
		r = w->chunk(w, &c->id, 0, 0, err);
	else if (c->kind == SMFS_MAP)
		r = walk_map(w, &c->id, c->depth, 0, c->size, err);
	w->in_file = false;
	return r;
}

static int walk_dir(struct walk *w, const struct smfs_id *id, unsigned depth, struct err *err)
{
	uint64_t trouble = w->trouble;
	struct smfs_dir *d;
	int r = w->node(w, FRAME_DIR, id, err);

	if (r <= 0)
		return r;
	if (depth > DIR_DEPTH_MAX) {
		err_set(err, EBADMSG, "nested deeper than %d directories", DIR_DEPTH_MAX);
		return give_up(w, err);
	}
	r = smfs_dir_open(w->s, id, &d, err);
	if (r < 0)
		return give_up(w, err);
	for (size_t i = 0; i < smfs_dir_count(d) && r == 0; i++) {
		const struct smfs_entry *e = smfs_dir_at(d, i);
		size_t len = w->path_len;

		r = path_push(w, e->name, err);
		if (r < 0)
			break;
		if (S_ISDIR(e->mode))
			r = walk_dir(w, &e->dir, depth + 1, err);
		else if (S_ISREG(e->mode) && (!w->file || (r = w->file(w, e, err)) == 0))
			r = walk_content(w, &e->content, err);
		path_pop(w, len);
	}
	smfs_dir_close(d);
	if (r == 0 && w->clean && w->trouble == trouble)
		w->clean(w, FRAME_DIR, id);
	return r;
}

static void at_root(struct walk *w)
{
	w->path_len = 0;
	if (w->path)
		w->path[0] = '\0';
	w->in_file = false;
}

int walk_tree(struct walk *w, const struct smfs_id *root, struct err *err)
{
	at_root(w);
	return walk_dir(w, root, 0, err);
}

int walk_node(struct walk *w, const struct smfs_id *id, uint8_t level, struct err *err)
{
	at_root(w);
	return walk_map(w, id, level, 0, map_span(level), err);
}

void walk_fini(struct walk *w)
{
	free(w->path);
	w->path = NULL;
}
