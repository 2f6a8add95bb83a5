/*
 * The proof of the index's pages. The input is edits (offset, byte) of a good index; what the proof
 * accepts is opened and read whole by LMDB, which trusts it: that must end well.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "smfs/base/io.h"
#include "smfs/store/index_pages.h"
#include "smfs/store/index_priv.h"
#include "tests/fuzz/fuzz_dir.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static char path[64], index_dir[64];
static char *good;
static size_t good_len;

static void name(uint64_t i, char out[32])
{
	snprintf(out, 32, "snapshot-%03u", (unsigned)i);
}

static int fill(struct index_txn *txn, void *arg, struct err *err)
{
	uint64_t from = *(uint64_t *)arg, to = from + 60;
	struct index_meta m = {.seq = to, .journal_len = 64 + to};

	for (uint64_t i = from; i < to; i++) {
		struct frame_loc loc = {.pack = 1,
					.off = 64 + i * 64,
					.stored_len = 100,
					.raw_len = 200,
					.kind = 1 + i % 3,
					.codec = CODEC_ZSTD};
		struct smfs_name n = {.kind = SMFS_SNAPSHOT, .seq = i};
		struct smfs_id id = {{0}};
		uint64_t x = i * 0x9e3779b97f4a7c15ull;

		memcpy(id.b, &x, 8);
		name(i, n.name);
		if (index_txn_add(txn, &id, &loc, err) < 0 || index_txn_set_name(txn, &n, err) < 0)
			return -EIO;
		name(i - 30, n.name);
		if (i >= 30 && index_txn_del_name(txn, SMFS_SNAPSHOT, n.name, err) < 0)
			return -EIO;
	}
	int r = index_txn_set_pack(txn, 1, GIB / 2, err);
	return r < 0 ? r : index_txn_set_meta(txn, &m, err);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct err err = ERR_INIT;
	struct index *ix;

	fuzz_dir_make();
	snprintf(index_dir, sizeof(index_dir), "%s/index", dir);
	snprintf(path, sizeof(path), "%s/index/data.mdb", dir);
	mkdir(index_dir, 0700);
	must(index_create(index_dir, &err) == 0 && index_open(index_dir, false, &ix, &err) == 0);
	for (uint64_t i = 0; i < 300; i += 60)
		must(index_update(ix, fill, &i, &err) == 0);
	index_close(ix);
	must(read_file(AT_FDCWD, path, 16 * MIB, &good, &good_len, &err) == 0);
	return 0;
}

static int frame(const struct smfs_id *id, const struct frame_loc *loc, void *arg, struct err *err)
{
	return 0;
}

static void use(struct index *ix)
{
	struct smfs_name *names = malloc(64 * sizeof(*names));
	struct index_pack *packs = NULL;
	uint64_t from = 300;
	size_t n;

	must(names);
	index_each_frame(ix, false, frame, NULL, NULL);
	index_each_frame(ix, true, frame, NULL, NULL);
	index_names(ix, SMFS_SNAPSHOT, NULL, names, 64, NULL);
	index_packs(ix, &packs, &n, NULL);
	free(packs);
	free(names);
	/* Writing follows the free pages, too. */
	index_update(ix, fill, &from, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *bytes = malloc(good_len);
	struct err err = ERR_INIT;
	struct index_head head;
	char seal[80];
	struct index *ix;

	must(bytes);
	memcpy(bytes, good, good_len);
	for (size_t i = 0; i + 4 <= size && i < 256; i += 4)
		bytes[(data[i] | data[i + 1] << 8 | (size_t)data[i + 2] << 16) % good_len] =
			data[i + 3];
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	must(fd >= 0 && pwrite(fd, bytes, good_len, 0) == (ssize_t)good_len);
	free(bytes);
	snprintf(seal, sizeof(seal), "%s/seal", index_dir);
	unlink(seal);
	int r = index_head_check(fd, &head, &err);
	if (r == 0)
		r = index_pages_check(fd, head.txnid, &err);
	must(r == 0 || err.code);
	close(fd);
	if (r == 0 && index_open(index_dir, false, &ix, &err) == 0) {
		mdb_env_set_flags(ix->env, MDB_NOSYNC, 1);
		use(ix);
		index_close(ix);
	}
	return 0;
}
