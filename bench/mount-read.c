/*
 * mount-read hot|cold PREFIX FILE AGAINST PEER [ROUNDS] - reading a mounted file, beside a peer
 * with the same bytes.
 *
 *     read       one reader, read(2) of 1 MiB, front to back
 *     scan       one load from each page of a mapping, front to back
 *     fault      a load from 4,000 pages of a fresh mapping, at random among those that are not
 *                holes of PEER; how long each took
 *
 * cold: the page cache is dropped before each (of the whole machine: the server's packs and the
 * peer's blocks, too). hot: the file is in the page cache, and what is measured is the way to it.
 * How it came there matters: by being written, in small folios, of which a mapping faults on more
 * and slower than on large ones. So the peer is dropped first and read again, front to back, the
 * best a user could do for it; FILE is as it was left by whoever materialised it, and read, too.
 * Rounds alternate between the two; the best round counts for read and scan, and for faults the
 * round with the lowest 99th percentile. As root, for dropping the cache.
 *
 * Lines as DESIGN.md section 9 has them, named PREFIX-read and so on, `against` AGAINST.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PAGE	 4096u
#define FAULTS	 4000
#define READ_LEN ((size_t)1 << 20)

struct figures {
	double read, scan; /* GB/s */
	double p50, p99;   /* us */
};

struct target {
	const char *path;
	uint64_t size;
	struct figures best;
};

static uint64_t *pages; /* offsets of FAULTS of them */

static void die(const char *what)
{
	fprintf(stderr, "mount-read: %s: %s\n", what, strerror(errno));
	exit(2);
}

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void drop_caches(void)
{
	int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);

	if (fd < 0 || write(fd, "1", 1) != 1)
		die("drop_caches");
	close(fd);
}

static int open_target(const struct target *t)
{
	int fd = open(t->path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		die(t->path);
	return fd;
}

static void drop_file(const struct target *t)
{
	int fd = open_target(t);

	if (fsync(fd) < 0 || (errno = posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED)))
		die(t->path);
	close(fd);
}

static double read_all(const struct target *t)
{
	static uint8_t buf[READ_LEN];
	int fd = open_target(t);
	double t0 = now_us();
	uint64_t done = 0;
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0)
		done += (uint64_t)n;
	if (n < 0 || done != t->size)
		die(t->path);
	close(fd);
	return (double)done / (now_us() - t0) / 1e3;
}

static const volatile uint8_t *map(const struct target *t, int fd)
{
	void *p = mmap(NULL, t->size, PROT_READ, MAP_PRIVATE, fd, 0);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

static double scan(const struct target *t)
{
	int fd = open_target(t);
	const volatile uint8_t *p = map(t, fd);
	double t0 = now_us(), us;

	for (uint64_t at = 0; at < t->size; at += PAGE)
		(void)p[at];
	us = now_us() - t0;
	munmap((void *)p, t->size);
	close(fd);
	return (double)t->size / us / 1e3;
}

static int by_value(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void faults(const struct target *t, double *p50, double *p99)
{
	static double us[FAULTS];
	int fd = open_target(t);
	const volatile uint8_t *p = map(t, fd);

	for (int i = 0; i < FAULTS; i++) {
		double t0 = now_us();

		(void)p[pages[i]];
		us[i] = now_us() - t0;
	}
	munmap((void *)p, t->size);
	close(fd);
	qsort(us, FAULTS, sizeof(us[0]), by_value);
	*p50 = us[FAULTS / 2];
	*p99 = us[FAULTS * 99 / 100];
}

/* The same for both: among the pages that hold data, so that holes do not flatter anybody. */
static void choose_pages(const struct target *peer)
{
	uint64_t x = 88172645463325252ull, n = 0, cap = peer->size / PAGE + 1;
	uint64_t *all = malloc(cap * sizeof(*all));
	int fd = open_target(peer);
	off_t at = 0, end;

	pages = malloc(FAULTS * sizeof(*pages));
	if (!all || !pages)
		die("memory");
	while ((at = lseek(fd, at, SEEK_DATA)) >= 0 && (end = lseek(fd, at, SEEK_HOLE)) >= 0)
		for (; at < end && n < cap; at += PAGE)
			all[n++] = (uint64_t)at / PAGE * PAGE;
	close(fd);
	if (!n)
		die("the peer has no data");
	for (int i = 0; i < FAULTS; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		pages[i] = all[x % n];
	}
	free(all);
}

static void measure(struct target *t, bool cold)
{
	struct figures f, *b = &t->best;

	if (cold)
		drop_caches();
	f.read = read_all(t);
	if (cold)
		drop_caches();
	f.scan = scan(t);
	if (cold)
		drop_caches();
	faults(t, &f.p50, &f.p99);
	b->read = f.read > b->read ? f.read : b->read;
	b->scan = f.scan > b->scan ? f.scan : b->scan;
	if (b->p99 == 0 || f.p99 < b->p99) {
		b->p50 = f.p50;
		b->p99 = f.p99;
	}
}

/* `bar`: of the ratio to the peer; 0 for none. Above 1 and below -1 tell the direction by `less`.
 */
static void line(const char *prefix, const char *what, double v, const char *unit, double peer,
		 const char *against, double bar, bool less)
{
	double ratio = v / peer;
	char limit[32] = "-";
	bool ok = bar == 0 || (less ? ratio <= bar : ratio >= bar);

	if (bar != 0)
		snprintf(limit, sizeof(limit), "%s%.1f", less ? "<=" : ">=", bar);
	printf("%s-%s\t%.2f\t%s\t%.2f\t%s\t%s\t%s\n", prefix, what, v, unit, ratio, against, limit,
	       ok ? "ok" : "MISS");
}

int main(int argc, char **argv)
{
	struct target t[2] = {0};
	struct stat st;

	if (argc < 6 || (strcmp(argv[1], "hot") != 0 && strcmp(argv[1], "cold") != 0)) {
		fprintf(stderr, "usage: mount-read hot|cold PREFIX FILE AGAINST PEER [ROUNDS]\n");
		return 2;
	}
	bool cold = strcmp(argv[1], "cold") == 0;
	int rounds = argc > 6 ? atoi(argv[6]) : 3;
	for (int i = 0; i < 2; i++) {
		t[i].path = argv[i ? 5 : 3];
		if (stat(t[i].path, &st) < 0)
			die(t[i].path);
		t[i].size = (uint64_t)st.st_size;
	}
	if (t[0].size != t[1].size || rounds < 1) {
		fprintf(stderr, "mount-read: the two files differ in size\n");
		return 2;
	}
	choose_pages(&t[1]);
	if (!cold) {
		drop_file(&t[1]);
		for (int i = 0; i < 2; i++)
			read_all(&t[i]);
	}
	/* Each takes its turn at being first. */
	for (int r = 0; r < rounds; r++)
		for (int k = 0; k < 2; k++)
			measure(&t[(r + k) % 2], cold);
	const struct figures *f = &t[0].best, *p = &t[1].best;
	line(argv[2], "read", f->read, "GB/s", p->read, argv[4], cold ? 1.5 : 0, false);
	line(argv[2], "scan", f->scan, "GB/s", p->scan, argv[4], cold ? 0 : 0.9, false);
	line(argv[2], "fault-p50", f->p50, "us", p->p50, argv[4], cold ? 0 : 1.1, true);
	line(argv[2], "fault-p99", f->p99, "us", p->p99, argv[4], cold ? 0.5 : 1.1, true);
	return 0;
}
