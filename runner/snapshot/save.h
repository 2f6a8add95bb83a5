/*
 * save.h - a snapshot into the store of a machine that stands still while it is written.
 *
 * Name and store are checked before the guest is paused. Then: pause (vCPUs out, devices quiet),
 * capture state, write `ram`, `vcpu` and `meta` as one ingest, resume, commit. The guest runs again
 * before the commit's fsyncs, since by then its RAM has been read. Until the commit returned
 * nothing is visible, and the machine runs again whatever happened. A machine that the caller
 * has paused stays paused. From before the pause on the store has a record that the snapshot is
 * being written; it ends with the name being there, or as the record of a failure (store.h).
 *
 * RAM that was never touched is not read: pages of anonymous RAM that do not exist become holes. Of
 * a machine restored from a mount of the same store only the pages it has written since are read
 * and stored; the rest of the new `ram` refers to what the old one refers to, though not to the old
 * one (store.h, DIFFS). Written pages are those the kernel has copied: no log is kept, so nothing
 * is forgotten when a snapshot fails, and every snapshot of one machine is a diff of what it was
 * restored from.
 *
 * A writable disk's content belongs to the instant of the pause, too, but is read after it: what
 * the guest then overwrites is put aside first (devices/disk.h), so the pause does not grow with
 * the disks.
 */
#ifndef RUNNER_SNAPSHOT_SAVE_H
#define RUNNER_SNAPSHOT_SAVE_H

#include <stdbool.h>
#include <stdint.h>

#include "runner/snapshot/meta.h"
#include "runner/vm/machine.h"

enum save_kind {
	SAVE_AUTO, /* a diff where that costs only what the guest has written, else full */
	SAVE_FULL, /* all of RAM is read and stored, as if nothing were known of it */
	SAVE_DIFF, /* a diff, or a failure */
};

struct save_info {
	enum save_kind kind;
	/*
	 * SAVE_DIFF: against snapshots/<base>; NULL: what the machine was restored from. Against
	 * any other all of RAM is compared, which costs reading it and the base, not space.
	 */
	const char *base;
	const char *store;	 /* directory of the store */
	const char *mount;	 /* image paths are kept relative to it */
	const char *name;	 /* snapshots/<name> */
	const char *by;		 /* which VM, for people */
	const char *kernel_path; /* "" if unknown */
	const char *image_ref;	 /* "" if none */
	const char *rootfs;	 /* rootfs.erofs as opened, "" if none */
	uint64_t generation;
	const uint8_t *uuid; /* 16 bytes */
};

struct save_stats {
	/* Length of `ram`; what of it was read; new to the store; and what that takes there. */
	uint64_t ram_bytes, data_bytes, new_bytes, stored_bytes;
	/* Of the writable disks: their size, and what of it was read. */
	uint64_t disk_bytes, disk_data_bytes;
	bool untold;	   /* it is ready, and whoever wrote it died before telling what it took */
	bool recorded;	   /* the store knows that it was begun; false: refused before that */
	bool diff;	   /* only pages the guest has written were read */
	uint64_t pause_us; /* guest stood still */
	uint64_t capture_us; /* of it: registers and devices */
	uint64_t fork_us;    /* of it, of a live snapshot: fork(2) */
	uint64_t
		save_us; /* writing `ram`, `vcpu`, `meta`, and the commit; partly after the pause */
};

int snapshot_save(const struct machine *m, const struct save_info *info, struct save_stats *out,
		  struct err *err);

#endif
