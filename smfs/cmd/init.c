/* init.c - smfs init: make an empty store. */
#include "smfs/cmd/cmd.h"

static int run(struct cmd *c, int argc, char **argv)
{
	struct err err = ERR_INIT;
	int status;

	if (!cmd_parse(c, argc, argv, 0, 1, &status))
		return status;
	if (optind < argc)
		c->store_dir = argv[optind];
	if (smfs_store_init(c->store_dir, &err) < 0)
		return cmd_fail(&err);
	if (c->json)
		return cmd_print_json(json_pack("{s:s}", "store", c->store_dir));
	if (!c->quiet)
		printf("%s: empty store\n", c->store_dir);
	return cmd_flush();
}

const struct command cmd_init = {
	.name = "init",
	.args = "[DIR]",
	.summary = "make an empty store",
	.help = "DIR is created if missing and must be empty.\n",
	.run = run,
};
