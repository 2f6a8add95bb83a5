#include "smfs/mount/readahead.h"

ssize_t readahead_pread(struct smfs_mount *m, struct handle *h, struct smfs_file *f, void *buf,
			size_t len, uint64_t off, struct err *err)
{
	return smfs_file_pread(f, buf, len, off, err);
}

void readahead_free(struct readahead *ra)
{
}
