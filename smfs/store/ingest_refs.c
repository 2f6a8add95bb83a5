/* What an ingest refers to without having put it, and all below, for a commit after a collection.
 */
#include "smfs/store/ingest.h"

#include "smfs/store/walk.h"

int ingest_refer(struct smfs_ingest *ing, uint8_t kind, const struct smfs_id *id, uint8_t level,
		 struct err *err)
{
	bool fresh;

	pthread_mutex_lock(&ing->lock);
	struct idset_entry *e = idset_add(&ing->refs, kind, id, &fresh);
	if (e)
		e->bits = level;
	pthread_mutex_unlock(&ing->lock);
	return e ? 0 : err_set(err, ENOMEM, "ingest: out of memory");
}

struct ref_walk {
	struct walk w;
	struct idset *out;
};

static int ref_node(struct walk *w, uint8_t kind, const struct smfs_id *id, struct err *err)
{
	bool fresh;

	if (!idset_add(container_of(w, struct ref_walk, w)->out, kind, id, &fresh))
		return err_set(err, ENOMEM, "ingest: out of memory");
	return fresh;
}

static int ref_chunk(struct walk *w, const struct smfs_id *id, uint32_t off, uint32_t len,
		     struct err *err)
{
	int r = ref_node(w, FRAME_CHUNK, id, err);

	return r < 0 ? r : 0;
}

static int ref_bad(struct walk *w, struct err *err)
{
	return err_wrap(err, -err->code, "look through what is referred to");
}

int ingest_refs_below(struct smfs_ingest *ing, struct idset *out, struct err *err)
{
	struct ref_walk rw = {
		.w = {.s = ing->s, .node = ref_node, .chunk = ref_chunk, .bad = ref_bad},
		.out = out,
	};
	int r = 0;

	for (size_t i = 0; i < ing->refs.cap && r == 0; i++) {
		const struct idset_entry *e = &ing->refs.v[i];

		if (e->kind == FRAME_CHUNK)
			r = ref_chunk(&rw.w, &e->id, 0, 0, err);
		else if (e->kind == FRAME_MAP)
			r = walk_node(&rw.w, &e->id, e->bits, err);
		else if (e->kind == FRAME_DIR)
			r = walk_tree(&rw.w, &e->id, err);
	}
	walk_fini(&rw.w);
	return r;
}
