/*
 * guestcheck.c - runs inside a guest across snapshots and restores, and tells what they broke.
 *
 *     guestcheck start STATE [DIR]   leave a process working in the background, its counters in
 *                                    STATE; with DIR, of a disk, also on that
 *     guestcheck report STATE        wait until every counter moved, print facts; status 0: all
 * well
 *
 * The background process has two threads pinned to each CPU. One holds known values in all sixteen
 * ymm registers, on the x87 stack and in the control words, spinning a fifth of its time, and
 * compares them after each hold; the other sleeps. Two more wait for a periodic POSIX timer and a
 * timerfd. All compare CLOCK_MONOTONIC with the latest value any thread has seen. The last goes
 * round a file of DIR, past the page cache: what it finds in a block must be what memory says it
 * wrote there a round ago, so a disk of another instant than the memory is found within a round.
 *
 * A report prints "ok WHAT" or "FAILED WHAT: DETAIL" lines, and "fact KEY VALUE" lines (hostname,
 * machine_id, random, wall_ns, monotonic_ns, cpus) for the host to judge. It waits with a deadline,
 * for emulation may be slow, and reads the kernel log for what a kernel says when its clocks or
 * CPUs were mistreated.
 *
 * Static, and without a library: it is copied into whatever guest there is.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define STATE_MAGIC	     0x67636b31u
#define CPUS_MAX	     16
#define PERIOD_NS	     100000000L
#define HOLD_NS		     10000000u
#define PROGRESS_DEADLINE_MS 15000
#define DISK_BLOCK	     4096u
#define DISK_ROUND	     64u /* blocks */

struct cpu_state {
	_Atomic uint64_t holds;	 /* register holds compared */
	_Atomic uint64_t sleeps; /* sleeps that woke */
	_Atomic uint64_t wrong;	 /* registers found changed */
	_Atomic uint64_t astray; /* times the pinned thread was on another CPU */
};

struct state {
	uint32_t magic;
	uint32_t cpus;
	_Atomic uint64_t latest_ns; /* of CLOCK_MONOTONIC, as seen by any thread */
	_Atomic uint64_t backwards;
	_Atomic uint64_t posix_timer, timerfd;
	_Atomic uint64_t blocks;       /* written to the disk, one after the other */
	_Atomic uint64_t stale_blocks; /* found to be other than was written */
	uint32_t has_disk;
	struct cpu_state cpu[CPUS_MAX];
};

struct worker {
	struct state *s;
	unsigned cpu;
};

static uint64_t now_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The latest value is read before the clock, so another thread's update in between cannot accuse
 * it. */
static uint64_t check_clock(struct state *s)
{
	uint64_t latest = atomic_load(&s->latest_ns);
	uint64_t t = now_ns(CLOCK_MONOTONIC);

	if (t < latest)
		atomic_fetch_add(&s->backwards, 1);
	while (latest < t && !atomic_compare_exchange_weak(&s->latest_ns, &latest, t))
		;
	return t;
}

struct registers {
	uint8_t ymm[16][32];
	long double st0;
};

/* Everything between loading and storing is in one asm block: the compiler cannot spill what is
 * under test. */
__attribute__((target("avx"))) static void hold(const struct registers *in, struct registers *out,
						uint64_t spins)
{
	__asm__ volatile("fldt %c[st](%[in])\n\t"
			 "vmovdqu 0(%[in]), %%ymm0\n\t"
			 "vmovdqu 32(%[in]), %%ymm1\n\t"
			 "vmovdqu 64(%[in]), %%ymm2\n\t"
			 "vmovdqu 96(%[in]), %%ymm3\n\t"
			 "vmovdqu 128(%[in]), %%ymm4\n\t"
			 "vmovdqu 160(%[in]), %%ymm5\n\t"
			 "vmovdqu 192(%[in]), %%ymm6\n\t"
			 "vmovdqu 224(%[in]), %%ymm7\n\t"
			 "vmovdqu 256(%[in]), %%ymm8\n\t"
			 "vmovdqu 288(%[in]), %%ymm9\n\t"
			 "vmovdqu 320(%[in]), %%ymm10\n\t"
			 "vmovdqu 352(%[in]), %%ymm11\n\t"
			 "vmovdqu 384(%[in]), %%ymm12\n\t"
			 "vmovdqu 416(%[in]), %%ymm13\n\t"
			 "vmovdqu 448(%[in]), %%ymm14\n\t"
			 "vmovdqu 480(%[in]), %%ymm15\n\t"
			 "1: dec %[n]\n\t"
			 "jnz 1b\n\t"
			 "vmovdqu %%ymm0, 0(%[out])\n\t"
			 "vmovdqu %%ymm1, 32(%[out])\n\t"
			 "vmovdqu %%ymm2, 64(%[out])\n\t"
			 "vmovdqu %%ymm3, 96(%[out])\n\t"
			 "vmovdqu %%ymm4, 128(%[out])\n\t"
			 "vmovdqu %%ymm5, 160(%[out])\n\t"
			 "vmovdqu %%ymm6, 192(%[out])\n\t"
			 "vmovdqu %%ymm7, 224(%[out])\n\t"
			 "vmovdqu %%ymm8, 256(%[out])\n\t"
			 "vmovdqu %%ymm9, 288(%[out])\n\t"
			 "vmovdqu %%ymm10, 320(%[out])\n\t"
			 "vmovdqu %%ymm11, 352(%[out])\n\t"
			 "vmovdqu %%ymm12, 384(%[out])\n\t"
			 "vmovdqu %%ymm13, 416(%[out])\n\t"
			 "vmovdqu %%ymm14, 448(%[out])\n\t"
			 "vmovdqu %%ymm15, 480(%[out])\n\t"
			 "fstpt %c[st](%[out])\n\t"
			 : [n] "+r"(spins)
			 : [in] "r"(in), [out] "r"(out), [st] "i"(offsetof(struct registers, st0))
			 : "memory", "cc", "st", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5",
			   "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",
			   "xmm14", "xmm15");
}

static uint32_t get_mxcsr(void)
{
	uint32_t v;

	__asm__ volatile("stmxcsr %0" : "=m"(v));
	return v & 0xffc0; /* masks and rounding; the low bits are sticky flags */
}

static uint16_t get_x87_control(void)
{
	uint16_t v;

	__asm__ volatile("fnstcw %0" : "=m"(v));
	return v;
}

static void pin(unsigned cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (pthread_setaffinity_np(pthread_self(), sizeof(set), &set)) {
		fprintf(stderr, "guestcheck: cannot pin to CPU %u\n", cpu);
		exit(2);
	}
}

static void fill(struct registers *r, unsigned cpu, uint64_t round)
{
	uint64_t x = (round + 1) * 0x9e3779b97f4a7c15u ^ ((uint64_t)cpu << 56);

	for (unsigned i = 0; i < sizeof(r->ymm); i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		r->ymm[i / 32][i % 32] = (uint8_t)x;
	}
	r->st0 = (long double)(int64_t)(x >> 2) / 3;
}

static void *register_worker(void *arg)
{
	const struct worker *w = arg;
	struct cpu_state *c = &w->s->cpu[w->cpu];
	/* Rounding modes no program has by default, one for each CPU in turn. */
	uint32_t mxcsr = 0x1f80 | (1 + w->cpu % 3) << 13;
	uint16_t control = (uint16_t)(0x037f | (1 + w->cpu % 3) << 10);
	uint64_t spins = 10000;

	pin(w->cpu);
	__asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
	__asm__ volatile("fldcw %0" : : "m"(control));
	for (uint64_t round = 0;; round++) {
		struct registers in, out;

		memset(&in, 0, sizeof(in));
		memset(&out, 0, sizeof(out));
		fill(&in, w->cpu, round);
		uint64_t t = check_clock(w->s);
		hold(&in, &out, spins);
		uint64_t took = check_clock(w->s) - t;
		if (memcmp(in.ymm, out.ymm, sizeof(in.ymm)) || memcmp(&in.st0, &out.st0, 10) ||
		    get_mxcsr() != (mxcsr & 0xffc0) || get_x87_control() != control)
			atomic_fetch_add(&c->wrong, 1);
		if ((unsigned)sched_getcpu() != w->cpu)
			atomic_fetch_add(&c->astray, 1);
		atomic_fetch_add(&c->holds, 1);
		/* Most of the time is left to the rest of the guest; an emulated vCPU has little.
		 */
		clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = 4 * HOLD_NS},
				NULL);
		/* As long as a hold ought to be, whatever the machine's speed. */
		if (took < HOLD_NS / 2 && spins < UINT32_MAX)
			spins *= 2;
		else if (took > HOLD_NS * 2 && spins > 2)
			spins /= 2;
	}
	return NULL;
}

static void *sleep_worker(void *arg)
{
	const struct worker *w = arg;

	pin(w->cpu);
	for (;;) {
		uint64_t before = check_clock(w->s);

		clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = PERIOD_NS}, NULL);
		if (check_clock(w->s) - before >= PERIOD_NS)
			atomic_fetch_add(&w->s->cpu[w->cpu].sleeps, 1);
	}
	return NULL;
}

static void *posix_timer_worker(void *arg)
{
	struct state *s = arg;
	struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
	const struct itimerspec period = {.it_interval.tv_nsec = PERIOD_NS,
					  .it_value.tv_nsec = PERIOD_NS};
	sigset_t set;
	timer_t timer;
	int sig;

	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	if (timer_create(CLOCK_MONOTONIC, &ev, &timer) || timer_settime(timer, 0, &period, NULL))
		exit(2);
	while (sigwait(&set, &sig) == 0) {
		atomic_fetch_add(&s->posix_timer, 1);
		check_clock(s);
	}
	return NULL;
}

static void *timerfd_worker(void *arg)
{
	struct state *s = arg;
	const struct itimerspec period = {.it_interval.tv_nsec = PERIOD_NS,
					  .it_value.tv_nsec = PERIOD_NS};
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	uint64_t n;

	if (fd < 0 || timerfd_settime(fd, 0, &period, NULL))
		exit(2);
	while (read(fd, &n, sizeof(n)) == sizeof(n)) {
		atomic_fetch_add(&s->timerfd, n);
		check_clock(s);
	}
	return NULL;
}

/* Block `n` as it was written, n from 1; 0: what a file that was only extended has. */
static void fill_block(uint64_t *block, uint64_t n)
{
	for (unsigned i = 0; i < DISK_BLOCK / sizeof(*block); i++)
		block[i] = n ? n * 0x9e3779b97f4a7c15u + i : 0;
}

/* A name that is replaced: work for the file system's journal. */
static bool replace_name(int dir, uint64_t n)
{
	int fd = openat(dir, "latest.new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	bool good = fd >= 0 && write(fd, &n, sizeof(n)) == sizeof(n) && fsync(fd) == 0;

	if (fd >= 0)
		close(fd);
	return good && renameat(dir, "latest.new", dir, "latest") == 0;
}

struct disk_worker {
	struct state *s;
	int dir, fd;
};

static void *disk_worker(void *arg)
{
	static _Alignas(DISK_BLOCK) uint64_t found[DISK_BLOCK / 8], block[DISK_BLOCK / 8];
	const struct disk_worker *w = arg;

	for (uint64_t n = 1;; n++) {
		off_t at = (off_t)(n % DISK_ROUND * DISK_BLOCK);

		fill_block(block, n > DISK_ROUND ? n - DISK_ROUND : 0);
		if (pread(w->fd, found, DISK_BLOCK, at) != DISK_BLOCK ||
		    memcmp(found, block, DISK_BLOCK))
			atomic_fetch_add(&w->s->stale_blocks, 1);
		fill_block(block, n);
		if (pwrite(w->fd, block, DISK_BLOCK, at) != DISK_BLOCK || fdatasync(w->fd) ||
		    (n % (DISK_ROUND / 4) == 0 && !replace_name(w->dir, n)))
			break; /* the blocks stop, which a report tells */
		atomic_store(&w->s->blocks, n);
		clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = HOLD_NS}, NULL);
	}
	return NULL;
}

static bool open_disk(const char *path, struct disk_worker *w)
{
	w->dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	w->fd = openat(w->dir, "blocks", O_RDWR | O_CREAT | O_TRUNC | O_DIRECT | O_CLOEXEC, 0600);
	if (w->fd >= 0 && ftruncate(w->fd, DISK_ROUND * DISK_BLOCK) == 0)
		return true;
	fprintf(stderr, "guestcheck: %s: %s\n", path, strerror(errno));
	return false;
}

static struct state *map_state(const char *path, bool create)
{
	int fd = open(path, O_RDWR | O_CLOEXEC | (create ? O_CREAT | O_TRUNC : 0), 0600);

	if (fd < 0 || (create && ftruncate(fd, sizeof(struct state)))) {
		fprintf(stderr, "guestcheck: %s: %s\n", path, strerror(errno));
		exit(2);
	}
	struct state *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (s == MAP_FAILED || (!create && s->magic != STATE_MAGIC)) {
		fprintf(stderr, "guestcheck: %s is not a state file\n", path);
		exit(2);
	}
	return s;
}

static void spawn(void *(*run)(void *), void *arg)
{
	pthread_t t;

	if (pthread_create(&t, NULL, run, arg)) {
		fprintf(stderr, "guestcheck: cannot start a thread\n");
		exit(2);
	}
}

static int start(const char *path, const char *disk_path)
{
	static struct worker workers[CPUS_MAX];
	static struct disk_worker disk;
	struct state *s = map_state(path, true);
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	sigset_t set;

	if (!__builtin_cpu_supports("avx") || cpus < 1 || cpus > CPUS_MAX) {
		fprintf(stderr, "guestcheck: needs AVX and at most %d CPUs (has %ld)\n", CPUS_MAX,
			cpus);
		return 2;
	}
	if ((disk_path && !open_disk(disk_path, &disk)) || daemon(0, 0))
		return 2;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	s->cpus = (uint32_t)cpus;
	for (unsigned i = 0; i < s->cpus; i++) {
		workers[i] = (struct worker){s, i};
		spawn(register_worker, &workers[i]);
		spawn(sleep_worker, &workers[i]);
	}
	spawn(timerfd_worker, s);
	if (disk_path) {
		disk.s = s;
		s->has_disk = 1;
		spawn(disk_worker, &disk);
	}
	s->magic = STATE_MAGIC;
	posix_timer_worker(s);
	return 2;
}

/* ---- report --------------------------------------------------------------------------------- */

static int failures;

static void __attribute__((format(printf, 3, 4)))
verdict(bool good, const char *what, const char *fmt, ...)
{
	va_list ap;

	if (good) {
		printf("ok %s\n", what);
		return;
	}
	failures++;
	printf("FAILED %s: ", what);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

static bool all_moved(struct state *s, const struct state *before)
{
	for (unsigned i = 0; i < before->cpus; i++)
		if (s->cpu[i].holds < before->cpu[i].holds + 2 ||
		    s->cpu[i].sleeps == before->cpu[i].sleeps)
			return false;
	if (s->has_disk && s->blocks < before->blocks + DISK_ROUND)
		return false;
	return s->posix_timer != before->posix_timer && s->timerfd != before->timerfd;
}

static void report_progress(struct state *s)
{
	struct state before = *s;
	uint64_t begin = now_ns(CLOCK_MONOTONIC);

	while (!all_moved(s, &before) &&
	       now_ns(CLOCK_MONOTONIC) - begin < PROGRESS_DEADLINE_MS * 1000000ull)
		usleep(5000);
	for (unsigned i = 0; i < before.cpus; i++) {
		char what[64];

		snprintf(what, sizeof(what), "vCPU %u is scheduled", i);
		verdict(s->cpu[i].holds >= before.cpu[i].holds + 2 && !s->cpu[i].astray, what,
			"%ju register holds, then %ju; %ju times elsewhere",
			(uintmax_t)before.cpu[i].holds, (uintmax_t)s->cpu[i].holds,
			(uintmax_t)s->cpu[i].astray);
		snprintf(what, sizeof(what), "sleeps on vCPU %u wake", i);
		verdict(s->cpu[i].sleeps > before.cpu[i].sleeps, what, "%ju woke, then %ju",
			(uintmax_t)before.cpu[i].sleeps, (uintmax_t)s->cpu[i].sleeps);
		snprintf(what, sizeof(what), "FPU and AVX state on vCPU %u is intact", i);
		verdict(s->cpu[i].wrong == 0, what, "%ju of %ju holds changed",
			(uintmax_t)s->cpu[i].wrong, (uintmax_t)s->cpu[i].holds);
	}
	verdict(s->posix_timer > before.posix_timer, "POSIX timers fire", "%ju fired, then %ju",
		(uintmax_t)before.posix_timer, (uintmax_t)s->posix_timer);
	verdict(s->timerfd > before.timerfd, "timerfds fire", "%ju fired, then %ju",
		(uintmax_t)before.timerfd, (uintmax_t)s->timerfd);
	if (s->has_disk) {
		verdict(s->blocks >= before.blocks + DISK_ROUND, "the disk is written to",
			"%ju blocks, then %ju", (uintmax_t)before.blocks, (uintmax_t)s->blocks);
		verdict(s->stale_blocks == 0, "the disk has what was written", "not in %ju of %ju",
			(uintmax_t)s->stale_blocks, (uintmax_t)s->blocks);
	}
	verdict(s->backwards == 0, "CLOCK_MONOTONIC never goes back", "it did, %ju times",
		(uintmax_t)s->backwards);
}

/* What a kernel logs when its CPUs or clocks were mistreated. */
static const char *const complaints[] = {
	"WARNING:",	  "BUG:",    "rcu: INFO",	    "soft lockup", "hard LOCKUP",
	"Call Trace:",	  "Oops",    "Marking clocksource", "hung task",   "blocked for more than",
	"Time went back", "spurious"};

static void report_kernel_log(void)
{
	int size = klogctl(10, NULL, 0);
	char *text = size > 0 ? calloc(1, (size_t)size + 1) : NULL;
	const char *found = NULL;

	if (!text || klogctl(3, text, size) < 0) {
		verdict(false, "the kernel log can be read", "%s", strerror(errno));
		free(text);
		return;
	}
	for (size_t i = 0; i < sizeof(complaints) / sizeof(complaints[0]) && !found; i++)
		found = strstr(text, complaints[i]);
	while (found && found > text && found[-1] != '\n')
		found--;
	verdict(!found, "the kernel log has no complaint", "%.*s",
		found ? (int)strcspn(found, "\n") : 0, found ? found : "");
	free(text);
}

static void report_identity(void)
{
	char host[256] = "", id[64] = "";
	uint8_t random[16];
	FILE *f = fopen("/etc/machine-id", "re");

	gethostname(host, sizeof(host) - 1);
	if (f) {
		if (!fgets(id, sizeof(id), f))
			id[0] = 0;
		fclose(f);
	}
	id[strcspn(id, "\n")] = 0;
	printf("fact hostname %s\nfact machine_id %s\nfact random ", host, id);
	if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
		failures++;
	for (size_t i = 0; i < sizeof(random); i++)
		printf("%02x", random[i]);
	printf("\nfact cpus %ld\nfact monotonic_ns %ju\nfact wall_ns %ju\n",
	       sysconf(_SC_NPROCESSORS_ONLN), (uintmax_t)now_ns(CLOCK_MONOTONIC),
	       (uintmax_t)now_ns(CLOCK_REALTIME));
}

int main(int argc, char **argv)
{
	if ((argc == 3 || argc == 4) && !strcmp(argv[1], "start"))
		return start(argv[2], argv[3]);
	if (argc != 3 || strcmp(argv[1], "report")) {
		fprintf(stderr, "usage: guestcheck start STATE [DIR] | report STATE\n");
		return 2;
	}
	report_identity();
	report_progress(map_state(argv[2], false));
	report_kernel_log();
	return failures ? 1 : 0;
}
