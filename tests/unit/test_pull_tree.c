/*
 * Layers merged in memory. A layer is written as lines "KIND PATH [ARGUMENT]":
 *   d directory   f file (its size tells it from others)   s symlink   l hard link inside the layer
 *   L hard link to a lower layer   w whiteout   o opaque directory
 * and a tree is compared as the same kind of list.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pull/merge.h"
#include "pull/tree.h"
#include "smfs/base/num.h"

static void put(struct tree *t, char kind, const char *path, const char *arg)
{
	char dir[TREE_PATH_MAX];
	const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
	struct tnode *parent, *n;
	struct tinode *i;
	struct err err = ERR_INIT;

	snprintf(dir, sizeof(dir), "%.*s", (int)(name - path), path);
	if (kind == 'o' || kind == 'r') {
		assert_int_equal(tree_walk_dir(t, t->root, path, WALK_CREATE, &n, &err), 0);
		n->dir_opaque |= kind == 'o';
		return;
	}
	if (tree_walk_dir(t, t->root, dir, WALK_CREATE, &parent, &err) < 0)
		fail_msg("%s: %s", path, err.msg);
	switch (kind) {
	case 'd':
		i = tinode_new(S_IFDIR | 0700);
		break;
	case 'f':
		i = tinode_new(S_IFREG | 0644);
		i->content.size = arg ? strtoul(arg, NULL, 10) : 0;
		break;
	case 's':
		i = tinode_new(S_IFLNK | 0777);
		i->target = strdup(arg);
		break;
	case 'l':
		assert_int_equal(tree_lookup(t, arg, &n, &err), 0);
		i = tinode_get(n->inode);
		break;
	case 'L':
		i = tinode_new(S_IFLNK | 0777);
		i->target = strdup(arg);
		break;
	default:
		i = NULL;
	}
	assert_int_equal(tree_put(t, parent, name,
				  kind == 'L'	? NODE_LOWER
				  : kind == 'w' ? NODE_WHITEOUT
						: NODE_PLAIN,
				  i, NULL, &err),
			 0);
}

static struct tree *layer(const char *text)
{
	struct tree *t = tree_new();
	char *copy = strdup(text), *save = NULL;

	for (char *line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *path = line + 2, *arg = strchr(path, ' ');

		if (arg)
			*arg++ = '\0';
		put(t, line[0], path, arg);
	}
	free(copy);
	return t;
}

struct dump {
	char text[4096], path[TREE_PATH_MAX];
};

static int dump_node(struct tnode *n, void *arg)
{
	struct dump *d = arg;
	size_t len = strlen(d->path), at = strlen(d->text);
	char *end = d->text + at;
	size_t left = sizeof(d->text) - at;

	snprintf(d->path + len, sizeof(d->path) - len, "%s%s", len ? "/" : "", n->name);
	if (S_ISDIR(n->inode->mode))
		snprintf(end, left, "%c %s\n", (n->inode->mode & 0777) == 0700 ? 'd' : 'i',
			 d->path);
	else if (S_ISLNK(n->inode->mode))
		snprintf(end, left, "s %s %s\n", d->path, n->inode->target);
	else
		snprintf(end, left, "f %s %lu\n", d->path, (unsigned long)n->inode->content.size);
	if (tnode_is_dir(n))
		tnode_each(n, dump_node, d);
	d->path[len] = '\0';
	return 0;
}

/* Layers from the lowest up, NULL-terminated; the outcome or the start of "error: ..." */
static void merged(const char *expected, ...)
{
	struct tree *base = tree_new();
	struct dump d = {0};
	struct err err = ERR_INIT;
	const char *text;
	va_list ap;
	int r = 0;

	va_start(ap, expected);
	while (r == 0 && (text = va_arg(ap, const char *))) {
		struct tree *t = layer(text);

		r = merge_layer(base, t, &err);
		tree_free(t);
	}
	va_end(ap);
	if (r == 0)
		tnode_each(base->root, dump_node, &d);
	else
		snprintf(d.text, sizeof(d.text), "error: %s", err.msg);
	assert_string_equal(d.text, expected);
	assert_null(base->removed);
	tree_free(base);
}

#define END ((const char *)NULL)

static void upper_replaces_lower(void **state)
{
	merged("f a 2\nf b 1\n", "f a 1\nf b 1", "f a 2", END);
	merged("f a 1\n", "d a\nf a/x", "f a 1", END);
	merged("d a\nf a/x 0\n", "f a 1", "d a\nf a/x", END);
	merged("s a etc\nd etc\n", "d a\nf a/x\nd etc", "s a etc", END);
	merged("d a\nf a/y 0\nd etc\n", "s a etc\nd etc", "d a\nf a/y", END);
	merged("d a\nf a/x 1\nf a/y 2\n", "d a\nf a/x 1", "d a\nf a/y 2", END);
}

static void whiteouts_hide_lower_layers_only(void **state)
{
	merged("f b 0\n", "f a\nf b", "w a", END);
	merged("", "d a\nf a/x", "w a", END);
	merged("f a 0\n", "f a", "w missing", END);
	merged("f a 0\n", "f a", "w no/such/thing", END);
	merged("f a 0\n", "f a", "w a/below/a/file", END);
	merged("f a 3\n", "f a 1", "w a", "f a 3", END);
	merged("d a\n", "d a\nf a/x\nd a/y\nf a/y/z", "w a/x\nw a/y", END);
}

static void opaque_hides_all_below(void **state)
{
	merged("d a\nf a/new 0\n", "d a\nf a/old\nd a/o\nf a/o/x", "d a\nf a/new\no a", END);
	merged("d a\nf a/new 0\n", "d a\nf a/old", "o a\nf a/new", END);
	merged("d a\n", "d a\nf a/old", "o a", END);
	merged("", "", "o a", END);
	merged("f new 0\n", "f a\nd b\nf b/c", "o \nf new", END);
	merged("d a\nd a/b\nf a/b/n 0\nf a/k 0\n", "d a\nd a/b\nf a/b/o\nf a/k", "o a/b\nf a/b/n",
	       END);
}

static void implied_folders_keep_what_is_below(void **state)
{
	merged("d a\nf a/x 0\nf a/y 0\n", "d a\nf a/x", "f a/y", END);
	merged("i a\nf a/y 0\n", "", "f a/y", END);
	merged("i a\nf a/y 0\n", "f a 1", "f a/y", END);
}

static void implied_folders_follow_symlinks_below(void **state)
{
	merged("s lib usr/lib\nd usr\nd usr/lib\nf usr/lib/x 0\n",
	       "d usr\nd usr/lib\ns lib usr/lib", "f lib/x", END);
	merged("s lib /usr/lib\ni usr\ni usr/lib\nf usr/lib/x 0\n", "s lib /usr/lib", "f lib/x",
	       END);
	merged("s lib ../../usr\nd usr\nf usr/x 0\n", "d usr\ns lib ../../usr", "f lib/x", END);
	merged("s lib usr\nd usr\n", "d usr\nf usr/x\ns lib usr", "w lib/x", END);
	merged("s lib usr\nd usr\nf usr/n 0\n", "d usr\nf usr/x\ns lib usr", "o lib\nf lib/n", END);
	/* A new file under one name stays when the whiteout of the old came by the other. */
	merged("s lib usr\nd usr\nf usr/x 2\n", "d usr\nf usr/x 1\ns lib usr", "w lib/x\nf usr/x 2",
	       END);
	merged("error: symlink a: too many levels of symbolic links", "s a b\ns b a", "f a/x", END);
	merged("error: symlink a: too many levels of symbolic links", "s a a/a", "f a/x", END);
}

/* The opaque mark reaches, by a symlink, what holds the symlink itself. */
static void a_folder_may_clear_its_own_ancestor(void **state)
{
	merged("i s\nf s/z 0\ni x\nf x/new 0\n", "d x\ns x/s /\nf y", "o x/s\nf x/new\nf s/z", END);
	merged("i x\ni x/s\nf x/s/z 0\n", "d x\ns x/s /\nf y", "o x/s\nf x/s/z", END);
	merged("", "d x\nd x/y\ns x/y/up ../..\nf x/y/f", "w x/y/up/x\nw x/y/f", END);
}

static void hard_links_reach_lower_layers(void **state)
{
	merged("f a 7\nf b 7\n", "f a 7", "L b /a", END);
	merged("f a 1\nf b 7\n", "f a 7", "L b /a\nf a 1", END);
	merged("f b 7\n", "f a 7", "w a\nL b /a", END);
	merged("f b 7\nd d\nf d/a 7\ns l d\n", "d d\nf d/a 7\ns l d", "L b /l/a", END);
	merged("error: b: a hard link to /a, which is in no layer", "", "L b /a", END);
	merged("error: b: a hard link to /a, which is a directory", "d a", "L b /a", END);
}

static void links_are_one_inode(void **state)
{
	struct tree *base = tree_new(), *low = layer("f a 7\nl b a"), *up = layer("L c /b");
	struct tnode *a, *b, *c;

	assert_int_equal(merge_layer(base, low, NULL), 0);
	assert_int_equal(merge_layer(base, up, NULL), 0);
	tree_free(low);
	tree_free(up);
	assert_int_equal(tree_lookup(base, "a", &a, NULL), 0);
	assert_int_equal(tree_lookup(base, "b", &b, NULL), 0);
	assert_int_equal(tree_lookup(base, "c", &c, NULL), 0);
	assert_ptr_equal(a->inode, b->inode);
	assert_ptr_equal(a->inode, c->inode);
	assert_int_equal(a->inode->refs, 3);
	tree_remove(base, b);
	tree_reap(base);
	assert_int_equal(a->inode->refs, 2);
	tree_free(base);
}

static void root_attributes_come_from_the_topmost_entry(void **state)
{
	struct tree *base = tree_new(), *low = tree_new(), *up = tree_new();

	low->root->dir_implied = false;
	low->root->inode->mode = S_IFDIR | 0711;
	assert_int_equal(merge_layer(base, low, NULL), 0);
	assert_int_equal(merge_layer(base, up, NULL), 0);
	assert_int_equal(base->root->inode->mode, S_IFDIR | 0711);
	tree_free(base);
	tree_free(low);
	tree_free(up);
}

static void paths_are_cleaned(void **state)
{
	static const char *const cases[][2] = {
		{"a/b", "a/b"},	    {"/a", "a"},	  {"./a/./b/", "a/b"},
		{"a//b", "a/b"},    {"..", ""},		  {"../../etc/x", "etc/x"},
		{"a/../b", "b"},    {"a/b/../../..", ""}, {"", ""},
		{".", ""},	    {"a/..b", "a/..b"},	  {"...", "..."},
		{"a/../../b", "b"},
	};
	char out[TREE_PATH_MAX];

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_int_equal(path_clean(cases[i][0], out, NULL), 0);
		assert_string_equal(out, cases[i][1]);
	}
	char *big = malloc(TREE_PATH_MAX + 1);

	memset(big, 'a', TREE_PATH_MAX);
	big[TREE_PATH_MAX] = '\0';
	assert_int_equal(path_clean(big, out, NULL), -EBADMSG);
	free(big);
}

static void trees_are_bounded(void **state)
{
	struct tree *t = tree_new();
	struct tnode *n = t->root;
	struct err err = ERR_INIT;
	char name[SMFS_NAME_MAX + 2];
	int r = 0;

	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	assert_int_equal(tree_put(t, n, name, NODE_WHITEOUT, NULL, NULL, &err), -EBADMSG);
	for (unsigned i = 0; i < TREE_DEPTH_MAX; i++)
		assert_int_equal(
			tree_put(t, n, "d", NODE_PLAIN, tinode_new(S_IFDIR | 0755), &n, &err), 0);
	assert_int_equal(tree_put(t, n, "d", NODE_PLAIN, tinode_new(S_IFDIR | 0755), &n, &err),
			 -EBADMSG);

	struct tinode *i = tinode_new(S_IFREG);
	char value[1000] = {0};

	for (unsigned k = 0; r == 0; k++) {
		snprintf(name, sizeof(name), "user.%u", k);
		r = tinode_add_xattr(i, name, value, sizeof(value), &err);
		assert_in_range(k, 0, 70);
	}
	assert_int_equal(r, -E2BIG);
	assert_int_equal(tinode_add_xattr(i, "user.0", "x", 1, &err), 0);
	assert_int_equal(tinode_xattr(i, "user.0")->len, 1);
	tinode_put(i);
	tree_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(upper_replaces_lower),
		cmocka_unit_test(whiteouts_hide_lower_layers_only),
		cmocka_unit_test(opaque_hides_all_below),
		cmocka_unit_test(implied_folders_keep_what_is_below),
		cmocka_unit_test(implied_folders_follow_symlinks_below),
		cmocka_unit_test(a_folder_may_clear_its_own_ancestor),
		cmocka_unit_test(hard_links_reach_lower_layers),
		cmocka_unit_test(links_are_one_inode),
		cmocka_unit_test(root_attributes_come_from_the_topmost_entry),
		cmocka_unit_test(paths_are_cleaned),
		cmocka_unit_test(trees_are_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
