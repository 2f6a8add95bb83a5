/*
 * ram_file.h - which parts of guest RAM can hold anything but zeros, and writing them out.
 *
 * Of anonymous RAM only pages that exist can; of RAM mapped MAP_PRIVATE from a snapshot's `ram`,
 * pages the guest has written and pages where that file has data. Both answers come from the
 * kernel (/proc/self/pagemap, SEEK_DATA), in blocks of RAM_BLOCK; guest memory itself is not
 * touched to find out. A block said to hold data may still be all zeros: the store finds that.
 *
 * The vCPUs must stand still from ram_blocks_find() until the stream that ram_blocks_write() fed
 * is finished.
 */
#ifndef RUNNER_SNAPSHOT_RAM_FILE_H
#define RUNNER_SNAPSHOT_RAM_FILE_H

#include <stdint.h>

#include "runner/vm/memory.h"
#include "smfs/base/err.h"
#include "smfs/store/store.h"

#define RAM_BLOCK (64u << 10)

struct ram_blocks {
	uint8_t *bits; /* one per RAM_BLOCK of `ram`, the last possibly short */
	uint64_t ram_bytes;
	uint64_t data_bytes; /* in set blocks */
};

/*
 * The kernel's account of one page of RAM: untouched; mapped from the file behind it, so read and
 * never written; or the process's own, so written (swapped ones, too). Of anonymous RAM all that
 * exists is the process's own.
 */
enum ram_page { RAM_UNTOUCHED, RAM_FILE, RAM_OWN };

/* A run of `len` bytes at `off` of a region, all of one kind. */
typedef int (*ram_run_fn)(void *arg, const struct memory_region *r, uint64_t off, uint64_t len,
			  enum ram_page kind, struct err *err);
/* Every run of RAM in order; neighbours may be of one kind. Ends at the first error of `fn`. */
int ram_runs_each(const struct memory *m, ram_run_fn fn, void *arg, struct err *err);

/* `ram_fd`: the file behind the RAM, -1 for anonymous RAM. */
int ram_blocks_find(const struct memory *m, int ram_fd, struct ram_blocks *out, struct err *err);
void ram_blocks_free(struct ram_blocks *b);

/*
 * All of RAM into a diff stream whose base is the content of the file behind it: pages the guest
 * has written are written, all others are the base's, untouched. *own_bytes: what was written.
 * used[i] grows to where the last written page of RAM region i ends.
 */
int ram_diff_write(const struct memory *m, struct smfs_stream *st, uint64_t *own_bytes,
		   uint64_t used[MEMORY_MAX_REGIONS], struct err *err);

/* Where the last set block of [off, off + len) of `ram` ends, from `off`; 0 if none is set. */
uint64_t ram_blocks_used(const struct ram_blocks *b, uint64_t off, uint64_t len);

/* All of RAM in file order, blocks without data as holes. */
int ram_blocks_write(const struct memory *m, const struct ram_blocks *b, struct smfs_stream *st,
		     struct err *err);

#endif
