#include "pull/tree.h"

#include <search.h>
#include <stdlib.h>
#include <string.h>

#include "pull/text.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/err.h"

/* ---- inodes ---- */

struct tinode *tinode_new(uint32_t mode)
{
	struct tinode *i = calloc(1, sizeof(*i));

	if (i) {
		i->refs = 1;
		i->mode = mode;
	}
	return i;
}

struct tinode *tinode_get(struct tinode *i)
{
	i->refs++;
	return i;
}

static void xattrs_free(struct xattr_list *x)
{
	for (size_t k = 0; k < x->n; k++) {
		free((void *)x->v[k].name);
		free((void *)x->v[k].value);
	}
	free(x->v);
	memset(x, 0, sizeof(*x));
}

void tinode_put(struct tinode *i)
{
	if (!i || --i->refs)
		return;
	xattrs_free(&i->xattrs);
	free(i->target);
	free(i);
}

static struct smfs_xattr *find_xattr(const struct tinode *i, const char *name)
{
	for (size_t k = 0; k < i->xattrs.n; k++)
		if (strcmp(i->xattrs.v[k].name, name) == 0)
			return &i->xattrs.v[k];
	return NULL;
}

const struct smfs_xattr *tinode_xattr(const struct tinode *i, const char *name)
{
	return find_xattr(i, name);
}

int tinode_add_xattr(struct tinode *i, const char *name, const void *value, size_t len,
		     struct err *err)
{
	struct xattr_list *x = &i->xattrs;
	struct smfs_xattr *old = find_xattr(i, name);
	size_t bytes = x->bytes + strlen(name) + len;
	cleanup_free void *v = NULL;
	cleanup_free char *n = NULL;

	if (old)
		bytes -= strlen(old->name) + old->len;
	if (len > SMFS_XATTR_MAX || bytes > SMFS_XATTR_MAX || strlen(name) > 255 || !*name ||
	    (!old && x->n == TREE_XATTRS_MAX))
		return err_set(err, E2BIG,
			       "extended attribute %.100s: one too many or too large for a file "
			       "(%d bytes in all)",
			       name, SMFS_XATTR_MAX);
	v = malloc(len + 1);
	n = strdup(name);
	if (!v || !n)
		goto nomem;
	if (len)
		memcpy(v, value, len);
	if (!old) {
		struct smfs_xattr *p = realloc(x->v, (x->n + 1) * sizeof(*p));

		if (!p)
			goto nomem;
		x->v = p;
		old = &p[x->n++];
		*old = (struct smfs_xattr){0};
	}
	free((void *)old->name);
	free((void *)old->value);
	*old = (struct smfs_xattr){.name = steal_ptr(&n), .value = steal_ptr(&v), .len = len};
	x->bytes = bytes;
	return 0;
nomem:
	return err_set(err, ENOMEM, "extended attribute %.100s: out of memory", name);
}

/* ---- nodes ---- */

/* Keys of the search trees are names inside nodes. */
#define node_of(namep) ((struct tnode *)((char *)(namep)-offsetof(struct tnode, name)))

static int by_name(const void *a, const void *b)
{
	return strcmp(a, b);
}

struct tnode *tnode_find(const struct tnode *dir, const char *name)
{
	void *found = tfind(name, (void *const *)&dir->children, by_name);

	return found ? node_of(*(char **)found) : NULL;
}

struct visit {
	tnode_visit fn;
	void *arg;
	int ret;
};

static void visit_one(const void *nodep, VISIT which, void *closure)
{
	struct visit *v = closure;

	if (v->ret >= 0 && (which == postorder || which == leaf))
		v->ret = v->fn(node_of(*(char *const *)nodep), v->arg);
}

int tnode_each(const struct tnode *dir, tnode_visit visit, void *arg)
{
	struct visit v = {.fn = visit, .arg = arg};

	twalk_r(dir->children, visit_one, &v);
	return v.ret < 0 ? v.ret : 0;
}

static struct tnode *node_new(const char *name, enum tnode_kind kind, struct tinode *inode)
{
	size_t n = strlen(name);
	struct tnode *node = calloc(1, sizeof(*node) + n + 1);

	if (node) {
		memcpy(node->name, name, n + 1);
		node->kind = kind;
		node->inode = inode;
	}
	return node;
}

static int attach(struct tnode *dir, struct tnode *n)
{
	if (!tsearch(n->name, &dir->children, by_name))
		return -ENOMEM;
	n->parent = dir;
	dir->nchildren++;
	return 0;
}

static void detach(struct tnode *n)
{
	tdelete(n->name, &n->parent->children, by_name);
	n->parent->nchildren--;
	n->parent = NULL;
}

static void free_subtree(struct tree *t, struct tnode *n)
{
	/* Children are detached at the root of the search tree: cheap, and nothing dangles. */
	while (n->children) {
		struct tnode *c = node_of(*(char **)n->children);

		detach(c);
		free_subtree(t, c);
	}
	t->nodes--;
	tinode_put(n->inode);
	free(n);
}

struct tree *tree_new(void)
{
	struct tree *t = calloc(1, sizeof(*t));
	struct tinode *i = tinode_new(S_IFDIR | 0755);

	if (t && i)
		t->root = node_new("", NODE_PLAIN, i);
	if (!t || !i || !t->root) {
		free(t);
		tinode_put(i);
		return NULL;
	}
	t->root->dir_implied = true;
	t->nodes = 1;
	return t;
}

void tree_reap(struct tree *t)
{
	while (t->removed) {
		struct tnode *n = t->removed;

		t->removed = n->next_removed;
		free_subtree(t, n);
	}
}

void tree_free(struct tree *t)
{
	if (!t)
		return;
	tree_reap(t);
	free_subtree(t, t->root);
	free(t);
}

void tree_remove(struct tree *t, struct tnode *n)
{
	detach(n);
	n->next_removed = t->removed;
	t->removed = n;
}

void tree_clear_dir(struct tree *t, struct tnode *dir)
{
	while (dir->children)
		tree_remove(t, node_of(*(char **)dir->children));
}

int tree_put(struct tree *t, struct tnode *dir, const char *name, enum tnode_kind kind,
	     struct tinode *inode, struct tnode **out, struct err *err)
{
	struct tnode *old = tnode_find(dir, name);
	struct tnode *n;

	if (strlen(name) > SMFS_NAME_MAX || t->nodes >= TREE_NODES_MAX ||
	    dir->depth + 1 > TREE_DEPTH_MAX) {
		tinode_put(inode);
		if (strlen(name) > SMFS_NAME_MAX)
			return err_set(err, EBADMSG, "name %.60s...: longer than %d bytes", name,
				       SMFS_NAME_MAX);
		if (dir->depth + 1 > TREE_DEPTH_MAX)
			return err_set(err, EBADMSG, "%.60s: more than %d folders deep", name,
				       TREE_DEPTH_MAX);
		return err_set(err, EBADMSG, "%.60s: more than %u entries", name, TREE_NODES_MAX);
	}
	n = node_new(name, kind, inode);
	if (!n) {
		tinode_put(inode);
		return err_set(err, ENOMEM, "%.60s: out of memory", name);
	}
	t->nodes++;
	if (old)
		tree_remove(t, old);
	if (attach(dir, n) < 0) {
		free_subtree(t, n);
		return err_set(err, ENOMEM, "%.60s: out of memory", name);
	}
	n->depth = dir->depth + 1;
	if (out)
		*out = n;
	return 0;
}

/* ---- paths ---- */

int path_clean(const char *path, char out[TREE_PATH_MAX], struct err *err)
{
	size_t len = 0;

	if (strlen(path) >= TREE_PATH_MAX)
		return err_set(err, EBADMSG, "path %.60s...: longer than %d bytes", path,
			       TREE_PATH_MAX - 1);
	while (*path) {
		size_t n = strcspn(path, "/");

		if (n == 2 && memcmp(path, "..", 2) == 0) {
			while (len && out[--len] != '/')
				;
		} else if (n && !(n == 1 && *path == '.')) {
			if (len)
				out[len++] = '/';
			memmove(out + len, path, n);
			len += n;
		}
		path += n;
		path += *path == '/';
	}
	out[len] = '\0';
	return 0;
}

struct walk {
	struct tree *t;
	enum walk_mode mode;
	struct tnode *at;
	char rest[2 * TREE_PATH_MAX]; /* what is still to be walked */
	unsigned links;
};

/* Prefix the rest of the walk by a symlink's target. */
static int follow(struct walk *w, const struct tnode *link, const char *rest, struct err *err)
{
	char next[2 * TREE_PATH_MAX];
	const char *target = link->inode->target;

	if (++w->links > TREE_SYMLINK_MAX)
		return err_set(err, EBADMSG, "symlink %.100s: too many levels of symbolic links",
			       link->name);
	if (!text_copy(next, sizeof(next), target) || !text_append(next, sizeof(next), "/") ||
	    !text_append(next, sizeof(next), rest))
		return err_set(err, EBADMSG, "symlink %.100s: leads to too long a path",
			       link->name);
	text_copy(w->rest, sizeof(w->rest), next);
	if (*target == '/')
		w->at = w->t->root;
	return 0;
}

static int step(struct walk *w, const char *name, const char *rest, struct err *err)
{
	struct tnode *n = tnode_find(w->at, name);
	struct tinode *dir;
	int r;

	if (n && tnode_is_dir(n)) {
		w->at = n;
		memmove(w->rest, rest, strlen(rest) + 1);
		return 0;
	}
	if (n && tnode_is_symlink(n))
		return follow(w, n, rest, err);
	if (w->mode == WALK_FIND)
		return -ENOENT;
	if (n && n->kind != NODE_WHITEOUT && w->mode != WALK_REPLACE)
		return err_set(err, EBADMSG, "%.100s: not a directory, yet entries lie below it",
			       name);
	dir = tinode_new(S_IFDIR | 0755);
	if (!dir)
		return err_set(err, ENOMEM, "%.100s: out of memory", name);
	bool hides = n && n->kind == NODE_WHITEOUT;

	r = tree_put(w->t, w->at, name, NODE_PLAIN, dir, &w->at, err);
	if (r < 0)
		return r;
	w->at->dir_implied = true;
	w->at->dir_opaque = hides;
	memmove(w->rest, rest, strlen(rest) + 1);
	return 0;
}

int tree_walk_dir(struct tree *t, struct tnode *from, const char *path, enum walk_mode mode,
		  struct tnode **out, struct err *err)
{
	struct walk w = {.t = t, .mode = mode, .at = from};

	if (strlen(path) >= TREE_PATH_MAX)
		return err_set(err, EBADMSG, "path %.60s...: longer than %d bytes", path,
			       TREE_PATH_MAX - 1);
	text_copy(w.rest, sizeof(w.rest), path);
	while (w.rest[0]) {
		char name[SMFS_NAME_MAX + 1];
		size_t n = strcspn(w.rest, "/");
		const char *rest = w.rest + n + (w.rest[n] == '/');
		int r;

		if (n == 0 || (n == 1 && w.rest[0] == '.')) {
			memmove(w.rest, rest, strlen(rest) + 1);
			continue;
		}
		if (n == 2 && memcmp(w.rest, "..", 2) == 0) {
			w.at = w.at->parent ? w.at->parent : w.at;
			memmove(w.rest, rest, strlen(rest) + 1);
			continue;
		}
		if (n > SMFS_NAME_MAX)
			return err_set(err, EBADMSG, "name %.60s...: longer than %d bytes", w.rest,
				       SMFS_NAME_MAX);
		memcpy(name, w.rest, n);
		name[n] = '\0';
		r = step(&w, name, rest, err);
		if (r < 0)
			return r;
	}
	*out = w.at;
	return 0;
}

int tree_lookup(struct tree *t, const char *path, struct tnode **out, struct err *err)
{
	const char *base = strrchr(path, '/');
	char dir[TREE_PATH_MAX];
	struct tnode *parent;
	int r;

	if (!*path) {
		*out = t->root;
		return 0;
	}
	base = base ? base + 1 : path;
	memcpy(dir, path, base - path);
	dir[base - path] = '\0';
	r = tree_walk_dir(t, t->root, dir, WALK_FIND, &parent, err);
	if (r < 0)
		return r;
	*out = tnode_find(parent, base);
	return *out ? 0 : -ENOENT;
}
