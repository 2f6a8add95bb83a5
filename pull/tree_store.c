#include "pull/tree_store.h"

#include <search.h>
#include <stdlib.h>
#include <string.h>

#include "pull/tree.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/err.h"

/* ---- out ---------------------------------------------------------------------------------- */

struct storing {
	struct smfs_ingest *ing;
	unsigned flags;
	uint64_t next_link;
	struct err *err;
};

struct listing {
	struct storing *s;
	struct smfs_entry *entries;
	size_t n;
};

static const struct smfs_xattr yes_opaque = {.name = XATTR_OPAQUE, .value = "y", .len = 1};
static const struct smfs_xattr yes_implied = {.name = XATTR_IMPLIED, .value = "y", .len = 1};
static const struct smfs_xattr yes_link = {.name = XATTR_LINK, .value = "y", .len = 1};

static int reset_links(struct tnode *n, void *arg)
{
	if (n->inode) {
		n->inode->nlink = 0;
		n->inode->link = 0;
	}
	return tnode_is_dir(n) ? tnode_each(n, reset_links, arg) : 0;
}

static int count_links(struct tnode *n, void *arg)
{
	if (n->inode)
		n->inode->nlink++;
	return tnode_is_dir(n) ? tnode_each(n, count_links, arg) : 0;
}

static void fill_attrs(struct smfs_entry *e, const struct tinode *i)
{
	*e = (struct smfs_entry){
		.mode = i->mode,
		.uid = i->uid,
		.gid = i->gid,
		.rdev_major = i->rdev_major,
		.rdev_minor = i->rdev_minor,
		.mtime_sec = i->mtime_sec,
		.mtime_nsec = i->mtime_nsec,
		.nlink = 1,
		.content = i->content,
		.target = S_ISLNK(i->mode) ? i->target : NULL,
		.xattrs = i->xattrs.v,
		.nxattrs = i->xattrs.n,
	};
}

/* The marks of a layer's node, as an array of its own beside the node's xattrs. */
static int add_marks(struct smfs_entry *e, const struct tnode *n, struct err *err)
{
	size_t own = e->nxattrs;
	struct smfs_xattr *v = malloc((own + 3) * sizeof(*v));

	if (!v)
		return err_set(err, ENOMEM, "store %s: out of memory", n->name);
	if (own)
		memcpy(v, e->xattrs, own * sizeof(*v));
	if (n->dir_opaque)
		v[own++] = yes_opaque;
	if (n->dir_implied)
		v[own++] = yes_implied;
	if (n->kind == NODE_LOWER)
		v[own++] = yes_link;
	e->xattrs = v;
	e->nxattrs = own;
	return 0;
}

static int store_dir(struct storing *s, const struct tnode *dir, struct smfs_id *out);

static int list_node(struct tnode *n, void *arg)
{
	struct listing *l = arg;
	struct smfs_entry *e = &l->entries[l->n];
	int r = 0;

	if (n->kind == NODE_WHITEOUT) {
		*e = (struct smfs_entry){.name = n->name, .mode = S_IFCHR, .nlink = 1};
		l->n++;
		return 0;
	}
	if (n->inode->nlink > 1 && !tnode_is_dir(n) && !n->inode->link)
		n->inode->link = ++l->s->next_link;
	fill_attrs(e, n->inode);
	e->name = n->name;
	if (n->inode->link) {
		e->link = n->inode->link;
		e->nlink = n->inode->nlink;
	}
	if (n->kind == NODE_LOWER)
		e->target = n->inode->target;
	if (tnode_is_dir(n))
		r = store_dir(l->s, n, &e->dir);
	if (r == 0 && (l->s->flags & TREE_LAYER) &&
	    (n->dir_opaque || n->dir_implied || n->kind == NODE_LOWER))
		r = add_marks(e, n, l->s->err);
	if (r == 0)
		l->n++;
	return r;
}

static void free_marks(struct listing *l, const struct tnode *dir)
{
	for (size_t i = 0; i < l->n; i++) {
		const struct tnode *n = tnode_find(dir, l->entries[i].name);

		if (n && n->inode && l->entries[i].xattrs != n->inode->xattrs.v)
			free((void *)l->entries[i].xattrs);
	}
	free(l->entries);
}

static int store_dir(struct storing *s, const struct tnode *dir, struct smfs_id *out)
{
	struct listing l = {.s = s};
	int r;

	l.entries = calloc(dir->nchildren + 2, sizeof(*l.entries));
	if (!l.entries)
		return err_set(s->err, ENOMEM, "store directory %s: out of memory", dir->name);
	r = tnode_each(dir, list_node, &l);
	if (r == 0 && !dir->parent && (s->flags & TREE_LAYER)) {
		if (dir->dir_opaque)
			l.entries[l.n++] = (struct smfs_entry){
				.name = TREE_ROOT_OPAQUE, .mode = S_IFCHR, .nlink = 1};
		if (dir->dir_implied)
			l.entries[l.n++] = (struct smfs_entry){
				.name = TREE_ROOT_IMPLIED, .mode = S_IFCHR, .nlink = 1};
	}
	if (r == 0)
		r = smfs_ingest_dir(s->ing, l.entries, l.n, out, s->err);
	free_marks(&l, dir);
	return r;
}

int tree_store(struct smfs_ingest *ing, struct tree *t, unsigned flags, struct smfs_entry *root,
	       struct err *err)
{
	struct storing s = {.ing = ing, .flags = flags, .err = err};

	reset_links(t->root, NULL);
	count_links(t->root, NULL);
	fill_attrs(root, t->root->inode);
	return store_dir(&s, t->root, &root->dir);
}

/* ---- back --------------------------------------------------------------------------------- */

struct link_slot {
	uint64_t link;
	struct tinode *inode;
};

struct loading {
	struct smfs_store *s;
	struct tree *t;
	void *links; /* tsearch tree of struct link_slot */
	struct err *err;
};

static int by_link(const void *a, const void *b)
{
	const struct link_slot *x = a, *y = b;

	return (x->link > y->link) - (x->link < y->link);
}

static int load_xattrs(struct tinode *i, const struct smfs_entry *e, struct err *err)
{
	for (size_t k = 0; k < e->nxattrs; k++) {
		const struct smfs_xattr *x = &e->xattrs[k];
		int r;

		if (strcmp(x->name, XATTR_OPAQUE) == 0 || strcmp(x->name, XATTR_IMPLIED) == 0 ||
		    strcmp(x->name, XATTR_LINK) == 0)
			continue;
		r = tinode_add_xattr(i, x->name, x->value, x->len, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static bool marked(const struct smfs_entry *e, const char *mark)
{
	for (size_t k = 0; k < e->nxattrs; k++)
		if (strcmp(e->xattrs[k].name, mark) == 0)
			return true;
	return false;
}

static struct tinode *new_inode(const struct smfs_entry *e, struct err *err)
{
	struct tinode *i = tinode_new(e->mode);

	if (!i)
		goto nomem;
	i->uid = e->uid;
	i->gid = e->gid;
	i->rdev_major = e->rdev_major;
	i->rdev_minor = e->rdev_minor;
	i->mtime_sec = e->mtime_sec;
	i->mtime_nsec = e->mtime_nsec;
	i->content = e->content;
	if (e->target) {
		i->target = strdup(e->target);
		if (!i->target)
			goto nomem;
	}
	if (load_xattrs(i, e, err) < 0) {
		tinode_put(i);
		return NULL;
	}
	return i;
nomem:
	tinode_put(i);
	err_set(err, ENOMEM, "load layer: out of memory");
	return NULL;
}

/* The inode of an entry: one for all entries of one link. A reference the caller owns. */
static struct tinode *get_inode(struct loading *l, const struct smfs_entry *e)
{
	struct link_slot key = {.link = e->link}, *slot;
	void **found;
	struct tinode *i;

	if (!e->link)
		return new_inode(e, l->err);
	found = tfind(&key, &l->links, by_link);
	if (found)
		return tinode_get((*(struct link_slot **)found)->inode);
	i = new_inode(e, l->err);
	if (!i)
		return NULL;
	slot = malloc(sizeof(*slot));
	if (slot) {
		*slot = (struct link_slot){.link = e->link, .inode = i};
		if (tsearch(slot, &l->links, by_link))
			return i;
	}
	free(slot);
	tinode_put(i);
	err_set(l->err, ENOMEM, "load layer: out of memory");
	return NULL;
}

static int load_dir(struct loading *l, const struct smfs_id *id, struct tnode *dir);

static int load_entry(struct loading *l, const struct smfs_entry *e, struct tnode *dir)
{
	bool device_zero = S_ISCHR(e->mode) && e->rdev_major == 0 && e->rdev_minor == 0;
	struct tinode *i;
	struct tnode *n;
	int r;

	if (device_zero && !dir->parent && strcmp(e->name, TREE_ROOT_OPAQUE) == 0) {
		dir->dir_opaque = true;
		return 0;
	}
	if (device_zero && !dir->parent && strcmp(e->name, TREE_ROOT_IMPLIED) == 0) {
		dir->dir_implied = true;
		return 0;
	}
	if (device_zero)
		return tree_put(l->t, dir, e->name, NODE_WHITEOUT, NULL, NULL, l->err);
	i = get_inode(l, e);
	if (!i)
		return l->err ? -l->err->code : -ENOMEM;
	r = tree_put(l->t, dir, e->name, marked(e, XATTR_LINK) ? NODE_LOWER : NODE_PLAIN, i, &n,
		     l->err);
	if (r < 0 || !S_ISDIR(e->mode))
		return r;
	n->dir_opaque = marked(e, XATTR_OPAQUE);
	n->dir_implied = marked(e, XATTR_IMPLIED);
	return load_dir(l, &e->dir, n);
}

static int load_dir(struct loading *l, const struct smfs_id *id, struct tnode *dir)
{
	struct smfs_dir *d;
	int r = smfs_dir_open(l->s, id, &d, l->err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < smfs_dir_count(d) && r == 0; i++)
		r = load_entry(l, smfs_dir_at(d, i), dir);
	smfs_dir_close(d);
	return r;
}

int tree_load_layer(struct smfs_store *s, const struct smfs_name *name, struct tree **out,
		    struct err *err)
{
	struct loading l = {.s = s, .t = tree_new(), .err = err};
	struct tinode *root;
	int r;

	if (!l.t)
		return err_set(err, ENOMEM, "load layer %s: out of memory", name->name);
	root = l.t->root->inode;
	root->mode = S_IFDIR | (name->mode & 07777);
	root->uid = name->uid;
	root->gid = name->gid;
	root->mtime_sec = name->mtime / 1000000000;
	root->mtime_nsec = name->mtime % 1000000000;
	if (name->mtime < 0 && root->mtime_nsec) {
		root->mtime_sec--;
		root->mtime_nsec = 1000000000 + name->mtime % 1000000000;
	}
	l.t->root->dir_implied = false;
	r = load_dir(&l, &name->root, l.t->root);
	tdestroy(l.links, free);
	if (r < 0) {
		tree_free(l.t);
		return err_wrap(err, r, "load layer %s", name->name);
	}
	*out = l.t;
	return 0;
}
