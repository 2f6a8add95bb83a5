/*
 * names.c - the top of a mount: snapshots/, images/, layers/, and the directories that make up an
 * image's reference.
 *
 * Names come and go by other processes, so nothing here is cached: each lookup and each listing
 * asks the index.
 */
#include <stdlib.h>
#include <string.h>

#include "smfs/base/num.h"
#include "smfs/base/sha256.h"
#include "smfs/mount/fs.h"
#include "smfs/mount/refpath.h"

#define NAMES_PAGE 64

static const struct inode_ops top_ops, kind_ops;

static const struct {
	const char *name;
	enum smfs_kind kind;
	mode_t mode;
} kinds[] = {
	/* Guest memory holds secrets: for root only. */
	{"snapshots", SMFS_SNAPSHOT, 0700},
	{"images", SMFS_IMAGE, 0555},
	{"layers", SMFS_LAYER, 0555},
};

int names_root_new(struct smfs_mount *m, struct inode **out, struct err *err)
{
	struct node_key key = {.tag = KEY_FIXED};

	*out = inode_new(m, NULL, "", &top_ops, &key, S_IFDIR | 0555, err);
	return *out ? 0 : -ENOMEM;
}

static int top_lookup(struct smfs_mount *m, struct inode *dir, const char *name, struct inode **out,
		      struct err *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct node_key key = {.tag = KEY_FIXED, .a = kinds[i].kind};
		mode_t mode = kinds[i].mode;

		if (strcmp(kinds[i].name, name) != 0)
			continue;
		if (m->read_only)
			mode &= ~(mode_t)0222;
		*out = inode_new(m, dir, name, &kind_ops, &key, S_IFDIR | mode, err);
		if (!*out)
			return -ENOMEM;
		(*out)->kind = kinds[i].kind;
		(*out)->volatile_attr = true;
		return 0;
	}
	if (strcmp(name, ".smfs") == 0)
		return control_dir_new(m, dir, out, err);
	return -ENOENT;
}

static int top_list(struct smfs_mount *m, struct inode *dir, struct listing *l, struct err *err)
{
	int r = listing_add(l, ".smfs", S_IFDIR, err);

	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(kinds); i++)
		r = listing_add(l, kinds[i].name, S_IFDIR, err);
	return r;
}

/* ---- the directory of a kind, and of a part of a reference ---------------------------------- */

static const char *prefix_of(const struct inode *dir)
{
	return dir->prefix ? dir->prefix : "";
}

/* A directory's time is when any name last changed, as far as this mount has noticed. */
static int kind_getattr(struct smfs_mount *m, struct inode *i, struct stat *st, struct err *err)
{
	uint64_t seq = smfs_store_seq(m->store);

	*st = i->st;
	st->st_ino = i->node.ino;
	pthread_mutex_lock(&m->names_lock);
	if (seq != m->names_seq) {
		m->names_seq = seq;
		clock_gettime(CLOCK_REALTIME, &m->names_changed);
	}
	st->st_mtim = m->names_changed;
	pthread_mutex_unlock(&m->names_lock);
	return 0;
}

static void name_key(const struct smfs_name *n, struct node_key *key)
{
	*key = (struct node_key){.tag = KEY_NAME, .a = n->seq, .b = n->kind, .id = n->root};
	/* One commit may give two names to one image; a snapshot keeps its inode when renamed. */
	if (n->kind != SMFS_SNAPSHOT)
		sha256(n->name, strlen(n->name), key->id.b);
}

int names_inode(struct smfs_mount *m, struct inode *parent, const struct smfs_name *n,
		struct inode **out, struct err *err)
{
	static const enum place places[] = {
		[SMFS_SNAPSHOT] = IN_SNAPSHOT, [SMFS_IMAGE] = IN_IMAGE, [SMFS_LAYER] = IN_TREE};
	const char *slash = strrchr(n->name, '/');
	bool snapshot = n->kind == SMFS_SNAPSHOT;
	int64_t mtime = snapshot ? n->created : n->mtime;
	struct node_key key;
	struct inode *i;

	name_key(n, &key);
	int r = tree_dir_new(m, parent, slash ? slash + 1 : n->name, &key, places[n->kind],
			     &n->root, &n->root, &i, err);
	if (r < 0)
		return r;
	/* What is below is still read when the name is gone. */
	r = smfs_lease_root(m->store, &n->root, &i->lease, err);
	if (r < 0) {
		inode_destroy(&i->node);
		return r;
	}
	i->kind = n->kind;
	i->seq = n->seq;
	i->volatile_name = true;
	i->st.st_mode = S_IFDIR | (snapshot ? 0500 : n->mode & 07777);
	i->st.st_uid = snapshot ? 0 : n->uid;
	i->st.st_gid = snapshot ? 0 : n->gid;
	i->st.st_mtim.tv_sec = mtime / 1000000000 - (mtime % 1000000000 < 0);
	i->st.st_mtim.tv_nsec = (mtime % 1000000000 + 1000000000) % 1000000000;
	*out = i;
	return 0;
}

int names_find(struct smfs_mount *m, struct inode *parent, enum smfs_kind kind, const char *name,
	       struct inode **out, struct err *err)
{
	struct smfs_name n;

	if (smfs_name_check(kind, name, NULL) < 0)
		return -ENOENT;
	int r = smfs_name_get(m->store, kind, name, &n, err);
	while (r == 0) {
		struct smfs_name now;
		struct inode *i;

		r = names_inode(m, parent, &n, &i, err);
		if (r < 0)
			break;
		/* The lease is sure if the name was still there after it began. */
		r = smfs_name_get(m->store, kind, name, &now, err);
		if (r == 0 && now.seq == n.seq) {
			*out = i;
			return 0;
		}
		inode_destroy(&i->node);
		n = now;
	}
	return r;
}

/* Is some image's reference below this path? */
static int prefix_exists(struct smfs_mount *m, const char *path, struct err *err)
{
	char after[SMFS_REF_MAX + 1], child[SMFS_NAME_MAX + 1];
	struct smfs_name n;
	bool leaf;

	if (!ref_join(path, "", after))
		return -ENOENT;
	ssize_t got = smfs_name_list(m->store, SMFS_IMAGE, after, &n, 1, err);
	if (got < 0)
		return (int)got;
	return got == 1 && ref_child(path, n.name, child, &leaf) ? 0 : -ENOENT;
}

int names_prefix_new(struct smfs_mount *m, struct inode *dir, const char *name, const char *path,
		     struct inode **out, struct err *err)
{
	struct node_key key = {.tag = KEY_PREFIX};

	sha256(path, strlen(path), key.id.b);
	struct inode *i = inode_new(m, dir, name, &kind_ops, &key, S_IFDIR | 0555, err);
	if (!i)
		return -ENOMEM;
	i->prefix = strdup(path);
	if (!i->prefix) {
		inode_destroy(&i->node);
		return err_set(err, ENOMEM, "look up %s: out of memory", path);
	}
	i->kind = SMFS_IMAGE;
	i->volatile_attr = i->volatile_name = true;
	*out = i;
	return 0;
}

static int kind_lookup(struct smfs_mount *m, struct inode *dir, const char *name,
		       struct inode **out, struct err *err)
{
	char path[SMFS_REF_MAX + 1];
	int r;

	if (dir->kind == SMFS_SNAPSHOT && m->stages) {
		r = stage_find(m, dir, name, out, err);
		if (r != -ENOENT)
			return r;
	}
	if (!ref_join(prefix_of(dir), name, path))
		return -ENAMETOOLONG;
	r = names_find(m, dir, dir->kind, path, out, err);
	if (r != -ENOENT || dir->kind != SMFS_IMAGE)
		return r;
	r = prefix_exists(m, path, err);
	return r < 0 ? r : names_prefix_new(m, dir, name, path, out, err);
}

/* A copy becomes a snapshot between our looking at the copies and at the index. */
static bool listed(const struct listing *l, size_t copies, const char *name)
{
	for (size_t i = 0; i < copies; i++)
		if (strcmp(listing_name(l, i), name) == 0)
			return true;
	return false;
}

static int kind_list(struct smfs_mount *m, struct inode *dir, struct listing *l, struct err *err)
{
	const char *prefix = prefix_of(dir);
	char after[SMFS_REF_MAX + 1] = "", child[SMFS_NAME_MAX + 1];
	struct smfs_name *page = malloc(NAMES_PAGE * sizeof(*page));
	ssize_t got = 0;
	int r = 0;

	if (!page)
		return err_set(err, ENOMEM, "list %s: out of memory", dir->name);
	if (*prefix && !ref_join(prefix, "", after))
		r = err_set(err, ENAMETOOLONG, "list %s", prefix);
	if (r == 0 && dir->kind == SMFS_SNAPSHOT && m->stages)
		r = stage_list(m, l, err);
	size_t copies = l->count;
	do {
		if (r < 0)
			break;
		got = smfs_name_list(m->store, dir->kind, *after ? after : NULL, page, NAMES_PAGE,
				     err);
		if (got < 0)
			r = (int)got;
		for (ssize_t k = 0; r == 0 && k < got; k++) {
			bool leaf;

			if (dir->kind == SMFS_IMAGE) {
				if (strcmp(page[k].name, after) <= 0)
					continue; /* in a directory listed already */
				if (!ref_child(prefix, page[k].name, child, &leaf)) {
					got = 0; /* past the prefix: done */
					break;
				}
				r = listing_add(l, child, S_IFDIR, err);
				if (leaf || !ref_skip(prefix, child, after))
					memcpy(after, page[k].name, sizeof(after));
			} else {
				if (!listed(l, copies, page[k].name))
					r = listing_add(l, page[k].name, S_IFDIR, err);
				memcpy(after, page[k].name, sizeof(after));
			}
		}
	} while (got == NAMES_PAGE);
	free(page);
	return r;
}

/* ---- changes, in snapshots/ ----------------------------------------------------------------- */

static int writable(struct smfs_mount *m, struct inode *dir, const char *what, const char *name,
		    struct err *err)
{
	if (m->read_only)
		return err_set(err, EROFS, "%s %s: the mount is read-only", what, name);
	if (dir->kind != SMFS_SNAPSHOT)
		return err_set(err, EROFS,
			       "%s %s: only snapshots/ can be changed through the mount", what,
			       name);
	return 0;
}

static int kind_mkdir(struct smfs_mount *m, struct inode *dir, const char *name, struct inode **out,
		      struct err *err)
{
	struct smfs_name n;
	int r = writable(m, dir, "create", name, err);

	if (r < 0)
		return r;
	r = smfs_name_check(SMFS_SNAPSHOT, name, err);
	if (r < 0)
		return r;
	r = smfs_name_get(m->store, SMFS_SNAPSHOT, name, &n, err);
	if (r == 0)
		return err_set(err, EEXIST,
			       "create snapshots/%s: a snapshot of that name exists; "
			       "remove it or choose another",
			       name);
	return r == -ENOENT ? stage_mkdir(m, dir, name, out, err) : r;
}

/* Nothing of the snapshot is left in sight: now the name goes. */
static int kind_rmdir(struct smfs_mount *m, struct inode *dir, const char *name, struct err *err)
{
	struct smfs_name n;
	struct smfs_dir *d;
	int r = writable(m, dir, "remove", name, err);

	if (r < 0)
		return r;
	r = stage_rmdir(m, name, err);
	if (r != -ENOENT)
		return r;
	if (smfs_name_check(SMFS_SNAPSHOT, name, NULL) < 0)
		return -ENOENT;
	r = smfs_name_get(m->store, SMFS_SNAPSHOT, name, &n, err);
	if (r < 0)
		return r;
	/* A snapshot whose directory cannot be read any more can still be removed. */
	if (smfs_dir_open(m->store, &n.root, &d, NULL) == 0) {
		size_t count = smfs_dir_count(d), hidden = 0;

		for (size_t i = 0; i < count; i++)
			hidden += names_is_hidden(m, n.seq, i);
		smfs_dir_close(d);
		if (hidden < count)
			return -ENOTEMPTY;
	}
	r = smfs_name_remove(m->store, SMFS_SNAPSHOT, name, err);
	if (r == 0) {
		names_unhide(m, n.seq);
		stats_add(&m->stats, COUNT_REMOVALS, 1);
	}
	return r;
}

static int kind_rename(struct smfs_mount *m, struct inode *from_dir, const char *from,
		       struct inode *to_dir, const char *to, unsigned flags,
		       void (*done)(void *arg, int r), void *arg, struct err *err)
{
	struct smfs_name n;
	int r = writable(m, from_dir, "rename", from, err);

	if (r == 0)
		r = writable(m, to_dir, "rename to", to, err);
	if (r == 0)
		r = smfs_name_check(SMFS_SNAPSHOT, to, err);
	if (r < 0)
		return r;
	r = smfs_name_get(m->store, SMFS_SNAPSHOT, to, &n, err);
	if (r != -ENOENT)
		return r < 0 ? r
			     : err_set(err, EEXIST, "rename to %s: a snapshot of that name exists",
				       to);
	r = stage_rename(m, from, to, err);
	if (r == -ENOENT)
		r = smfs_name_rename(m->store, SMFS_SNAPSHOT, from, to, err);
	if (r == 0)
		stats_add(&m->stats, COUNT_RENAMES, 1);
	return r;
}

static const struct inode_ops top_ops = {
	.lookup = top_lookup,
	.list = top_list,
};

static const struct inode_ops kind_ops = {
	.lookup = kind_lookup,
	.list = kind_list,
	.getattr = kind_getattr,
	.mkdir = kind_mkdir,
	.rmdir = kind_rmdir,
	.rename = kind_rename,
};
