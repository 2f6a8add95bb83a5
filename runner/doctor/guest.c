/* guest.c - what machines are made of besides KVM: a kernel, the agent, tools, a place to run in.
 */
#include "runner/control/rundir.h"
#include "runner/doctor/doctor.h"
#include "runner/guest/initramfs.h"
#include "runner/guest/kernel.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void check_kernel(struct doctor *d)
{
	struct guest_kernel k;
	struct err err = ERR_INIT;
	char path[PATH_MAX + 16];

	if (guest_kernel_find(NULL, &k, &err) < 0) {
		doctor_say(d, DOCTOR_WARN, "kernel",
			   "apt install linux-image-cloud-amd64, or name one with --kernel: images "
			   "boot on it; snapshots have their own",
			   "%s", err.msg);
		return;
	}
	snprintf(path, sizeof(path), "%s/modules.dep", k.modules_dir);
	if (access(path, R_OK) < 0)
		doctor_say(d, DOCTOR_WARN, "kernel",
			   "apt install --reinstall the kernel's package; without modules only a "
			   "kernel that has its drivers built in boots an image",
			   "%s, but no modules: %s: %s", k.path, path, strerror(errno));
	else
		doctor_say(d, DOCTOR_PASS, "kernel", NULL, "%s, with its modules", k.path);
}

static void check_agent(struct doctor *d)
{
	struct err err = ERR_INIT;
	char path[PATH_MAX];

	if (initramfs_find_agent(path, &err) < 0)
		doctor_say(d, DOCTOR_FAIL, "agent",
			   "install smvm-init beside smvm-runner: without it no image boots", "%s",
			   err.msg);
	else
		doctor_say(d, DOCTOR_PASS, "agent", NULL, "%s", path);
}

static bool in_path(const char *program)
{
	const char *p = getenv("PATH");
	char path[PATH_MAX];

	while (p && *p) {
		const int n = (int)strcspn(p, ":");

		if ((size_t)snprintf(path, sizeof(path), "%.*s/%s", n, p, program) < sizeof(path) &&
		    access(path, X_OK) == 0)
			return true;
		p += n + (p[n] == ':');
	}
	return false;
}

static void check_tools(struct doctor *d)
{
	if (in_path("mkfs.erofs"))
		doctor_say(d, DOCTOR_PASS, "tools", NULL, "mkfs.erofs");
	else
		doctor_say(d, DOCTOR_WARN, "tools",
			   "apt install erofs-utils: smvm-pull makes images' file systems by it",
			   "no mkfs.erofs in PATH");
}

/* Where machines have their sockets: it is made if it is not there. */
static void check_directory(struct doctor *d)
{
	const char *base = rundir_base();
	cleanup_free char *parent = strdup(base);
	char *slash = parent ? strrchr(parent, '/') : NULL;
	struct stat st;

	if (slash && slash > parent)
		*slash = '\0';
	if (stat(base, &st) == 0 && !S_ISDIR(st.st_mode))
		doctor_say(d, DOCTOR_FAIL, "directory", "remove it, or choose with SMVM_RUN_DIR",
			   "%s is no directory", base);
	else if (access(base, F_OK) == 0 ? access(base, W_OK | X_OK) < 0
					 : !slash || access(parent, W_OK | X_OK) < 0)
		doctor_say(d, DOCTOR_FAIL, "directory",
			   "run as root, or choose a directory of your own with SMVM_RUN_DIR",
			   "no machine can be put into %s: %s", base, strerror(errno));
	else
		doctor_say(d, DOCTOR_PASS, "directory", NULL, "%s", base);
}

void doctor_guest(struct doctor *d)
{
	check_kernel(d);
	check_agent(d);
	check_tools(d);
	check_directory(d);
}
