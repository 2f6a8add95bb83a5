/* remount.c - smfs remount: change the program that serves a mount, while it is in use. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "smfs/cmd/cmd.h"
#include "smfs/mount/keeper.h"

/* What `exe` names, or this very program. */
static int program(const char *exe, char out[PATH_MAX], struct err *err)
{
	return realpath(exe ? exe : "/proc/self/exe", out)
		       ? 0
		       : err_errno(err, "remount: %s", exe ? exe : "/proc/self/exe");
}

static int run(struct cmd *c, int argc, char **argv)
{
	static const struct option own[] = {{"program", required_argument, NULL, 'p'}, {0}};
	const char *env = getenv("SMFS_MOUNT"), *exe = NULL;
	const char *mnt = env && *env ? env : SMFS_DEFAULT_MOUNT;
	char path[PATH_MAX], prog[PATH_MAX];
	struct err err = ERR_INIT;
	unsigned minor;
	int o, status;

	while ((o = cmd_getopt(c, argc, argv, "", own, &status)) != -1) {
		if (o == CMD_EXIT)
			return status;
		exe = optarg;
	}
	if (argc - optind > 1)
		return cmd_usage(c, "too many arguments");
	if (optind < argc)
		mnt = argv[optind];
	if (cmd_mount_point(mnt, path, &err) < 0 || keeper_find(path, &minor, &err) < 0 ||
	    program(exe, prog, &err) < 0 || keeper_remount(minor, prog, &err) < 0)
		return cmd_fail(&err);
	return EXIT_OK;
}

const struct command cmd_remount = {
	.name = "remount",
	.args = "[MNT]",
	.summary = "change the program that serves a mount",
	.help = "MNT defaults to $SMFS_MOUNT, or " SMFS_DEFAULT_MOUNT
		". This very program takes over from the\n"
		"one that serves; no request fails, open files and mappings go on. If it cannot,\n"
		"the old one stays. Not while a snapshot is being copied in.\n"
		"  --program FILE  that program instead\n",
	.run = run,
};
