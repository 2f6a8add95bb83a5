/*
 * names.c - the store a command works on, and names as users spell them.
 */
#include <stdlib.h>
#include <string.h>

#include "smfs/base/cleanup.h"
#include "smfs/cmd/cmd.h"

const struct kind_info cmd_kinds[CMD_KINDS] = {
	{SMFS_SNAPSHOT, "snapshots", "snapshot"},
	{SMFS_IMAGE, "images", "image"},
	{SMFS_LAYER, "layers", "layer"},
};

const struct kind_info *cmd_kind(enum smfs_kind kind)
{
	for (size_t i = 0; i < CMD_KINDS; i++)
		if (cmd_kinds[i].kind == kind)
			return &cmd_kinds[i];
	return &cmd_kinds[0];
}

int cmd_open_store(struct cmd *c, unsigned flags, struct smfs_store **out, struct err *err)
{
	int r = smfs_store_open(c->store_dir, flags & SMFS_RDONLY, out, err);

	if (r != -ENOENT)
		return r;
	if (!(flags & SMFS_CMD_CREATE))
		return err_wrap(err, r, "no store at %s (`smfs init %s` makes one)", c->store_dir,
				c->store_dir);
	err_clear(err);
	r = smfs_store_init(c->store_dir, err);
	if (r < 0 && r != -EEXIST)
		return r;
	err_clear(err);
	return smfs_store_open(c->store_dir, flags & SMFS_RDONLY, out, err);
}

#define PAGE 64

int cmd_each_name(struct smfs_store *s, enum smfs_kind kind,
		  int (*fn)(void *arg, const struct smfs_name *n, struct err *err), void *arg,
		  struct err *err)
{
	cleanup_free struct smfs_name *page = malloc(PAGE * sizeof(*page));
	char after[SMFS_REF_MAX + 1] = "";
	ssize_t got;
	int r = 0;

	if (!page)
		return err_set(err, ENOMEM, "list names: out of memory");
	do {
		got = smfs_name_list(s, kind, *after ? after : NULL, page, PAGE, err);
		if (got < 0)
			return (int)got;
		for (ssize_t i = 0; r == 0 && i < got; i++)
			r = fn(arg, &page[i], err);
		if (got)
			memcpy(after, page[got - 1].name, sizeof(after));
	} while (r == 0 && got == PAGE);
	return r;
}

int cmd_spell_name(const char *arg, enum smfs_kind dflt, enum smfs_kind *kind, const char **name,
		   struct err *err)
{
	*kind = dflt;
	*name = arg;
	for (size_t i = 0; i < CMD_KINDS; i++) {
		size_t n = strlen(cmd_kinds[i].plural);

		if (strncmp(arg, cmd_kinds[i].plural, n) == 0 && arg[n] == '/') {
			*kind = cmd_kinds[i].kind;
			*name = arg + n + 1;
			break;
		}
	}
	if (*name == arg && strncmp(arg, "sha256:", 7) == 0)
		*kind = SMFS_LAYER;
	return smfs_name_check(*kind, *name, err);
}

const char *cmd_pending_word(const struct smfs_pending *p)
{
	return p->state == SMFS_PENDING_WRITING ? "writing" : "failed";
}

json_t *cmd_pending_json(const struct smfs_pending *p)
{
	json_t *j = json_pack("{s:s, s:s, s:s, s:I, s:s, s:i}", "kind", "snapshot", "name", p->name,
			      "state", cmd_pending_word(p), "began_ns", (json_int_t)p->began, "by",
			      p->by, "pid", (int)p->pid);

	if (p->ended)
		json_object_set_new(j, "ended_ns", json_integer((json_int_t)p->ended));
	if (p->reason[0])
		json_object_set_new(j, "error", json_string(p->reason));
	return j;
}

/* ---- an image by an end of its reference ----------------------------------------------------- */

struct search {
	const char *what;
	struct smfs_name *out;
	unsigned found;
	char first[SMFS_REF_MAX + 1];
};

/* "alpine:3.20" fits "docker.io/library/alpine:3.20"; "alpine" fits it, too. */
static bool fits(const char *ref, const char *what)
{
	size_t r = strlen(ref), w = strlen(what);
	const char *tag = strrchr(ref, ':');

	if (!strchr(strrchr(what, '/') ? strrchr(what, '/') : what, ':') && tag)
		r = (size_t)(tag - ref);
	if (w > r || strncmp(ref + r - w, what, w) != 0)
		return false;
	return w == r || ref[r - w - 1] == '/';
}

static int try_image(void *arg, const struct smfs_name *n, struct err *err)
{
	struct search *s = arg;

	if (!fits(n->name, s->what))
		return 0;
	if (s->found++)
		return err_set(err, EEXIST, "`%s` could be images/%s or images/%s; say more of it",
			       s->what, s->first, n->name);
	*s->out = *n;
	memcpy(s->first, n->name, sizeof(s->first));
	return 0;
}

int cmd_find_name(struct smfs_store *s, const char *arg, struct smfs_name *out, struct err *err)
{
	enum smfs_kind kind;
	const char *name;
	int r = cmd_spell_name(arg, SMFS_SNAPSHOT, &kind, &name, NULL);

	if (r == 0)
		r = smfs_name_get(s, kind, name, out, err);
	if (r == 0 || (r != -ENOENT && r != -EINVAL))
		return r;
	if (name != arg && kind != SMFS_IMAGE)
		return smfs_name_check(kind, name, err) < 0
			       ? -EINVAL
			       : err_set(err, ENOENT, "no %s `%s`; `smfs ls %s` lists them",
					 cmd_kind(kind)->singular, name, cmd_kind(kind)->plural);
	struct search search = {.what = name, .out = out};
	r = *name ? cmd_each_name(s, SMFS_IMAGE, try_image, &search, err) : 0;
	if (r < 0)
		return r;
	if (!search.found)
		return err_set(err, ENOENT,
			       "no snapshot, image or layer `%s`; `smfs ls` lists them", arg);
	return 0;
}
