/* limit.c - smfs limit: how large the store may become. */
#include <string.h>

#include "smfs/base/num.h"
#include "smfs/cmd/cmd.h"

static int print(struct cmd *c, struct smfs_store *s, struct err *err)
{
	char limit[SIZE_STR_MAX], used[SIZE_STR_MAX], left[SIZE_STR_MAX], reserve[SIZE_STR_MAX];
	struct smfs_store_stat st;

	if (smfs_store_stat(s, &st, err) < 0)
		return cmd_fail(err);
	if (c->json)
		return cmd_print_json(json_pack(
			"{s:I, s:I, s:I, s:I}", "limit_bytes", (json_int_t)st.limit_bytes,
			"disk_bytes", (json_int_t)st.disk_bytes, "left_bytes",
			(json_int_t)st.left_bytes, "reserve_bytes", (json_int_t)st.reserve_bytes));
	printf("limit %s, used %s, left %s (%s of the disk are kept free)\n",
	       st.limit_bytes ? format_size(st.limit_bytes, limit) : "none",
	       format_size(st.disk_bytes, used), format_size(st.left_bytes, left),
	       format_size(st.reserve_bytes, reserve));
	return cmd_flush();
}

enum { OPT_RESERVE = 0x100 };

static int run(struct cmd *c, int argc, char **argv)
{
	static const struct option own[] = {{"reserve", required_argument, NULL, OPT_RESERVE}, {0}};
	cleanup_store struct smfs_store *s = NULL;
	const char *keep = NULL;
	struct err err = ERR_INIT;
	uint64_t limit = 0, reserve = UINT64_MAX;
	int status, o;

	while ((o = cmd_getopt(c, argc, argv, "", own, &status)) != -1) {
		if (o == CMD_EXIT)
			return status;
		keep = optarg;
	}
	if (argc - optind > 1)
		return cmd_usage(c, "too many arguments");
	const char *arg = optind < argc ? argv[optind] : NULL;
	if (arg && strcmp(arg, "none") != 0 && parse_size(arg, MIB, INT64_MAX, &limit, &err) < 0)
		return cmd_fail(&err);
	if (keep && strcmp(keep, "default") != 0 &&
	    parse_size(keep, 0, INT64_MAX, &reserve, &err) < 0)
		return cmd_fail(&err);
	bool set = arg || keep;
	if (cmd_open_store(c, set ? 0 : SMFS_RDONLY, &s, &err) < 0 ||
	    (set && smfs_store_set_limit(s, arg ? &limit : NULL, keep ? &reserve : NULL, &err) < 0))
		return cmd_fail(&err);
	return set && c->quiet ? cmd_flush() : print(c, s, &err);
}

const struct command cmd_limit = {
	.name = "limit",
	.args = "[--reserve SIZE|default] [SIZE|none]",
	.summary = "show or set how large the store may become",
	.help = "SIZE bounds what the store takes on disk, such as 500G. What would exceed it is "
		"refused\n"
		"before anything of it is visible. A limit below what the store has removes "
		"nothing.\n"
		"Files being copied into a mount count as they are; what is kept warm fits beside "
		"the\n"
		"store or gives way to it.\n\n"
		"  --reserve SIZE   what is left free on the file system, so that names can be "
		"removed\n"
		"                   and space given back: 1 %, 64 MiB at most, by default\n",
	.run = run,
};
