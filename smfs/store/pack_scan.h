/*
 * pack_scan.h - every frame of a pack, by reading it from front to back.
 *
 * A frame's header proves itself and frames are aligned, so after damage the scan finds the next
 * one. Holes are passed over.
 *
 * A scan believes the length in a header, so what begins inside a frame is not met. Therefore no
 * header may stand in a pack whose frame would end past the pack's recorded length: what is
 * appended there would be hidden inside it. Writers record lengths behind whole frames; who records
 * another length (a repair) sees to it by `over`.
 *
 * And a scan that has lost its place may find a header in the middle of a frame's payload, which is
 * bytes a tenant chose: once `searching`, a frame is one only if its bytes hash to its id.
 */
#ifndef SMFS_STORE_PACK_SCAN_H
#define SMFS_STORE_PACK_SCAN_H

#include "smfs/store/format.h"

struct pack_scan {
	int fd;
	uint64_t len;	  /* of the pack, at most the file's */
	const char *name; /* for messages */
	bool payload;	  /* hand on the payload, too */
	bool searching;	  /* out: something before this was no frame */
	/*
	 * `payload` is NULL unless asked for. 0; 1: it is none, search on inside it; negative: ends
	 * the scan.
	 */
	int (*frame)(struct pack_scan *scan, uint64_t off, const struct frame_head *h,
		     const uint8_t *payload, struct err *err);
	/* A header that is right by itself, of a frame that would end past the pack. May be NULL.
	 */
	int (*over)(struct pack_scan *scan, uint64_t off, const struct frame_head *h,
		    struct err *err);
	uint64_t *done; /* advanced by the bytes passed, atomically; may be NULL */
};

int pack_scan(struct pack_scan *scan, struct err *err);

#endif
