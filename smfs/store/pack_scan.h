/*
 * pack_scan.h - every frame of a pack, by reading it from front to back.
 *
 * A frame's header proves itself and frames are aligned, so after damage the scan finds the next
 * one. Holes, which compaction leaves, are passed over. What is no frame is handed on as one
 * stretch.
 */
#ifndef SMFS_STORE_PACK_SCAN_H
#define SMFS_STORE_PACK_SCAN_H

#include "smfs/store/format.h"

struct pack_scan {
	int fd;
	uint64_t len;	  /* of the pack, at most the file's */
	const char *name; /* for messages */
	bool payload;	  /* hand on the payload, too */
	/* `payload` is NULL unless asked for. 0 or negative, which ends the scan. */
	int (*frame)(struct pack_scan *scan, uint64_t off, const struct frame_head *h,
		     const uint8_t *payload, struct err *err);
	/* Bytes [from, to) hold no frame: damage, or what was given back (zeros). May be NULL. */
	void (*lost)(struct pack_scan *scan, uint64_t from, uint64_t to);
	uint64_t *done; /* advanced by the bytes passed, atomically; may be NULL */
};

int pack_scan(struct pack_scan *scan, struct err *err);

#endif
