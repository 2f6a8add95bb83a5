/*
 * node.h - the inode table: which inode the kernel means by a number, and how long it lives.
 *
 * A node is identified by its key (what it is), and its number is derived from the key, so that
 * the same thing has the same number in every mount of every run. Two keys that hash alike get
 * neighbouring numbers.
 *
 * LIFETIME. A node lives while the kernel holds lookups on it (node_intern() adds one,
 * node_forget() takes them back) or somebody in this process holds a reference (open handles,
 * children: a node keeps its parent). The last one to go destroys it, and then perhaps its
 * ancestors. While a request on a number is being served the kernel holds a lookup, so the
 * pointer node_find() returns needs no reference of its own.
 *
 * THREADS. Everything here may be called from any thread. `destroy` runs without the table's lock.
 */
#ifndef SMFS_MOUNT_NODE_H
#define SMFS_MOUNT_NODE_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include "smfs/store/store.h"

/* Compared and hashed as bytes: no padding, and every field not used is zero. */
struct node_key {
	uint64_t tag; /* which kind of key; the meaning of the rest depends on it */
	uint64_t a, b;
	struct smfs_id id;
};

struct node {
	struct node_key key;
	uint64_t ino;
	struct node *parent; /* referenced; NULL at the root */
	uint64_t detail;     /* what else it takes to find the thing again: see takeover_wake.c */
	/* The table's own, under its lock. */
	struct node *next_by_ino, *next_by_key;
	uint64_t hash;
	uint64_t lookups;
	uint32_t refs;
	uint32_t slot; /* in the takeover table, or TAKEOVER_NONE */
};

struct takeover;

struct node_table {
	pthread_mutex_t lock;
	struct node **by_ino, **by_key; /* `buckets` heads each */
	size_t buckets, count;
	void (*destroy)(struct node *n); /* frees all but the parent reference */
	/* Where nodes are written down for the next server; NULL: nowhere. */
	struct takeover *takeover;
	/* The text that goes with a node there, into `out` (TAKEOVER_TEXT_MAX): its length. */
	size_t (*describe)(const struct node *n, uint8_t *out);
};

int node_table_init(struct node_table *t, void (*destroy)(struct node *n), struct err *err);
/* Destroys every node, whatever its counts: no request may be in flight. */
void node_table_free(struct node_table *t);
size_t node_table_count(struct node_table *t);
/* Calls `fn` for each node with the table locked, until it returns non-zero. */
void node_each(struct node_table *t, int (*fn)(const struct node *n, void *arg), void *arg);

/*
 * Hand over a node not yet in the table (key set, parent borrowed). Returns the node of that key,
 * which is `fresh` or one that was there already (then `fresh` is destroyed), with one lookup
 * added.
 */
struct node *node_intern(struct node_table *t, struct node *fresh);
/* The number node_intern() gives, or would give, to this key. */
uint64_t node_ino(struct node_table *t, const struct node_key *key);
/* NULL if the kernel made the number up. */
struct node *node_find(struct node_table *t, uint64_t ino);
void node_forget(struct node_table *t, uint64_t ino, uint64_t lookups);

void node_ref(struct node_table *t, struct node *n);
void node_unref(struct node_table *t, struct node *n);

/*
 * After node_set_root(), before any request: the nodes an earlier server wrote down, each made by
 * fresh(arg, key), which may return NULL for want of memory. Those nobody needs any more are
 * dropped. node_ref() for the open files comes before node_settle().
 */
int node_restore(struct node_table *t, struct node *(*fresh)(void *arg, const struct node_key *key),
		 void *arg, struct err *err);
/* Drop those nobody needs any more. */
void node_settle(struct node_table *t);

/* The backing file the kernel has for this node, for the next server to know; 0: none. */
void node_set_backing(struct node_table *t, struct node *n, int32_t backing);
int32_t node_backing(struct node_table *t, const struct node *n);

/* The root has a number the protocol fixes. Call once, first; it stays until node_table_free(). */
#define NODE_ROOT_INO 1
void node_set_root(struct node_table *t, struct node *root);

#endif
