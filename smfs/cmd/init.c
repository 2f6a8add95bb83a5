/* init.c - smfs init: make an empty store. */
#include "smfs/base/num.h"
#include "smfs/cmd/cmd.h"

enum { OPT_LIMIT = 0x100 };

static int run(struct cmd *c, int argc, char **argv)
{
	static const struct option own[] = {{"limit", required_argument, NULL, OPT_LIMIT}, {0}};
	cleanup_store struct smfs_store *s = NULL;
	struct err err = ERR_INIT;
	uint64_t limit = 0;
	int status, o;

	while ((o = cmd_getopt(c, argc, argv, "", own, &status)) != -1) {
		if (o == CMD_EXIT)
			return status;
		if (parse_size(optarg, MIB, INT64_MAX, &limit, &err) < 0)
			return cmd_fail(&err);
	}
	if (argc - optind > 1)
		return cmd_usage(c, "too many arguments");
	if (optind < argc)
		c->store_dir = argv[optind];
	if (smfs_store_init(c->store_dir, &err) < 0)
		return cmd_fail(&err);
	if (limit && (smfs_store_open(c->store_dir, 0, &s, &err) < 0 ||
		      smfs_store_set_limit(s, &limit, NULL, &err) < 0))
		return cmd_fail(&err);
	if (c->json)
		return cmd_print_json(json_pack("{s:s, s:I}", "store", c->store_dir, "limit_bytes",
						(json_int_t)limit));
	if (!c->quiet)
		printf("%s: empty store\n", c->store_dir);
	return cmd_flush();
}

const struct command cmd_init = {
	.name = "init",
	.args = "[--limit SIZE] [DIR]",
	.summary = "make an empty store",
	.help = "DIR is created if missing and must be empty.\n\n"
		"  --limit SIZE   what it may take on disk, such as 500G; see `smfs limit`\n",
	.run = run,
};
