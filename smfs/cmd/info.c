/* info.c - smfs info: what a name is. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"
#include "smfs/cmd/cmd.h"

#define JSON_MAX (1u << 20)

/* A JSON file of the name's directory, NULL if there is none or it is not JSON. */
static json_t *load_json(struct smfs_store *s, const struct smfs_dir *d, const char *name)
{
	const struct smfs_entry *e = smfs_dir_find(d, name);
	struct smfs_file *f;
	json_t *j = NULL;

	if (!e || !S_ISREG(e->mode) || e->content.size > JSON_MAX ||
	    smfs_file_open(s, &e->content, &f, NULL) < 0)
		return NULL;
	cleanup_free char *text = malloc(e->content.size + 1);
	if (text) {
		ssize_t n = smfs_file_pread(f, text, e->content.size, 0, NULL);

		if (n == (ssize_t)e->content.size)
			j = json_loadb(text, (size_t)n, 0, NULL);
	}
	smfs_file_close(f);
	return j;
}

static const char *type_name(mode_t mode)
{
	return S_ISDIR(mode)   ? "directory"
	       : S_ISREG(mode) ? "file"
	       : S_ISLNK(mode) ? "link"
			       : "other";
}

static void print_files(const struct smfs_dir *d)
{
	char size[SIZE_STR_MAX], hex[2 * SMFS_ID_LEN + 1];

	for (size_t i = 0; i < smfs_dir_count(d); i++) {
		const struct smfs_entry *e = smfs_dir_at(d, i);

		if (S_ISREG(e->mode))
			printf("  %-16s %10s  %s\n", e->name, format_size(e->content.size, size),
			       smfs_id_hex(&e->content.id, hex));
		else
			printf("  %-16s %10s  %s\n", e->name, type_name(e->mode),
			       S_ISDIR(e->mode) ? smfs_id_hex(&e->dir, hex) : "");
	}
}

static json_t *files_json(const struct smfs_dir *d)
{
	char hex[2 * SMFS_ID_LEN + 1];
	json_t *a = json_array();

	for (size_t i = 0; i < smfs_dir_count(d); i++) {
		const struct smfs_entry *e = smfs_dir_at(d, i);
		const struct smfs_id *id = S_ISDIR(e->mode) ? &e->dir : &e->content.id;

		json_array_append_new(
			a, json_pack("{s:s*, s:s, s:I, s:s}", "name", e->name, "type",
				     type_name(e->mode), "bytes",
				     (json_int_t)(S_ISREG(e->mode) ? e->content.size : 0), "digest",
				     smfs_id_hex(id, hex)));
	}
	return a;
}

/* The members of meta a person asks for first; the file itself has the rest. */
static void print_meta(const json_t *meta)
{
	static const char *const shown[] = {"arch",   "vcpus",	"ram_bytes", "image",
					    "kernel", "parent", "generation"};

	for (size_t i = 0; i < ARRAY_SIZE(shown); i++) {
		const json_t *v = json_object_get(meta, shown[i]);
		char size[SIZE_STR_MAX];

		if (json_is_object(v) && json_object_get(v, "ref"))
			v = json_object_get(v, "ref");
		else if (json_is_object(v) && json_object_get(v, "path"))
			v = json_object_get(v, "path");
		else if (json_is_object(v) && json_object_get(v, "number"))
			v = json_object_get(v, "number");
		if (json_is_string(v) && *json_string_value(v))
			printf("%-11s %s\n", shown[i], json_string_value(v));
		else if (json_is_integer(v) && strcmp(shown[i], "ram_bytes") == 0)
			printf("%-11s %s\n", "ram",
			       format_size((uint64_t)json_integer_value(v), size));
		else if (json_is_integer(v))
			printf("%-11s %" JSON_INTEGER_FORMAT "\n", shown[i], json_integer_value(v));
	}
}

static int print(struct cmd *c, const struct smfs_name *n, const struct smfs_usage *u,
		 const struct smfs_dir *d, json_t *meta)
{
	char hex[2 * SMFS_ID_LEN + 1], when[CMD_TIME_MAX], a[SIZE_STR_MAX], b[SIZE_STR_MAX],
		e[SIZE_STR_MAX];

	if (c->json)
		return cmd_print_json(json_pack(
			"{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:o, s:O*}", "kind",
			cmd_kind(n->kind)->singular, "name", n->name, "root",
			smfs_id_hex(&n->root, hex), "created_ns", (json_int_t)n->created,
			"logical_bytes", (json_int_t)u->logical_bytes, "data_bytes",
			(json_int_t)u->data_bytes, "stored_bytes", (json_int_t)u->stored_bytes,
			"shared_bytes", (json_int_t)u->shared_bytes, "files", files_json(d), "meta",
			meta));
	printf("%-11s %s/%s\n", "name", cmd_kind(n->kind)->plural, n->name);
	printf("%-11s %s\n", "root", smfs_id_hex(&n->root, hex));
	printf("%-11s %s\n", "created", cmd_time(n->created, when));
	printf("%-11s %s, stored in %s, of which shared: %s\n", "size",
	       format_size(u->logical_bytes, a), format_size(u->stored_bytes, b),
	       format_size(u->shared_bytes, e));
	print_meta(meta);
	printf("files\n");
	print_files(d);
	return cmd_flush();
}

static int run(struct cmd *c, int argc, char **argv)
{
	cleanup_store struct smfs_store *s = NULL;
	struct err err = ERR_INIT;
	struct smfs_usage u;
	struct smfs_name n;
	struct smfs_dir *d;
	int status;

	if (!cmd_parse(c, argc, argv, 1, 1, &status))
		return status;
	if (cmd_open_store(c, SMFS_RDONLY, &s, &err) < 0 ||
	    cmd_find_name(s, argv[optind], &n, &err) < 0 ||
	    smfs_name_usage(s, n.kind, n.name, &u, &err) < 0 ||
	    smfs_dir_open(s, &n.root, &d, &err) < 0)
		return cmd_fail(&err);
	json_t *meta = load_json(s, d, n.kind == SMFS_SNAPSHOT ? "meta" : "config.json");
	status = print(c, &n, &u, d, meta);
	json_decref(meta);
	smfs_dir_close(d);
	return status;
}

const struct command cmd_info = {
	.name = "info",
	.args = "NAME",
	.summary = "show what a snapshot, image or layer is",
	.help = "NAME is snapshots/X, images/REF, layers/sha256:HEX, or just X for a snapshot and "
		"an\n"
		"end of REF for an image, if that fits only one. With --json, a snapshot's meta "
		"(an\n"
		"image's config) is included whole.\n",
	.run = run,
};
