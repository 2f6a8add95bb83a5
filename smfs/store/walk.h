/*
 * walk.h - visit everything a name reaches: directories, map nodes, chunks.
 *
 * Parents come before children. The visitor decides whether to descend, so that a walk over many
 * names visits what they share once. What cannot be loaded goes to `bad`, which may let the walk go
 * on beside it. The tree is hostile: nesting is bounded.
 */
#ifndef SMFS_STORE_WALK_H
#define SMFS_STORE_WALK_H

#include "smfs/store/store_priv.h"

struct walk {
	struct smfs_store *s;
	/* Before a directory or map node is loaded. 1 = load it and go on below, 0 = pass over it,
	 * negative = end the walk with this result. */
	int (*node)(struct walk *w, uint8_t kind, const struct smfs_id *id, struct err *err);
	/* `len` bytes from `off` of the chunk. 0 or negative. */
	int (*chunk)(struct walk *w, const struct smfs_id *id, uint32_t off, uint32_t len,
		     struct err *err);
	/* A node could not be loaded (why: *err). 0 = go on beside it, or negative. */
	int (*bad)(struct walk *w, struct err *err);
	/* A regular file (may be NULL). 0 or negative. */
	int (*file)(struct walk *w, const struct smfs_entry *e, struct err *err);
	/* All below a node was visited without trouble (may be NULL). */
	void (*clean)(struct walk *w, uint8_t kind, const struct smfs_id *id);

	/* Where the walk is, for the visitor. */
	char *path; /* within the tree, "" at its root */
	size_t path_len, path_cap;
	bool in_file;
	uint64_t start, end; /* the bytes of the file concerned */
	uint64_t trouble;    /* the visitor counts what was wrong here */
};

int walk_tree(struct walk *w, const struct smfs_id *root, struct err *err);
/* A map node of that level, as if of the largest file it can be in. */
int walk_node(struct walk *w, const struct smfs_id *id, uint8_t level, struct err *err);
void walk_fini(struct walk *w);

#endif
