#include "smfs/store/dir.h"

#include "smfs/base/cleanup.h"

#include <string.h>
#include <sys/stat.h>

#define DIR_MAGIC    0x52494453u /* "SDIR" */
#define DIR_HEAD_LEN 16u	 /* magic, count, logical bytes */
/* The least an entry can take: how many a node of some length may claim. */
#define ENTRY_MIN  41u
#define XATTRS_MAX 1024u

struct smfs_dir {
	uint8_t *raw;
	struct smfs_entry *entries;
	size_t n;
	struct smfs_xattr *xattrs; /* of all entries, one array */
};

/* ---- writing ---- */

/* What is sorted: the caller's arrays stay as they are. */
struct entry_ref {
	const struct smfs_entry *e;
};
struct xattr_ref {
	const struct smfs_xattr *x;
};

static int by_name(const void *a, const void *b)
{
	const struct entry_ref *x = a, *y = b;

	return strcmp(x->e->name, y->e->name);
}

static int by_xattr(const void *a, const void *b)
{
	const struct xattr_ref *x = a, *y = b;

	return strcmp(x->x->name, y->x->name);
}

static bool name_ok(const char *s, size_t n)
{
	return n >= 1 && n <= SMFS_NAME_MAX && !memchr(s, '/', n) && strcmp(s, ".") != 0 &&
	       strcmp(s, "..") != 0;
}

static void put_string8(struct writer *w, const char *s)
{
	size_t n = strlen(s);

	put_u8(w, (uint8_t)n);
	put_bytes(w, s, n + 1);
}

static int put_xattrs(struct writer *w, const struct smfs_entry *e, struct err *err)
{
	cleanup_free struct xattr_ref *v = calloc(e->nxattrs + 1, sizeof(*v));
	size_t total = 0;

	if (!v)
		return err_set(err, ENOMEM, "entry %s: out of memory", e->name);
	if (e->nxattrs > XATTRS_MAX)
		return err_set(err, E2BIG, "entry %s: more than %u extended attributes", e->name,
			       XATTRS_MAX);
	for (size_t i = 0; i < e->nxattrs; i++)
		v[i].x = &e->xattrs[i];
	qsort(v, e->nxattrs, sizeof(*v), by_xattr);
	put_u16(w, (uint16_t)e->nxattrs);
	for (size_t i = 0; i < e->nxattrs; i++) {
		size_t n = strlen(v[i].x->name);

		if (n == 0 || n > 255 || (i && strcmp(v[i - 1].x->name, v[i].x->name) == 0))
			return err_set(err, EINVAL, "entry %s: bad or repeated extended attribute",
				       e->name);
		if (v[i].x->len > SMFS_XATTR_MAX || (total += n + v[i].x->len) > SMFS_XATTR_MAX)
			return err_set(err, E2BIG, "entry %s: extended attributes above %d bytes",
				       e->name, SMFS_XATTR_MAX);
		put_string8(w, v[i].x->name);
		put_blob32(w, v[i].x->value, v[i].x->len);
	}
	return 0;
}

static int put_type(struct smfs_ingest *ing, struct writer *w, const struct smfs_entry *e,
		    uint64_t *logical, struct err *err)
{
	size_t n;

	switch (e->mode & S_IFMT) {
	case S_IFREG:
		content_put(w, &e->content);
		*logical = e->content.size;
		return ingest_has_content(ing, &e->content, err);
	case S_IFDIR:
		put_bytes(w, e->dir.b, SMFS_ID_LEN);
		return ingest_has_dir(ing, &e->dir, logical, err);
	case S_IFLNK:
		n = e->target ? strlen(e->target) : 0;
		if (n < 1 || n > SMFS_LINK_MAX)
			return err_set(err, n ? ENAMETOOLONG : EINVAL, "symbolic link of %zu bytes",
				       n);
		put_u16(w, (uint16_t)n);
		put_bytes(w, e->target, n + 1);
		return 0;
	case S_IFCHR:
	case S_IFBLK:
		put_u32(w, e->rdev_major);
		put_u32(w, e->rdev_minor);
		return 0;
	case S_IFIFO:
	case S_IFSOCK:
		return 0;
	default:
		return err_set(err, EINVAL, "mode 0%o has no known type", e->mode);
	}
}

static int put_entry(struct smfs_ingest *ing, struct writer *w, const struct smfs_entry *e,
		     uint64_t *logical, struct err *err)
{
	if (e->mtime_nsec > 999999999 || (e->mode & ~(uint32_t)(S_IFMT | 07777)) ||
	    (e->link == 0 && e->nlink > 1) || (e->link && S_ISDIR(e->mode)))
		return err_set(err, EINVAL, "impossible time, mode or link count");
	put_string8(w, e->name);
	put_u32(w, e->mode);
	put_u32(w, e->uid);
	put_u32(w, e->gid);
	put_u32(w, e->mtime_nsec);
	put_u64(w, e->mtime_sec);
	put_u64(w, e->link);
	put_u32(w, e->link ? e->nlink : 1);
	int r = put_type(ing, w, e, logical, err);
	return r < 0 ? r : put_xattrs(w, e, err);
}

static int encode(struct smfs_ingest *ing, const struct entry_ref *v, size_t n, struct writer *w,
		  uint64_t *total, struct err *err)
{
	*total = 0;
	put_u32(w, DIR_MAGIC);
	put_u32(w, (uint32_t)n);
	put_u64(w, 0);
	for (size_t i = 0; i < n; i++) {
		uint64_t logical = 0;

		if (!name_ok(v[i].e->name, strlen(v[i].e->name)))
			return err_set(err, EINVAL, "entry \"%.255s\": invalid name", v[i].e->name);
		if (i && strcmp(v[i - 1].e->name, v[i].e->name) == 0)
			return err_set(err, EINVAL, "entry %s: named twice", v[i].e->name);
		int r = put_entry(ing, w, v[i].e, &logical, err);
		if (r < 0)
			return err_wrap(err, r, "entry %s", v[i].e->name);
		if (add_overflow_u64(*total, logical, total))
			return err_set(err, EOVERFLOW, "entry %s: tree too large", v[i].e->name);
	}
	patch_u32(w, 8, (uint32_t)*total);
	patch_u32(w, 12, (uint32_t)(*total >> 32));
	if (w->failed)
		return err_set(err, ENOMEM, "directory of %zu entries: out of memory", n);
	if (w->len > DIR_BYTES_MAX)
		return err_set(err, EFBIG, "directory of %zu entries: above %d MiB", n,
			       (int)(DIR_BYTES_MAX / MIB));
	return 0;
}

int smfs_ingest_dir(struct smfs_ingest *ing, const struct smfs_entry *entries, size_t n,
		    struct smfs_id *out, struct err *err)
{
	cleanup_free struct entry_ref *v = NULL;
	cleanup_writer struct writer w = WRITER_INIT;
	uint64_t total;

	if (n > DIR_ENTRIES_MAX)
		return err_set(err, EFBIG, "directory of %zu entries: above %u", n,
			       DIR_ENTRIES_MAX);
	v = calloc(n + 1, sizeof(*v));
	if (!v)
		return err_set(err, ENOMEM, "directory of %zu entries: out of memory", n);
	for (size_t i = 0; i < n; i++)
		v[i].e = &entries[i];
	qsort(v, n, sizeof(*v), by_name);
	int r = encode(ing, v, n, &w, &total, err);
	return r < 0 ? r : ingest_put(ing, FRAME_DIR, w.p, (uint32_t)w.len, total, out, err);
}

/* ---- reading ---- */

static const char *get_string8(struct reader *r, size_t *n)
{
	*n = get_u8(r);
	const char *s = get_view(r, *n + 1);
	return s && strnlen(s, *n + 1) == *n ? s : NULL;
}

static bool get_type(struct reader *r, struct smfs_entry *e)
{
	size_t n;

	switch (e->mode & S_IFMT) {
	case S_IFREG:
		return content_get(r, &e->content) == 0;
	case S_IFDIR:
		get_bytes(r, e->dir.b, SMFS_ID_LEN);
		return e->link == 0;
	case S_IFLNK:
		n = get_u16(r);
		e->target = n >= 1 && n <= SMFS_LINK_MAX ? get_view(r, n + 1) : NULL;
		return e->target && strnlen(e->target, n + 1) == n;
	case S_IFCHR:
	case S_IFBLK:
		e->rdev_major = get_u32(r);
		e->rdev_minor = get_u32(r);
		return true;
	case S_IFIFO:
	case S_IFSOCK:
		return true;
	default:
		return false;
	}
}

static bool get_xattrs(struct reader *r, struct smfs_xattr *v, size_t n)
{
	size_t total = 0, len;

	for (size_t i = 0; i < n; i++) {
		v[i].name = get_string8(r, &len);
		if (!v[i].name || !len || (i && strcmp(v[i - 1].name, v[i].name) >= 0))
			return false;
		v[i].value = get_blob32(r, SMFS_XATTR_MAX, &v[i].len);
		if (!v[i].value || (total += len + v[i].len) > SMFS_XATTR_MAX)
			return false;
	}
	return true;
}

struct xattr_vec {
	struct smfs_xattr *v;
	size_t n, cap;
};

static bool xattrs_room(struct xattr_vec *x, size_t n)
{
	if (x->cap - x->n >= n)
		return true;
	size_t cap = MAX(x->cap * 2, x->n + n);
	struct smfs_xattr *v = reallocarray(x->v, cap, sizeof(*v));
	if (!v)
		return false;
	x->v = v;
	x->cap = cap;
	return true;
}

/* 0, -EBADMSG or -ENOMEM. An entry's xattrs are set by the caller, once the array is final. */
static int get_entry(struct reader *r, struct smfs_entry *e, struct xattr_vec *x)
{
	size_t n;

	e->name = get_string8(r, &n);
	if (!e->name || !name_ok(e->name, n))
		return -EBADMSG;
	e->mode = get_u32(r);
	e->uid = get_u32(r);
	e->gid = get_u32(r);
	e->mtime_nsec = get_u32(r);
	e->mtime_sec = (int64_t)get_u64(r);
	e->link = get_u64(r);
	e->nlink = get_u32(r);
	if (e->mtime_nsec > 999999999 || (e->mode & ~(uint32_t)(S_IFMT | 07777)) ||
	    (e->link == 0 && e->nlink != 1) || !get_type(r, e))
		return -EBADMSG;
	e->nxattrs = get_u16(r);
	if (e->nxattrs > XATTRS_MAX || e->nxattrs > r->left / 6)
		return -EBADMSG;
	/* There may be no array at all yet, which has no place to be counted from. */
	if (!e->nxattrs)
		return 0;
	if (!xattrs_room(x, e->nxattrs))
		return -ENOMEM;
	if (!get_xattrs(r, x->v + x->n, e->nxattrs))
		return -EBADMSG;
	x->n += e->nxattrs;
	return 0;
}

static int decode(struct smfs_dir *d, size_t len)
{
	struct reader r = reader_of(d->raw, len);
	struct xattr_vec x = {0};
	int ret = 0;

	if (get_u32(&r) != DIR_MAGIC)
		return -EBADMSG;
	d->n = get_u32(&r);
	get_u64(&r);
	if (!reader_ok(&r) || d->n > DIR_ENTRIES_MAX || d->n > r.left / ENTRY_MIN + 1)
		return -EBADMSG;
	d->entries = calloc(d->n + 1, sizeof(*d->entries));
	if (!d->entries)
		return -ENOMEM;
	for (size_t i = 0; i < d->n && ret == 0; i++) {
		ret = get_entry(&r, &d->entries[i], &x);
		if (ret == 0 && i && strcmp(d->entries[i - 1].name, d->entries[i].name) >= 0)
			ret = -EBADMSG;
	}
	d->xattrs = x.v;
	if (ret == 0 && !reader_done(&r))
		ret = -EBADMSG;
	if (ret < 0)
		return ret;
	struct smfs_xattr *at = d->xattrs;
	for (size_t i = 0; i < d->n; i++) {
		d->entries[i].xattrs = at;
		if (at)
			at += d->entries[i].nxattrs;
	}
	return 0;
}

int dir_decode(uint8_t *raw, size_t len, struct smfs_dir **out, struct err *err)
{
	struct smfs_dir *d = calloc(1, sizeof(*d));

	if (!d) {
		free(raw);
		return err_set(err, ENOMEM, "read directory: out of memory");
	}
	d->raw = raw;
	int r = decode(d, len);
	if (r < 0) {
		smfs_dir_close(d);
		if (r == -ENOMEM)
			return err_set(err, ENOMEM, "read directory: out of memory");
		return err_set(err, EBADMSG, "directory node of %zu bytes: does not parse", len);
	}
	*out = d;
	return 0;
}

int dir_logical(const uint8_t *raw, size_t len, uint64_t *logical, struct err *err)
{
	struct reader r = reader_of(raw, len);
	bool ok = get_u32(&r) == DIR_MAGIC;

	get_u32(&r);
	*logical = get_u64(&r);
	return ok && reader_ok(&r) ? 0 : err_set(err, EBADMSG, "directory node: does not parse");
}

int smfs_dir_open(struct smfs_store *s, const struct smfs_id *id, struct smfs_dir **out,
		  struct err *err)
{
	char hex[65];
	uint8_t *raw;
	size_t len;
	int r = object_dir(s, id, &raw, &len, err);

	if (r == 0)
		r = dir_decode(raw, len, out, err);
	return r < 0 ? err_wrap(err, r, "directory %.12s", smfs_id_hex(id, hex)) : 0;
}

void smfs_dir_close(struct smfs_dir *d)
{
	if (!d)
		return;
	free(d->raw);
	free(d->entries);
	free(d->xattrs);
	free(d);
}

size_t smfs_dir_count(const struct smfs_dir *d)
{
	return d->n;
}

const struct smfs_entry *smfs_dir_at(const struct smfs_dir *d, size_t i)
{
	return i < d->n ? &d->entries[i] : NULL;
}

const struct smfs_entry *smfs_dir_find(const struct smfs_dir *d, const char *name)
{
	size_t lo = 0, hi = d->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		int c = strcmp(d->entries[mid].name, name);

		if (c == 0)
			return &d->entries[mid];
		if (c < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}
