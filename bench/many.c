/*
 * many.c - processes that ingest at once, and bundles.
 *
 *   many [MIB]     MIB: content per process (default 64)
 *
 * Each process ingests content of its own, pinned to a processor of its own, as one snapshot: with
 * N processes, as many as there are processors, against one. Without a convoy N take as long as
 * one does. Then small snapshots: commits a second of 1 and of 8 processes together; a
 * commit is two syncs, and one at a time. Then a bundle of one process's snapshot, written and
 * read through a pipe, against its ingest. Lines as DESIGN.md section 9 has them; the store is in
 * $BENCH_DIR, $TMPDIR or /tmp.
 */
#include <errno.h>
#include <ftw.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "smfs/base/num.h"
#include "smfs/store/store.h"

#define SMALL_COMMITS 40

struct job {
	const char *dir;
	int who, cpu; /* cpu -1 = any */
	size_t bytes;
	int count;
};

static void must(long r, const struct err *err, const char *what)
{
	if (r >= 0)
		return;
	fprintf(stderr, "bench many: %s: %s\n", what, err->msg);
	exit(2);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Half-compressible, different for every seed. */
static void fill(uint8_t *p, size_t n, uint64_t seed)
{
	uint64_t x = seed * 0x9e3779b97f4a7c15ull + 1;

	for (size_t i = 0; i < n; i++) {
		if (i % 8 == 0) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
		}
		p[i] = i / 64 % 2 ? (uint8_t)(x >> i % 8 * 8) : (uint8_t)(x & 3);
	}
}

static void ingest(struct smfs_store *s, const char *name, const uint8_t *buf, size_t len)
{
	struct smfs_entry e = {.name = "data", .mode = S_IFREG | 0644, .nlink = 1};
	struct smfs_ingest *ing;
	struct err err = ERR_INIT;
	struct smfs_id dir;

	must(smfs_ingest_begin(s, &ing, &err), &err, "begin");
	must(smfs_ingest_mem(ing, buf, len, &e.content, &err), &err, "ingest");
	must(smfs_ingest_dir(ing, &e, 1, &dir, &err), &err, "directory");
	must(smfs_ingest_name(ing, SMFS_SNAPSHOT, name, &dir, NULL, 0, &err), &err, "name");
	must(smfs_ingest_commit(ing, &err), &err, "commit");
}

/* Ready when its content is made; goes when `go` is closed. */
static void run_job(const struct job *j, int ready, int go)
{
	uint8_t *buf = malloc(j->bytes);
	struct smfs_store *s;
	struct err err = ERR_INIT;
	char name[64], byte = 0;
	cpu_set_t set;

	CPU_ZERO(&set);
	if (j->cpu >= 0)
		CPU_SET((size_t)j->cpu, &set);
	if (!buf || (j->cpu >= 0 && sched_setaffinity(0, sizeof(set), &set) < 0))
		exit(2);
	fill(buf, j->bytes, (uint64_t)j->who + 1);
	must(smfs_store_open(j->dir, 0, &s, &err), &err, "open");
	if (write(ready, &byte, 1) != 1 || read(go, &byte, 1) != 0)
		exit(2);
	for (int i = 0; i < j->count; i++) {
		snprintf(name, sizeof(name), "w%d-%d", j->who, i);
		memcpy(buf, name, strlen(name));
		ingest(s, name, buf, j->bytes);
	}
	smfs_store_close(s);
	exit(0);
}

/* Seconds until all have ended. */
static double run(struct job *v, int n)
{
	int ready[2], go[2];
	char byte;

	if (pipe(ready) < 0 || pipe(go) < 0)
		exit(2);
	for (int i = 0; i < n; i++) {
		fflush(NULL);
		if (fork() == 0) {
			close(go[1]);
			run_job(&v[i], ready[1], go[0]);
		}
	}
	for (int i = 0; i < n; i++)
		if (read(ready[0], &byte, 1) != 1)
			exit(2);
	double start = now();
	close(go[1]);
	for (int i = 0; i < n; i++) {
		int status;

		if (wait(&status) < 0 || status != 0)
			exit(2);
	}
	double took = now() - start;
	close(go[0]);
	close(ready[0]);
	close(ready[1]);
	return took;
}

static int rm_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	return remove(path);
}

static void fresh_store(char *dir, size_t n)
{
	const char *base = getenv("BENCH_DIR");
	struct err err = ERR_INIT;

	if (!base)
		base = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
	snprintf(dir, n, "%s/smfs-many.XXXXXX", base);
	if (!mkdtemp(dir))
		exit(2);
	must(smfs_store_init(dir, &err), &err, "init");
}

static void drop_store(const char *dir)
{
	nftw(dir, rm_one, 16, FTW_DEPTH | FTW_PHYS);
}

static double large(int n, size_t bytes)
{
	struct job v[64] = {0};
	char dir[256];

	fresh_store(dir, sizeof(dir));
	for (int i = 0; i < n; i++)
		v[i] = (struct job){.dir = dir, .who = i, .cpu = i, .bytes = bytes, .count = 1};
	double took = run(v, n);
	drop_store(dir);
	return took;
}

static double small(int n)
{
	struct job v[8] = {0};
	char dir[256];

	fresh_store(dir, sizeof(dir));
	for (int i = 0; i < n; i++)
		v[i] = (struct job){
			.dir = dir, .who = i, .cpu = -1, .bytes = 9000, .count = SMALL_COMMITS};
	double took = run(v, n);
	drop_store(dir);
	return n * SMALL_COMMITS / took;
}

static void bundle(size_t bytes)
{
	char from[256], to[256];
	struct smfs_bundle_stat st;
	struct smfs_store *s;
	struct err err = ERR_INIT;
	struct smfs_name n;
	int fd[2];

	fresh_store(from, sizeof(from));
	fresh_store(to, sizeof(to));
	struct job j = {.dir = from, .cpu = -1, .bytes = bytes, .count = 1};
	double first = run(&j, 1);
	if (pipe(fd) < 0)
		exit(2);
	double start = now();
	fflush(NULL);
	if (fork() == 0) {
		must(smfs_store_open(from, SMFS_RDONLY, &s, &err), &err, "open");
		must(smfs_name_get(s, SMFS_SNAPSHOT, "w0-0", &n, &err), &err, "find");
		must(smfs_bundle_write(s, &n, 1, NULL, 0, fd[1], NULL, &st, &err), &err, "export");
		smfs_store_close(s);
		exit(0);
	}
	close(fd[1]);
	must(smfs_store_open(to, 0, &s, &err), &err, "open");
	must(smfs_bundle_read(s, fd[0], NULL, NULL, &st, &err), &err, "import");
	smfs_store_close(s);
	double took = now() - start;
	close(fd[0]);
	wait(NULL);
	printf("bundle_pipe\t%.0f\tMB/s\t%.2f\tingest\t-\tok\n", (double)bytes / took / 1e6,
	       first / took);
	drop_store(from);
	drop_store(to);
}

int main(int argc, char **argv)
{
	uint64_t mib = 64;
	struct err err = ERR_INIT;
	int cpus = (int)MIN(sysconf(_SC_NPROCESSORS_ONLN), 64);

	if (argc > 1 && parse_u64(argv[1], 1, 4096, &mib, &err) < 0) {
		fprintf(stderr, "bench many: %s\n", err.msg);
		return 2;
	}
	size_t bytes = (size_t)(mib * MIB);
	double one = large(1, bytes), all = large(cpus, bytes);
	double scale = cpus * one / all;
	printf("ingest_%d_processes\t%.0f\tMB/s\t%.2f\t%d x one process\t%.2f\t%s\n", cpus,
	       cpus * (double)bytes / all / 1e6, scale / cpus, cpus, 0.8,
	       scale >= 0.8 * cpus ? "ok" : "MISS");
	double alone = small(1), together = small(8);
	printf("commits_8_processes\t%.0f\t1/s\t%.2f\tone process\t%.2f\t%s\n", together,
	       together / alone, 0.9, together >= 0.9 * alone ? "ok" : "MISS");
	bundle(bytes);
	return 0;
}
