#include "smfs/mount/dircache.h"

#include <stdlib.h>
#include <string.h>

void dircache_init(struct dircache *c, struct smfs_store *store)
{
	c->store = store;
	pthread_mutex_init(&c->lock, NULL);
	memset(c->heads, 0, sizeof(c->heads));
}

void dircache_free(struct dircache *c)
{
	pthread_mutex_destroy(&c->lock);
}

/* The id is a SHA-256: its first bytes are as good a hash as any. */
static struct dirobj **head_of(struct dircache *c, const struct smfs_id *id)
{
	uint32_t h;

	memcpy(&h, id->b, sizeof(h));
	return &c->heads[h % DIRCACHE_BUCKETS];
}

static struct dirobj *find(struct dircache *c, const struct smfs_id *id)
{
	struct dirobj *d = *head_of(c, id);

	while (d && memcmp(&d->id, id, sizeof(*id)) != 0)
		d = d->next;
	if (d)
		d->refs++;
	return d;
}

int dircache_get(struct dircache *c, const struct smfs_id *id, struct dirobj **out, struct err *err)
{
	pthread_mutex_lock(&c->lock);
	*out = find(c, id);
	pthread_mutex_unlock(&c->lock);
	if (*out)
		return 0;

	/* Read without the lock; two threads may both do it, and the second finds the first's. */
	struct dirobj *fresh = calloc(1, sizeof(*fresh));
	if (!fresh)
		return err_set(err, ENOMEM, "open a directory: out of memory");
	fresh->id = *id;
	fresh->refs = 1;
	int r = smfs_dir_open(c->store, id, &fresh->dir, err);
	if (r < 0) {
		free(fresh);
		return r;
	}
	pthread_mutex_lock(&c->lock);
	*out = find(c, id);
	if (!*out) {
		struct dirobj **head = head_of(c, id);

		fresh->next = *head;
		*head = *out = fresh;
		fresh = NULL;
	}
	pthread_mutex_unlock(&c->lock);
	if (fresh) {
		smfs_dir_close(fresh->dir);
		free(fresh);
	}
	return 0;
}

struct dirobj *dircache_ref(struct dircache *c, struct dirobj *d)
{
	pthread_mutex_lock(&c->lock);
	d->refs++;
	pthread_mutex_unlock(&c->lock);
	return d;
}

void dircache_put(struct dircache *c, struct dirobj *d)
{
	if (!d)
		return;
	pthread_mutex_lock(&c->lock);
	bool last = --d->refs == 0;
	if (last) {
		struct dirobj **p = head_of(c, &d->id);

		while (*p != d)
			p = &(*p)->next;
		*p = d->next;
	}
	pthread_mutex_unlock(&c->lock);
	if (last) {
		smfs_dir_close(d->dir);
		free(d);
	}
}
