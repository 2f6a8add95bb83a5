#include "smfs/store/cache.h"

#include <pthread.h>
#include <stdlib.h>

#define SHARDS	16
#define BUCKETS 1024 /* of one shard */

struct shard {
	pthread_mutex_t lock;
	size_t used, budget;
	struct cache_entry lru; /* next = most recently used */
	struct cache_entry *bucket[BUCKETS];
};

struct cache {
	struct shard shard[SHARDS];
};

static struct shard *shard_of(struct cache *c, const struct smfs_id *id)
{
	return &c->shard[id->b[8] % SHARDS];
}

static struct cache_entry **bucket_of(struct shard *s, const struct smfs_id *id)
{
	return &s->bucket[id_hash(id) % BUCKETS];
}

struct cache *cache_new(size_t budget)
{
	struct cache *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	for (int i = 0; i < SHARDS; i++) {
		struct shard *s = &c->shard[i];

		pthread_mutex_init(&s->lock, NULL);
		s->budget = budget / SHARDS;
		s->lru.next = s->lru.prev = &s->lru;
	}
	return c;
}

static void lru_unlink(struct cache_entry *e)
{
	e->prev->next = e->next;
	e->next->prev = e->prev;
}

static void lru_front(struct shard *s, struct cache_entry *e)
{
	e->next = s->lru.next;
	e->prev = &s->lru;
	e->next->prev = e;
	s->lru.next = e;
}

static size_t cost(const struct cache_entry *e)
{
	return sizeof(*e) + e->len;
}

static struct cache_entry *find(struct shard *s, bool node, const struct smfs_id *id)
{
	for (struct cache_entry *e = *bucket_of(s, id); e; e = e->chain)
		if (e->node == node && id_equal(&e->id, id))
			return e;
	return NULL;
}

static void evict(struct shard *s, struct cache_entry *e)
{
	struct cache_entry **p = bucket_of(s, &e->id);

	while (*p != e)
		p = &(*p)->chain;
	*p = e->chain;
	lru_unlink(e);
	s->used -= cost(e);
	cache_put(e);
}

void cache_clear(struct cache *c)
{
	for (int i = 0; i < SHARDS; i++) {
		struct shard *s = &c->shard[i];

		pthread_mutex_lock(&s->lock);
		while (s->lru.prev != &s->lru)
			evict(s, s->lru.prev);
		pthread_mutex_unlock(&s->lock);
	}
}

void cache_free(struct cache *c)
{
	if (!c)
		return;
	cache_clear(c);
	for (int i = 0; i < SHARDS; i++)
		pthread_mutex_destroy(&c->shard[i].lock);
	free(c);
}

struct cache_entry *cache_get(struct cache *c, bool node, const struct smfs_id *id)
{
	struct shard *s = shard_of(c, id);

	pthread_mutex_lock(&s->lock);
	struct cache_entry *e = find(s, node, id);
	if (e) {
		atomic_fetch_add(&e->refs, 1);
		lru_unlink(e);
		lru_front(s, e);
	}
	pthread_mutex_unlock(&s->lock);
	return e;
}

struct cache_entry *cache_entry_new(bool node, const struct smfs_id *id, uint32_t len)
{
	struct cache_entry *e = malloc(sizeof(*e) + len);

	if (!e)
		return NULL;
	atomic_init(&e->refs, 1);
	e->id = *id;
	e->len = len;
	e->node = node;
	e->delta = false;
	return e;
}

struct cache_entry *cache_add(struct cache *c, struct cache_entry *e)
{
	struct shard *s = shard_of(c, &e->id);

	if (cost(e) > s->budget)
		return e;
	pthread_mutex_lock(&s->lock);
	struct cache_entry *first = find(s, e->node, &e->id);
	if (first) {
		atomic_fetch_add(&first->refs, 1);
	} else {
		struct cache_entry **b = bucket_of(s, &e->id);

		while (s->used + cost(e) > s->budget)
			evict(s, s->lru.prev);
		atomic_fetch_add(&e->refs, 1);
		e->chain = *b;
		*b = e;
		lru_front(s, e);
		s->used += cost(e);
	}
	pthread_mutex_unlock(&s->lock);
	if (!first)
		return e;
	cache_put(e);
	return first;
}

void cache_put(struct cache_entry *e)
{
	if (atomic_fetch_sub(&e->refs, 1) == 1)
		free(e);
}
