/*
 * ws.h - a working set: which pages of RAM a restored machine has touched, and which of them it has
 * written.
 *
 * RECORDED from the page tables of the process (ws_record()), at no cost while the guest runs: a
 * page of the mapped `ram` that is present was read, one of the process's own was written. KVM
 * reaches memory only through these page tables, so they miss nothing but what was reclaimed
 * meanwhile. They know no order, and the kernel maps up to 16 cached pages around one that is
 * read: the read set is larger than what was read.
 *
 * KEPT as the file `ws` of a snapshot (doc/snapshot-format.md), REPLAYED by prefault.h. It is a
 * hint: a wrong one costs time and memory and nothing else. The file is hostile until
 * ws_decode() has accepted it.
 */
#ifndef RUNNER_SNAPSHOT_WS_H
#define RUNNER_SNAPSHOT_WS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runner/vm/memory.h"
#include "smfs/base/bytes.h"
#include "smfs/base/err.h"

#define WS_PAGE	      4096u
#define WS_HEADER_LEN 40u
#define WS_RANGE_LEN  8u
#define WS_RANGES_MAX 65536u
#define WS_FILE_MAX   (WS_HEADER_LEN + WS_RANGE_LEN * WS_RANGES_MAX)

struct ws_range {
	uint32_t page; /* of `ram`, the file */
	uint32_t pages : 31, written : 1;
};

struct ws {
	uint64_t ram_bytes;
	struct ws_range *range; /* ascending, disjoint; NULL if n is 0 */
	uint32_t n;
	bool full; /* recording met WS_RANGES_MAX; what lies above is missing */
};

/* What the machine whose memory this is, mapped from a snapshot's `ram`, has touched since. */
int ws_record(const struct memory *m, struct ws *out, struct err *err);
/* Pages read only, and pages written. */
void ws_count(const struct ws *w, uint64_t *read, uint64_t *written);

void ws_encode(const struct ws *w, struct writer *out);
/* EBADMSG: damaged, or ranges that overlap or lie outside of `ram_bytes`. */
int ws_decode(const void *p, size_t len, uint64_t ram_bytes, struct ws *out, struct err *err);
void ws_free(struct ws *w);

#endif
