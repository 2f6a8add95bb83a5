/*
 * diff.c - what a diff of a VM costs to store, and what its depth costs a reader.
 *
 *   diff [RAM]     RAM: a guest's memory as a file; without it, content is made up
 *
 * Diffs of N pages, changed at random all over the RAM (the worst case: every span of the map is
 * touched) and in runs of 32, against the same pages compressed as the store does. Then 64
 * diffs of 500 pages on top of each other, against the same content stored at once: time to open
 * and to read 4 KiB at random places, decompressed frames cold, packs in the page cache, so that
 * all of it is processor time of this thread, which is what is counted; the best of several
 * runs for each. Lines as DESIGN.md section 9 has them; the store is in
 * $BENCH_DIR, $TMPDIR or /tmp.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"
#include "smfs/store/format.h"
#include "smfs/store/scratch.h"
#include "smfs/store/store.h"

#define PAGE  4096u
#define DEPTH 64
#define READS 4000
#define RUNS  5

struct bench {
	char dir[256];
	struct smfs_store *s;
	uint8_t *ram;
	size_t bytes, pages;
	uint64_t seed;
	struct err err;
};

static void must(struct bench *b, long r, const char *what)
{
	if (r >= 0)
		return;
	fprintf(stderr, "bench diff: %s: %s\n", what, b->err.msg);
	exit(2);
}

static uint64_t rnd(struct bench *b)
{
	b->seed ^= b->seed << 13;
	b->seed ^= b->seed >> 7;
	b->seed ^= b->seed << 17;
	return b->seed;
}

static double seconds(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void line(const char *name, double value, const char *unit, double ratio,
		 const char *against, double limit)
{
	printf("%s\t%.3f\t%s\t%.2f\t%s\t<=%.2f\t%s\n", name, value, unit, ratio, against, limit,
	       ratio <= limit ? "ok" : "MISS");
}

/* ---- content ---- */

/* Half zeros; of the rest, pages of words that recur, with numbers among them. */
static void make_up(struct bench *b)
{
	for (size_t i = 0; i < b->pages; i++) {
		uint64_t *p = (uint64_t *)(b->ram + i * PAGE);

		if (i / 64 % 2 == 0)
			continue;
		for (unsigned k = 0; k < PAGE / 8; k++)
			p[k] = k % 4 == 0 ? rnd(b) : 0x7f0000000000 + i / 512 * 4096 + k % 16 * 64;
	}
}

static void load(struct bench *b, const char *path)
{
	struct stat st = {.st_size = 1 << 30};
	cleanup_fd int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;

	if (path && (fd < 0 || fstat(fd, &st) < 0)) {
		fprintf(stderr, "bench diff: %s: %s\n", path, strerror(errno));
		exit(2);
	}
	b->bytes = align_down((uint64_t)st.st_size, PAGE);
	b->pages = b->bytes / PAGE;
	b->ram = mmap(NULL, b->bytes, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);
	if (b->ram == MAP_FAILED) {
		fprintf(stderr, "bench diff: map RAM: %s\n", strerror(errno));
		exit(2);
	}
	if (!path)
		make_up(b);
}

/* A page of the guest's own kind: another page of it, with some words written. */
static void change(struct bench *b, size_t page)
{
	uint64_t *to = (uint64_t *)(b->ram + page * PAGE);
	size_t from;

	do
		from = rnd(b) % b->pages;
	while (memcmp(b->ram + from * PAGE, b->ram + from * PAGE + 8, PAGE - 8) == 0);
	memmove(to, b->ram + from * PAGE, PAGE);
	for (int i = 0; i < 8; i++)
		to[rnd(b) % (PAGE / 8)] = rnd(b);
}

/* ---- storing ---- */

static void put(struct bench *b, const struct smfs_content *base, const uint8_t *changed,
		struct smfs_content *out, struct smfs_ingest_stat *stat)
{
	struct smfs_entry e = {.name = "ram", .mode = S_IFREG | 0400, .nlink = 1};
	struct smfs_ingest *ing;
	struct smfs_stream *st;
	struct smfs_id dir;

	must(b, smfs_ingest_begin(b->s, &ing, &b->err), "ingest");
	if (base)
		must(b,
		     smfs_stream_open_diff(ing, base, SMFS_STREAM_STABLE | SMFS_STREAM_CHANGED, &st,
					   &b->err),
		     "open stream");
	else
		must(b, smfs_stream_open(ing, SMFS_STREAM_STABLE, &st, &b->err), "open stream");
	for (size_t i = 0, end; i < b->pages; i = end) {
		for (end = i + 1; end < b->pages && base && changed[end] == changed[i]; end++)
			;
		if (!base)
			end = b->pages;
		must(b,
		     base && !changed[i]
			     ? smfs_stream_same(st, (end - i) * PAGE, &b->err)
			     : smfs_stream_write(st, b->ram + i * PAGE, (end - i) * PAGE, &b->err),
		     "write");
	}
	must(b, smfs_stream_finish(st, out, &b->err), "finish");
	smfs_ingest_stat(ing, stat);
	e.content = *out;
	must(b, smfs_ingest_dir(ing, &e, 1, &dir, &b->err), "directory");
	must(b, smfs_ingest_name(ing, SMFS_SNAPSHOT, "x", &dir, NULL, SMFS_REPLACE, &b->err),
	     "name");
	must(b, smfs_ingest_commit(ing, &b->err), "commit");
}

/* The changed pages alone, packed and compressed. */
static uint64_t compressed(struct bench *b, const uint8_t *changed)
{
	cleanup_free uint8_t *pack = malloc(FRAME_SIZE);
	struct scratch sc = {0};
	uint64_t sum = 0;
	size_t fill = 0;

	for (size_t i = 0; i <= b->pages; i++) {
		if (fill == FRAME_SIZE || (i == b->pages && fill)) {
			size_t n = scratch_compress(&sc, pack, fill);

			sum += n ? n : fill;
			fill = 0;
		}
		if (i < b->pages && changed[i]) {
			memcpy(pack + fill, b->ram + i * PAGE, PAGE);
			fill += PAGE;
		}
	}
	ZSTD_freeCCtx(sc.cctx);
	free(sc.buf);
	return sum;
}

static void one_diff(struct bench *b, const struct smfs_content *base, size_t n, size_t run)
{
	cleanup_free uint8_t *changed = calloc(1, b->pages);
	struct smfs_ingest_stat st;
	struct smfs_content c;
	char name[64];

	for (size_t done = 0; done < n; done += run) {
		size_t at = rnd(b) % (b->pages - run);

		for (size_t i = at; i < at + run; i++) {
			change(b, i);
			changed[i] = 1;
		}
	}
	uint64_t floor = compressed(b, changed);
	double t = seconds(CLOCK_MONOTONIC);
	put(b, base, changed, &c, &st);
	t = seconds(CLOCK_MONOTONIC) - t;
	snprintf(name, sizeof(name), "diff-%zu-pages-%s", n, run > 1 ? "in-runs" : "random");
	line(name, (double)st.stored_bytes / 1e3, "kB", (double)st.stored_bytes / (double)floor,
	     "pages-compressed", 1.1 + 65536.0 / (double)floor);
	snprintf(name, sizeof(name), "diff-%zu-pages-%s-time", n, run > 1 ? "in-runs" : "random");
	printf("%s\t%.1f\tms\t-\t-\t-\tok\n", name, t * 1e3);
}

/* ---- reading ---- */

static void open_store(struct bench *b, const char *name)
{
	char path[300];

	if (b->s)
		smfs_store_close(b->s);
	b->s = NULL;
	snprintf(path, sizeof(path), "%s/%s", b->dir, name);
	if (access(path, F_OK) < 0)
		must(b, smfs_store_init(path, &b->err), path);
	must(b, smfs_store_open(path, 0, &b->s, &b->err), path);
}

/* Seconds for `c` of the store `name`: to open it and read its first page, and to read pages. */
static void read_random(struct bench *b, const char *name, const struct smfs_content *c,
			double *open_s, double *read_s)
{
	struct smfs_file *f;
	uint8_t page[PAGE];
	uint64_t x = 99;

	open_store(b, name);
	double t = seconds(CLOCK_THREAD_CPUTIME_ID);
	must(b, smfs_file_open(b->s, c, &f, &b->err), "open");
	must(b, smfs_file_pread(f, page, PAGE, 0, &b->err), "read");
	*open_s = MIN(*open_s, seconds(CLOCK_THREAD_CPUTIME_ID) - t);
	t = seconds(CLOCK_THREAD_CPUTIME_ID);
	for (int i = 0; i < READS; i++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		size_t at = (x >> 33) % b->pages;

		must(b, smfs_file_pread(f, page, PAGE, at * PAGE, &b->err), "read");
		if (memcmp(page, b->ram + at * PAGE, PAGE) != 0) {
			fprintf(stderr, "bench diff: page %zu reads wrong\n", at);
			exit(2);
		}
	}
	*read_s = MIN(*read_s, seconds(CLOCK_THREAD_CPUTIME_ID) - t);
	smfs_file_close(f);
}

static void depth(struct bench *b, struct smfs_content *c)
{
	double open_d = 1e9, read_d = 1e9, open_0 = 1e9, read_0 = 1e9;
	cleanup_free uint8_t *changed = malloc(b->pages);
	struct smfs_content flat;
	struct smfs_ingest_stat st;
	uint64_t stored = 0;

	for (int i = 0; i < DEPTH; i++) {
		memset(changed, 0, b->pages);
		for (int k = 0; k < 500; k++) {
			size_t at = rnd(b) % b->pages;

			change(b, at);
			changed[at] = 1;
		}
		put(b, c, changed, c, &st);
		stored += st.stored_bytes;
	}
	open_store(b, "flat");
	put(b, NULL, NULL, &flat, &st);
	for (int i = 0; i < RUNS; i++) {
		read_random(b, "diffs", c, &open_d, &read_d);
		read_random(b, "flat", &flat, &open_0, &read_0);
	}
	line("depth-64-open-and-random-reads", (open_d + read_d) * 1e3, "ms",
	     (open_d + read_d) / (open_0 + read_0), "depth-0", 1.1);
	printf("depth-64-open-to-first-page\t%.1f\tus\t%.2f\tdepth-0\t-\tok\n", open_d * 1e6,
	       open_d / open_0);
	printf("depth-64-random-read\t%.1f\tus\t%.2f\tdepth-0\t-\tok\n", read_d / READS * 1e6,
	       read_d / read_0);
	printf("depth-64-stored-per-diff\t%.1f\tkB\t-\t-\t-\tok\n", (double)stored / DEPTH / 1e3);
}

static int rm_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	return remove(path);
}

int main(int argc, char **argv)
{
	struct bench b = {.seed = 88172645463325252ull};
	const char *dir = getenv("BENCH_DIR");
	struct smfs_ingest_stat st;
	struct smfs_content base, c;

	if (!dir)
		dir = getenv("TMPDIR");
	snprintf(b.dir, sizeof(b.dir), "%s/bench-diff.XXXXXX", dir ? dir : "/tmp");
	if (!mkdtemp(b.dir)) {
		fprintf(stderr, "bench diff: %s: %s\n", b.dir, strerror(errno));
		return 2;
	}
	load(&b, argv[1]);
	open_store(&b, "diffs");
	put(&b, NULL, NULL, &base, &st);
	one_diff(&b, &base, 100, 1);
	one_diff(&b, &base, 1000, 1);
	one_diff(&b, &base, 10000, 1);
	one_diff(&b, &base, 9984, 32);
	/* RAM now holds all of these changes: a base of its own. */
	put(&b, NULL, NULL, &c, &st);
	depth(&b, &c);
	smfs_store_close(b.s);
	nftw(b.dir, rm_one, 16, FTW_DEPTH | FTW_PHYS);
	return 0;
}
