/*
 * tree.h - a mutable directory tree in memory: one layer, or the layers merged so far.
 *
 * A node is a name in a directory; an inode is what it names, shared by hard links and counted.
 * File contents are already in the ingest: an inode holds their reference. Nothing here touches
 * the host's file system, so no path in an image can lead anywhere outside the tree: ".." stops at
 * the root and symlinks are resolved inside.
 *
 * A layer's tree knows more than a directory does, and keeps it in the store (tree_store.h):
 *   NODE_WHITEOUT  the name is deleted from the layers below
 *   NODE_LOWER     a hard link whose target is in a layer below: `target` is its path
 *   dir_opaque     nothing of the layers below shows in this directory
 *   dir_implied    no entry describes this directory: it is only on the way to others, so the
 *                  attributes below it stay, and a symlink below is followed
 *
 * Limits bound what a hostile archive can make of memory and stack. A tree belongs to one thread.
 */
#ifndef PULL_TREE_H
#define PULL_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "smfs/store/store.h"

#define TREE_DEPTH_MAX	 512
#define TREE_PATH_MAX	 4096
#define TREE_SYMLINK_MAX 40
#define TREE_XATTRS_MAX	 1024 /* of one inode */
#define TREE_NODES_MAX	 (2u << 20)

struct xattr_list {
	struct smfs_xattr *v;
	size_t n, bytes;
};

struct tinode {
	unsigned refs;
	uint32_t mode; /* with its type */
	uint32_t uid, gid;
	uint32_t rdev_major, rdev_minor;
	int64_t mtime_sec;
	uint32_t mtime_nsec;
	struct smfs_content content;
	char *target; /* symlink; path of a NODE_LOWER */
	struct xattr_list xattrs;
	/* Scratch of tree_store(): names counted, and the number given to the inode. */
	uint32_t nlink;
	uint64_t link;
};

enum tnode_kind { NODE_PLAIN, NODE_WHITEOUT, NODE_LOWER };

struct tnode {
	enum tnode_kind kind;
	struct tinode *inode; /* NULL for a whiteout */
	struct tnode *parent; /* NULL for the root */
	unsigned depth;
	bool dir_opaque, dir_implied;
	size_t nchildren;
	struct tnode *next_removed;
	void *children; /* tsearch(3) tree of nodes by name, directories only */
	char name[];
};

struct tree {
	struct tnode *root;
	struct tnode *removed; /* by next_removed, until tree_reap() */
	size_t nodes;	       /* the removed included */
};

/* An empty tree: an implied root directory, 0755. NULL when out of memory. */
struct tree *tree_new(void);
void tree_free(struct tree *t);

static inline bool tnode_is_dir(const struct tnode *n)
{
	return n->kind == NODE_PLAIN && n->inode && S_ISDIR(n->inode->mode);
}

static inline bool tnode_is_symlink(const struct tnode *n)
{
	return n->kind == NODE_PLAIN && n->inode && S_ISLNK(n->inode->mode);
}

/* ---- inodes ---- */
struct tinode *tinode_new(uint32_t mode);
struct tinode *tinode_get(struct tinode *i);
void tinode_put(struct tinode *i);
/* Copies name and value; replaces an equal name. -E2BIG past SMFS_XATTR_MAX. */
int tinode_add_xattr(struct tinode *i, const char *name, const void *value, size_t len,
		     struct err *err);
const struct smfs_xattr *tinode_xattr(const struct tinode *i, const char *name);

/* ---- nodes ---- */
struct tnode *tnode_find(const struct tnode *dir, const char *name);
/* Visit the children of `dir` in name order; stops at the first negative answer and returns it. */
typedef int (*tnode_visit)(struct tnode *child, void *arg);
int tnode_each(const struct tnode *dir, tnode_visit visit, void *arg);
/* Put `inode` (the reference is taken over, on failure too) under `name`, replacing what is there.
 */
int tree_put(struct tree *t, struct tnode *dir, const char *name, enum tnode_kind kind,
	     struct tinode *inode, struct tnode **out, struct err *err);
/*
 * What is removed or replaced leaves the tree at once, but its memory only in tree_reap(): a
 * symlink may lead a walk to an ancestor of where it stands, so callers hold nodes that go away.
 */
void tree_remove(struct tree *t, struct tnode *n);
void tree_clear_dir(struct tree *t, struct tnode *dir);
void tree_reap(struct tree *t);

/* ---- paths ---- */

/* Lexically clean: no leading '/', no "." or empty or ".." component. "" is the root. -EBADMSG when
 * too long. */
int path_clean(const char *path, char out[TREE_PATH_MAX], struct err *err);

/* What a walk does about a missing or wrong component. */
enum walk_mode {
	WALK_FIND,   /* -ENOENT, without a message */
	WALK_CREATE, /* missing directories are made, implied; other things in the way refused */
	WALK_REPLACE /* the same, and what is in the way is replaced */
};
/* The directory a clean path leads to, symlinks followed inside the tree. */
int tree_walk_dir(struct tree *t, struct tnode *from, const char *path, enum walk_mode mode,
		  struct tnode **out, struct err *err);
/* The node at a clean path; a symlink at its end is not followed. -ENOENT without message. */
int tree_lookup(struct tree *t, const char *path, struct tnode **out, struct err *err);

#endif
