#include "pull/merge.h"

#include <errno.h>

#include "pull/tree.h"

struct merge {
	struct tree *base;
	struct tnode *below; /* the directory of `base` the visited layer directory falls on */
	struct err *err;
};

static int resolve_link(struct tnode *n, void *arg)
{
	struct merge *m = arg;
	struct tnode *target = NULL;
	int r;

	if (tnode_is_dir(n))
		return tnode_each(n, resolve_link, m);
	if (n->kind != NODE_LOWER)
		return 0;
	r = tree_lookup(m->base, n->inode->target, &target, m->err);
	if (r < 0 && r != -ENOENT)
		return r;
	if (r < 0 || tnode_is_dir(target))
		return err_set(m->err, EBADMSG, "%.100s: a hard link to %.200s, which is %s",
			       n->name, n->inode->target, r < 0 ? "in no layer" : "a directory");
	tinode_put(n->inode);
	n->inode = tinode_get(target->inode);
	n->kind = NODE_PLAIN;
	return 0;
}

/* Where an implied directory leads below: through a symlink, too. NULL = nowhere yet. */
static int find_below(const struct merge *m, const struct tnode *n, struct tnode **out)
{
	struct tnode *b = tnode_find(m->below, n->name);
	int r = 0;

	*out = NULL;
	if (b && tnode_is_dir(b))
		*out = b;
	else if (b && n->dir_implied && tnode_is_symlink(b))
		r = tree_walk_dir(m->base, m->below, n->name, WALK_FIND, out, m->err);
	return r == -ENOENT ? 0 : r;
}

static int hide(struct tnode *n, void *arg)
{
	const struct merge *m = arg;
	struct merge down = *m;
	int r;

	if (n->kind == NODE_WHITEOUT) {
		struct tnode *b = tnode_find(m->below, n->name);

		if (b)
			tree_remove(m->base, b);
		return 0;
	}
	if (!tnode_is_dir(n))
		return 0;
	r = find_below(m, n, &down.below);
	if (r < 0 || !down.below)
		return r;
	if (n->dir_opaque) {
		tree_clear_dir(m->base, down.below);
		return 0;
	}
	return tnode_each(n, hide, &down);
}

/* An implied directory that leads only to whiteouts creates nothing. */
static int count_real(struct tnode *n, void *arg)
{
	size_t below = 0, *count = arg;

	if (n->kind == NODE_WHITEOUT)
		return 0;
	if (tnode_is_dir(n) && n->dir_implied) {
		tnode_each(n, count_real, &below);
		*count += below != 0;
	} else {
		*count += 1;
	}
	return *count ? -ECANCELED : 0; /* one is enough: stop looking */
}

static int add(struct tnode *n, void *arg)
{
	const struct merge *m = arg;
	struct merge down = *m;
	size_t real = 0;
	int r;

	if (n->kind == NODE_WHITEOUT)
		return 0;
	if (!tnode_is_dir(n))
		return tree_put(m->base, m->below, n->name, NODE_PLAIN, tinode_get(n->inode), NULL,
				m->err);
	r = find_below(m, n, &down.below);
	if (r < 0)
		return r;
	if (n->dir_implied) {
		count_real(n, &real);
		if (!real)
			return 0;
	}
	if (!down.below && n->dir_implied && tnode_find(m->below, n->name) &&
	    tnode_is_symlink(tnode_find(m->below, n->name))) {
		/* A symlink to a directory that does not exist yet: make it, as an extractor would.
		 */
		r = tree_walk_dir(m->base, m->below, n->name, WALK_REPLACE, &down.below, m->err);
	} else if (!down.below) {
		r = tree_put(m->base, m->below, n->name, NODE_PLAIN, tinode_get(n->inode),
			     &down.below, m->err);
	} else if (!n->dir_implied) {
		tinode_put(down.below->inode);
		down.below->inode = tinode_get(n->inode);
	}
	return r < 0 ? r : tnode_each(n, add, &down);
}

int merge_layer(struct tree *base, struct tree *layer, struct err *err)
{
	struct merge m = {.base = base, .below = base->root, .err = err};
	int r = tnode_each(layer->root, resolve_link, &m);

	if (r < 0)
		return r;
	if (layer->root->dir_opaque)
		tree_clear_dir(base, base->root);
	else
		r = tnode_each(layer->root, hide, &m);
	if (r == 0 && !layer->root->dir_implied) {
		tinode_put(base->root->inode);
		base->root->inode = tinode_get(layer->root->inode);
	}
	if (r == 0)
		r = tnode_each(layer->root, add, &m);
	tree_reap(base);
	return r;
}
