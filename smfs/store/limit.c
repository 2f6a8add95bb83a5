#include "smfs/store/limit.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/store/page_index.h"
#include "smfs/store/spare.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#define LIMIT_FILE  "limit"
#define RESERVE_MAX (64 * MIB)
/* Below this not even an empty store's index has room. */
#define LIMIT_MIN MIB

#define RESERVE_DEFAULT UINT64_MAX

struct bounds {
	uint64_t limit, reserve;
};

/* "limit N" and "reserve N", a line each, either of which may be missing. */
static bool parse(char *text, struct bounds *b)
{
	char *save = NULL;

	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		bool ok = false;

		if (strncmp(line, "limit ", 6) == 0)
			ok = parse_u64(line + 6, LIMIT_MIN, INT64_MAX, &b->limit, NULL) == 0;
		else if (strncmp(line, "reserve ", 8) == 0)
			ok = parse_u64(line + 8, 0, INT64_MAX, &b->reserve, NULL) == 0;
		if (!ok)
			return false;
	}
	return true;
}

static int bounds_read(struct smfs_store *s, struct bounds *b, struct err *err)
{
	cleanup_free char *text = NULL;
	int r = read_file(s->dirfd, LIMIT_FILE, 256, &text, NULL, err);

	*b = (struct bounds){.reserve = RESERVE_DEFAULT};
	if (r == -ENOENT) {
		err_clear(err);
		return 0;
	}
	if (r < 0)
		return err_wrap(err, r, "store %s", s->dir);
	if (!parse(text, b))
		return err_set(
			err, EBADMSG,
			"store %s: file `limit` does not parse; set it anew with `smfs limit`",
			s->dir);
	return 0;
}

static int bounds_write(struct smfs_store *s, const struct bounds *b, struct err *err)
{
	char text[96] = "";
	int n = 0;

	if (b->limit)
		n += snprintf(text, sizeof(text), "limit %" PRIu64 "\n", b->limit);
	if (b->reserve != RESERVE_DEFAULT)
		n += snprintf(text + n, sizeof(text) - (size_t)n, "reserve %" PRIu64 "\n",
			      b->reserve);
	int r = write_file_atomic(s->dirfd, LIMIT_FILE, text, (size_t)n, 0600, err);
	return r < 0 ? err_wrap(err, r, "store %s", s->dir) : 0;
}

int smfs_store_set_limit(struct smfs_store *s, const uint64_t *limit, const uint64_t *reserve,
			 struct err *err)
{
	struct bounds b;

	if (s->rdonly)
		return err_set(err, EROFS, "limit %s: store opened read-only", s->dir);
	if (limit && *limit && (*limit < LIMIT_MIN || *limit > INT64_MAX))
		return err_set(err, EINVAL, "limit of %" PRIu64 " bytes: at least 1 MiB", *limit);
	if (reserve && *reserve != RESERVE_DEFAULT && *reserve > INT64_MAX)
		return err_set(err, EINVAL, "reserve of %" PRIu64 " bytes", *reserve);
	/* A damaged file is what this mends. */
	int r = bounds_read(s, &b, err);
	if (r < 0) {
		if (r != -EBADMSG)
			return r;
		err_clear(err);
		b = (struct bounds){.reserve = RESERVE_DEFAULT};
	}
	if (limit)
		b.limit = *limit;
	if (reserve)
		b.reserve = *reserve;
	return bounds_write(s, &b, err);
}

/* ---- measuring ---- */

static uint64_t disk_of(int dirfd, const char *path)
{
	struct stat st;

	return fstatat(dirfd, path, &st, AT_SYMLINK_NOFOLLOW) == 0 ? (uint64_t)st.st_blocks * 512
								   : 0;
}

/* What is in packs/, not what the index knows of: packs of ingests at work count. */
static int measure(struct smfs_store *s, uint64_t *used, struct err *err)
{
	int fd = openat(s->dirfd, "packs", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cleanup_dir DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	if (!d)
		return err_errno(err, "read directory %s/packs", s->dir);
	*used = disk_of(s->dirfd, "journal") + disk_of(s->dirfd, "index/data.mdb") +
		disk_of(s->dirfd, PAGE_INDEX_FILE);
	while ((e = readdir(d)))
		if (e->d_name[0] != '.')
			*used += disk_of(fd, e->d_name);
	return 0;
}

static uint64_t minus(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

int limit_room(struct smfs_store *s, bool want_used, struct smfs_room *out, struct err *err)
{
	struct bounds bounds;
	struct statvfs vfs;

	*out = (struct smfs_room){0};
	int r = bounds_read(s, &bounds, err);
	if (r < 0)
		return r;
	out->limit = bounds.limit;
	if (fstatvfs(s->dirfd, &vfs) < 0)
		return err_errno(err, "statvfs %s", s->dir);
	uint64_t size = (uint64_t)vfs.f_blocks * vfs.f_frsize;
	/* A file system that does not tell its size has no end. */
	out->free = size ? (uint64_t)vfs.f_bavail * vfs.f_frsize : INT64_MAX;
	out->reserve =
		bounds.reserve == RESERVE_DEFAULT ? MIN(size / 100, RESERVE_MAX) : bounds.reserve;
	out->left = minus(out->free, out->reserve);
	if (out->limit || want_used)
		r = measure(s, &out->used, err);
	if (out->limit) {
		out->left = MIN(out->left, minus(out->limit, out->used));
		out->cache = spare_bytes(s->dirfd);
	}
	return r;
}

int smfs_store_make_room(struct smfs_store *s, uint64_t need, uint64_t beside,
			 struct smfs_room *out, struct err *err)
{
	int r = limit_room(s, false, out, err);

	if (r < 0)
		return r;
	uint64_t short_of = minus(need, minus(out->free, out->reserve));
	/* What does not fit without the cache either is refused: nothing is given up for it. */
	if (out->limit && out->used + beside + need <= out->limit)
		short_of = MAX(short_of, minus(out->used + beside + need + out->cache, out->limit));
	if (!short_of || spare_free(s->dirfd, short_of) == 0)
		return 0;
	return limit_room(s, false, out, err);
}

static int over_limit(struct smfs_store *s, const struct smfs_room *room, uint64_t mine,
		      struct err *err)
{
	char limit[SIZE_STR_MAX], has[SIZE_STR_MAX], left[SIZE_STR_MAX];
	uint64_t before = minus(room->used, mine);

	return err_set(
		err, EDQUOT,
		"store %s is limited to %s: it has %s, and this needs more than the %s left; "
		"remove snapshots and run `smfs gc`, or raise the limit with `smfs limit`",
		s->dir, format_size(room->limit, limit), format_size(before, has),
		format_size(minus(room->limit, before), left));
}

int limit_check(struct smfs_store *s, uint64_t need, uint64_t mine, uint64_t *budget,
		struct err *err)
{
	char left[SIZE_STR_MAX], reserve[SIZE_STR_MAX];
	struct smfs_room room;
	int r = smfs_store_make_room(s, MAX(need, LIMIT_STEP), 0, &room, err);

	/* The step does not fit, what is needed may. */
	if (r == 0 && room.left < MAX(need, LIMIT_STEP))
		r = smfs_store_make_room(s, need, 0, &room, err);
	if (r < 0)
		return r;
	if (room.limit && room.used + need > room.limit)
		return over_limit(s, &room, mine, err);
	if (need > room.left)
		return err_set(
			err, ENOSPC,
			"the file system of store %s has %s left, of which %s are kept so that "
			"snapshots can be removed; remove some and run `smfs gc`, or free space",
			s->dir, format_size(room.free, left), format_size(room.reserve, reserve));
	uint64_t room_left = room.left;
	/* The cache gave way for a step, not for more. */
	if (room.limit)
		room_left = MIN(room_left, minus(room.limit, room.used + room.cache));
	*budget = MAX(need, MIN(room.left, MAX(LIMIT_STEP, room_left / 64)));
	return 0;
}

int limit_check_commit(struct smfs_store *s, uint64_t need, uint64_t mine, struct err *err)
{
	struct smfs_room room;
	int r = limit_room(s, false, &room, err);

	if (r < 0)
		return r;
	return room.limit && room.used + need > room.limit ? over_limit(s, &room, mine, err) : 0;
}

int smfs_store_room(struct smfs_store *s, struct smfs_room *out, struct err *err)
{
	return limit_room(s, false, out, err);
}
