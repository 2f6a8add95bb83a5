/*
 * The index of pages. The first byte chooses: bit 0, the file has a right magic, version and uuid;
 * bit 1, a right sum; bit 2, the length that belongs to its number of buckets. Then 48 bytes of
 * head, and entries: u16 where (slots of the table, by 61), u64 what. Whatever the file is, it is
 * used or it is not: lookups propose places and no more than that, and what is added is found, also
 * by the next who opens the file.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "smfs/store/page_index.h"
#include "tests/fuzz/fuzz_dir.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

enum { HEAD = 48, PAGE = 4096, BUCKET = 512, RECORD = 10, NOTES = 64, FILE_MAX = 4 << 20 };

static int at;
static const uint8_t uuid[UUID_LEN] = {7};

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	fuzz_dir_make();
	at = open(dir, O_RDONLY | O_DIRECTORY);
	must(at >= 0 && mkdirat(at, "tmp", 0700) == 0);
	return 0;
}

static void make_file(uint8_t how, const uint8_t *data, size_t size)
{
	static const uint8_t magic[] = {'S', 'M', 'F', 'S', 'P', 'A', 'G', 'E', 2, 0, 0, 0};
	uint8_t head[HEAD] = {0};
	uint32_t buckets;
	uint16_t slot;
	int fd = openat(at, PAGE_INDEX_FILE, O_RDWR | O_CREAT | O_TRUNC, 0600);

	must(fd >= 0);
	memcpy(head, data, MIN(size, sizeof(head)));
	if (how & 1) {
		memcpy(head, magic, sizeof(magic));
		memcpy(head + 16, uuid, sizeof(uuid));
	}
	memcpy(&buckets, head + 12, sizeof(buckets));
	uint64_t sum = XXH3_64bits(head, 32), len = PAGE + (uint64_t)buckets * BUCKET;
	if (how & 2)
		memcpy(head + 32, &sum, sizeof(sum));
	/* Larger ones are like these, and slow. */
	if (!(how & 4) || len > FILE_MAX)
		len = size * 16;
	must(pwrite(fd, head, sizeof(head), 0) == sizeof(head) && ftruncate(fd, (off_t)len) == 0);
	for (size_t i = sizeof(head); i + RECORD <= size && len >= PAGE + BUCKET; i += RECORD) {
		memcpy(&slot, data + i, sizeof(slot));
		off_t off = PAGE + (off_t)(slot * 61 % ((len - PAGE) / 8) * 8);
		must(pwrite(fd, data + i + 2, 8, off) == 8);
	}
	close(fd);
}

static uint64_t find(struct page_index *px, uint64_t hash)
{
	uint64_t place;

	page_index_find(px, &hash, 1, &place);
	must(place >> PLACE_BITS == 0 && (hash || !place));
	return place;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct page_note note[NOTES];
	struct page_index *px;
	unsigned n = 0;

	if (size == 0)
		return 0;
	make_file(data[0], data + 1, size - 1);
	must(page_index_new(at, uuid, &px) == 0);
	page_index_follow(px);
	for (size_t i = 1; i + 8 <= size && n < NOTES; i += 7) {
		uint64_t hash;

		memcpy(&hash, data + i, sizeof(hash));
		find(px, hash);
		if (hash)
			note[n++] = (struct page_note){hash, 1 + i};
	}
	/* One at a time what is noted is found; of many, some may take others' places. */
	for (unsigned i = 0; i < n; i++) {
		page_index_add(px, &note[i], 1);
		must(find(px, note[i].hash) == note[i].place ||
		     (note[i].hash & UINT32_MAX) << PLACE_REGION == note[i].place);
	}
	page_index_add(px, note, n);
	page_index_free(px);

	must(page_index_new(at, uuid, &px) == 0);
	page_index_follow(px);
	struct page_note last = {UINT64_MAX, 0x1234567890};
	page_index_add(px, &last, 1);
	page_index_follow(px);
	must(find(px, last.hash) == last.place);
	for (unsigned i = 0; i < n; i++)
		find(px, note[i].hash);
	page_index_free(px);
	return 0;
}
