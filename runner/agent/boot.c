#include "runner/agent/boot.h"

#include "runner/agent/cgroup.h"
#include "runner/agent/identity.h"
#include "runner/proto/mailbox.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

#define WORK_CGROUP "/sys/fs/cgroup/smvm.work"

static const struct {
	const char *type, *dir, *data;
	unsigned long flags;
	bool needed;
} early[] = {
	{"proc", "/proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC, true},
	{"sysfs", "/sys", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC, true},
	{"devtmpfs", "/dev", "mode=0755", MS_NOSUID, true},
	{"devpts", "/dev/pts", "mode=0620,gid=5,ptmxmode=0666", MS_NOSUID | MS_NOEXEC, true},
	{"tmpfs", "/dev/shm", "mode=1777", MS_NOSUID | MS_NODEV, false},
	{"tmpfs", "/run", "mode=0755", MS_NOSUID | MS_NODEV, true},
	{"cgroup2", "/sys/fs/cgroup", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC, false},
};

static void console(void)
{
	int fd = open("/dev/console", O_RDWR | O_NOCTTY);

	if (fd < 0)
		return;
	for (int i = 0; i < 3; i++)
		dup2(fd, i);
	if (fd > 2)
		close(fd);
}

int boot_early(struct err *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(early); i++) {
		mkdir(early[i].dir, 0755);
		if (mount(early[i].type, early[i].dir, early[i].type, early[i].flags,
			  early[i].data) == 0 ||
		    errno == EBUSY)
			continue;
		if (early[i].needed)
			return err_errno(err, "mount %s on %s", early[i].type, early[i].dir);
		log_warn("mount %s on %s: %s", early[i].type, early[i].dir, strerror(errno));
	}
	/* ptmx in devtmpfs is the kernel's; the one in devpts is the instance's. */
	unlink("/dev/ptmx");
	if (symlink("pts/ptmx", "/dev/ptmx") < 0)
		log_warn("link /dev/ptmx: %s", strerror(errno));
	if (symlink("/proc/self/fd", "/dev/fd") < 0 || symlink("fd/0", "/dev/stdin") < 0 ||
	    symlink("fd/1", "/dev/stdout") < 0 || symlink("fd/2", "/dev/stderr") < 0)
		log_warn("link /dev/fd: %s", strerror(errno));
	console();
	return 0;
}

int boot_read_conf(struct bootconf *c, struct err *err)
{
	cleanup_free char *data = NULL;
	size_t len;
	int r = read_file(AT_FDCWD, BOOTCONF_PATH, BOOTCONF_MAX, &data, &len, err);

	if (r == -ENOENT) {
		log_info("no %s: serving exec from the initramfs", BOOTCONF_PATH);
		*c = (struct bootconf){0};
		return 0;
	}
	return r < 0 ? r : bootconf_decode(data, len, c, err);
}

const char *boot_cgroup(const char **work)
{
	struct err e = ERR_INIT;

	*work = NULL;
	if (cgroup_make(WORK_CGROUP, &e) == 0 && access(WORK_CGROUP "/cgroup.freeze", W_OK) == 0) {
		if (cgroup_account("/sys/fs/cgroup", &e) == 0 &&
		    cgroup_account(WORK_CGROUP, &e) == 0 &&
		    cgroup_make(WORK_CGROUP "/main", &e) == 0)
			*work = WORK_CGROUP "/main";
		else
			log_warn("no account of memory: %s", e.msg);
		return WORK_CGROUP;
	}
	log_warn("no cgroup2 freezer (%s): this guest cannot be prepared for a snapshot",
		 e.code ? e.msg : "cgroup.freeze is missing");
	return NULL;
}

const uint8_t *boot_map_mailbox(uint64_t gpa)
{
	cleanup_fd int fd = -1;
	void *p;

	if (!gpa)
		return NULL;
	fd = open("/dev/mem", O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		log_warn("mailbox: open /dev/mem: %s", strerror(errno));
		return NULL;
	}
	p = mmap(NULL, MAILBOX_SIZE, PROT_READ, MAP_SHARED, fd, (off_t)gpa);
	if (p == MAP_FAILED) {
		log_warn("mailbox: map %#llx of /dev/mem: %s", (unsigned long long)gpa,
			 strerror(errno));
		return NULL;
	}
	return p;
}

int boot_disks(const struct bootconf *c, struct err *err)
{
	for (unsigned i = 0; i < c->ndisks; i++) {
		const struct bootconf_disk *d = &c->disk[i];

		/* One level: a deeper mount point is the image's to have. */
		if (mkdir(d->path, 0755) < 0 && errno != EEXIST)
			return err_errno(err, "create mount point %s", d->path);
		if (mount(d->device, d->path, d->fstype, d->readonly ? MS_RDONLY : 0, NULL) < 0)
			return err_errno(err, "mount %s (%s) on %s", d->device, d->fstype, d->path);
	}
	return 0;
}

static void loopback(void)
{
	cleanup_fd int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq ifr = {.ifr_name = "lo"};

	if (s < 0 || ioctl(s, SIOCGIFFLAGS, &ifr) < 0) {
		log_warn("loopback: %s", strerror(errno));
		return;
	}
	ifr.ifr_flags |= IFF_UP;
	if (ioctl(s, SIOCSIFFLAGS, &ifr) < 0)
		log_warn("loopback: %s", strerror(errno));
}

static void resolv_conf(const char *text)
{
	struct err e = ERR_INIT;

	if (text && access("/etc/resolv.conf", F_OK) < 0 &&
	    write_file_atomic(AT_FDCWD, "/etc/resolv.conf", text, strlen(text), 0644, &e) < 0)
		log_warn("%s", e.msg);
}

void boot_settle(struct guest *g)
{
	const struct bootconf *c = g->conf;
	const struct rlimit files = {1024, 1048576}, core = {0, RLIM_INFINITY};
	const char *name = c->hostname ? c->hostname : "smvm";
	struct err e = ERR_INIT;
	struct timespec now;

	loopback();
	if (g->identity->hostname(g, name, &e) < 0)
		log_warn("%s", e.msg);
	if (c->machine_id && g->identity->machine_id(g, c->machine_id, &e) < 0)
		log_warn("%s", e.msg);
	resolv_conf(c->resolv_conf);
	/* The runner's clock when it started us can only be early: set it when ours is earlier
	 * still. */
	clock_gettime(CLOCK_REALTIME, &now);
	if (c->wall_ns / 1000000000u > (uint64_t)now.tv_sec &&
	    g->identity->clock(g, c->wall_ns, &e) < 0)
		log_warn("%s", e.msg);
	if (setrlimit(RLIMIT_NOFILE, &files) < 0 || setrlimit(RLIMIT_CORE, &core) < 0)
		log_warn("limits: %s", strerror(errno));
}
