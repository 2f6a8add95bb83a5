/* stat.c - smfs stat: how much, and how much of it is shared. */
#include <inttypes.h>

#include "smfs/base/num.h"
#include "smfs/cmd/cmd.h"

static void line(const char *what, uint64_t bytes)
{
	char text[SIZE_STR_MAX];

	printf("%-10s %15" PRIu64 "  %s\n", what, bytes, format_size(bytes, text));
}

static int stat_store(struct cmd *c, struct smfs_store *s, struct err *err)
{
	struct smfs_store_stat st;

	if (smfs_store_stat(s, &st, err) < 0)
		return cmd_fail(err);
	if (c->json)
		return cmd_print_json(json_pack(
			"{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "store",
			smfs_store_dir(s), "snapshots", (json_int_t)st.snapshots, "images",
			(json_int_t)st.images, "layers", (json_int_t)st.layers, "chunks",
			(json_int_t)st.chunks, "packs", (json_int_t)st.packs, "logical_bytes",
			(json_int_t)st.logical_bytes, "raw_bytes", (json_int_t)st.raw_bytes,
			"stored_bytes", (json_int_t)st.stored_bytes, "disk_bytes",
			(json_int_t)st.disk_bytes, "free_bytes", (json_int_t)st.free_bytes));
	printf("%-10s %s\n", "store", smfs_store_dir(s));
	printf("%-10s %" PRIu64 " snapshots, %" PRIu64 " images, %" PRIu64 " layers\n", "names",
	       st.snapshots, st.images, st.layers);
	printf("%-10s %" PRIu64 " chunks in %" PRIu64 " packs\n", "objects", st.chunks, st.packs);
	line("logical", st.logical_bytes);
	line("distinct", st.raw_bytes);
	line("stored", st.stored_bytes);
	line("disk", st.disk_bytes);
	line("free", st.free_bytes);
	return cmd_flush();
}

static int stat_name(struct cmd *c, struct smfs_store *s, const char *arg, struct err *err)
{
	struct smfs_name n;
	struct smfs_usage u;

	if (cmd_find_name(s, arg, &n, err) < 0 || smfs_name_usage(s, n.kind, n.name, &u, err) < 0)
		return cmd_fail(err);
	if (c->json)
		return cmd_print_json(json_pack(
			"{s:s, s:s, s:I, s:I, s:I, s:I}", "kind", cmd_kind(n.kind)->singular,
			"name", n.name, "logical_bytes", (json_int_t)u.logical_bytes, "data_bytes",
			(json_int_t)u.data_bytes, "stored_bytes", (json_int_t)u.stored_bytes,
			"shared_bytes", (json_int_t)u.shared_bytes));
	printf("%-10s %s/%s\n", "name", cmd_kind(n.kind)->plural, n.name);
	line("logical", u.logical_bytes);
	line("data", u.data_bytes);
	line("stored", u.stored_bytes);
	line("shared", u.shared_bytes);
	return cmd_flush();
}

static int run(struct cmd *c, int argc, char **argv)
{
	cleanup_store struct smfs_store *s = NULL;
	struct err err = ERR_INIT;
	int status;

	if (!cmd_parse(c, argc, argv, 0, 1, &status))
		return status;
	if (cmd_open_store(c, SMFS_RDONLY, &s, &err) < 0)
		return cmd_fail(&err);
	return optind < argc ? stat_name(c, s, argv[optind], &err) : stat_store(c, s, &err);
}

const struct command cmd_stat = {
	.name = "stat",
	.args = "[NAME]",
	.summary = "show sizes: logical, stored, shared",
	.help = "Of the store, or of one name:\n"
		"  logical   the sizes of its files added up\n"
		"  data      the same without holes\n"
		"  distinct  each different chunk once, uncompressed\n"
		"  stored    what that takes in the store, compressed\n"
		"  shared    the part of stored that other names use, too\n",
	.run = run,
};
