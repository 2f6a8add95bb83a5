/*
 * meta_decode(): the input is the text up to the checksum, which is added right, since no mutation
 * would find it; and, a second time, edits (offset, byte) of a good text, since few mutations
 * find that either. What is accepted must encode, and decode to the same again.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "runner/snapshot/meta.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int decode_sealed(const uint8_t *data, size_t size, struct snapshot_meta *m, struct err *err)
{
	static const char tail[] = ",\n  \"checksum\": \"0000000000000000\"\n}\n";
	const size_t len = size + sizeof(tail) - 1;
	char *text = malloc(len + 1), sum[17];
	int ret;

	if (!text)
		return -ENOMEM;
	memcpy(text, data, size);
	memcpy(text + size, tail, sizeof(tail));
	snprintf(sum, sizeof(sum), "%016llx", (unsigned long long)XXH3_64bits(text, len));
	memcpy(text + len - 4 - 16, sum, 16);
	ret = meta_decode(text, len, m, err);
	free(text);
	return ret;
}

/* The text of a meta with something of everything, up to its checksum. */
static size_t good_text(char **text)
{
	struct snapshot_meta *m = calloc(1, sizeof(*m));
	struct err err = ERR_INIT;
	size_t len;

	if (!m)
		abort();
	hostcpu_get(&m->cpu, NULL);
	m->ram_bytes = 5ull << 30;
	m->region[0] = (struct meta_region){0, 3ull << 30, 0, 4096};
	m->region[1] = (struct meta_region){4ull << 30, 2ull << 30, 3ull << 30, 0};
	m->nregions = 2;
	m->vcpus = 2;
	m->has_image = true;
	strcpy(m->image.ref, "r/x:1");
	strcpy(m->image.rootfs, "images/r/x:1/rootfs.erofs");
	strcpy(m->image.digest, "00ff");
	m->device[0] = (struct meta_device){.id = "serial0", .type = "serial", .gsi = 4};
	m->device[1] = (struct meta_device){.id = "vmgenid", .type = "vmgenid", .gsi = -1};
	m->ndevices = 2;
	if (meta_encode(m, text, &len, &err) < 0)
		abort();
	free(m);
	return (size_t)(strstr(*text, ",\n  \"checksum\"") - *text);
}

static void round_trip(const uint8_t *data, size_t size, bool must_decode)
{
	struct snapshot_meta *a = malloc(sizeof(*a)), *b = malloc(sizeof(*b));
	struct err err = ERR_INIT;
	char *text;
	size_t len;
	int ret;

	if (!a || !b)
		abort();
	ret = decode_sealed(data, size, a, &err);
	if (ret < 0 && must_decode)
		abort();
	if (ret == 0) {
		struct snapshot_cpu host;

		if (meta_encode(a, &text, &len, &err) < 0 || meta_decode(text, len, b, &err) < 0 ||
		    memcmp(a, b, sizeof(*a)) != 0)
			abort();
		free(text);
		hostcpu_get(&host, NULL);
		hostcpu_fits(a->cpu.nwords ? &a->cpu : &host, &host, &err);
	}
	free(a);
	free(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct snapshot_meta *m = malloc(sizeof(*m));
	struct err err = ERR_INIT;
	char *text;
	size_t len;

	if (!m)
		abort();
	meta_decode((const char *)data, size, m, &err);
	free(m);
	round_trip(data, size, false);

	len = good_text(&text);
	round_trip((uint8_t *)text, len, true);
	for (size_t i = 0; i + 3 <= size; i += 3)
		text[(data[i] | data[i + 1] << 8) % len] = (char)data[i + 2];
	round_trip((uint8_t *)text, len, false);
	free(text);
	return 0;
}
