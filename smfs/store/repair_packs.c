/*
 * Frames back into an index, from the packs alone.
 *
 * A pack's length becomes that of its file, and the next writer appends there. A power cut may
 * have left a frame's header at the end and not all of its payload: once the pack is longer, that
 * header would be right by itself and hide from a scan what was appended inside its frame (and
 * another repair would lose it). So a header whose frame is not whole, and ends past the pack or
 * has whole frames inside, is *unmade*: its first bytes become zeros.
 *
 * ORDER. Headers are unmade, then the pack is synced, then its frames and length go into the new
 * index, which counts when it is in its place. Cut short before that nothing is lost, since no
 * frame that could be read began at such a header: past the old length it is a dead writer's, and
 * below it its payload is damaged.
 */
#include "smfs/store/repair_priv.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/store/pack_scan.h"
#include "smfs/store/scratch.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#define BATCH 65536u /* frames a transaction adds */

struct found {
	struct smfs_id id;
	struct frame_loc loc;
};

/* A header whose frame is not whole. */
struct broken {
	uint64_t off, end;
	bool hides; /* whole frames begin inside, or end past the pack */
};

struct pack_job {
	struct pack_scan scan;
	struct repair *r;
	uint64_t id, len;
	struct found *v;
	size_t n;
	struct broken *broken;
	size_t nbroken, broken_cap;
	struct scratch_pool *pool;
	uint8_t *raw; /* of a frame to be hashed */
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

static int note_broken(struct pack_job *j, uint64_t off, const struct frame_head *h, bool hides,
		       struct err *err)
{
	if (j->nbroken == j->broken_cap) {
		size_t cap = j->broken_cap ? j->broken_cap * 2 : 16;
		struct broken *v = reallocarray(j->broken, cap, sizeof(*v));

		if (!v)
			return err_set(err, ENOMEM, "repair: out of memory");
		j->broken = v;
		j->broken_cap = cap;
	}
	j->broken[j->nbroken++] = (struct broken){off, off + frame_disk_len(h->stored_len), hides};
	return 0;
}

static int note_over(struct pack_scan *scan, uint64_t off, const struct frame_head *h,
		     struct err *err)
{
	return note_broken(container_of(scan, struct pack_job, scan), off, h, true, err);
}

/* Of what a search met: its header may be bytes of a file, and say what the file's author wants. */
static int hashes_to_id(struct pack_job *j, const struct frame_head *h, const uint8_t *payload,
			struct err *err)
{
	const uint8_t *raw = payload;
	struct smfs_id got;

	if (h->codec != CODEC_RAW) {
		struct scratch *sc = scratch_get(j->pool);
		uint8_t *p = sc ? realloc(j->raw, h->raw_len) : NULL;
		int r = -ENOMEM;

		if (p) {
			j->raw = p;
			r = scratch_decompress(sc, payload, h->stored_len, p, h->raw_len);
		}
		scratch_put(j->pool, sc);
		if (r == -ENOMEM)
			return err_set(err, ENOMEM, "repair: out of memory");
		if (r < 0)
			return 0;
		raw = p;
	}
	frame_id(h->kind, raw, h->raw_len, &got);
	return id_equal(&got, &h->id);
}

/* A frame with a wrong payload is left out: whoever stores that content again makes it good. */
static int note_frame(struct pack_scan *scan, uint64_t off, const struct frame_head *h,
		      const uint8_t *payload, struct err *err)
{
	struct pack_job *j = container_of(scan, struct pack_job, scan);
	int r = frame_payload_ok(h, payload);

	if (r && scan->searching && (r = hashes_to_id(j, h, payload, err)) < 0)
		return r;
	if (!r) {
		j->bad++;
		r = note_broken(j, off, h, false, err);
		return r < 0 ? r : 1;
	}
	for (size_t i = 0; i < j->nbroken; i++)
		j->broken[i].hides |= off < j->broken[i].end;
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

static int unmake_heads(struct pack_job *j, struct err *err)
{
	static const uint8_t none[FRAME_ALIGN];
	unsigned n = 0;

	for (size_t i = 0; i < j->nbroken; i++) {
		if (!j->broken[i].hides)
			continue;
		int r = pwrite_full(j->scan.fd, none, sizeof(none), j->broken[i].off);
		if (r < 0) {
			errno = -r;
			return err_errno(err, "write pack %s at %" PRIu64, j->scan.name,
					 j->broken[i].off);
		}
		n++;
	}
	if (n)
		repair_report(j->r,
			      "pack %s: %u headers of frames that are not whole are erased, as "
			      "they would hide others",
			      j->scan.name, n);
	return 0;
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

/* What was found counts from now on; see ORDER. */
static int keep_pack(struct pack_job *j, bool headed, struct err *err)
{
	struct repair *r = j->r;
	int ret = 0;

	if (headed || j->frames) {
		if (!headed)
			ret = mend_head(r, j->scan.fd, j->id, j->scan.name, err);
		if (ret == 0)
			ret = unmake_heads(j, err);
		/*
		 * What no commit vouched for may be in memory only, as its writer left it. From now
		 * on an ingest finds it, and a name that refers to it counts on it.
		 */
		if (ret == 0 && fdatasync(j->scan.fd) < 0)
			ret = err_errno(err, "sync pack %s", j->scan.name);
		if (ret == 0)
			ret = flush(j, err);
	} else {
		repair_report(r, "pack %s: neither header nor frames; left alone", j->scan.name);
	}
	r->out->packs++;
	r->out->frames += j->frames;
	if (ret == 0 && j->bad) {
		r->out->bad_frames += j->bad;
		repair_report(r, "pack %s: %" PRIu64 " damaged frames are left out of the index",
			      j->scan.name, j->bad);
	}
	return ret;
}

static int scan_pack(struct repair *r, int fd, uint64_t id, const char *name, void *arg,
		     struct err *err)
{
	uint8_t buf[PACK_HEAD_LEN];
	struct pack_head h;
	struct stat st;
	ssize_t n = pread_upto(fd, buf, sizeof(buf), 0);

	if (n < 0) {
		errno = (int)-n;
		return err_errno(err, "read header of pack %s", name);
	}
	int head = n < (ssize_t)sizeof(buf) ? -EBADMSG : pack_head_decode(buf, &h);
	if (head == -ENOTSUP)
		return err_set(err, ENOTSUP, "pack %s: format newer than this program", name);
	bool headed = head == 0 && h.id == id;
	if (headed && memcmp(h.uuid, r->uuid, UUID_LEN) != 0) {
		repair_report(r, "pack %s: of another store; left alone", name);
		return 0;
	}
	if (fstat(fd, &st) < 0)
		return err_errno(err, "stat pack %s", name);
	struct pack_job j = {.r = r,
			     .id = id,
			     .len = align_down((uint64_t)st.st_size, FRAME_ALIGN),
			     .pool = arg};
	if (j.len < PACK_HEAD_LEN)
		return 0;
	j.scan = (struct pack_scan){.fd = fd,
				    .len = j.len,
				    .name = name,
				    .payload = true,
				    .frame = note_frame,
				    .over = note_over,
				    .done = &r->out->done_bytes};
	j.v = calloc(BATCH, sizeof(*j.v));
	int ret = j.v ? pack_scan(&j.scan, err) : err_set(err, ENOMEM, "repair: out of memory");
	if (ret == 0)
		ret = keep_pack(&j, headed, err);
	free(j.v);
	free(j.broken);
	free(j.raw);
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
	struct scratch_pool pool;

	scratch_pool_init(&pool);
	int ret = each_pack(r, scan_pack, &pool, err);
	scratch_pool_fini(&pool);
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
