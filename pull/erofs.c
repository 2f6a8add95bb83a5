#include "pull/erofs.h"

#include <ctype.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/wait.h>

#include "pull/cancel.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/err.h"
#include "smfs/base/io.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"
#include "smfs/mount/mount.h"

#define PROGRAM "mkfs.erofs"
/* Where the child finds its image and speaks. */
#define IMAGE_FD 3

int erofs_isolate(struct err *err)
{
	if (unshare(CLONE_NEWNS) < 0)
		return err_errno(err, "make a mount name space (root is needed)");
	/* What the host mounts and unmounts still reaches us; ours stays here. */
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
		return err_errno(err, "make mounts private");
	return 0;
}

int erofs_available(struct err *err)
{
	const char *path = getenv("PATH");
	cleanup_free char *dirs = strdup(path && *path ? path : "/usr/bin:/usr/sbin:/bin:/sbin");
	char *save = NULL, file[PATH_MAX];

	for (char *d = dirs ? strtok_r(dirs, ":", &save) : NULL; d;
	     d = strtok_r(NULL, ":", &save)) {
		if (snprintf(file, sizeof(file), "%s/" PROGRAM, d) < (int)sizeof(file) &&
		    access(file, X_OK) == 0)
			return 0;
	}
	return err_set(err, ENOENT,
		       PROGRAM " is not in PATH; install it (Debian: apt install erofs-utils)");
}

static int spawn(const char *tree, const struct smfs_id *id, int64_t newest, int image, int output,
		 pid_t *pid, struct err *err)
{
	char uuid[64], epoch[64], image_path[32], hex[65];
	char *const argv[] = {(char *)PROGRAM,
			      (char *)"--quiet",
			      (char *)"-Enoinline_data",
			      uuid,
			      image_path,
			      (char *)tree,
			      NULL};
	char path[4096 + 6];
	char *const env[] = {path, epoch, (char *)"LC_ALL=C", NULL};
	posix_spawn_file_actions_t fa;
	posix_spawnattr_t attr;
	sigset_t none;
	int r;

	smfs_id_hex(id, hex);
	snprintf(uuid, sizeof(uuid), "-U%.8s-%.4s-8%.3s-8%.3s-%.12s", hex, hex + 8, hex + 12,
		 hex + 15, hex + 18);
	/* Times later than this would be clamped to it; none is later. It is also the build time.
	 */
	snprintf(epoch, sizeof(epoch), "SOURCE_DATE_EPOCH=%lld", (long long)MAX(newest, 0));
	snprintf(image_path, sizeof(image_path), "/proc/self/fd/%d", IMAGE_FD);
	snprintf(path, sizeof(path), "PATH=%.4096s",
		 getenv("PATH") ? getenv("PATH") : "/usr/bin:/bin");
	sigemptyset(&none);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&fa, output, 1);
	posix_spawn_file_actions_adddup2(&fa, output, 2);
	posix_spawn_file_actions_adddup2(&fa, image, IMAGE_FD);
	r = posix_spawnp(pid, PROGRAM, &fa, &attr, argv, env);
	posix_spawn_file_actions_destroy(&fa);
	posix_spawnattr_destroy(&attr);
	return r ? err_set(err, r, "run " PROGRAM ": %s", strerror(r)) : 0;
}

static int wait_for(pid_t pid, struct cancel *cancel, int *status, struct err *err)
{
	cleanup_fd int fd = pidfd_open(pid, 0);
	struct pollfd p[2] = {{.fd = fd, .events = POLLIN}, {.fd = cancel->fd, .events = POLLIN}};
	bool killed = false;

	while (fd >= 0 && !(p[0].revents & POLLIN)) {
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			break;
		if (cancelled(cancel)) {
			kill(pid, SIGKILL);
			killed = true;
			break;
		}
	}
	while (waitpid(pid, status, 0) < 0 && errno == EINTR)
		;
	return killed ? cancel_error(err) : 0;
}

/* Its last words without its own decoration: "<E> erofs: \tWHAT\n\n". */
static char *trim(char *s)
{
	size_t n = strlen(s);

	while (n && isspace((unsigned char)s[n - 1]))
		s[--n] = '\0';
	if (strncmp(s, "<E> erofs: ", 11) == 0)
		s += 11;
	return s + strspn(s, " \t");
}

static int run(const char *tree, const struct smfs_entry *root, int64_t newest, int image,
	       struct cancel *cancel, struct err *err)
{
	cleanup_fd int output = memfd_create(PROGRAM, MFD_CLOEXEC);
	/* dup2 onto its own number would leave close-on-exec set. */
	cleanup_fd int high = fcntl(image, F_DUPFD_CLOEXEC, IMAGE_FD + 10);
	char said[512] = "";
	int status = 0, r;
	ssize_t n;
	pid_t pid;

	if (output < 0 || high < 0)
		return err_errno(err, "run " PROGRAM);
	r = spawn(tree, &root->dir, newest, high, output, &pid, err);
	if (r == 0)
		r = wait_for(pid, cancel, &status, err);
	if (r < 0)
		return r;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	n = pread_upto(output, said, sizeof(said) - 1, 0);
	said[MAX(n, (ssize_t)0)] = '\0';
	return err_set(err, EIO, PROGRAM " failed (%s %d): %s",
		       WIFSIGNALED(status) ? "signal" : "status",
		       WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), trim(said));
}

int erofs_build(struct smfs_store *s, const struct smfs_entry *root, int64_t newest,
		struct cancel *cancel, struct err *err)
{
	cleanup_fd int image = open(smfs_store_dir(s), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	char dir[] = "/tmp/smvm-pull.XXXXXX";
	struct smfs_mount *m = NULL;
	int r;

	if (image < 0)
		return err_errno(err, "create a temporary file in %s", smfs_store_dir(s));
	if (!mkdtemp(dir))
		return err_errno(err, "create a mount point in /tmp");
	r = smfs_mount_tree(s, &root->dir, root, dir, &m, err);
	if (r == 0) {
		r = run(dir, root, newest, image, cancel, err);
		smfs_mount_stop(m);
	}
	if (rmdir(dir) < 0)
		log_warn("remove %s: %s", dir, strerror(errno));
	if (r < 0)
		return err_wrap(err, r, "make rootfs.erofs");
	return steal_fd(&image);
}
