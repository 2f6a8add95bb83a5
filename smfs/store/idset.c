#include "smfs/store/idset.h"

#include <stdlib.h>

static bool same(const struct idset_entry *e, uint8_t kind, const struct smfs_id *id)
{
	return (e->kind == FRAME_CHUNK) == (kind == FRAME_CHUNK) && id_equal(&e->id, id);
}

/* Its place, or the free one where it would go. */
static struct idset_entry *place(const struct idset *s, uint8_t kind, const struct smfs_id *id)
{
	size_t i = id_hash(id) & (s->cap - 1);

	while (s->v[i].kind && !same(&s->v[i], kind, id))
		i = (i + 1) & (s->cap - 1);
	return &s->v[i];
}

struct idset_entry *idset_find(const struct idset *s, uint8_t kind, const struct smfs_id *id)
{
	struct idset_entry *e = s->cap ? place(s, kind, id) : NULL;

	return e && e->kind ? e : NULL;
}

static bool grow(struct idset *s)
{
	struct idset bigger = {.cap = s->cap ? s->cap * 2 : 1024, .n = s->n};

	bigger.v = calloc(bigger.cap, sizeof(*bigger.v));
	if (!bigger.v)
		return false;
	for (size_t i = 0; i < s->cap; i++)
		if (s->v[i].kind)
			*place(&bigger, s->v[i].kind, &s->v[i].id) = s->v[i];
	free(s->v);
	*s = bigger;
	return true;
}

struct idset_entry *idset_add(struct idset *s, uint8_t kind, const struct smfs_id *id, bool *fresh)
{
	if (s->n * 4 >= s->cap * 3 && !grow(s))
		return NULL;
	struct idset_entry *e = place(s, kind, id);
	*fresh = !e->kind;
	if (*fresh) {
		*e = (struct idset_entry){.id = *id, .kind = kind};
		s->n++;
	}
	return e;
}

void idset_free(struct idset *s)
{
	free(s->v);
	*s = (struct idset){0};
}
