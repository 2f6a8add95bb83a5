/* du.c - smfs du: what names take, and what is free without them. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"
#include "smfs/cmd/cmd.h"

enum sort { SORT_EXCLUSIVE, SORT_SHARED, SORT_LOGICAL, SORT_DATA, SORT_NAME };

static const char *const sorts[] = {
	[SORT_EXCLUSIVE] = "exclusive", [SORT_SHARED] = "shared", [SORT_LOGICAL] = "logical",
	[SORT_DATA] = "data",		[SORT_NAME] = "name",
};

struct line {
	const struct smfs_name *name;
	const struct smfs_usage *u;
};

struct names {
	struct smfs_name *v;
	size_t n, cap;
};

static int add(void *arg, const struct smfs_name *n, struct err *err)
{
	struct names *x = arg;

	if (x->n == x->cap) {
		size_t cap = x->cap ? x->cap * 2 : 64;
		struct smfs_name *v = reallocarray(x->v, cap, sizeof(*v));

		if (!v)
			return err_set(err, ENOMEM, "list names: out of memory");
		x->v = v;
		x->cap = cap;
	}
	x->v[x->n++] = *n;
	return 0;
}

static int collect(struct smfs_store *s, char *const *args, size_t nargs, struct names *x,
		   struct err *err)
{
	int r = 0;

	for (size_t i = 0; i < CMD_KINDS && r == 0 && !nargs; i++)
		r = cmd_each_name(s, cmd_kinds[i].kind, add, x, err);
	for (size_t i = 0; i < nargs && r == 0; i++) {
		struct smfs_name n;
		bool again = false;

		r = cmd_find_name(s, args[i], &n, err);
		for (size_t k = 0; k < x->n && r == 0; k++)
			again |= x->v[k].kind == n.kind && strcmp(x->v[k].name, n.name) == 0;
		if (r == 0 && !again)
			r = add(x, &n, err);
	}
	return r;
}

static uint64_t exclusive(const struct smfs_usage *u)
{
	return u->stored_bytes - u->shared_bytes;
}

static int down(uint64_t a, uint64_t b)
{
	return a < b ? 1 : a > b ? -1 : 0;
}

static int compare(const void *a, const void *b, void *arg)
{
	const struct line *x = a, *y = b;
	int c = 0;

	switch (*(const enum sort *)arg) {
	case SORT_EXCLUSIVE:
		c = down(exclusive(x->u), exclusive(y->u));
		break;
	case SORT_SHARED:
		c = down(x->u->shared_bytes, y->u->shared_bytes);
		break;
	case SORT_LOGICAL:
		c = down(x->u->logical_bytes, y->u->logical_bytes);
		break;
	case SORT_DATA:
		c = down(x->u->data_bytes, y->u->data_bytes);
		break;
	case SORT_NAME:
		break;
	}
	if (c == 0 && x->name->kind != y->name->kind)
		c = x->name->kind < y->name->kind ? -1 : 1;
	return c ? c : strcmp(x->name->name, y->name->name);
}

static json_t *usage_json(const struct smfs_usage *u)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I}", "logical_bytes", (json_int_t)u->logical_bytes,
			 "data_bytes", (json_int_t)u->data_bytes, "stored_bytes",
			 (json_int_t)u->stored_bytes, "exclusive_bytes", (json_int_t)exclusive(u),
			 "shared_bytes", (json_int_t)u->shared_bytes);
}

static int print_json(const struct line *lines, size_t n, const struct smfs_usage *total)
{
	json_t *a = json_array();

	for (size_t i = 0; i < n; i++) {
		json_t *j = usage_json(lines[i].u);

		json_object_set_new(j, "kind",
				    json_string(cmd_kind(lines[i].name->kind)->singular));
		json_object_set_new(j, "name", json_string(lines[i].name->name));
		json_array_append_new(a, j);
	}
	return cmd_print_json(json_pack("{s:o, s:o}", "names", a, "total", usage_json(total)));
}

static void print_line(const char *what, const struct smfs_usage *u)
{
	char b[4][SIZE_STR_MAX];

	printf("%10s %10s %10s %10s  %s\n", format_size(u->logical_bytes, b[0]),
	       format_size(u->data_bytes, b[1]), format_size(exclusive(u), b[2]),
	       format_size(u->shared_bytes, b[3]), what);
}

static int print(struct cmd *c, const struct line *lines, size_t n, const struct smfs_usage *total)
{
	char full[SMFS_REF_MAX + 16];

	if (c->json)
		return print_json(lines, n, total);
	if (!c->quiet)
		printf("%10s %10s %10s %10s  %s\n", "logical", "data", "exclusive", "shared",
		       "name");
	for (size_t i = 0; i < n; i++) {
		snprintf(full, sizeof(full), "%s/%s", cmd_kind(lines[i].name->kind)->plural,
			 lines[i].name->name);
		print_line(full, lines[i].u);
	}
	print_line("total", total);
	return cmd_flush();
}

static int du(struct cmd *c, struct smfs_store *s, const struct names *x, enum sort sort,
	      struct err *err)
{
	cleanup_free struct smfs_usage *each = calloc(x->n + 1, sizeof(*each));
	cleanup_free struct line *lines = calloc(x->n + 1, sizeof(*lines));
	struct smfs_usage total;

	if (!each || !lines) {
		err_set(err, ENOMEM, "du: out of memory");
		return cmd_fail(err);
	}
	if (smfs_names_usage(s, x->v, x->n, each, &total, err) < 0)
		return cmd_fail(err);
	for (size_t i = 0; i < x->n; i++)
		lines[i] = (struct line){&x->v[i], &each[i]};
	qsort_r(lines, x->n, sizeof(*lines), compare, &sort);
	return print(c, lines, x->n, &total);
}

enum { OPT_SORT = 0x100 };

static int run(struct cmd *c, int argc, char **argv)
{
	static const struct option own[] = {{"sort", required_argument, NULL, OPT_SORT}, {0}};
	cleanup_store struct smfs_store *s = NULL;
	enum sort sort = SORT_EXCLUSIVE;
	struct names x = {0};
	struct err err = ERR_INIT;
	int status, o;

	while ((o = cmd_getopt(c, argc, argv, "", own, &status)) != -1) {
		if (o == CMD_EXIT)
			return status;
		for (sort = 0; sort < ARRAY_SIZE(sorts) && strcmp(sorts[sort], optarg) != 0; sort++)
			;
		if (sort == ARRAY_SIZE(sorts))
			return cmd_usage(c,
					 "--sort %s: one of exclusive, shared, logical, data, name",
					 optarg);
	}
	if (cmd_open_store(c, SMFS_RDONLY, &s, &err) < 0 ||
	    collect(s, argv + optind, (size_t)(argc - optind), &x, &err) < 0)
		status = cmd_fail(&err);
	else
		status = du(c, s, &x, sort, &err);
	free(x.v);
	return status;
}

const struct command cmd_du = {
	.name = "du",
	.args = "[--sort COLUMN] [NAME...]",
	.summary = "show what names take, and share",
	.help = "Of the names, or of all, and together:\n"
		"  logical    the sizes of the files added up\n"
		"  data       the same without holes\n"
		"  exclusive  bytes of the store that only this name uses: removing it frees them\n"
		"  shared     bytes of the store that other names use, too\n"
		"The total's exclusive bytes are what removing all of the names would free.\n\n"
		"  --sort COLUMN  by exclusive (the default), shared, logical, data: most first; "
		"or "
		"name\n",
	.run = run,
};
