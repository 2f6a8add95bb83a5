/*
 * names SMFS DIR [COUNT] - a mount with very many snapshots.
 *
 * Makes a store with COUNT (10,000) snapshots in DIR/store, each with files of its own, and mounts
 * it with the command SMFS on DIR/mnt. Figures:
 *
 *     names-mount      `smfs mount`, from its start to its return, above that of an empty store
 *     names-ls         opendir, readdir to the end
 *     names-ls-l       the same and a stat of each: what `ls -l` does
 *     names-memory     of the server, per snapshot, once the kernel holds every one of them
 *
 * Lines as DESIGN.md section 9 has them.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "smfs/store/store.h"

#define BATCH  1000
#define ROUNDS 5

extern char **environ;

static struct err err;

static void die(const char *what)
{
	fprintf(stderr, "names: %s: %s\n", what, err.code ? err.msg : strerror(errno));
	exit(2);
}

static double now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* ---- the store ----------------------------------------------------------------------------- */

static void put(struct smfs_ingest *ing, int i)
{
	static const char *const file[] = {"meta", "ram", "vcpu"};
	struct smfs_entry e[3];
	struct smfs_id root;
	char text[64], name[64];

	for (int k = 0; k < 3; k++) {
		int n = snprintf(text, sizeof(text), "{\"%s\": %d}", file[k], i);

		e[k] = (struct smfs_entry){.name = file[k], .mode = S_IFREG | 0400, .nlink = 1};
		if (smfs_ingest_mem(ing, text, (size_t)n, &e[k].content, &err) < 0)
			die("ingest");
	}
	snprintf(name, sizeof(name), "agent-python-3.12-%06d", i);
	if (smfs_ingest_dir(ing, e, 3, &root, &err) < 0 ||
	    smfs_ingest_name(ing, SMFS_SNAPSHOT, name, &root, NULL, 0, &err) < 0)
		die("ingest");
}

static void make_store(const char *dir, int count)
{
	struct smfs_store *s;
	struct smfs_ingest *ing;

	if (smfs_store_init(dir, &err) < 0 || smfs_store_open(dir, 0, &s, &err) < 0)
		die(dir);
	for (int i = 0; i < count;) {
		if (smfs_ingest_begin(s, &ing, &err) < 0)
			die("ingest");
		for (int end = i + BATCH; i < count && i < end; i++)
			put(ing, i);
		if (smfs_ingest_commit(ing, &err) < 0)
			die("commit");
	}
	smfs_store_close(s);
}

/* ---- the mount ----------------------------------------------------------------------------- */

static void run(const char *smfs, const char *command, const char *a, const char *b)
{
	char *const argv[] = {(char *)smfs, (char *)command, (char *)a, (char *)b, NULL};
	int status;
	pid_t pid;

	errno = posix_spawn(&pid, smfs, NULL, NULL, argv, environ);
	if (errno || waitpid(pid, &status, 0) != pid)
		die(smfs);
	if (status != 0) {
		fprintf(stderr, "names: smfs %s failed\n", command);
		exit(2);
	}
}

static double mount_ms(const char *smfs, const char *store, const char *mnt)
{
	double t0 = now_ms();

	run(smfs, "mount", store, mnt);
	return now_ms() - t0;
}

static double list_ms(const char *mnt, int count, bool with_stat)
{
	double t0 = now_ms();
	DIR *d = opendir(mnt);
	struct dirent *e;
	struct stat st;
	int n = 0;

	if (!d)
		die(mnt);
	while ((e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		n++;
		if (with_stat && fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			die(e->d_name);
	}
	closedir(d);
	if (n != count) {
		fprintf(stderr, "names: %d of %d names listed\n", n, count);
		exit(1);
	}
	return now_ms() - t0;
}

/* Anonymous memory: the index is a shared mapping of a file, and not the mount's. */
static double server_kib(const char *mnt)
{
	char path[4096], line[256];
	long pid, kib = 0;
	FILE *f;

	snprintf(path, sizeof(path), "%s/.smfs/pid", mnt);
	f = fopen(path, "r");
	if (!f || fscanf(f, "%ld", &pid) != 1)
		die(path);
	fclose(f);
	snprintf(path, sizeof(path), "/proc/%ld/status", pid);
	f = fopen(path, "r");
	if (!f)
		die(path);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "RssAnon: %ld", &kib) == 1)
			break;
	fclose(f);
	return (double)kib;
}

static void line(const char *name, double v, const char *unit, double limit)
{
	printf("names-%s\t%.1f\t%s\t-\t-\t<=%.0f\t%s\n", name, v, unit, limit,
	       v <= limit ? "ok" : "MISS");
}

int main(int argc, char **argv)
{
	char store[4096], empty[4096], mnt[4096], list[4200];
	double mount = 1e9, none = 1e9, ls = 1e9, ls_l = 1e9, before = 0, after = 0;
	int count = argc > 3 ? atoi(argv[3]) : 10000;

	if (argc < 3 || count < 1) {
		fprintf(stderr, "usage: names SMFS DIR [COUNT]\n");
		return 2;
	}
	snprintf(store, sizeof(store), "%s/store", argv[2]);
	snprintf(empty, sizeof(empty), "%s/empty", argv[2]);
	snprintf(mnt, sizeof(mnt), "%s/mnt", argv[2]);
	snprintf(list, sizeof(list), "%s/snapshots", mnt);
	if ((mkdir(argv[2], 0700) < 0 && errno != EEXIST) || mkdir(mnt, 0700) < 0)
		die(argv[2]);
	make_store(store, count);
	make_store(empty, 0);
	for (int r = 0; r < ROUNDS; r++) {
		double ms = mount_ms(argv[1], empty, mnt);

		none = ms < none ? ms : none;
		run(argv[1], "unmount", mnt, NULL);
		ms = mount_ms(argv[1], store, mnt);
		mount = ms < mount ? ms : mount;
		for (int k = 0; k < 3; k++) {
			ms = list_ms(list, count, false);
			ls = ms < ls ? ms : ls;
		}
		before = server_kib(mnt);
		ms = list_ms(list, count, true);
		ls_l = ms < ls_l ? ms : ls_l;
		after = server_kib(mnt);
		run(argv[1], "unmount", mnt, NULL);
	}
	/* A mount of nothing takes some time, too; the bar is for all of it. */
	line("mount", mount, "ms", 50);
	printf("names-mount-empty\t%.1f\tms\t-\t-\t-\tok\n", none);
	line("ls", ls, "ms", 50);
	printf("names-ls-l\t%.1f\tms\t-\t-\t-\tok\n", ls_l);
	line("memory", (after - before) * 1024 / count, "B/snapshot", 1024);
	return 0;
}
