/*
 * frames STORE COUNT SEED - COUNT frames no other seed gives, of a few bytes each, under names of
 * their own: what an index holds that has as many frames as a store of far more bytes. All of it
 * goes the way of any other content, through the library's ingest.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "smfs/store/store.h"

/* Files of one directory; directories of one commit. */
#define FILES 8192u
#define DIRS  32u

static struct err err;

static void die(const char *what)
{
	fprintf(stderr, "frames: %s: %s\n", what, err.code ? err.msg : strerror(errno));
	exit(2);
}

static void put_dir(struct smfs_ingest *ing, uint64_t seed, uint64_t first, unsigned n)
{
	static struct smfs_entry e[FILES];
	static char name[FILES][16];
	struct smfs_id root;
	char text[64];

	for (unsigned i = 0; i < n; i++) {
		int len = snprintf(text, sizeof(text), "frame %" PRIu64 " of %" PRIu64, first + i,
				   seed);

		snprintf(name[i], sizeof(name[i]), "%u", i);
		e[i] = (struct smfs_entry){.name = name[i], .mode = S_IFREG | 0400, .nlink = 1};
		if (smfs_ingest_mem(ing, text, (size_t)len, &e[i].content, &err) < 0)
			die("ingest");
	}
	snprintf(text, sizeof(text), "frames-%" PRIu64 "-%" PRIu64, seed, first);
	if (smfs_ingest_dir(ing, e, n, &root, &err) < 0 ||
	    smfs_ingest_name(ing, SMFS_SNAPSHOT, text, &root, NULL, 0, &err) < 0)
		die("ingest");
}

int main(int argc, char **argv)
{
	struct smfs_store *s;
	struct smfs_ingest *ing;

	if (argc != 4) {
		fputs("usage: frames STORE COUNT SEED\n", stderr);
		return 2;
	}
	uint64_t count = strtoull(argv[2], NULL, 10), seed = strtoull(argv[3], NULL, 10), i = 0;

	if (smfs_store_open(argv[1], 0, &s, &err) < 0)
		die(argv[1]);
	while (i < count) {
		if (smfs_ingest_begin(s, &ing, &err) < 0)
			die("ingest");
		for (unsigned d = 0; d < DIRS && i < count; d++) {
			unsigned n = count - i < FILES ? (unsigned)(count - i) : FILES;

			put_dir(ing, seed, i, n);
			i += n;
		}
		if (smfs_ingest_commit(ing, &err) < 0)
			die("commit");
	}
	smfs_store_close(s);
	return 0;
}
