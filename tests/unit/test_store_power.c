/*
 * A file system loses power under processes that ingest, delete, collect and compact, many
 * times at random moments: what was acknowledged is there byte for byte, what was under way is
 * there whole or not at all, and the store checks clean. And the other way round: with one kind of
 * sync taken out of the store, the same check finds what was lost.
 *
 *   test_store_power            POWER_CUTS (5) cuts on each of ext4, XFS and btrfs, every fourth of
 *                               them under repairs, and every other of these of damaged journals
 *   POWER_SEED=n                repeats a run's operations, if not its timing
 *   POWER_KEEP=dir              where to copy a store that failed the check, for whoever looks at
 * it
 *
 * Power is cut by FS_IOC_SHUTDOWN, in each of its three ways; the one that drops the file system's
 * log loses all that was not synced. Where a file system does not know it (btrfs), by a copy
 * of the disk made in one instant (FICLONE of its image on XFS), which has what had reached the
 * disk and nothing of the page cache.
 */
#include "fault_shim.h"
#include "store_model.h"

#include "smfs/base/io.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <time.h>

#define LANES	   2
#define DISK	   "512M"
#define FRESH_EACH 20 /* cuts on one file system before it is made anew */
#define RUN_US	   120000

#define FS_IOC_SHUTDOWN_ _IOR('X', 125, uint32_t)
#ifndef FICLONE
#define FICLONE _IOW(0x94, 9, int)
#endif
enum { FULL_SYNC, LOG_FLUSH, NO_LOG_FLUSH, SHUTDOWNS };

struct disk {
	const char *fs;	 /* ext4, xfs, btrfs */
	bool clones;	 /* cut by a copy of the image */
	char dir[64];	 /* scratch: */
	char image[160]; /* the disk */
	char mnt[128];	 /* it mounted */
	char store[160];
	char host_image[128], host[128]; /* clones: the XFS that holds the image */
	bool mounted, host_mounted;
};

/* Every fourth life of the machine is one of repairs. */
#define REPAIRS_EACH 4

struct worker {
	pid_t pid;
	int acks; /* one byte for each operation */
};

struct bench {
	struct disk d;
	uint64_t rnd;
	struct model lane[LANES];
	unsigned skip; /* syncs the workers leave out */
	unsigned cuts, acks;
	bool repairing, harming;
	struct worker w[LANES];
};

static bool run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static bool run(const char *fmt, ...)
{
	char cmd[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	return system(cmd) == 0;
}

static void fresh_seed(struct bench *b)
{
	const char *env = getenv("POWER_SEED");

	b->rnd = env ? strtoull(env, NULL, 10)
		     : (uint64_t)time(NULL) * 1000 + (uint64_t)getpid() % 1000;
	printf("# %s: POWER_SEED=%" PRIu64 "\n", b->d.fs, b->rnd);
}

/* ---- the disk ---- */

static bool disk_mkfs(struct disk *d)
{
	const char *mkfs = strcmp(d->fs, "ext4") == 0  ? "mkfs.ext4 -q -F"
			   : strcmp(d->fs, "xfs") == 0 ? "mkfs.xfs -q -f"
						       : "mkfs.btrfs -q -f";

	unlink(d->image);
	return run("truncate -s " DISK " %s && %s %s >/dev/null 2>&1", d->image, mkfs, d->image);
}

/* False also for what is mounted and answers EIO: a file system of before that somebody keeps. */
static bool disk_mount(struct disk *d)
{
	d->mounted = run("mount -t %s -o loop %s %s 2>&1 | sed 's/^/# /'; mountpoint -q %s", d->fs,
			 d->image, d->mnt, d->mnt);
	if (!d->mounted)
		umount2(d->mnt, 0);
	return d->mounted;
}

/* A killed process's files may be closed an instant after it was waited for. */
static bool disk_try_umount(struct disk *d)
{
	for (int i = 0; d->mounted && i < 500; i++) {
		if (umount2(d->mnt, 0) == 0)
			d->mounted = run("mountpoint -q %s", d->mnt);
		else
			usleep(20000);
	}
	return !d->mounted;
}

static void disk_umount(struct disk *d)
{
	assert_true(disk_try_umount(d));
}

/* Why it cannot be here, or NULL. Scratch is memory where that is a file system: syncs are many. */
static const char *disk_open(struct disk *d, const char *fs)
{
	const char *tmp = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
	char *types = NULL;
	bool known;

	*d = (struct disk){.fs = fs};
	if (geteuid() != 0)
		return "needs root";
	if (read_file(AT_FDCWD, "/proc/filesystems", 65536, &types, NULL, NULL) < 0)
		return "no /proc/filesystems";
	known = strstr(types, fs);
	d->clones = strcmp(fs, "btrfs") == 0;
	if (d->clones && !strstr(types, "xfs"))
		known = false;
	free(types);
	if (!known)
		return "this kernel does not have the file system";
	snprintf(d->dir, sizeof(d->dir), "%s/smfs-power.XXXXXX", tmp);
	assert_non_null(mkdtemp(d->dir));
	snprintf(d->mnt, sizeof(d->mnt), "%s/mnt", d->dir);
	snprintf(d->store, sizeof(d->store), "%s/store", d->mnt);
	snprintf(d->host, sizeof(d->host), "%s/host", d->dir);
	snprintf(d->host_image, sizeof(d->host_image), "%s/host.img", d->dir);
	snprintf(d->image, sizeof(d->image), "%s/disk", d->clones ? d->host : d->dir);
	mkdir(d->mnt, 0700);
	mkdir(d->host, 0700);
	if (d->clones) {
		d->host_mounted = run("truncate -s 4G %s && mkfs.xfs -q -f -m reflink=1 %s && "
				      "mount -o loop %s %s",
				      d->host_image, d->host_image, d->host_image, d->host);
		if (!d->host_mounted)
			return "no XFS to copy its disk on";
	}
	return disk_mkfs(d) && disk_mount(d) ? NULL : "no loop device, or no mkfs";
}

/* Also after a failure in the middle. */
static void disk_close(struct disk *d)
{
	if (!*d->dir)
		return;
	if (!disk_try_umount(d))
		umount2(d->mnt, MNT_DETACH);
	if (d->host_mounted && umount2(d->host, 0) < 0)
		umount2(d->host, MNT_DETACH);
	rm_tree(d->dir);
}

/* From here on the disk is what it was at one instant of this call. */
static void disk_cut(struct disk *d, uint64_t *rnd_state)
{
	char copy[sizeof(d->image) + 8];

	if (!d->clones) {
		cleanup_fd int fd = open(d->mnt, O_RDONLY | O_DIRECTORY);
		/* mostly the way that loses most */
		uint64_t x = rnd(rnd_state) % 8;
		uint32_t how = x < SHUTDOWNS ? (uint32_t)x : NO_LOG_FLUSH;

		if (ioctl(fd, FS_IOC_SHUTDOWN_, &how) < 0)
			fail_msg("FS_IOC_SHUTDOWN %u of %s: %m", how, d->fs);
		return;
	}
	snprintf(copy, sizeof(copy), "%s.cut", d->image);
	cleanup_fd int from = open(d->image, O_RDONLY);
	cleanup_fd int to = open(copy, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (ioctl(to, FICLONE, from) < 0)
		fail_msg("FICLONE: %m");
}

/* After the cut: a new boot. */
static void disk_boot(struct disk *d)
{
	disk_umount(d);
	if (d->clones) {
		char copy[sizeof(d->image) + 8];

		snprintf(copy, sizeof(copy), "%s.cut", d->image);
		assert_int_equal(rename(copy, d->image), 0);
	}
	/*
	 * The loop device of before may go an instant after the mount of it; and a process that
	 * was given mounts of its own meanwhile keeps it, shut down as it is, while it lives.
	 */
	for (int i = 0; !disk_mount(d); i++) {
		if (i == 300)
			fail_msg("%s does not mount after the cut", d->fs);
		usleep(100000);
	}
}

/* ---- the processes that write ---- */

/* One byte for each operation, when it is acknowledged. */
_Noreturn static void work(struct bench *b, unsigned lane, int out)
{
	struct model m = b->lane[lane];
	uint8_t *buf = malloc(MODEL_BYTES);
	struct err err = ERR_INIT;
	struct smfs_store *s;

	shim_root(b->d.store);
	shim.skip = b->skip;
	atomic_store(&shim.armed, true);
	if (!buf || smfs_store_open(b->d.store, 0, &s, &err) < 0)
		_exit(1);
	smfs_store_unpin(s);
	for (;;) {
		struct model_op op = model_next(&m, MODEL_KINDS);

		if (model_run(s, &m, &op, buf, &err) < 0)
			break;
		model_apply(&m, &op);
		if (write(out, "", 1) != 1)
			break;
	}
	/* Only the power cut may end it; the parent kills us. */
	for (;;)
		pause();
}

/* A byte of a record, so that a repair replaces the journal, too. */
static bool harm_journal(struct bench *b)
{
	struct stat st;
	char path[200];
	uint8_t byte;

	snprintf(path, sizeof(path), "%s/journal", b->d.store);
	cleanup_fd int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0 || st.st_size <= 100)
		return false;
	uint64_t at = 64 + rnd(&b->rnd) % (uint64_t)(st.st_size - 64);
	if (pread_full(fd, &byte, 1, at) < 0)
		return false;
	byte ^= 16;
	return pwrite_full(fd, &byte, 1, at) == 0;
}

/* Repairs also of a store that needs none: they build its index anew all the same. */
_Noreturn static void repair_always(struct bench *b, int out)
{
	struct smfs_fsck k = {0};
	struct err err = ERR_INIT;

	while ((!b->harming || harm_journal(b)) && smfs_repair(b->d.store, &k, &err) == 0 &&
	       k.guesses == 0 && smfs_repair_done(b->d.store, &err) == 0 && write(out, "", 1) == 1)
		;
	for (;;)
		pause();
}

static struct worker start_worker(struct bench *b, unsigned lane, bool repairs)
{
	struct worker w;
	int p[2];

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	w.pid = model_fork();
	if (w.pid == 0 && repairs)
		repair_always(b, p[1]);
	if (w.pid == 0)
		work(b, lane, p[1]);
	assert_true(w.pid > 0);
	close(p[1]);
	w.acks = p[0];
	return w;
}

static uint64_t count_acks(struct worker *w, bool to_the_end)
{
	uint64_t n = 0;
	char buf[512];
	ssize_t r;

	for (;;) {
		struct pollfd pfd = {.fd = w->acks, .events = POLLIN};

		if (!to_the_end && poll(&pfd, 1, 0) != 1)
			return n;
		r = read(w->acks, buf, sizeof(buf));
		if (r <= 0)
			return n;
		n += (uint64_t)r;
	}
}

/* ---- what is left ---- */

/*
 * In a process of its own, since a store that lost what it relied on may end it. Opens, checks, and
 * finds for each lane the state between the acknowledged one and the one the last operation led to.
 * 0 and the operations done in *done; or a message on standard error.
 */
static int verify(struct bench *b, const uint64_t lo[LANES], const uint64_t hi[LANES],
		  uint64_t done[LANES])
{
	int p[2], status;

	assert_int_equal(pipe(p), 0);
	pid_t pid = model_fork();
	if (pid == 0) {
		uint8_t *buf = malloc(MODEL_BYTES);
		struct err err = ERR_INIT;
		struct smfs_store *s = NULL;
		int r = b->harming ? -1 : smfs_store_open(b->d.store, 0, &s, &err);

		/* A repair that was cut short may have to be begun again before anything else. */
		if (r < 0 && b->repairing) {
			struct smfs_fsck k = {0};

			r = smfs_repair(b->d.store, &k, &err);
			if (r == 0 && k.guesses)
				r = err_set(&err, EBADMSG, "the repair had to guess");
			if (r == 0)
				r = smfs_store_open(b->d.store, 0, &s, &err);
		}
		if (r == 0)
			r = model_fsck(s, b->skip, &err);
		for (unsigned i = 0; i < LANES && r == 0; i++) {
			struct model m = b->lane[i];
			uint64_t n = 0;

			while (n < lo[i] ||
			       ((r = model_check(s, &m, buf, &err)) < 0 && n < hi[i])) {
				struct model_op op = model_next(&m, MODEL_KINDS);

				model_apply(&m, &op);
				n++;
			}
			done[i] = n;
		}
		if (r < 0)
			fprintf(stderr, "# %s\n", err.msg);
		if (r == 0 && write(p[1], done, LANES * sizeof(*done)) < 0)
			r = -1;
		_exit(r < 0);
	}
	assert_true(pid > 0);
	close(p[1]);
	ssize_t n = read(p[0], done, LANES * sizeof(*done));
	close(p[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return n == LANES * sizeof(*done) && status == 0 ? 0 : -1;
}

/* One life of the machine. 0 = all that was acknowledged was kept. */
static int cut_once(struct bench *b)
{
	uint64_t lo[LANES], hi[LANES], done[LANES];
	struct worker *w = b->w;
	struct pollfd first;

	b->repairing = !b->skip && b->cuts % REPAIRS_EACH == REPAIRS_EACH - 1;
	b->harming = b->repairing && b->cuts / REPAIRS_EACH % 2;
	unsigned n = b->repairing ? 1 : LANES;
	memset(lo, 0, sizeof(lo));
	memset(hi, 0, sizeof(hi));
	for (unsigned i = 0; i < n; i++)
		w[i] = start_worker(b, i, b->repairing);
	first = (struct pollfd){.fd = w[0].acks, .events = POLLIN};
	assert_int_equal(poll(&first, 1, 60000), 1);
	usleep((useconds_t)(rnd(&b->rnd) % RUN_US));
	for (unsigned i = 0; i < n; i++)
		lo[i] = count_acks(&w[i], false);
	disk_cut(&b->d, &b->rnd);
	for (unsigned i = 0; i < n; i++) {
		kill(w[i].pid, SIGKILL);
		waitpid(w[i].pid, NULL, 0);
		w[i].pid = 0;
		hi[i] = lo[i] + count_acks(&w[i], true);
		close(w[i].acks);
		/* A shutdown cannot be overtaken: what was told before it or after is kept. */
		if (!b->d.clones)
			lo[i] = hi[i];
		hi[i]++;
		b->acks += lo[i];
	}
	/*
	 * Repairs change no name, but take what the journal has of the change that was under way
	 * in the life before for done.
	 */
	for (unsigned i = 0; b->repairing && i < LANES; i++) {
		lo[i] = 0;
		hi[i] = 1;
	}
	disk_boot(&b->d);
	b->cuts++;
	if (verify(b, lo, hi, done) < 0)
		return -1;
	for (unsigned i = 0; i < LANES; i++)
		while (done[i]--) {
			struct model_op op = model_next(&b->lane[i], MODEL_KINDS);

			model_apply(&b->lane[i], &op);
		}
	return 0;
}

/* An empty store, itself through a power cut. */
static void fresh_store(struct bench *b)
{
	struct err err = ERR_INIT;

	disk_umount(&b->d);
	assert_true(disk_mkfs(&b->d) && disk_mount(&b->d));
	if (smfs_store_init(b->d.store, &err) < 0)
		fail_msg("%s", err.msg);
	disk_cut(&b->d, &b->rnd);
	disk_boot(&b->d);
	for (unsigned i = 0; i < LANES; i++)
		b->lane[i] = (struct model){.seed = rnd(&b->rnd), .lane = i};
}

static int setup(void **state)
{
	*state = calloc(1, sizeof(struct bench));
	return *state ? 0 : -1;
}

static int teardown(void **state)
{
	struct bench *b = *state;

	for (unsigned i = 0; i < LANES; i++)
		if (b->w[i].pid > 0)
			kill(b->w[i].pid, SIGKILL);
	disk_close(&b->d);
	free(b);
	return 0;
}

static void need_disk(struct bench *b, const char *fs)
{
	const char *why = disk_open(&b->d, fs);

	if (why) {
		print_message("# %s: %s\n", fs, why);
		skip();
	}
	fresh_seed(b);
}

static void acknowledged_survives(struct bench *b, const char *fs)
{
	const char *env = getenv("POWER_CUTS");
	unsigned cuts = env ? (unsigned)atoi(env) : 5;

	need_disk(b, fs);
	for (unsigned i = 0; i < cuts; i++) {
		if (i % FRESH_EACH == 0)
			fresh_store(b);
		if (cut_once(b) == 0)
			continue;
		const char *kept = getenv("POWER_KEEP");
		if (kept)
			run("cp -a %s %s/%s-%u", b->d.store, kept, fs, (unsigned)getpid());
		fail_msg("%s: cut %u, a life of %s: something acknowledged was lost", fs, i + 1,
			 b->repairing ? "repairs" : "changes");
	}
	print_message("# %s: %u cuts, %u operations acknowledged\n", fs, b->cuts, b->acks);
	assert_true(b->acks >= cuts);
}

static void ext4_keeps_what_was_acknowledged(void **state)
{
	acknowledged_survives(*state, "ext4");
}

static void xfs_keeps_what_was_acknowledged(void **state)
{
	acknowledged_survives(*state, "xfs");
}

static void btrfs_keeps_what_was_acknowledged(void **state)
{
	acknowledged_survives(*state, "btrfs");
}

/* ---- with a sync taken out ---- */

#define TRIES 12

static void loss_is_found(struct bench *b, unsigned skip_class, const char *word)
{
	need_disk(b, "ext4");
	for (unsigned i = 0; i < TRIES; i++) {
		fresh_store(b);
		b->skip = skip_class;
		int r = cut_once(b);
		b->skip = 0;
		if (r < 0) {
			print_message("# without the sync of the %s: found at cut %u\n", word,
				      b->cuts);
			return;
		}
	}
	fail_msg("%d cuts without the sync of the %s, and nothing was missed", TRIES, word);
}

static void without_the_sync_of_packs_loss_is_found(void **state)
{
	loss_is_found(*state, SYNC_PACK, "packs");
}

static void without_the_sync_of_the_journal_loss_is_found(void **state)
{
	loss_is_found(*state, SYNC_JOURNAL, "journal");
}

static void without_the_sync_of_the_index_loss_is_found(void **state)
{
	loss_is_found(*state, SYNC_INDEX, "index");
}

static void without_the_sync_of_the_meta_page_loss_is_found(void **state)
{
	loss_is_found(*state, SYNC_META, "meta page");
}

/*
 * The sync of packs/ is not among them: ext4, XFS and btrfs each bring a new file's name to disk
 * with the file's own first sync, which comes before, so that no cut on them shows it. That it
 * is made, POSIX asking for it, test_store_faults sees in the calls.
 */

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		CASE(ext4_keeps_what_was_acknowledged),
		CASE(xfs_keeps_what_was_acknowledged),
		CASE(btrfs_keeps_what_was_acknowledged),
		CASE(without_the_sync_of_packs_loss_is_found),
		CASE(without_the_sync_of_the_journal_loss_is_found),
		CASE(without_the_sync_of_the_index_loss_is_found),
		CASE(without_the_sync_of_the_meta_page_loss_is_found),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
