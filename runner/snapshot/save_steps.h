/*
 * save_steps.h - the steps of a snapshot that a full and a live one share, in their order. All fill
 * err and return 0 or a negative errno.
 */
#ifndef RUNNER_SNAPSHOT_SAVE_STEPS_H
#define RUNNER_SNAPSHOT_SAVE_STEPS_H

#include "runner/snapshot/save.h"
#include "smfs/base/bytes.h"
#include "smfs/store/store.h"

/*
 * Before the pause: refuse what cannot be saved, put into *meta what is known already, and record
 * that the snapshot is being written. *record is then to be given to save_end(), or closed by who
 * leaves that to another process.
 */
int save_begin(struct smfs_store *store, const struct machine *m, const struct save_info *info,
	       struct snapshot_meta *meta, int *record, struct err *err);
/* The snapshot is there (ret 0), or has failed for `err`. Closes `record`; returns ret. */
int save_end(struct smfs_store *store, const struct save_info *info, int record, int ret,
	     const struct err *err);
/* Here capture_machine(). Then RAM, which stands still; fills in meta's `used`. */
int save_write_ram(struct smfs_store *store, const struct machine *m, const struct save_info *info,
		   struct snapshot_meta *meta, struct smfs_ingest *ing, struct smfs_content *out,
		   struct save_stats *stats, struct err *err);
/* The diff that is asked for can be made, as far as is known before the pause. */
int save_base_check(struct smfs_store *store, const struct machine *m, const struct save_info *info,
		    struct err *err);
/* vm_resume(); a failure of it is returned unless `ret` is one already. */
int save_resume(const struct machine *m, int ret, struct err *err);
/* The content of an open file of `size` bytes, if that is in the mount; false if it is not. */
bool save_origin(int fd, const char *mount, uint64_t size, struct smfs_content *out);
/*
 * The disks of `m` as they were when it stood still, the machine may run: out[i] is of
 * disks->view[i]. Of a disk that came with a snapshot of the same mount only what was written since
 * is read.
 */
int save_write_disks(const struct machine *m, const struct machine_disks *disks,
		     const struct save_info *info, struct smfs_ingest *ing,
		     struct smfs_content out[MACHINE_MAX_DISKS], struct save_stats *stats,
		     struct err *err);
/* What is to be the snapshot's beside `meta`. */
struct save_parts {
	const struct writer *vcpu;
	struct smfs_content ram;
	const struct machine_disks *disks;
};
/* Disks, `meta`, `vcpu`, of a restored machine `ws`, the directory and its name. */
int save_write_rest(const struct machine *m, const struct save_info *info,
		    struct snapshot_meta *meta, const struct save_parts *parts,
		    struct smfs_ingest *ing, struct save_stats *stats, struct err *err);
/* Ends the ingest in every case. */
int save_commit(struct smfs_ingest *ing, struct save_stats *stats, struct err *err);

#endif
