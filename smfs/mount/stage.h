/*
 * stage.h - snapshots being copied in: the model, shared by stage.c (names), stage_file.c
 * (data) and publish.c (how it becomes a snapshot).
 *
 * `mkdir snapshots/y` makes a stage: visible in this mount as y, absent from the index. Its
 * files are unnamed temporary files in the store's tmp/, so a crash leaves nothing (and who was
 * copying gets EIO from the next server: takeover_stage.c). Once `meta`,
 * `ram` and `vcpu` are there and no file is open for writing, the stage is published by the
 * close(2) that made it so, which returns the outcome.
 *
 *     WRITING -> PUBLISHING -> DONE         a refused one goes back to WRITING
 *     WRITING -> DONE                       rmdir
 *
 * LOCKING. area->lock guards all of it except the data in the files. A stage or file lives while
 * referenced: by the area or its stage, by inodes, and by the publisher.
 */
#ifndef SMFS_MOUNT_STAGE_H
#define SMFS_MOUNT_STAGE_H

#include "smfs/base/workers.h"
#include "smfs/mount/fs.h"
#include "smfs/mount/import.h"

#define STAGES_MAX     TAKEOVER_STAGES
#define STAGE_NAME_MAX 64

enum stage_state { STAGE_WRITING, STAGE_PUBLISHING, STAGE_DONE };

struct stage_file {
	unsigned refs;
	uint64_t serial;
	char name[STAGE_NAME_MAX + 1];
	int fd;
	unsigned writers; /* handles with `pending` set */
};

struct stage {
	unsigned refs;
	uint64_t serial;
	struct takeover_stage *record; /* for the next server to know what is lost */
	enum stage_state state;
	char name[SMFS_REF_MAX + 1];
	struct stage_file *files[SNAPSHOT_FILES_MAX];
	size_t nfiles;
	/* Who waits for the publisher. */
	void (*done)(void *arg, int r);
	void *done_arg;
};

struct stage_area {
	struct smfs_mount *mount;
	pthread_mutex_t lock;
	struct stage *stages[STAGES_MAX];
	size_t count;
	uint64_t serial;
	uint64_t room; /* bytes that may be written before the store is asked again */
	int tmp_fd;
	bool closed;	      /* the mount ends: what is not complete will never be */
	size_t next_imported; /* in takeover_area.imported: seqs, round robin */
	/* One at a time: an ingest uses all cores already. */
	struct workers *publisher;
};

/* Both with the lock held. */
void stage_put(struct stage_area *a, struct stage *st);
void stage_remove(struct stage_area *a, struct stage *st);

extern const struct inode_ops stage_file_ops;

/*
 * May `len` more bytes be written to staged files? They are as large as what is copied, until the
 * ingest has compressed them, and within the store's limit and outside its reserve as long as they
 * are there. -EDQUOT, -ENOSPC. Not with the lock held.
 */
int stage_take_room(struct stage_area *a, uint64_t len, struct err *err);
/* With the lock held: -EROFS once it is on its way to be a snapshot. */
int stage_check_writing(const struct stage *st, struct err *err);

/*
 * With the lock held: publish if complete. Returns true when `done` will be called by the
 * publisher; false when there is nothing to do.
 */
bool publish_if_complete(struct stage_area *a, struct stage *st, void (*done)(void *arg, int r),
			 void *arg);

#endif
