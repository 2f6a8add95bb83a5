/* Frames back into an index, from the packs alone. */
#include "smfs/store/repair_priv.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/store/pack_scan.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#define BATCH 65536u /* frames a transaction adds */

struct found {
	struct smfs_id id;
	struct frame_loc loc;
};

struct pack_job {
	struct pack_scan scan;
	struct repair *r;
	uint64_t id, len;
	struct found *v;
	size_t n;
	uint64_t frames, bad;
	struct index_meta totals; /* of the batch at work */
};

static int by_id(const void *a, const void *b)
{
	return memcmp(((const struct found *)a)->id.b, ((const struct found *)b)->id.b,
		      SMFS_ID_LEN);
}

static int add_txn(struct index_txn *txn, void *arg, struct err *err)
{
	struct pack_job *j = arg;
	int r = 0;

	j->totals = (struct index_meta){0};
	for (size_t i = 0; i < j->n && r >= 0; i++) {
		const struct frame_loc *loc = &j->v[i].loc;

		r = index_txn_add(txn, &j->v[i].id, loc, err);
		if (r != 1)
			continue;
		if (loc->kind == FRAME_CHUNK) {
			j->totals.chunk_raw += loc->raw_len;
			j->totals.chunk_stored += frame_disk_len(loc->stored_len);
		} else {
			j->totals.node_stored += frame_disk_len(loc->stored_len);
		}
	}
	return r < 0 ? r : index_txn_set_pack(txn, j->id, j->len, err);
}

static int flush(struct pack_job *j, struct err *err)
{
	struct index_meta *m = &j->r->meta;

	qsort(j->v, j->n, sizeof(*j->v), by_id);
	int r = index_update(j->r->ix, add_txn, j, err);
	if (r < 0)
		return r;
	m->chunk_raw += j->totals.chunk_raw;
	m->chunk_stored += j->totals.chunk_stored;
	m->node_stored += j->totals.node_stored;
	j->n = 0;
	return 0;
}

/* A frame with a wrong payload is left out: whoever stores that content again makes it good. */
static int note_frame(struct pack_scan *scan, uint64_t off, const struct frame_head *h,
		      const uint8_t *payload, struct err *err)
{
	struct pack_job *j = container_of(scan, struct pack_job, scan);

	if (!frame_payload_ok(h, payload)) {
		j->bad++;
		return 0;
	}
	j->frames++;
	j->v[j->n++] = (struct found){.id = h->id,
				      .loc = {.pack = j->id,
					      .off = off,
					      .stored_len = h->stored_len,
					      .raw_len = h->raw_len,
					      .kind = h->kind,
					      .codec = h->codec}};
	return j->n == BATCH ? flush(j, err) : 0;
}

/* Its frames are good, so the header it had is known but for the time. */
static int mend_head(struct repair *r, int fd, uint64_t id, const char *name, struct err *err)
{
	struct pack_head h = {.id = id, .created = (uint64_t)now_ns()};
	uint8_t buf[PACK_HEAD_LEN];

	memcpy(h.uuid, r->uuid, UUID_LEN);
	pack_head_encode(&h, buf);
	int ret = pwrite_full(fd, buf, sizeof(buf), 0);
	if (ret < 0) {
		errno = -ret;
		return err_errno(err, "write header of pack %s", name);
	}
	repair_report(r, "pack %s: its header was damaged and is written anew", name);
	return 0;
}

static int scan_pack(struct repair *r, int fd, uint64_t id, const char *name, void *arg,
		     struct err *err)
{
	uint8_t buf[PACK_HEAD_LEN];
	struct pack_head h;
	struct stat st;
	bool headed = pread_full(fd, buf, sizeof(buf), 0) == 0 && pack_head_decode(buf, &h) == 0 &&
		      h.id == id;

	if (headed && memcmp(h.uuid, r->uuid, UUID_LEN) != 0) {
		repair_report(r, "pack %s: of another store; left alone", name);
		return 0;
	}
	if (fstat(fd, &st) < 0)
		return err_errno(err, "stat pack %s", name);
	struct pack_job j = {
		.r = r, .id = id, .len = align_down((uint64_t)st.st_size, FRAME_ALIGN)};
	if (j.len < PACK_HEAD_LEN)
		return 0;
	j.scan = (struct pack_scan){.fd = fd,
				    .len = j.len,
				    .name = name,
				    .payload = true,
				    .frame = note_frame,
				    .done = &r->out->done_bytes};
	j.v = calloc(BATCH, sizeof(*j.v));
	if (!j.v)
		return err_set(err, ENOMEM, "repair: out of memory");
	int ret = pack_scan(&j.scan, err);
	if (ret == 0 && !headed && j.frames)
		ret = mend_head(r, fd, id, name, err);
	/*
	 * What no commit vouched for may be in memory only, as its writer left it. From now on
	 * an ingest finds it, and a name that refers to it counts on it.
	 */
	if (ret == 0 && (headed || j.frames) && fdatasync(fd) < 0)
		ret = err_errno(err, "sync pack %s", name);
	if (ret == 0 && (headed || j.frames))
		ret = flush(&j, err);
	else if (ret == 0)
		repair_report(r, "pack %s: neither header nor frames; left alone", name);
	free(j.v);
	r->out->packs++;
	r->out->frames += j.frames;
	if (ret == 0 && j.bad) {
		r->out->bad_frames += j.bad;
		repair_report(r, "pack %s: %" PRIu64 " damaged frames are left out of the index",
			      name, j.bad);
	}
	return ret;
}

typedef int (*pack_fn)(struct repair *r, int fd, uint64_t id, const char *name, void *arg,
		       struct err *err);

static int each_pack(struct repair *r, pack_fn fn, void *arg, struct err *err)
{
	cleanup_fd int dirfd = openat(r->dirfd, "packs", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cleanup_dir DIR *d = dirfd < 0 ? NULL : fdopendir(dup(dirfd));
	struct dirent *e;
	uint64_t id;
	int ret = 0;

	if (!d)
		return err_errno(err, "open %s/packs", r->dir);
	while (ret == 0 && (errno = 0, e = readdir(d))) {
		if (!pack_name_parse(e->d_name, &id))
			continue;
		cleanup_fd int fd =
			openat(dirfd, e->d_name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
		ret = fd < 0 ? err_errno(err, "open pack %s", e->d_name)
			     : fn(r, fd, id, e->d_name, arg, err);
	}
	return ret == 0 && errno ? err_errno(err, "read %s/packs", r->dir) : ret;
}

int repair_packs(struct repair *r, struct err *err)
{
	int ret = each_pack(r, scan_pack, NULL, err);
	cleanup_fd int fd = openat(r->dirfd, "packs", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (ret == 0 && (fd < 0 || fsync(fd) < 0))
		ret = err_errno(err, "sync %s/packs", r->dir);
	return ret;
}

/* ---- whose packs they are ---- */

/* By majority vote (Boyer and Moore's): whoever has more than half of the headers is left. */
struct vote {
	uint8_t uuid[UUID_LEN];
	unsigned lead;
	bool any;
};

static int vote(struct repair *r, int fd, uint64_t id, const char *name, void *arg, struct err *err)
{
	struct vote *v = arg;
	uint8_t buf[PACK_HEAD_LEN];
	struct pack_head h;

	if (pread_full(fd, buf, sizeof(buf), 0) < 0 || pack_head_decode(buf, &h) < 0 || h.id != id)
		return 0;
	v->any = true;
	if (v->lead == 0)
		memcpy(v->uuid, h.uuid, UUID_LEN);
	if (memcmp(v->uuid, h.uuid, UUID_LEN) == 0)
		v->lead++;
	else
		v->lead--;
	return 0;
}

bool repair_uuid_of_packs(struct repair *r, uint8_t uuid[UUID_LEN])
{
	struct vote v = {.lead = 0};

	if (each_pack(r, vote, &v, NULL) < 0 || !v.any)
		return false;
	memcpy(uuid, v.uuid, UUID_LEN);
	return true;
}
