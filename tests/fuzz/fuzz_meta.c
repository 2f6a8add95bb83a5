/*
 * meta_decode(): the input is the text up to the checksum, which is added right, since no mutation
 * would find it. What is accepted must encode, and decode to the same again.
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct snapshot_meta *a = malloc(sizeof(*a)), *b = malloc(sizeof(*b));
	struct err err = ERR_INIT;
	char *text;
	size_t len;

	if (!a || !b)
		abort();
	meta_decode((const char *)data, size, a, &err);
	if (decode_sealed(data, size, a, &err) == 0) {
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
	return 0;
}
