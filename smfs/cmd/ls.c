/* ls.c - smfs ls: the names in the store. */
#include <string.h>

#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"
#include "smfs/cmd/cmd.h"

struct list {
	json_t *json; /* NULL: print */
	bool quiet;
};

static int add(void *arg, const struct smfs_name *n, struct err *err)
{
	struct list *l = arg;
	char size[SIZE_STR_MAX], created[CMD_TIME_MAX], root[2 * SMFS_ID_LEN + 1], full[512];
	const char *kind = cmd_kind(n->kind)->plural;

	snprintf(full, sizeof(full), "%s/%s", kind, n->name);
	if (l->json)
		json_array_append_new(
			l->json, json_pack("{s:s, s:s, s:s, s:s, s:I, s:I}", "kind",
					   cmd_kind(n->kind)->singular, "name", n->name, "state",
					   "ready", "root", smfs_id_hex(&n->root, root),
					   "logical_bytes", (json_int_t)n->logical_bytes,
					   "created_ns", (json_int_t)n->created));
	else if (l->quiet)
		puts(full);
	else
		printf("%-40s %10s  %s\n", full, format_size(n->logical_bytes, size),
		       cmd_time(n->created, created));
	return 0;
}

/* Snapshots that are not, or not yet. */
static int add_pending(struct smfs_store *s, const struct list *l, struct err *err)
{
	cleanup_free struct smfs_pending *v = NULL;
	char began[CMD_TIME_MAX];
	size_t n;
	int r = l->quiet ? 0 : smfs_pending_list(s, &v, &n, err);

	for (size_t i = 0; v && i < n; i++) {
		if (l->json) {
			json_array_append_new(l->json, cmd_pending_json(&v[i]));
			continue;
		}
		printf("snapshots/%-30s %10s  %s  by %s%s%s\n", v[i].name, cmd_pending_word(&v[i]),
		       cmd_time(v[i].began, began), v[i].by, v[i].reason[0] ? ": " : "",
		       v[i].reason);
	}
	return r;
}

static int run(struct cmd *c, int argc, char **argv)
{
	cleanup_store struct smfs_store *s = NULL;
	struct list l = {0};
	struct err err = ERR_INIT;
	bool known = false;
	int status;

	if (!cmd_parse(c, argc, argv, 0, 1, &status))
		return status;
	const char *only = optind < argc ? argv[optind] : NULL;
	for (size_t i = 0; i < CMD_KINDS; i++)
		known |= only && (strcmp(only, cmd_kinds[i].plural) == 0 ||
				  strcmp(only, cmd_kinds[i].singular) == 0);
	if (only && !known)
		return cmd_usage(c, "`%s` is not one of snapshots, images, layers", only);
	if (cmd_open_store(c, SMFS_RDONLY, &s, &err) < 0)
		return cmd_fail(&err);
	l.json = c->json ? json_array() : NULL;
	l.quiet = c->quiet;
	for (size_t i = 0; i < CMD_KINDS; i++) {
		if (only && strcmp(only, cmd_kinds[i].plural) != 0 &&
		    strcmp(only, cmd_kinds[i].singular) != 0)
			continue;
		if (cmd_each_name(s, cmd_kinds[i].kind, add, &l, &err) < 0 ||
		    (cmd_kinds[i].kind == SMFS_SNAPSHOT && add_pending(s, &l, &err) < 0)) {
			json_decref(l.json);
			return cmd_fail(&err);
		}
	}
	return c->json ? cmd_print_json(l.json) : cmd_flush();
}

const struct command cmd_ls = {
	.name = "ls",
	.args = "[snapshots|images|layers]",
	.summary = "list what is in the store",
	.help = "With --quiet, names only. Snapshots that are being written, or whose writing "
		"failed,\n"
		"are shown as such; they have no name yet and cannot be used.\n",
	.run = run,
};
