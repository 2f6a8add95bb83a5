/* The image as root: device, overlay, and the switch away from the initramfs. */
#include "runner/agent/boot.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"

#include <dirent.h>
#include <fcntl.h>
#include <mntent.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>

#define ROOT_WAIT_MS 10000
#define LOWER	     "/.smvm/lower"
#define RW	     "/.smvm/rw"
#define MERGED	     "/.smvm/root"

/* Drivers probe after their modules have loaded: the node appears when the kernel gets to it. */
static int wait_device(const char *path, struct err *err)
{
	const struct timespec pause = {.tv_nsec = 2000000};
	uint64_t end = boottime_ms() + ROOT_WAIT_MS;

	for (;;) {
		if (access(path, F_OK) == 0)
			return 0;
		if (boottime_ms() >= end)
			return err_set(err, ENODEV, "root device %s: did not appear in %d s", path,
				       ROOT_WAIT_MS / 1000);
		nanosleep(&pause, NULL);
	}
}

static int make_dirs(const char *const *dirs, struct err *err)
{
	for (; *dirs; dirs++)
		if (mkdir(*dirs, 0755) < 0 && errno != EEXIST)
			return err_errno(err, "create %s", *dirs);
	return 0;
}

/* A file system without DAX takes the option and drops it: what counts is what it then reports. */
static bool has_dax(const char *dir)
{
	cleanup_file FILE *f = setmntent("/proc/self/mounts", "re");
	struct mntent *m;

	while (f && (m = getmntent(f)))
		if (!strcmp(m->mnt_dir, dir))
			return hasmntopt(m, "dax") || hasmntopt(m, "dax=always");
	return false;
}

static int mount_image(const struct bootconf *c, char *desc, struct err *err)
{
	const char *type = c->root_fstype ? c->root_fstype : "erofs";
	bool dax = c->root_dax && mount(c->root_device, LOWER, type, MS_RDONLY, "dax") == 0;

	if (!dax && mount(c->root_device, LOWER, type, MS_RDONLY, NULL) < 0)
		return err_errno(err, "mount root %s (%s)", c->root_device, type);
	dax = dax && has_dax(LOWER);
	if (c->root_dax && !dax)
		log_warn("root %s (%s): no DAX here; going on with a second copy of its pages in "
			 "the guest's own memory",
			 c->root_device, type);
	snprintf(desc, 128, "%s%s on %s", type, dax ? " dax" : "", c->root_device);
	return 0;
}

/*
 * The initramfs's files are RAM: give it back. Other file systems below (the mounts just made) are
 * not entered. `fd` is consumed.
 */
static void empty(int fd, dev_t dev, unsigned depth)
{
	DIR *d = fdopendir(fd);
	struct dirent *e;
	struct stat st;

	if (!d) {
		close(fd);
		return;
	}
	while ((e = readdir(d))) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") ||
		    fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || st.st_dev != dev)
			continue;
		if (S_ISDIR(st.st_mode)) {
			int sub = openat(dirfd(d), e->d_name,
					 O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

			if (sub >= 0 && depth < 16)
				empty(sub, dev, depth + 1);
			else if (sub >= 0)
				close(sub);
		}
		unlinkat(dirfd(d), e->d_name, S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0);
	}
	closedir(d);
}

static int switch_root(struct err *err)
{
	static const char *const moved[] = {"/dev", "/proc", "/sys", "/run", NULL};
	cleanup_fd int old = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat st;
	char to[64];

	for (const char *const *m = moved; *m; m++) {
		snprintf(to, sizeof(to), MERGED "%s", *m);
		if (mkdir(to, 0755) < 0 && errno != EEXIST)
			return err_errno(err, "create %s in the image", *m);
		if (mount(*m, to, NULL, MS_MOVE, NULL) < 0)
			return err_errno(err, "move %s into the image", *m);
	}
	if (old < 0 || fstat(old, &st) < 0)
		return err_errno(err, "open the initramfs");
	if (chdir(MERGED) < 0)
		return err_errno(err, "enter the new root");
	empty(steal_fd(&old), st.st_dev, 0);
	/* The initramfs cannot be left by pivot_root(2): the image is mounted over it. */
	if (mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
		return err_errno(err, "switch to the new root");
	return 0;
}

int boot_root(const struct bootconf *c, char *desc, struct err *err)
{
	static const char *const points[] = {"/.smvm", LOWER, RW, MERGED, NULL};
	static const char *const layers[] = {RW "/upper", RW "/work", NULL};
	int r;

	if (!c->root_device) {
		snprintf(desc, 128, "initramfs");
		return 0;
	}
	r = make_dirs(points, err);
	if (r == 0)
		r = wait_device(c->root_device, err);
	if (r == 0)
		r = mount_image(c, desc, err);
	if (r < 0)
		return r;
	if (mount("tmpfs", RW, "tmpfs", 0, "mode=0755") < 0)
		return err_errno(err, "mount the writable layer");
	r = make_dirs(layers, err);
	if (r < 0)
		return r;
	if (mount("overlay", MERGED, "overlay", 0,
		  "lowerdir=" LOWER ",upperdir=" RW "/upper,workdir=" RW "/work") < 0)
		return err_errno(err, "mount the overlay");
	return switch_root(err);
}
