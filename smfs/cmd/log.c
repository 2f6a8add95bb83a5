/* log.c - smfs log: the journal, which name came, went or moved, and when. */
#include <fnmatch.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"
#include "smfs/cmd/cmd.h"

#define LINE_MAX_LEN 1024
#define LAST_MAX     1000000

struct log {
	char *const *patterns;
	int npatterns;
	json_t *json;	/* NULL: lines */
	json_t **lines; /* a ring of the last ones; NULL: all, at once */
	uint64_t keep, n;
};

static const char *op_word(enum smfs_log_op op)
{
	static const char *const words[] = {"commit", "publish", "remove", "rename"};

	return words[op];
}

static bool matches(const struct log *l, enum smfs_kind kind, const char *name)
{
	char full[512];

	snprintf(full, sizeof(full), "%s/%s", cmd_kind(kind)->plural, name);
	for (int i = 0; i < l->npatterns; i++)
		if (fnmatch(l->patterns[i], name, 0) == 0 || fnmatch(l->patterns[i], full, 0) == 0)
			return true;
	return l->npatterns == 0;
}

static json_t *entry_json(const struct smfs_log_entry *e)
{
	char root[2 * SMFS_ID_LEN + 1];
	json_t *j = json_pack("{s:I, s:I, s:s}", "seq", (json_int_t)e->seq, "time_ns",
			      (json_int_t)e->time, "op", op_word(e->op));

	if (!e->name)
		return j;
	json_object_set_new(j, "kind", json_string(cmd_kind(e->name->kind)->singular));
	json_object_set_new(j, "name", json_string(e->name->name));
	if (e->from)
		json_object_set_new(j, "from", json_string(e->from));
	json_object_set_new(j, "root", json_string(smfs_id_hex(&e->name->root, root)));
	json_object_set_new(j, "logical_bytes", json_integer((json_int_t)e->name->logical_bytes));
	return j;
}

static json_t *entry_line(const struct smfs_log_entry *e)
{
	char line[LINE_MAX_LEN], when[CMD_TIME_MAX], size[SIZE_STR_MAX];
	const char *kind = e->name ? cmd_kind(e->name->kind)->plural : "";

	cmd_time(e->time, when);
	if (!e->name)
		snprintf(line, sizeof(line), "%6" PRIu64 "  %s  %-8s", e->seq, when,
			 op_word(e->op));
	else if (e->from)
		snprintf(line, sizeof(line), "%6" PRIu64 "  %s  %-8s %s/%s -> %s", e->seq, when,
			 op_word(e->op), kind, e->from, e->name->name);
	else
		snprintf(line, sizeof(line), "%6" PRIu64 "  %s  %-8s %s/%s  %s", e->seq, when,
			 op_word(e->op), kind, e->name->name,
			 format_size(e->name->logical_bytes, size));
	return json_string(line);
}

static void emit(struct log *l, json_t *j)
{
	if (l->json) {
		json_array_append_new(l->json, j);
		return;
	}
	puts(json_string_value(j));
	json_decref(j);
}

static int each(const struct smfs_log_entry *e, void *arg, struct err *err)
{
	struct log *l = arg;

	if (l->npatterns && (!e->name || (!matches(l, e->name->kind, e->name->name) &&
					  !(e->from && matches(l, e->name->kind, e->from)))))
		return 0;
	json_t *j = l->json ? entry_json(e) : entry_line(e);
	if (!j)
		return err_set(err, ENOMEM, "log: out of memory");
	if (!l->lines) {
		emit(l, j);
		return 0;
	}
	json_t **place = &l->lines[l->n++ % l->keep];
	json_decref(*place);
	*place = j;
	return 0;
}

/* What the journal will tell of, or never will: it has no number yet. */
static int add_pending(struct smfs_store *s, struct log *l, struct err *err)
{
	cleanup_free struct smfs_pending *v = NULL;
	size_t n;
	int r = smfs_pending_list(s, &v, &n, err);

	for (size_t i = 0; r == 0 && i < n; i++) {
		const struct smfs_pending *p = &v[i];
		char when[CMD_TIME_MAX];

		if (!matches(l, SMFS_SNAPSHOT, p->name))
			continue;
		if (l->json) {
			json_t *j = cmd_pending_json(p);

			json_object_set_new(j, "op", json_string(cmd_pending_word(p)));
			json_object_set_new(j, "time_ns",
					    json_integer((json_int_t)MAX(p->ended, p->began)));
			emit(l, j);
			continue;
		}
		printf("%6s  %s  %-8s snapshots/%s  by %s%s%s\n", "-",
		       cmd_time(MAX(p->ended, p->began), when), cmd_pending_word(p), p->name, p->by,
		       p->reason[0] ? ": " : "", p->reason);
	}
	return r;
}

static int run(struct cmd *c, int argc, char **argv)
{
	static const struct option own[] = {{"last", required_argument, NULL, 'n'}, {0}};
	cleanup_store struct smfs_store *s = NULL;
	struct err err = ERR_INIT;
	struct log l = {0};
	int o, r, status;

	while ((o = cmd_getopt(c, argc, argv, "n:", own, &status)) != -1) {
		if (o == CMD_EXIT)
			return status;
		if (parse_u64(optarg, 1, LAST_MAX, &l.keep, &err) < 0)
			return cmd_usage(c, "--last: %s", err.msg);
	}
	l.patterns = argv + optind;
	l.npatterns = argc - optind;
	if (cmd_open_store(c, SMFS_RDONLY, &s, &err) < 0)
		return cmd_fail(&err);
	l.json = c->json ? json_array() : NULL;
	if (l.keep && !(l.lines = calloc(l.keep, sizeof(json_t *)))) {
		err_set(&err, ENOMEM, "log: out of memory");
		return cmd_fail(&err);
	}
	r = smfs_log(s, each, &l, &err);
	for (uint64_t i = 0; l.lines && i < l.keep; i++) {
		json_t **place = &l.lines[(l.n + i) % l.keep];

		/* What came before damage is worth seeing, too. */
		if (*place)
			emit(&l, *place);
	}
	free(l.lines);
	if (r == 0)
		r = add_pending(s, &l, &err);
	status = c->json ? cmd_print_json(l.json) : cmd_flush();
	return r < 0 ? cmd_fail(&err) : status;
}

const struct command cmd_log = {
	.name = "log",
	.args = "[-n COUNT] [NAME...]",
	.summary = "show which names came, went or moved, and when",
	.help = "Reads the store's journal. NAME may be a pattern: web-*, images/*.\n"
		"After it, without a number, snapshots being written and those that failed.\n"
		"A renamed name is found by its old name and its new one.\n"
		"  -n, --last COUNT    only the last COUNT changes\n",
	.run = run,
};
