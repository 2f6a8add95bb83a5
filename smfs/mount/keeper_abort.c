/* Ending a connection whose server will not: what the kernel calls aborting. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "smfs/base/cleanup.h"
#include "smfs/base/log.h"
#include "smfs/mount/keeper_sock.h"

/* The kernel's directory of connections where nobody has mounted it: a mount of our own, nowhere.
 */
static int connections(void)
{
	cleanup_fd int fs = fsopen("fusectl", FSOPEN_CLOEXEC);

	if (fs < 0 || fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return -1;
	return fsmount(fs, FSMOUNT_CLOEXEC, 0);
}

static int write_abort(int dir, const char *path)
{
	cleanup_fd int fd = openat(dir, path, O_WRONLY | O_CLOEXEC);

	return fd < 0 || write(fd, "1", 1) != 1 ? -1 : 0;
}

void keeper_abort(unsigned minor, const char *dir)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/fs/fuse/connections/%u/abort", minor);
	if (write_abort(AT_FDCWD, path) == 0)
		return;
	cleanup_fd int all = connections();
	snprintf(path, sizeof(path), "%u/abort", minor);
	if (all >= 0 && write_abort(all, path) == 0)
		return;
	log_info("%s: abort connection %u: %s", dir, minor, strerror(errno));
	/* Does the same first; takes the mount away, too, if nobody uses it. */
	if (umount2(dir, MNT_FORCE | UMOUNT_NOFOLLOW) < 0)
		log_info("%s: unmount by force: %s", dir, strerror(errno));
}
