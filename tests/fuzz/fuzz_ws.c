/*
 * ws_decode(): the input as it is; and as the part of a file after its magic number, with the
 * checksum and the number of ranges made right, since no mutation would find them. What is accepted
 * lies within RAM, in order, and encodes to the same bytes.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "runner/snapshot/ws.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void decode(const uint8_t *p, size_t len, uint64_t ram_bytes)
{
	cleanup_writer struct writer w = WRITER_INIT;
	struct err err = ERR_INIT;
	uint64_t end = 0;
	struct ws ws;

	if (ws_decode(p, len, ram_bytes, &ws, &err) < 0)
		return;
	for (uint32_t i = 0; i < ws.n; i++) {
		const struct ws_range *r = &ws.range[i];

		if (r->page < end || !r->pages)
			abort();
		end = (uint64_t)r->page + r->pages;
	}
	if (end * WS_PAGE > ram_bytes)
		abort();
	ws_encode(&ws, &w);
	if (w.failed || w.len != len || memcmp(w.p, p, len) != 0)
		abort();
	ws_free(&ws);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint64_t ram_bytes = 64 << 20;
	uint8_t *p = malloc(WS_HEADER_LEN + size);
	const size_t len = WS_HEADER_LEN + size / WS_RANGE_LEN * WS_RANGE_LEN;
	const struct ws none = {.ram_bytes = ram_bytes};
	cleanup_writer struct writer head = WRITER_INIT;

	ws_encode(&none, &head);
	if (!p || head.failed)
		abort();
	memcpy(p, data, size);
	decode(p, size, ram_bytes);
	memcpy(p, head.p, WS_HEADER_LEN);
	memcpy(p + WS_HEADER_LEN, data, len - WS_HEADER_LEN);
	store_le32(p + 24, (uint32_t)(size / WS_RANGE_LEN));
	store_le64(p + 32, 0);
	store_le64(p + 32, XXH3_64bits(p, len));
	decode(p, len, ram_bytes);
	free(p);
	return 0;
}
