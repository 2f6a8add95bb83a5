/* mv.c - smfs mv: rename. */
#include "smfs/cmd/cmd.h"

static int run(struct cmd *c, int argc, char **argv)
{
	cleanup_store struct smfs_store *s = NULL;
	struct err err = ERR_INIT;
	struct smfs_name from;
	enum smfs_kind kind;
	const char *to;
	int status;

	if (!cmd_parse(c, argc, argv, 2, 2, &status))
		return status;
	if (cmd_open_store(c, 0, &s, &err) < 0 || cmd_find_name(s, argv[optind], &from, &err) < 0 ||
	    cmd_spell_name(argv[optind + 1], from.kind, &kind, &to, &err) < 0)
		return cmd_fail(&err);
	if (kind != from.kind) {
		err_set(&err, EINVAL, "rename %s/%s: the new name must be one of a%s, too",
			cmd_kind(from.kind)->plural, from.name,
			from.kind == SMFS_IMAGE	  ? "n image"
			: from.kind == SMFS_LAYER ? " layer"
						  : " snapshot");
		return cmd_fail(&err);
	}
	if (smfs_name_rename(s, kind, from.name, to, &err) < 0)
		return cmd_fail(&err);
	if (c->verbose)
		printf("%s/%s -> %s\n", cmd_kind(kind)->plural, from.name, to);
	return cmd_flush();
}

const struct command cmd_mv = {
	.name = "mv",
	.args = "NAME NEW",
	.summary = "rename a snapshot or an image",
	.help = "Atomic. Fails if NEW exists.\n",
	.run = run,
};
