/*
 * smfs_bundle_read(): the input as it is; and with every checksum, id, count and digest made right
 * as far as the lengths allow, so that what lies behind them is reached: ids of changed frames are
 * carried on into the frames and names that refer to them.
 *
 * What is accepted must be whole: the store's own fsck finds nothing, and every name can be
 * exported again. What is refused leaves no name.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "smfs/base/num.h"
#include "smfs/base/sha256.h"
#include "smfs/store/bundle.h"
#include "tests/fuzz/fuzz_dir.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);

static struct smfs_store *store;
static uint8_t seed_stream[8192];
static size_t seed_len;

static void done(int r, const struct err *err)
{
	if (r < 0) {
		fprintf(stderr, "fuzz_bundle: %s\n", err->msg);
		abort();
	}
}

/* A snapshot with a chunk, a map of two chunks, a subdirectory and a link: all kinds of records. */
static void make_seed(void)
{
	static uint8_t big[70000];
	struct smfs_entry e[3] = {{.name = "a", .mode = S_IFREG | 0644, .nlink = 1},
				  {.name = "b", .mode = S_IFREG | 0644, .nlink = 1},
				  {.name = "l", .mode = S_IFLNK | 0777, .nlink = 1, .target = "a"}};
	struct smfs_entry top = {.name = "d", .mode = S_IFDIR | 0755, .nlink = 1};
	struct smfs_bundle_stat st;
	struct smfs_ingest *ing;
	struct smfs_id root;
	struct smfs_name n;
	struct err err = ERR_INIT;

	memset(big + 100, 'x', 50);
	memset(big + 66000, 'y', 60);
	done(smfs_ingest_begin(store, &ing, &err), &err);
	done(smfs_ingest_mem(ing, "some forty bytes of no great interest....", 41, &e[0].content,
			     &err),
	     &err);
	done(smfs_ingest_mem(ing, big, sizeof(big), &e[1].content, &err), &err);
	done(smfs_ingest_dir(ing, e, 3, &top.dir, &err), &err);
	done(smfs_ingest_dir(ing, &top, 1, &root, &err), &err);
	done(smfs_ingest_name(ing, SMFS_SNAPSHOT, "seed", &root, NULL, 0, &err), &err);
	done(smfs_ingest_commit(ing, &err), &err);
	done(smfs_name_get(store, SMFS_SNAPSHOT, "seed", &n, &err), &err);
	int fd = memfd_create("seed", MFD_CLOEXEC);
	done(smfs_bundle_write(store, &n, 1, NULL, 0, fd, NULL, &st, &err), &err);
	ssize_t got = pread(fd, seed_stream, sizeof(seed_stream), 0);
	seed_len = got < 0 ? 0 : (size_t)got;
	close(fd);
	done(smfs_name_remove(store, SMFS_SNAPSHOT, "seed", &err), &err);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct err err = ERR_INIT;

	fuzz_dir_make();
	done(smfs_store_init(dir, &err), &err);
	done(smfs_store_open(dir, 0, &store, &err), &err);
	make_seed();
	return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	if (size < BUNDLE_HEAD_LEN && max >= seed_len) {
		memcpy(data, seed_stream, seed_len);
		size = seed_len;
	}
	return LLVMFuzzerMutate(data, size, max);
}

static void replace_id(uint8_t *p, size_t size, const struct smfs_id *from,
		       const struct smfs_id *to)
{
	uint8_t *at;

	while (size && (at = memmem(p, size, from->b, SMFS_ID_LEN))) {
		memcpy(at, to->b, SMFS_ID_LEN);
		size -= (size_t)(at + SMFS_ID_LEN - p);
		p = at + SMFS_ID_LEN;
	}
}

static void put64(uint8_t *p, uint64_t v)
{
	memcpy(p, &v, sizeof(v));
}

static void reseal(uint8_t *p, size_t size)
{
	struct bundle_tail t = {0};
	uint64_t table;

	if (size < BUNDLE_HEAD_LEN)
		return;
	memcpy(&table, p + 24, sizeof(table));
	if (!range_ok(BUNDLE_HEAD_LEN, table, size))
		return;
	size_t at = BUNDLE_HEAD_LEN + table;
	while (range_ok(at, FRAME_HEAD_LEN, size) && memcmp(p + at, "SFRM", 4) == 0) {
		struct frame_head h = {.kind = p[at + 4], .codec = p[at + 5]};
		struct smfs_id old;

		memcpy(&h.raw_len, p + at + 8, 4);
		memcpy(&h.stored_len, p + at + 12, 4);
		memcpy(old.b, p + at + 16, SMFS_ID_LEN);
		h.id = old;
		uint64_t len = frame_disk_len(h.stored_len);
		if (!range_ok(at, len, size))
			return;
		if (h.codec == CODEC_RAW && h.kind <= FRAME_DIR) {
			frame_id(h.kind, p + at + FRAME_HEAD_LEN, h.stored_len, &h.id);
			replace_id(p + at + len, size - at - len, &old, &h.id);
			replace_id(p + BUNDLE_HEAD_LEN, table, &old, &h.id);
		}
		frame_head_encode(&h, p + at + FRAME_HEAD_LEN, p + at);
		t.frames++;
		t.raw += h.raw_len;
		t.stored += len;
		at += len;
	}
	put64(p + 48, XXH3_64bits(p + BUNDLE_HEAD_LEN, table));
	put64(p + 56, XXH3_64bits(p, 56));
	if (size - at < BUNDLE_TAIL_LEN)
		return;
	t.length = at;
	sha256(p, at, t.digest);
	bundle_tail_encode(&t, p + at);
}

static unsigned drop_names(enum smfs_kind kind, bool check)
{
	static struct smfs_name v[16];
	struct smfs_bundle_stat st;
	struct err err = ERR_INIT;
	unsigned seen = 0;
	ssize_t n;

	while ((n = smfs_name_list(store, kind, NULL, v, 16, &err)) > 0)
		for (ssize_t i = 0; i < n; i++, seen++) {
			if (check) {
				int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);

				done(smfs_bundle_write(store, &v[i], 1, NULL, 0, fd, NULL, &st,
						       &err),
				     &err);
				close(fd);
			}
			done(smfs_name_remove(store, kind, v[i].name, &err), &err);
		}
	done((int)n, &err);
	return seen;
}

static void finding(void *arg, const char *line)
{
	fprintf(stderr, "fsck: %s\n", line);
}

static void import(const uint8_t *data, size_t size)
{
	struct smfs_fsck k = {.report = finding};
	struct smfs_bundle_stat st;
	struct err err = ERR_INIT;
	unsigned names = 0;
	int fd = memfd_create("input", MFD_CLOEXEC);

	if (fd < 0 || pwrite(fd, data, size, 0) != (ssize_t)size)
		abort();
	int r = smfs_bundle_read(store, fd, NULL, NULL, &st, &err);
	close(fd);
	if (r == 0)
		done(smfs_fsck(store, SMFS_FSCK_READ_DATA, &k, &err), &err);
	for (enum smfs_kind kind = SMFS_SNAPSHOT; kind <= SMFS_LAYER; kind++)
		names += drop_names(kind, true);
	if ((r == 0) != (names > 0))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	uint8_t *copy = malloc(size);
	if (!copy)
		abort();
	import(data, size);
	memcpy(copy, data, size);
	reseal(copy, size);
	import(copy, size);
	free(copy);
	return 0;
}
