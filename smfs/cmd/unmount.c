/* unmount.c - smfs unmount: end a mount; dead ones, too. */
#include <ctype.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "smfs/base/cleanup.h"
#include "smfs/cmd/cmd.h"
#include "smfs/mount/keeper.h"

/* Only the parent is looked at: a dead mount answers nothing. */
int cmd_mount_point(const char *mnt, char out[PATH_MAX], struct err *err)
{
	char path[PATH_MAX], parent[PATH_MAX];
	size_t n = strlen(mnt);

	while (n > 1 && mnt[n - 1] == '/')
		n--;
	if (n == 0 || n >= sizeof(path))
		return err_set(err, EINVAL, "`%s`: not a path", mnt);
	memcpy(path, mnt, n);
	path[n] = '\0';
	char *slash = strrchr(path, '/');
	const char *base = slash ? slash + 1 : path;
	if (strcmp(base, ".") == 0 || strcmp(base, "..") == 0 || !*base)
		return err_set(err, EINVAL, "%s: give the mount point's own name", mnt);
	if (slash && slash != path)
		*slash = '\0';
	if (!realpath(!slash ? "." : slash == path ? "/" : path, parent))
		return err_errno(err, "%s", mnt);
	int len = snprintf(out, PATH_MAX, "%s/%s", strcmp(parent, "/") == 0 ? "" : parent, base);
	return len < PATH_MAX ? 0 : err_set(err, ENAMETOOLONG, "%s", mnt);
}

/* ---- who keeps it busy ----------------------------------------------------------------------- */

static bool is_below(const char *path, const char *mnt)
{
	size_t n = strlen(mnt);

	return strncmp(path, mnt, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

static bool link_is_below(int dirfd, const char *name, const char *mnt)
{
	char target[PATH_MAX];
	ssize_t n = readlinkat(dirfd, name, target, sizeof(target) - 1);

	if (n < 0)
		return false;
	target[n] = '\0';
	return is_below(target, mnt);
}

static bool uses(const char *pid, const char *mnt)
{
	static const char *const links[] = {"cwd", "root", "exe"};
	char path[64];
	struct dirent *e;

	snprintf(path, sizeof(path), "/proc/%.20s", pid);
	cleanup_dir DIR *proc = opendir(path);
	if (!proc)
		return false;
	for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++)
		if (link_is_below(dirfd(proc), links[i], mnt))
			return true;
	snprintf(path, sizeof(path), "/proc/%.20s/fd", pid);
	cleanup_dir DIR *fds = opendir(path);
	while (fds && (e = readdir(fds)))
		if (link_is_below(dirfd(fds), e->d_name, mnt))
			return true;
	snprintf(path, sizeof(path), "/proc/%.20s/map_files", pid);
	cleanup_dir DIR *maps = opendir(path);
	while (maps && (e = readdir(maps)))
		if (link_is_below(dirfd(maps), e->d_name, mnt))
			return true;
	return false;
}

/* "123 (bash), 456 (smvm-runner)", a few of them. */
static void find_users(const char *mnt, char *out, size_t size)
{
	cleanup_dir DIR *proc = opendir("/proc");
	struct dirent *e;
	size_t used = 0;
	int found = 0;

	*out = '\0';
	while (proc && found < 4 && (e = readdir(proc))) {
		char path[64], comm[64] = "?";

		if (!isdigit((unsigned char)e->d_name[0]) || !uses(e->d_name, mnt))
			continue;
		snprintf(path, sizeof(path), "/proc/%.20s/comm", e->d_name);
		cleanup_file FILE *f = fopen(path, "re");
		if (f && fgets(comm, sizeof(comm), f))
			comm[strcspn(comm, "\n")] = '\0';
		int n = snprintf(out + used, size - used, "%s%s (%s)", found++ ? ", " : "",
				 e->d_name, comm);
		if (n < 0 || (size_t)n >= size - used)
			break;
		used += (size_t)n;
	}
}

static int run(struct cmd *c, int argc, char **argv)
{
	static const struct option own[] = {
		{"lazy", no_argument, NULL, 'l'}, {"force", no_argument, NULL, 'f'}, {0}};
	const char *env = getenv("SMFS_MOUNT");
	const char *mnt = env && *env ? env : SMFS_DEFAULT_MOUNT;
	char path[PATH_MAX], users[512];
	unsigned minor;
	struct err err = ERR_INIT;
	int o, flags = UMOUNT_NOFOLLOW, status;

	while ((o = cmd_getopt(c, argc, argv, "lf", own, &status)) != -1) {
		if (o == CMD_EXIT)
			return status;
		flags |= o == 'l' ? MNT_DETACH : MNT_DETACH | MNT_FORCE;
	}
	if (argc - optind > 1)
		return cmd_usage(c, "too many arguments");
	if (optind < argc)
		mnt = argv[optind];
	int r = cmd_mount_point(mnt, path, &err);
	if (r == 0)
		r = keeper_find(path, &minor, &err);
	if (r < 0) {
		err_wrap(&err, r, "unmount");
		return cmd_fail(&err);
	}
	if (umount2(path, flags) < 0) {
		if (errno == EBUSY) {
			find_users(path, users, sizeof(users));
			err_set(&err, EBUSY,
				"unmount %s: in use%s%s; end them, or detach it with --lazy", path,
				*users ? " by " : "", users);
		} else {
			err_errno(&err, "unmount %s", path);
		}
		return cmd_fail(&err);
	}
	return EXIT_OK;
}

const struct command cmd_unmount = {
	.name = "unmount",
	.args = "[MNT]",
	.summary = "end a mount",
	.help = "MNT defaults to $SMFS_MOUNT, or " SMFS_DEFAULT_MOUNT
		". Also clears away a mount whose\n"
		"server has died.\n"
		"  -l, --lazy     detach now; who has files open is served until they close them\n"
		"  -f, --force    end it now; who has files open gets errors\n",
	.run = run,
};
