/* Whole buffers and whole files as content. */
#include "smfs/store/stream.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"

#include <fcntl.h>
#include <sys/stat.h>

int smfs_ingest_mem(struct smfs_ingest *ing, const void *buf, size_t len, struct smfs_content *out,
		    struct err *err)
{
	struct smfs_stream *st;
	int r = smfs_stream_open(ing, SMFS_STREAM_STABLE, &st, err);

	if (r < 0)
		return r;
	r = smfs_stream_write(st, buf, len, err);
	if (r == 0)
		return smfs_stream_finish(st, out, err);
	smfs_stream_abort(st);
	return r;
}

struct source {
	int fd;
	uint64_t off, size;
	const uint64_t *cuts;
	size_t ncuts;
};

/* The next cut after `off`, or the end of the range. Passed cuts are dropped. */
static uint64_t next_cut(struct source *src, uint64_t end)
{
	while (src->ncuts && *src->cuts <= src->off) {
		src->cuts++;
		src->ncuts--;
	}
	return src->ncuts && *src->cuts < end ? *src->cuts : end;
}

static bool at_cut(const struct source *src, uint64_t off)
{
	return src->ncuts && *src->cuts == off;
}

static int copy_data(struct smfs_stream *st, struct source *src, uint64_t end, struct err *err)
{
	while (src->off < end) {
		uint8_t *room;
		size_t n;
		int r = stream_room(st, &room, &n, err);

		if (r < 0)
			return r;
		ssize_t got = pread_upto(src->fd, room, MIN(n, end - src->off), src->off);
		if (got < 0) {
			errno = (int)-got;
			return err_errno(err, "read at %llu", (unsigned long long)src->off);
		}
		if (got == 0)
			return err_set(err, EIO, "file shrank while it was read");
		src->off += (uint64_t)got;
		r = stream_filled(st, (size_t)got, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* [off, end) is all data or all hole. */
static int copy_run(struct smfs_stream *st, struct source *src, uint64_t end, bool hole,
		    struct err *err)
{
	while (src->off < end) {
		uint64_t stop = next_cut(src, end);
		int r = 0;

		if (hole) {
			r = smfs_stream_hole(st, stop - src->off, err);
			src->off = stop;
		} else {
			r = copy_data(st, src, stop, err);
		}
		if (r == 0 && at_cut(src, stop))
			r = smfs_stream_cut(st, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int copy_file(struct smfs_stream *st, struct source *src, struct err *err)
{
	while (src->off < src->size) {
		off_t data = lseek(src->fd, (off_t)src->off, SEEK_DATA);
		uint64_t start, end;

		if (data < 0 && errno == ENXIO)
			data = (off_t)src->size;
		else if (data < 0) /* no such notion here: all of it is data */
			data = (off_t)src->off;
		start = MIN((uint64_t)data, src->size);
		int r = copy_run(st, src, start, true, err);
		if (r < 0)
			return r;
		if (start == src->size)
			break;
		off_t hole = lseek(src->fd, (off_t)start, SEEK_HOLE);
		end = hole < 0 ? src->size : MIN((uint64_t)hole, src->size);
		r = copy_run(st, src, end, false, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int ingest_fd(struct smfs_ingest *ing, struct source *src, const struct smfs_content *base,
		     struct smfs_content *out, struct err *err)
{
	struct smfs_stream *st;
	struct stat sb;
	int r;

	if (fstat(src->fd, &sb) < 0)
		return err_errno(err, "stat file to ingest");
	if (!S_ISREG(sb.st_mode))
		return err_set(err, EINVAL, "file to ingest is not a regular file");
	src->size = (uint64_t)sb.st_size;
	r = base ? smfs_stream_open_diff(ing, base, 0, &st, err)
		 : smfs_stream_open(ing, 0, &st, err);
	if (r < 0)
		return r;
	r = copy_file(st, src, err);
	if (r == 0)
		return smfs_stream_finish(st, out, err);
	smfs_stream_abort(st);
	return r;
}

int smfs_ingest_fd(struct smfs_ingest *ing, int fd, const uint64_t *cuts, size_t ncuts,
		   struct smfs_content *out, struct err *err)
{
	struct source src = {.fd = fd, .cuts = cuts, .ncuts = cuts ? ncuts : 0};

	return ingest_fd(ing, &src, NULL, out, err);
}

int smfs_ingest_fd_diff(struct smfs_ingest *ing, int fd, const struct smfs_content *base,
			struct smfs_content *out, struct err *err)
{
	struct source src = {.fd = fd};

	return ingest_fd(ing, &src, base, out, err);
}
