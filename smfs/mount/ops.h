/*
 * ops.h - shared by the files that speak FUSE's low-level interface: ops.c (names, attributes,
 * changes, and the table of operations), ops_io.c (open files), ops_dir.c (open directories).
 */
#ifndef SMFS_MOUNT_OPS_H
#define SMFS_MOUNT_OPS_H

#include <fuse3/fuse_lowlevel.h>

#include "smfs/base/num.h"
#include "smfs/mount/fs.h"

static inline struct smfs_mount *mount_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

/* NULL if the kernel and we disagree about what exists; the request is answered then. */
struct inode *inode_of(fuse_req_t req, fuse_ino_t ino);
/* The same for an open file; its inode is awake. */
struct handle *handle_of(fuse_req_t req, const struct fuse_file_info *fi);
/* Without answering, and as it is. */
struct handle *ops_find_handle(struct smfs_mount *m, uint64_t fh);
/* This request was sent to an earlier server, too, which may have carried it out. */
static inline bool ops_resent(fuse_req_t req)
{
	return channel_resent(mount_of(req)->channel);
}

/* What the reader sees of an error; the log has the rest. */
static inline int ops_visible(int r)
{
	return r == -EBADMSG ? EIO : -r;
}

/* Count, log and answer a failed request: `what` was done to `name` in `i`, or to `i` itself ("").
 */
void ops_fail(fuse_req_t req, int r, const char *what, const struct inode *i, const char *name,
	      const struct err *err);
/* Enter a fresh inode into the table and describe it. On error the lookup is taken back. */
int ops_enter(struct smfs_mount *m, struct inode *fresh, struct inode **in,
	      struct fuse_entry_param *e, struct err *err);
/* FS_IO_MAX bytes of this thread's; NULL without memory. */
void *ops_buffer(struct smfs_mount *m);

/* ops_io.c */
struct handle *ops_handle_new(struct smfs_mount *m, struct inode *i, int flags);
void ops_handle_free(struct smfs_mount *m, struct handle *h);
int ops_open_inode(struct smfs_mount *m, struct inode *i, struct fuse_file_info *fi,
		   struct err *err);
void ops_close_handle(struct smfs_mount *m, struct handle *h);
/* Answer an open: hot with backing file `backing`, or cold if that is 0. Any thread. */
void ops_answer_open(fuse_req_t req, struct handle *h, int backing);
/* For operations that end later, on the publisher's thread: `arg` is the request. */
void ops_answer(void *arg, int r);

void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
	      struct fuse_file_info *fi);
void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
		  struct fuse_file_info *fi);
void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi);
void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		    struct fuse_file_info *fi);

#endif
