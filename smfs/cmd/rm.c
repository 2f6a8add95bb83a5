/* rm.c - smfs rm: remove names. */
#include "smfs/cmd/cmd.h"

static int run(struct cmd *c, int argc, char **argv)
{
	cleanup_store struct smfs_store *s = NULL;
	struct err err = ERR_INIT;
	int status;

	if (!cmd_parse(c, argc, argv, 1, -1, &status))
		return status;
	if (cmd_open_store(c, 0, &s, &err) < 0)
		return cmd_fail(&err);
	status = EXIT_OK;
	/* As rm(1): the others go even if one cannot. */
	for (int i = optind; i < argc; i++) {
		struct smfs_name n;

		if (cmd_find_name(s, argv[i], &n, &err) < 0 ||
		    smfs_name_remove(s, n.kind, n.name, &err) < 0)
			status = cmd_fail(&err);
		else if (c->verbose)
			printf("removed %s/%s\n", cmd_kind(n.kind)->plural, n.name);
	}
	return status == EXIT_OK ? cmd_flush() : status;
}

const struct command cmd_rm = {
	.name = "rm",
	.args = "NAME...",
	.summary = "remove snapshots, images or layers",
	.help = "Removes the names at once; who has their files open keeps reading them.\n",
	.run = run,
};
