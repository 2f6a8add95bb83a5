/*
 * data_bytes.h - how many bytes of a tree are not holes, every mention of a file counted.
 *
 * Files and directories are measured once and remembered: a tree may mention one of them any number
 * of times, and a hostile one does so 2^60 times. One thread.
 */
#ifndef SMFS_STORE_DATA_BYTES_H
#define SMFS_STORE_DATA_BYTES_H

#include "smfs/store/idset.h"

struct data_memo {
	struct idset dirs, files; /* value = bytes */
};

int data_bytes(struct smfs_store *s, struct data_memo *memo, const struct smfs_id *root,
	       uint64_t *out, struct err *err);
void data_memo_free(struct data_memo *memo);

#endif
