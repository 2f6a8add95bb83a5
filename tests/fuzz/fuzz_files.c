/*
 * The small files of a store. The first byte chooses: 0 `format`, 1 `limit`, 2 `quarantine`, 3 a
 * lease; the rest is the file. Whoever reads it succeeds, or refuses with a reason.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "smfs/store/lease.h"
#include "smfs/store/limit.h"
#include "smfs/store/quarantine.h"
#include "tests/fuzz/fuzz_dir.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

#define NOTE_LEN 64u /* of quarantine */

static struct smfs_store *store;
static int at; /* the store's directory */

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct err err = ERR_INIT;

	fuzz_dir_make();
	if (smfs_store_init(dir, &err) < 0 || smfs_store_open(dir, 0, &store, &err) < 0) {
		fprintf(stderr, "%s\n", err.msg);
		abort();
	}
	at = open(dir, O_RDONLY | O_DIRECTORY);
	return 0;
}

/* Its descriptor. */
static int put(const char *name, const uint8_t *data, size_t size)
{
	int fd = openat(at, name, O_RDWR | O_CREAT | O_TRUNC, 0600);

	must(fd >= 0 && write(fd, data, size) == (ssize_t)size);
	return fd;
}

static void fuzz_format(const uint8_t *data, size_t size)
{
	uint8_t uuid[UUID_LEN], again[UUID_LEN];
	int64_t created, created_again;
	struct err err = ERR_INIT;

	/* In tmp/, so that the store stays one. */
	int sub = openat(at, "tmp", O_RDONLY | O_DIRECTORY);
	int fd = openat(sub, "format", O_RDWR | O_CREAT | O_TRUNC, 0600);
	must(fd >= 0 && write(fd, data, size) == (ssize_t)size);
	close(fd);
	int r = store_format_read(sub, "here", uuid, &created, &err);
	must(r == 0 || err.code);
	if (r == 0) {
		must(store_format_write(sub, "here", uuid, created, &err) == 0);
		must(store_format_read(sub, "here", again, &created_again, &err) == 0);
		must(memcmp(uuid, again, UUID_LEN) == 0 && created == created_again);
	}
	unlinkat(sub, "format", 0);
	close(sub);
}

static void fuzz_limit(const uint8_t *data, size_t size)
{
	const uint64_t none = 0, usual = UINT64_MAX, some = 8 * MIB;
	struct err err = ERR_INIT;
	struct smfs_room room;

	close(put("limit", data, size));
	int r = smfs_store_room(store, &room, &err);
	must(r == 0 || err.code == EBADMSG || err.code == EFBIG);
	must(r < 0 || !room.limit || room.left <= room.limit);
	/* Set anew, whatever it was. */
	if (r == 0 || err.code == EBADMSG) {
		must(smfs_store_set_limit(store, &some, NULL, &err) == 0);
		must(smfs_store_room(store, &room, &err) == 0 && room.limit == some);
	}
	must(unlinkat(at, "limit", 0) == 0);
	must(smfs_store_set_limit(store, &none, &usual, &err) == 0);
}

static void fuzz_quarantine(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size + 1);
	struct err err = ERR_INIT;

	must(copy);
	memcpy(copy, data, size);
	for (int sealed = 0; sealed < 2; sealed++) {
		uint32_t magic = 0x46444142u; /* "BADF" */

		for (size_t off = 0; sealed && off + NOTE_LEN <= size; off += NOTE_LEN) {
			memcpy(copy + off, &magic, 4);
			uint64_t sum = XXH3_64bits(copy + off, 56);
			memcpy(copy + off + 56, &sum, 8);
		}
		close(put("quarantine", copy, size));
		quarantine_close(store);
		must(quarantine_open(store, &err) == 0);
		must(quarantine_count(store) <= size / NOTE_LEN);
		quarantine_reload(store);
		/* The index knows none of those frames: no note says anything. */
		quarantine_prune(store);
		must(quarantine_count(store) == 0);
	}
	unlinkat(at, "quarantine", 0);
	free(copy);
}

/* Of another process, which is alive: it holds the lock. */
static void fuzz_lease(const uint8_t *data, size_t size)
{
	struct lease_view v;
	struct err err = ERR_INIT;
	int fd = put("tmp/lease.0123456789abcdef", data, size);

	must(flock(fd, LOCK_EX) == 0);
	must(lease_view_read(store, &v, &err) == 0);
	must(v.nroots <= size / 40 + 1);
	lease_view_free(&v);
	close(fd);
	/* Dead, it counts for nothing and is gone. */
	must(lease_view_read(store, &v, &err) == 0 && v.nroots == 0);
	lease_view_free(&v);
	must(faccessat(at, "tmp/lease.0123456789abcdef", F_OK, 0) < 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static void (*const what[])(const uint8_t *, size_t) = {fuzz_format, fuzz_limit,
								fuzz_quarantine, fuzz_lease};

	if (size > 0)
		what[data[0] % ARRAY_SIZE(what)](data + 1, size - 1);
	return 0;
}
