#include "smfs/mount/node.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "smfs/mount/takeover.h"

#define FIRST_BUCKETS 1024

/* 0 is no inode and 1 the root. */
static uint64_t hash_key(const struct node_key *key)
{
	uint64_t h = XXH3_64bits(key, sizeof(*key));

	return h > NODE_ROOT_INO ? h : h + NODE_ROOT_INO + 1;
}

int node_table_init(struct node_table *t, void (*destroy)(struct node *n), struct err *err)
{
	*t = (struct node_table){.buckets = FIRST_BUCKETS, .destroy = destroy};
	t->by_ino = calloc(t->buckets, sizeof(struct node *));
	t->by_key = calloc(t->buckets, sizeof(struct node *));
	if (!t->by_ino || !t->by_key) {
		free(t->by_ino);
		free(t->by_key);
		return err_set(err, ENOMEM, "inode table: out of memory");
	}
	pthread_mutex_init(&t->lock, NULL);
	return 0;
}

void node_table_free(struct node_table *t)
{
	for (size_t i = 0; i < t->buckets; i++) {
		while (t->by_ino[i]) {
			struct node *n = t->by_ino[i];

			t->by_ino[i] = n->next_by_ino;
			t->destroy(n);
		}
	}
	free(t->by_ino);
	free(t->by_key);
	pthread_mutex_destroy(&t->lock);
}

size_t node_table_count(struct node_table *t)
{
	pthread_mutex_lock(&t->lock);
	size_t n = t->count;
	pthread_mutex_unlock(&t->lock);
	return n;
}

void node_each(struct node_table *t, int (*fn)(const struct node *n, void *arg), void *arg)
{
	int r = 0;

	pthread_mutex_lock(&t->lock);
	for (size_t i = 0; i < t->buckets && r == 0; i++)
		for (struct node *n = t->by_ino[i]; n && r == 0; n = n->next_by_ino)
			r = fn(n, arg);
	pthread_mutex_unlock(&t->lock);
}

static struct node *find_ino(struct node_table *t, uint64_t ino)
{
	struct node *n = t->by_ino[ino & (t->buckets - 1)];

	while (n && n->ino != ino)
		n = n->next_by_ino;
	return n;
}

static struct node *find_key(struct node_table *t, const struct node_key *key, uint64_t hash)
{
	struct node *n = t->by_key[hash & (t->buckets - 1)];

	while (n && (n->hash != hash || memcmp(&n->key, key, sizeof(*key)) != 0))
		n = n->next_by_key;
	return n;
}

static void link_node(struct node_table *t, struct node *n)
{
	struct node **head = &t->by_ino[n->ino & (t->buckets - 1)];

	n->next_by_ino = *head;
	*head = n;
	head = &t->by_key[n->hash & (t->buckets - 1)];
	n->next_by_key = *head;
	*head = n;
}

static void unlink_node(struct node_table *t, struct node *n)
{
	struct node **p = &t->by_ino[n->ino & (t->buckets - 1)];

	while (*p != n)
		p = &(*p)->next_by_ino;
	*p = n->next_by_ino;
	p = &t->by_key[n->hash & (t->buckets - 1)];
	while (*p != n)
		p = &(*p)->next_by_key;
	*p = n->next_by_key;
	t->count--;
}

/* Without memory the chains just grow longer. */
static void grow(struct node_table *t)
{
	size_t old = t->buckets, more = old * 2;
	struct node **by_ino = calloc(more, sizeof(struct node *));
	struct node **by_key = calloc(more, sizeof(struct node *));

	if (!by_ino || !by_key) {
		free(by_ino);
		free(by_key);
		return;
	}
	struct node **from = t->by_ino;

	free(t->by_key);
	t->by_ino = by_ino;
	t->by_key = by_key;
	t->buckets = more;
	for (size_t i = 0; i < old; i++) {
		while (from[i]) {
			struct node *n = from[i];

			from[i] = n->next_by_ino;
			link_node(t, n);
		}
	}
	free(from);
}

static uint64_t free_ino(struct node_table *t, uint64_t hash)
{
	uint64_t ino = hash;

	while (ino <= NODE_ROOT_INO || find_ino(t, ino))
		ino++;
	return ino;
}

/* With the lock held. */
static void write_down(struct node_table *t, struct node *n)
{
	uint8_t text[TAKEOVER_TEXT_MAX];
	size_t len = 0;

	n->slot = TAKEOVER_NONE;
	/* Without its parent it could not be found again. */
	if (!t->takeover || (n->parent && n->parent->parent && n->parent->slot == TAKEOVER_NONE))
		return;
	if (t->describe)
		len = t->describe(n, text);
	n->slot = takeover_add_node(t->takeover, n, text, len);
}

static void count_lookups(struct node_table *t, struct node *n, uint64_t lookups)
{
	n->lookups = lookups;
	if (t->takeover)
		takeover_set_lookups(t->takeover, n->slot, lookups);
}

struct node *node_intern(struct node_table *t, struct node *fresh)
{
	uint64_t hash = hash_key(&fresh->key);

	pthread_mutex_lock(&t->lock);
	struct node *n = find_key(t, &fresh->key, hash);
	if (n) {
		count_lookups(t, n, n->lookups + 1);
		pthread_mutex_unlock(&t->lock);
		t->destroy(fresh);
		return n;
	}
	if (t->count >= t->buckets)
		grow(t);
	fresh->hash = hash;
	fresh->ino = free_ino(t, hash);
	fresh->lookups = 1;
	fresh->refs = 0;
	if (fresh->parent)
		fresh->parent->refs++;
	link_node(t, fresh);
	t->count++;
	write_down(t, fresh);
	pthread_mutex_unlock(&t->lock);
	return fresh;
}

void node_set_root(struct node_table *t, struct node *root)
{
	pthread_mutex_lock(&t->lock);
	root->hash = hash_key(&root->key);
	root->ino = NODE_ROOT_INO;
	root->lookups = 0;
	root->refs = 1;
	root->slot = TAKEOVER_NONE;
	root->parent = NULL;
	link_node(t, root);
	t->count++;
	pthread_mutex_unlock(&t->lock);
}

uint64_t node_ino(struct node_table *t, const struct node_key *key)
{
	uint64_t hash = hash_key(key);

	pthread_mutex_lock(&t->lock);
	struct node *n = find_key(t, key, hash);
	uint64_t ino = n ? n->ino : free_ino(t, hash);
	pthread_mutex_unlock(&t->lock);
	return ino;
}

struct node *node_find(struct node_table *t, uint64_t ino)
{
	pthread_mutex_lock(&t->lock);
	struct node *n = find_ino(t, ino);
	pthread_mutex_unlock(&t->lock);
	return n;
}

/* With the lock held: take out `n` if nobody needs it, and so on upwards. The list of the dead. */
static struct node *reap(struct node_table *t, struct node *n)
{
	struct node *dead = NULL;

	while (n && n->lookups == 0 && n->refs == 0) {
		struct node *parent = n->parent;

		unlink_node(t, n);
		if (t->takeover)
			takeover_drop_node(t->takeover, n->slot);
		n->next_by_ino = dead;
		dead = n;
		if (parent)
			parent->refs--;
		n = parent;
	}
	return dead;
}

static void bury(struct node_table *t, struct node *dead)
{
	while (dead) {
		struct node *next = dead->next_by_ino;

		t->destroy(dead);
		dead = next;
	}
}

void node_forget(struct node_table *t, uint64_t ino, uint64_t lookups)
{
	struct node *dead = NULL;

	pthread_mutex_lock(&t->lock);
	struct node *n = find_ino(t, ino);
	if (n) {
		count_lookups(t, n, n->lookups - (lookups < n->lookups ? lookups : n->lookups));
		dead = reap(t, n);
	}
	pthread_mutex_unlock(&t->lock);
	bury(t, dead);
}

void node_ref(struct node_table *t, struct node *n)
{
	pthread_mutex_lock(&t->lock);
	n->refs++;
	pthread_mutex_unlock(&t->lock);
}

void node_unref(struct node_table *t, struct node *n)
{
	pthread_mutex_lock(&t->lock);
	n->refs--;
	struct node *dead = reap(t, n);
	pthread_mutex_unlock(&t->lock);
	bury(t, dead);
}

/* ---- what an earlier server wrote down ------------------------------------------------------ */

static int restore_nodes(struct node_table *t,
			 struct node *(*fresh)(void *arg, const struct node_key *key), void *arg,
			 struct err *err)
{
	const struct takeover_node *e;

	for (uint32_t slot = 0; (e = takeover_next_node(t->takeover, &slot));) {
		struct node *n = fresh(arg, &e->key);

		if (!n)
			return err_set(err, ENOMEM, "take over the inodes: out of memory");
		if (t->count >= t->buckets)
			grow(t);
		n->hash = hash_key(&n->key);
		n->ino = atomic_load(&e->ino);
		n->lookups = atomic_load(&e->lookups);
		n->detail = e->detail;
		n->refs = 0;
		n->parent = NULL;
		n->slot = slot - 1;
		link_node(t, n);
		t->count++;
	}
	return 0;
}

int node_restore(struct node_table *t, struct node *(*fresh)(void *arg, const struct node_key *key),
		 void *arg, struct err *err)
{
	const struct takeover_node *e;

	pthread_mutex_lock(&t->lock);
	int r = restore_nodes(t, fresh, arg, err);
	for (uint32_t slot = 0; r == 0 && (e = takeover_next_node(t->takeover, &slot));) {
		struct node *n = find_ino(t, atomic_load(&e->ino));
		struct node *parent = find_ino(t, e->parent);

		/* A parent is written down before and crossed out after its children. */
		if (!parent) {
			r = err_set(err, EPROTO, "take over the inodes: one has no parent");
			break;
		}
		n->parent = parent;
		parent->refs++;
	}
	pthread_mutex_unlock(&t->lock);
	return r;
}

void node_settle(struct node_table *t)
{
	struct node *dead = NULL;

	pthread_mutex_lock(&t->lock);
	for (size_t i = 0; i < t->buckets; i++) {
		struct node *n = t->by_ino[i];

		while (n) {
			/* Reaping may take others of this chain along: begin it again. */
			bool reaps = n->lookups == 0 && n->refs == 0;
			struct node *list = reaps ? reap(t, n) : NULL, *last = list;

			for (; last && last->next_by_ino; last = last->next_by_ino)
				;
			if (last) {
				last->next_by_ino = dead;
				dead = list;
			}
			n = reaps ? t->by_ino[i] : n->next_by_ino;
		}
	}
	pthread_mutex_unlock(&t->lock);
	bury(t, dead);
}

void node_set_backing(struct node_table *t, struct node *n, int32_t backing)
{
	if (t->takeover)
		takeover_set_backing(t->takeover, n->slot, backing);
}

int32_t node_backing(struct node_table *t, const struct node *n)
{
	const struct takeover_node *e = t->takeover && n->slot != TAKEOVER_NONE
						? takeover_node(t->takeover, n->slot)
						: NULL;

	return e ? atomic_load(&e->backing) : 0;
}
