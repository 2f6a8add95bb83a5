/* fuse.c - can a store be mounted, and does the kernel serve its files by itself? */
#include "runner/doctor/doctor.h"
#include "runner/doctor/fuse_probe.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"
#include "smfs/store/store.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define PROBE_MS 2000

struct trial {
	struct fuse_probe probe;
	struct err err;
	char dir[256];
	int r;
};

static void trial(void *buf)
{
	struct trial *t = buf;

	t->r = fuse_probe(t->dir, &t->probe, &t->err);
}

static const char *cold = "until then smfs serves files itself, slower than the page cache";

static void say_passthrough(struct doctor *d, const struct trial *t)
{
	char advice[384];
	const char *why = "Linux 6.9 and later with CONFIG_FUSE_PASSTHROUGH do";

	if (!t->probe.offered) {
		snprintf(advice, sizeof(advice), "%s; %s", why, cold);
		doctor_say(d, DOCTOR_WARN, "passthrough", advice, "the kernel offers none");
		return;
	}
	switch (t->probe.backing) {
	case 0:
		doctor_say(d, DOCTOR_PASS, "passthrough", NULL,
			   "offered, and a backing file in %s is taken", t->dir);
		return;
	case -1:
		doctor_say(d, DOCTOR_SKIP, "passthrough",
			   "give the store's file system with --store",
			   "offered; no file could be made in %s to try it with", t->dir);
		return;
	case ELOOP:
		why = "put the store on a file system that is not stacked on another (overlay)";
		break;
	case EPERM:
		why = "smfs needs CAP_SYS_ADMIN for it";
		break;
	default:
		why = "put the store on ext4, xfs or btrfs";
	}
	snprintf(advice, sizeof(advice), "%s; %s", why, cold);
	doctor_say(d, DOCTOR_WARN, "passthrough", advice,
		   "offered, but a backing file in %s is refused: %s", t->dir,
		   strerror(t->probe.backing));
}

static void say_probe(struct doctor *d, const struct trial *t)
{
	if (t->probe.resend)
		doctor_say(d, DOCTOR_PASS, "protocol", NULL,
			   "%u.%u; a new server may ask for what a dead one left unanswered",
			   t->probe.major, t->probe.minor);
	else
		doctor_say(d, DOCTOR_WARN, "protocol",
			   "Linux 6.9 and later do; until then a read that is under way when smfs "
			   "crashes is lost",
			   "%u.%u; requests of a dead server cannot be asked for again",
			   t->probe.major, t->probe.minor);
	say_passthrough(d, t);
}

static void say_unprivileged(struct doctor *d, const struct trial *t)
{
	if (geteuid() == 0)
		doctor_say(d, DOCTOR_FAIL, "mount",
			   "smfs cannot mount a store: give CAP_SYS_ADMIN; in a container pass "
			   "--cap-add SYS_ADMIN, and a seccomp profile that lets mounts be made",
			   "root may make no file system here: %s", t->err.msg);
	doctor_say(d, DOCTOR_SKIP, "passthrough", "ask again as root, with CAP_SYS_ADMIN",
		   "may not make a file system to try it: %s", t->err.msg);
}

void doctor_fuse(struct doctor *d)
{
	cleanup_fd int dev = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	struct stat st;

	if (dev < 0) {
		int e = errno;

		doctor_say(d, DOCTOR_FAIL, "device",
			   e == ENOENT ? "load the module fuse; in a container pass --device "
					 "/dev/fuse and CAP_SYS_ADMIN"
				       : "let smfs run as root",
			   "cannot open /dev/fuse: %s", strerror(e));
		return;
	}
	doctor_say(d, DOCTOR_PASS, "device", NULL, "/dev/fuse opens");

	struct trial t = {.r = -EIO};
	const char *dir = d->store ? d->store : SMFS_DEFAULT_STORE;
	/* Most likely where a store will be. */
	snprintf(t.dir, sizeof(t.dir), "%s", stat(dir, &st) == 0 ? dir : "/var/lib");
	int r = doctor_try(trial, &t, sizeof(t), PROBE_MS);
	if (r == 0 && t.r == 0)
		say_probe(d, &t);
	else if (r == 0 && (t.r == -EPERM || t.r == -EACCES))
		say_unprivileged(d, &t);
	else if (r == -ETIMEDOUT)
		doctor_say(d, DOCTOR_SKIP, "protocol", "ask again when the host is less busy",
			   "the kernel has made no file system within %d ms", PROBE_MS);
	else
		doctor_say(d, DOCTOR_FAIL, "protocol",
			   "is /dev/fuse the real one, and CONFIG_FUSE_FS in this kernel?", "%s",
			   r == 0 ? t.err.msg : strerror(-r));
}
