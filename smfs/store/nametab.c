#include "smfs/store/nametab.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static size_t home(const struct nametab *t, enum smfs_kind kind, const char *name)
{
	return XXH3_64bits_withSeed(name, strlen(name), kind) & (t->cap - 1);
}

/* Its place, or the free one where it would go. */
static size_t place(const struct nametab *t, enum smfs_kind kind, const char *name)
{
	size_t i = home(t, kind, name);

	while (t->v[i] && (t->v[i]->kind != kind || strcmp(t->v[i]->name, name) != 0))
		i = (i + 1) & (t->cap - 1);
	return i;
}

struct smfs_name *nametab_find(const struct nametab *t, enum smfs_kind kind, const char *name)
{
	return t->cap ? t->v[place(t, kind, name)] : NULL;
}

static int grow(struct nametab *t)
{
	struct nametab bigger = {.cap = t->cap ? t->cap * 2 : 256, .n = t->n};

	bigger.v = calloc(bigger.cap, sizeof(struct smfs_name *));
	if (!bigger.v)
		return -ENOMEM;
	for (size_t i = 0; i < t->cap; i++)
		if (t->v[i])
			bigger.v[place(&bigger, t->v[i]->kind, t->v[i]->name)] = t->v[i];
	free(t->v);
	*t = bigger;
	return 0;
}

int nametab_put(struct nametab *t, const struct smfs_name *name)
{
	if (t->n * 4 >= t->cap * 3 && grow(t) < 0)
		return -ENOMEM;
	size_t i = place(t, name->kind, name->name);
	if (!t->v[i]) {
		t->v[i] = malloc(sizeof(*name));
		if (!t->v[i])
			return -ENOMEM;
		t->n++;
	}
	*t->v[i] = *name;
	return 0;
}

bool nametab_remove(struct nametab *t, enum smfs_kind kind, const char *name)
{
	size_t hole = t->cap ? place(t, kind, name) : 0;

	if (!t->cap || !t->v[hole])
		return false;
	free(t->v[hole]);
	t->v[hole] = NULL;
	t->n--;
	/* Whoever stands behind moves up, unless the hole is before its home. */
	for (size_t i = (hole + 1) & (t->cap - 1); t->v[i]; i = (i + 1) & (t->cap - 1)) {
		size_t h = home(t, t->v[i]->kind, t->v[i]->name);

		if (((i - h) & (t->cap - 1)) < ((i - hole) & (t->cap - 1)))
			continue;
		t->v[hole] = t->v[i];
		t->v[i] = NULL;
		hole = i;
	}
	return true;
}

void nametab_free(struct nametab *t)
{
	for (size_t i = 0; i < t->cap; i++)
		free(t->v[i]);
	free(t->v);
	*t = (struct nametab){0};
}

static int by_name(const void *a, const void *b)
{
	const struct smfs_name *x = *(struct smfs_name *const *)a,
			       *y = *(struct smfs_name *const *)b;

	return x->kind != y->kind ? (int)x->kind - (int)y->kind : strcmp(x->name, y->name);
}

struct smfs_name **nametab_sorted(const struct nametab *t)
{
	struct smfs_name **v = calloc(t->n + 1, sizeof(struct smfs_name *));
	size_t n = 0;

	for (size_t i = 0; v && i < t->cap; i++)
		if (t->v[i])
			v[n++] = t->v[i];
	if (v)
		qsort(v, n, sizeof(struct smfs_name *), by_name);
	return v;
}

int nametab_apply(struct nametab *t, const struct journal_record *rec, const char **unknown)
{
	*unknown = NULL;
	for (size_t i = 0; i < rec->nchanges; i++) {
		const struct journal_change *c = &rec->changes[i];
		const char *old = c->op == OP_RENAME ? c->from : c->name.name;
		bool there = c->op != OP_PUBLISH && nametab_remove(t, c->name.kind, old);

		if (c->op != OP_PUBLISH && !there && !*unknown)
			*unknown = old;
		if (c->op != OP_REMOVE && nametab_put(t, &c->name) < 0)
			return -ENOMEM;
	}
	return 0;
}

bool name_same(const struct smfs_name *a, const struct smfs_name *b)
{
	return id_equal(&a->root, &b->root) && a->seq == b->seq && a->created == b->created &&
	       a->logical_bytes == b->logical_bytes && a->mode == b->mode && a->uid == b->uid &&
	       a->gid == b->gid && a->mtime == b->mtime;
}
