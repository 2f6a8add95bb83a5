/*
 * Content references, pack headers and frames. The first byte chooses: 0 a reference, 1 a pack
 * header, 2 a frame whose bytes are as they come, 3 a frame whose checksums are made right, since
 * no mutation would find them. An accepted frame is read from a pack as the store reads it.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "smfs/store/object.h"
#include "tests/fuzz/fuzz_dir.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

#define PACK 7u

static struct smfs_store store;
static int pack_file;

/* Of a store there is only what reading a frame takes: one pack. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct pack_head h = {.id = PACK};
	uint8_t head[PACK_HEAD_LEN];
	char name[PACK_NAME_LEN];
	struct err err = ERR_INIT;

	fuzz_dir_make();
	int fd = open(dir, O_RDONLY | O_DIRECTORY);
	pack_file = openat(fd, pack_name(PACK, name), O_RDWR | O_CREAT, 0600);
	pack_head_encode(&h, head);
	must(pwrite(pack_file, head, sizeof(head), 0) == sizeof(head));
	scratch_pool_init(&store.scratch);
	must(packs_new(fd, h.uuid, &store.packs, &err) == 0);
	return 0;
}

static void fuzz_content(const uint8_t *data, size_t size)
{
	uint8_t out[SMFS_CONTENT_LEN];
	struct smfs_content c;
	struct err err = ERR_INIT;

	if (smfs_content_decode(data, size, &c, &err) < 0)
		return;
	smfs_content_encode(&c, out);
	must(size == sizeof(out) && memcmp(out, data, size) == 0);
}

static void fuzz_pack_head(const uint8_t *data, size_t size)
{
	uint8_t in[PACK_HEAD_LEN] = {0}, out[PACK_HEAD_LEN];
	struct pack_head h;

	memcpy(in, data, MIN(size, sizeof(in)));
	for (int sealed = 0; sealed < 2; sealed++) {
		uint64_t sum = XXH3_64bits(in, 56);

		if (sealed)
			memcpy(in + 56, &sum, 8);
		if (pack_head_decode(in, &h) < 0)
			continue;
		pack_head_encode(&h, out);
		/* but for the two zero fields, which a reader does not look at */
		must(memcmp(out, in, 12) == 0 && memcmp(out + 16, in + 16, 32) == 0);
	}
}

static void fuzz_frame(const uint8_t *data, size_t size, bool sealed)
{
	struct frame_head h;
	struct err err = ERR_INIT;
	size_t disk = align_up(size, FRAME_ALIGN);

	if (size < FRAME_HEAD_LEN)
		return;
	uint8_t *frame = calloc(1, disk);
	must(frame);
	memcpy(frame, data, size);
	if (sealed) {
		/* and as long as there are bytes */
		uint32_t len = (uint32_t)(size - FRAME_HEAD_LEN);

		memcpy(frame + 12, &len, 4);
		if (frame[5] == CODEC_RAW)
			memcpy(frame + 8, &len, 4);
		uint64_t sum = XXH3_64bits(frame, 48);
		memcpy(frame + 48, &sum, 8);
		sum = XXH3_64bits_withSeed(frame + FRAME_HEAD_LEN, len, sum);
		memcpy(frame + 56, &sum, 8);
	}
	if (frame_head_decode(frame, &h) == 0 && h.raw_len <= 4 * MIB) {
		struct frame_loc loc = {.pack = PACK,
					.off = PACK_HEAD_LEN,
					.stored_len = h.stored_len,
					.raw_len = h.raw_len,
					.kind = h.kind,
					.codec = h.codec};
		uint8_t *raw = malloc(h.raw_len);

		must(raw && h.raw_len <= frame_raw_max(h.kind));
		if (frame_disk_len(h.stored_len) <= disk)
			frame_payload_ok(&h, frame + FRAME_HEAD_LEN);
		must(ftruncate(pack_file, PACK_HEAD_LEN) == 0);
		must(pwrite(pack_file, frame, disk, PACK_HEAD_LEN) == (ssize_t)disk);
		int r = object_read_at(&store, &loc, &h.id, false, raw, &err);
		must(r == 0 || err.code);
		/* A whole raw frame with right checksums is never refused. */
		must(r == 0 || !sealed || h.codec != CODEC_RAW);
		object_read_at(&store, &loc, &h.id, true, raw, &err);
		free(raw);
	}
	free(frame);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	switch (data[0] % 4) {
	case 0:
		fuzz_content(data + 1, size - 1);
		break;
	case 1:
		fuzz_pack_head(data + 1, size - 1);
		break;
	default:
		fuzz_frame(data + 1, size - 1, data[0] % 4 == 3);
	}
	return 0;
}
