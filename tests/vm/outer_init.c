/*
 * outer_init.c - process 1 of the outer machine that tests/vm/outer.sh starts.
 *
 * The initramfs holds this static program and the kernel modules it loads, in the order of
 * /modules/list. It finds its disks by their serial numbers, whatever order they were probed in:
 *
 *   root      erofs with the user land; with a tmpfs overlay it becomes /
 *   job       erofs with the project's tree; with a tmpfs overlay it becomes /src
 *   disk1...  ext4 data disks, mounted read-write on /disk1...
 *
 * It then runs /src/.job with output to the virtio port "smtest.out", reaps everything until that
 * ends, unmounts the data disks, writes "status N" to the port "smtest.rc" and powers off. The
 * ports keep the job's output apart from kernel messages, which have the serial console to
 * themselves; and a machine that dies for any other reason leaves no status line, so it cannot be
 * taken for one that passed.
 *
 * One thread. Every failure before the job starts is reported on the console and as status 125.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SETUP_FAILED	   125
#define BEAT_NS		   50000000
#define DEVICE_DEADLINE_MS 20000

static void power_off(void)
{
	sync();
	/* QEMU runs with -no-reboot: a reset ends it, and needs no ACPI event to be handled. */
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

/* The device node of the port called name, in path; false when there is none (yet). */
static int find_port(const char *name, char *path, size_t size)
{
	DIR *d = opendir("/sys/class/virtio-ports");
	if (!d)
		return 0;
	int found = 0;
	struct dirent *e;
	while (!found && (e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		char attr[320], text[64] = "";
		snprintf(attr, sizeof(attr), "/sys/class/virtio-ports/%s/name", e->d_name);
		FILE *f = fopen(attr, "re");
		if (!f)
			continue;
		if (fgets(text, sizeof(text), f)) {
			text[strcspn(text, "\n")] = 0;
			found = !strcmp(text, name);
			snprintf(path, size, "/dev/%s", e->d_name);
		}
		fclose(f);
	}
	closedir(d);
	return found && access(path, W_OK) == 0;
}

/* The device node of the disk whose virtio serial number is name. */
static int find_disk(const char *name, char *path, size_t size)
{
	for (char c = 'a'; c <= 'z'; c++) {
		char attr[64], text[64] = "";
		snprintf(attr, sizeof(attr), "/sys/block/vd%c/serial", c);
		int fd = open(attr, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return 0;
		ssize_t n = read(fd, text, sizeof(text) - 1);
		close(fd);
		if (n > 0 && !strcmp(text, name)) {
			snprintf(path, size, "/dev/vd%c", c);
			return access(path, R_OK) == 0;
		}
	}
	return 0;
}

static void report_status(int status)
{
	char port[320];
	int fd = find_port("smtest.rc", port, sizeof(port)) ? open(port, O_WRONLY | O_CLOEXEC) : -1;
	if (fd >= 0) {
		dprintf(fd, "status %d\n", status);
		close(fd);
	}
	printf("outer: job ended with status %d\n", status);
	fflush(stdout);
}

static void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *fmt, ...)
{
	va_list ap;
	int e = errno;
	va_start(ap, fmt);
	printf("outer: ");
	vprintf(fmt, ap);
	printf(": %s\n", strerror(e));
	va_end(ap);
	report_status(SETUP_FAILED);
	power_off();
	abort();
}

static void wait_for(int (*find)(const char *, char *, size_t), const char *name, char *path,
		     size_t size)
{
	for (int ms = 0; !find(name, path, size); ms += 2) {
		if (ms >= DEVICE_DEADLINE_MS) {
			errno = ENODEV;
			fail("waiting for device %s", name);
		}
		nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
	}
}

static void mount_or_fail(const char *what, const char *where, const char *type,
			  unsigned long flags, const char *data)
{
	mkdir(where, 0755);
	if (mount(what, where, type, flags, data))
		fail("mounting %s on %s", what, where);
}

static void load_modules(void)
{
	FILE *f = fopen("/modules/list", "re");
	if (!f)
		fail("opening /modules/list");
	char name[128];
	while (fgets(name, sizeof(name), f)) {
		name[strcspn(name, "\n")] = 0;
		char path[160];
		snprintf(path, sizeof(path), "/modules/%s", name);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			fail("opening %s", path);
		if (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST)
			fail("loading %s", name);
		close(fd);
	}
	fclose(f);
}

/* An erofs disk under a tmpfs layer: mounted on where, its parts below base. */
static void mount_writable(const char *disk, const char *base, const char *where)
{
	char dev[320], lower[64], layer[64], upper[80], work[80], opts[320];
	wait_for(find_disk, disk, dev, sizeof(dev));
	snprintf(lower, sizeof(lower), "%s-ro", base);
	snprintf(layer, sizeof(layer), "%s-rw", base);
	mount_or_fail(dev, lower, "erofs", MS_RDONLY | MS_NOATIME, NULL);
	mount_or_fail("tmpfs", layer, "tmpfs", 0, "mode=755,size=90%");
	snprintf(upper, sizeof(upper), "%s/upper", layer);
	snprintf(work, sizeof(work), "%s/work", layer);
	mkdir(upper, 0755);
	mkdir(work, 0755);
	snprintf(opts, sizeof(opts), "lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work);
	mount_or_fail("overlay", where, "overlay", 0, opts);
}

static void switch_root(void)
{
	static const char *const moved[] = {"/dev", "/proc", "/sys"};
	for (size_t i = 0; i < sizeof(moved) / sizeof(moved[0]); i++) {
		char to[64];
		snprintf(to, sizeof(to), "/newroot%s", moved[i]);
		mkdir(to, 0755);
		if (mount(moved[i], to, NULL, MS_MOVE, NULL))
			fail("moving %s", moved[i]);
	}
	if (chdir("/newroot") || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
		fail("switching root");
}

static int mount_data_disks(void)
{
	int n = 0;
	char name[16], dev[320], where[32];
	for (;;) {
		snprintf(name, sizeof(name), "disk%d", n + 1);
		if (!find_disk(name, dev, sizeof(dev)))
			return n;
		snprintf(where, sizeof(where), "/%s", name);
		mount_or_fail(dev, where, "ext4", MS_NOATIME, NULL);
		n++;
	}
}

static void loopback_up(void)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq ifr = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &ifr))
		fail("bringing up lo");
	close(fd);
}

static int run_job(void)
{
	char port[320];
	wait_for(find_port, "smtest.out", port, sizeof(port));
	int out = open(port, O_WRONLY | O_CLOEXEC);
	if (out < 0)
		fail("opening %s", port);
	fflush(stdout);
	pid_t job = fork();
	if (job < 0)
		fail("starting the job");
	if (!job) {
		int null = open("/dev/null", O_RDONLY);
		dup2(null, 0);
		dup2(out, 1);
		dup2(out, 2);
		setsid();
		setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
		setenv("HOME", "/root", 1);
		execl("/bin/sh", "sh", "/src/.job", (char *)NULL);
		_exit(127);
	}
	for (;;) {
		int st;
		pid_t pid = wait(&st);
		if (pid == job)
			return WIFEXITED(st) ? WEXITSTATUS(st) : 128 + WTERMSIG(st);
	}
}

/*
 * QEMU 7.2's SVM helpers change a processor's pending interrupts without a lock, so that with a
 * thread for each processor one is lost now and then. It is still pending in the APIC, and is
 * taken with whatever interrupt comes next; but a processor that lost its one-shot timer may sleep,
 * or run a guest, for minutes before one does. So each processor gets one from the other, twenty
 * times a second: a program on one wakes a program on the other.
 */
static void beat(int from, int to)
{
	const struct sched_param first = {.sched_priority = 1};
	int fd = eventfd(0, EFD_CLOEXEC);
	uint64_t n = 1;

	if (fd < 0)
		fail("making an eventfd");
	for (int end = 0; end < 2; end++) {
		cpu_set_t set;

		if (fork())
			continue;
		CPU_ZERO(&set);
		CPU_SET(end ? to : from, &set);
		if (sched_setaffinity(0, sizeof(set), &set) ||
		    sched_setscheduler(0, SCHED_FIFO, &first))
			_exit(1);
		while (end ? read(fd, &n, sizeof(n)) == sizeof(n)
			   : write(fd, &n, sizeof(n)) == sizeof(n))
			if (!end)
				nanosleep(&(struct timespec){.tv_nsec = BEAT_NS}, NULL);
		_exit(1);
	}
	close(fd);
}

int main(void)
{
	mount_or_fail("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, NULL);
	int con = open("/dev/console", O_RDWR);
	for (int fd = 0; con >= 0 && fd < 3; fd++)
		dup2(con, fd);
	mount_or_fail("proc", "/proc", "proc", 0, NULL);
	mount_or_fail("sysfs", "/sys", "sysfs", 0, NULL);
	load_modules();
	mount_writable("root", "/root", "/newroot");
	mount_writable("job", "/job", "/newroot/src");
	switch_root();
	mount_or_fail("devpts", "/dev/pts", "devpts", 0, "ptmxmode=0666,mode=0620");
	mount_or_fail("tmpfs", "/dev/shm", "tmpfs", 0, "mode=1777");
	mount_or_fail("tmpfs", "/run", "tmpfs", 0, "mode=755");
	mount_or_fail("tmpfs", "/tmp", "tmpfs", 0, "mode=1777,size=90%");
	mount_or_fail("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, NULL);
	mount_or_fail("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);
	symlink("/proc/self/fd", "/dev/fd");
	symlink("/proc/self/fd/0", "/dev/stdin");
	symlink("/proc/self/fd/1", "/dev/stdout");
	symlink("/proc/self/fd/2", "/dev/stderr");
	sethostname("outer", 5);
	loopback_up();
	int disks = mount_data_disks();
	beat(0, 1);
	beat(1, 0);

	int status = run_job();

	kill(-1, SIGKILL);
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
	for (int i = 1; i <= disks; i++) {
		char where[32];
		snprintf(where, sizeof(where), "/disk%d", i);
		if (umount2(where, MNT_DETACH) || (sync(), 0))
			printf("outer: unmounting %s: %s\n", where, strerror(errno));
	}
	report_status(status);
	power_off();
}
