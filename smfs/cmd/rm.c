/* rm.c - smfs rm: remove names. */
#include "smfs/cmd/cmd.h"

/* A snapshot that failed has a record and no name; removing it forgets the failure. */
static int remove_failed(struct smfs_store *s, const char *arg, struct err *err)
{
	enum smfs_kind kind;
	const char *name;
	struct err why = ERR_INIT;
	int r = cmd_spell_name(arg, SMFS_SNAPSHOT, &kind, &name, NULL);

	if (r < 0 || kind != SMFS_SNAPSHOT)
		return -ENOENT;
	r = smfs_pending_remove(s, name, &why);
	if (r < 0 && r != -ENOENT)
		*err = why;
	return r;
}

static int remove_one(struct cmd *c, struct smfs_store *s, const char *arg, struct err *err)
{
	struct smfs_name n;
	int r = cmd_find_name(s, arg, &n, err);

	if (r == 0)
		r = smfs_name_remove(s, n.kind, n.name, err);
	else if (r == -ENOENT && remove_failed(s, arg, err) == 0)
		r = 0;
	if (r == 0 && c->verbose)
		printf("removed %s\n", arg);
	return r;
}

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
		err_clear(&err);
		if (remove_one(c, s, argv[i], &err) < 0)
			status = cmd_fail(&err);
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
