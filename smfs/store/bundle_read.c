/*
 * Import: a bundle into an ingest.
 *
 * The calling thread reads, digests and frames the stream and proves each node; worker threads
 * unpack, rehash and append the chunks, some hundred KiB at a time. A chunk is claimed when it is
 * read, so that nodes may refer to it at once; should it then prove to be another, the ingest has
 * failed and nothing that referred to it is ever seen.
 */
#include "smfs/store/bundle.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/sha256.h"
#include "smfs/base/workers.h"
#include "smfs/store/bundle_check.h"
#include "smfs/store/names_each.h"

#include <string.h>
#include <xxhash.h>

#define IN_BYTES     ((size_t)256 * KIB)
#define BATCH_BYTES  ((size_t)512 * KIB)
#define BATCH_FRAMES 256u

struct bundle_reader {
	struct smfs_store *s;
	struct smfs_ingest *ing;
	const struct smfs_bundle_watch *watch;
	struct smfs_bundle_stat stat;

	int fd;
	uint8_t *buf; /* [at, fill) is read and not taken */
	size_t at, fill;
	struct sha256 sha;

	struct smfs_name *names;
	size_t nnames;

	struct batch *batch; /* being filled */
	pthread_mutex_t lock;
	pthread_cond_t idle;
	unsigned running;
};

/* ---- input ---- */

static int cut_short(struct bundle_reader *b, struct err *err)
{
	return err_set(err, EBADMSG, "the stream is cut short after %llu bytes",
		       (unsigned long long)b->stat.stream_bytes);
}

/* Up to `n` bytes, 0 at the end. */
static ssize_t read_some(int fd, void *p, size_t n, struct err *err)
{
	for (;;) {
		ssize_t r = read(fd, p, n);

		if (r >= 0)
			return r;
		if (errno != EINTR)
			return err_errno(err, "read stream");
	}
}

static int fill(struct bundle_reader *b, struct err *err)
{
	ssize_t n = read_some(b->fd, b->buf, IN_BYTES, err);

	if (n < 0)
		return (int)n;
	b->at = 0;
	b->fill = (size_t)n;
	return n > 0;
}

/* Exactly `n` bytes. The trailer is not part of the digest. */
static int take(struct bundle_reader *b, void *to, size_t n, bool digest, struct err *err)
{
	uint8_t *p = to;

	for (size_t left = n; left;) {
		size_t have = MIN(b->fill - b->at, left);

		if (!have) {
			int r = fill(b, err);

			if (r <= 0)
				return r < 0 ? r : cut_short(b, err);
			continue;
		}
		memcpy(p, b->buf + b->at, have);
		b->at += have;
		b->stat.stream_bytes += have;
		p += have;
		left -= have;
	}
	if (digest)
		sha256_update(&b->sha, to, n);
	return 0;
}

/* ---- chunks, in batches ---- */

struct batch {
	struct bundle_reader *b;
	unsigned n;
	size_t used;
	struct {
		struct frame_head h;
		size_t claim, off;
	} frame[BATCH_FRAMES];
	uint8_t raw[FRAME_SIZE];
	uint8_t buf[BATCH_BYTES];
};

static void run_batch(void *arg)
{
	struct batch *t = arg;
	struct bundle_reader *b = t->b;
	struct err err = ERR_INIT;

	for (unsigned i = 0; i < t->n; i++) {
		const struct frame_head *h = &t->frame[i].h;
		const uint8_t *payload = t->buf + t->frame[i].off;

		if (ingest_check(b->ing, NULL) < 0)
			break;
		int r = bundle_unpack(b->s, h, payload, t->raw, &err);
		if (r < 0)
			ingest_fail(b->ing, r, &err);
		else
			ingest_put_frame(b->ing, t->frame[i].claim, h, payload, &err);
	}
	free(t);
	pthread_mutex_lock(&b->lock);
	if (--b->running == 0)
		pthread_cond_broadcast(&b->idle);
	pthread_mutex_unlock(&b->lock);
}

static int submit(struct bundle_reader *b, struct err *err)
{
	struct workers *w;
	int r = ingest_check(b->ing, err);

	if (r == 0 && b->batch)
		r = store_workers(b->s, &w, err);
	if (r != 0 || !b->batch)
		return r;
	struct batch *t = steal_ptr(&b->batch);
	pthread_mutex_lock(&b->lock);
	b->running++;
	pthread_mutex_unlock(&b->lock);
	workers_submit(w, run_batch, t);
	return 0;
}

static void wait_idle(struct bundle_reader *b)
{
	pthread_mutex_lock(&b->lock);
	while (b->running)
		pthread_cond_wait(&b->idle, &b->lock);
	pthread_mutex_unlock(&b->lock);
}

/* The zeros after a payload. */
static int take_padding(struct bundle_reader *b, const struct frame_head *h, struct err *err)
{
	uint8_t pad[FRAME_ALIGN];
	size_t n = frame_disk_len(h->stored_len) - FRAME_HEAD_LEN - h->stored_len;
	int r = take(b, pad, n, true, err);

	for (size_t i = 0; i < n && r == 0; i++)
		if (pad[i])
			r = err_set(err, EBADMSG, "padding that is not zero");
	return r;
}

static int take_chunk(struct bundle_reader *b, const struct frame_head *h, struct err *err)
{
	int r;

	if (b->batch &&
	    (b->batch->n == BATCH_FRAMES || BATCH_BYTES - b->batch->used < h->stored_len))
		if ((r = submit(b, err)) < 0)
			return r;
	if (!b->batch) {
		b->batch = malloc(sizeof(*b->batch));
		if (!b->batch)
			return err_set(err, ENOMEM, "out of memory");
		b->batch->b = b;
		b->batch->n = 0;
		b->batch->used = 0;
	}
	struct batch *t = b->batch;
	r = take(b, t->buf + t->used, h->stored_len, true, err);
	if (r == 0)
		r = take_padding(b, h, err);
	if (r == 0)
		r = ingest_claim_frame(b->ing, h, 0, &t->frame[t->n].claim, err);
	if (r < 0)
		return r;
	t->frame[t->n].h = *h;
	t->frame[t->n++].off = t->used;
	t->used += h->stored_len;
	return 0;
}

/* ---- nodes, at once ---- */

static int take_node(struct bundle_reader *b, const struct frame_head *h, struct err *err)
{
	cleanup_free uint8_t *payload = malloc(h->stored_len), *raw = malloc(h->raw_len);
	uint64_t note = 0;
	size_t claim;

	if (!payload || !raw)
		return err_set(err, ENOMEM, "out of memory");
	int r = take(b, payload, h->stored_len, true, err);
	if (r == 0)
		r = take_padding(b, h, err);
	if (r == 0)
		r = bundle_unpack(b->s, h, payload, raw, err);
	if (r == 0 && h->kind == FRAME_DIR)
		r = bundle_check_dir(b->ing, steal_ptr(&raw), h->raw_len, &note, err);
	else if (r == 0)
		r = bundle_check_map(b->ing, raw, h->raw_len, &note, err);
	if (r == 0)
		r = ingest_claim_frame(b->ing, h, note, &claim, err);
	return r ? r : ingest_put_frame(b->ing, claim, h, payload, err);
}

/* ---- head, frames, trailer ---- */

static int check_base(struct bundle_reader *b, const struct smfs_name *base, struct err *err)
{
	struct frame_loc loc;
	char hex[65];
	int r = index_find(b->s->ix, FRAME_DIR, &base->root, &loc, err);

	if (r == 0)
		return err_set(err, ENOENT,
			       "the stream holds only what %s %s (%.12s) has not, and that is not "
			       "in this store; import it first, or export without it as base",
			       kind_word(base->kind), base->name, smfs_id_hex(&base->root, hex));
	return r < 0 ? r : 0;
}

/* Found again by the commit; here it is before the work. */
static int check_free(struct bundle_reader *b, const struct smfs_name *n, struct err *err)
{
	struct smfs_name taken;
	int r = index_name(b->s->ix, n->kind, n->name, &taken, err);

	if (r == 1)
		return err_set(err, EEXIST, "%s %s exists", kind_word(n->kind), n->name);
	return r;
}

static int read_table(struct bundle_reader *b, const struct bundle_head *h, const char *as,
		      struct err *err)
{
	cleanup_free uint8_t *table = malloc(h->table_len + 1);
	struct smfs_name base;
	int r;

	b->names = calloc(h->nnames, sizeof(*b->names));
	if (!table || !b->names)
		return err_set(err, ENOMEM, "out of memory");
	r = take(b, table, h->table_len, true, err);
	if (r < 0)
		return r;
	if (XXH3_64bits(table, h->table_len) != h->table_sum)
		return err_set(err, EBADMSG, "the table of names fails its checksum");
	struct reader rd = reader_of(table, h->table_len);
	for (uint32_t i = 0; i < h->nbases; i++) {
		if (bundle_base_get(&rd, &base) < 0)
			return err_set(err, EBADMSG, "base %u does not parse", i);
		r = check_base(b, &base, err);
		if (r < 0)
			return r;
	}
	for (uint32_t i = 0; i < h->nnames; i++) {
		struct smfs_name *n = &b->names[i];

		if (bundle_name_get(&rd, n) < 0)
			return err_set(err, EBADMSG, "name %u does not parse", i);
		if (as)
			snprintf(n->name, sizeof(n->name), "%s", as);
		r = as ? smfs_name_check(n->kind, as, err) : 0;
		if (r == 0)
			r = check_free(b, n, err);
		if (r < 0)
			return r;
		b->nnames++;
	}
	while (rd.left)
		if (rd.left >= 8 || get_u8(&rd))
			return err_set(err, EBADMSG, "the table of names has more than names");
	return 0;
}

static int read_head(struct bundle_reader *b, const char *as, struct err *err)
{
	uint8_t buf[BUNDLE_HEAD_LEN];
	struct bundle_head h;
	int r = take(b, buf, sizeof(buf), true, err);

	if (r < 0)
		return r;
	r = bundle_head_decode(buf, &h);
	if (r == -ENOTSUP)
		return err_set(err, ENOTSUP, "stream of a format newer than this program");
	if (r < 0)
		return err_set(err, EBADMSG, "not a stream that `smfs export` made");
	if (as && h.nnames != 1)
		return err_set(err, EINVAL,
			       "the stream has %u names; only one can be given another", h.nnames);
	b->stat.names = h.nnames;
	return read_table(b, &h, as, err);
}

static int read_frame(struct bundle_reader *b, const uint8_t head[FRAME_HEAD_LEN], struct err *err)
{
	struct frame_head h;

	if (frame_head_decode(head, &h) < 0)
		return err_set(err, EBADMSG, "a frame's header is damaged");
	b->stat.frames++;
	b->stat.raw_bytes += h.raw_len;
	b->stat.stored_bytes += frame_disk_len(h.stored_len);
	int r = h.kind == FRAME_CHUNK ? take_chunk(b, &h, err) : take_node(b, &h, err);
	if (r == 0 && b->watch)
		r = b->watch->tick(b->watch->arg, &b->stat, err);
	return r;
}

static int read_tail(struct bundle_reader *b, const uint8_t head[8], uint64_t length,
		     struct err *err)
{
	uint8_t tail[BUNDLE_TAIL_LEN], digest[SHA256_LEN];
	struct bundle_tail t;

	memcpy(tail, head, 8);
	int r = take(b, tail + 8, sizeof(tail) - 8, false, err);
	if (r < 0)
		return r;
	sha256_final(&b->sha, digest);
	if (bundle_tail_decode(tail, &t) < 0 || t.length != length || t.frames != b->stat.frames ||
	    t.raw != b->stat.raw_bytes || t.stored != b->stat.stored_bytes ||
	    memcmp(digest, t.digest, sizeof(digest)) != 0)
		return err_set(err, EBADMSG,
			       "the stream is not as it was sent: its digest differs");
	r = b->at < b->fill ? 1 : fill(b, err);
	return r > 0 ? err_set(err, EBADMSG, "bytes follow the end of the stream") : r;
}

static int read_frames(struct bundle_reader *b, struct err *err)
{
	for (;;) {
		uint64_t length = b->stat.stream_bytes;
		uint8_t head[FRAME_HEAD_LEN];
		/* Eight bytes tell which it is, and only a frame is part of the digest. */
		int r = take(b, head, 8, false, err);

		if (r == 0 && bundle_is_tail(head))
			return read_tail(b, head, length, err);
		if (r == 0)
			r = take(b, head + 8, sizeof(head) - 8, false, err);
		if (r == 0) {
			sha256_update(&b->sha, head, sizeof(head));
			r = read_frame(b, head, err);
		}
		if (r < 0)
			return r;
	}
}

static int stage_names(struct bundle_reader *b, struct err *err)
{
	for (size_t i = 0; i < b->nnames; i++) {
		const struct smfs_name *n = &b->names[i];
		int64_t nsec = n->mtime % 1000000000;
		struct smfs_entry attr = {.mode = n->mode, .uid = n->uid, .gid = n->gid};

		nsec += nsec < 0 ? 1000000000 : 0;
		attr.mtime_nsec = (uint32_t)nsec;
		attr.mtime_sec = (n->mtime - nsec) / 1000000000;
		int r = smfs_ingest_name(b->ing, n->kind, n->name, &n->root, &attr, 0, err);
		if (r == -EINVAL)
			err->code = EBADMSG;
		if (r < 0)
			return -err->code;
	}
	return 0;
}

static int read_all(struct bundle_reader *b, const char *as, struct err *err)
{
	struct err why;
	int r = read_head(b, as, err);

	if (r == 0)
		r = read_frames(b, err);
	if (r == 0)
		r = submit(b, err);
	wait_idle(b);
	/* A frame that failed in a worker is the first cause of whatever was noticed here. */
	int failed = ingest_check(b->ing, &why);
	if (failed < 0) {
		*err = why;
		return failed;
	}
	return r < 0 ? r : stage_names(b, err);
}

int smfs_bundle_read(struct smfs_store *s, int fd, const char *as,
		     const struct smfs_bundle_watch *watch, struct smfs_bundle_stat *stat,
		     struct err *err)
{
	struct bundle_reader b = {.s = s, .fd = fd, .watch = watch};
	int r = smfs_ingest_begin(s, &b.ing, err);

	*stat = b.stat;
	if (r < 0)
		return r;
	pthread_mutex_init(&b.lock, NULL);
	pthread_cond_init(&b.idle, NULL);
	sha256_init(&b.sha);
	b.buf = malloc(IN_BYTES);
	r = b.buf ? read_all(&b, as, err) : err_set(err, ENOMEM, "out of memory");
	*stat = b.stat;
	stat->new_bytes = atomic_load(&b.ing->fresh);
	if (r < 0)
		smfs_ingest_abort(b.ing);
	else
		r = smfs_ingest_commit(b.ing, err);
	free(b.batch);
	free(b.names);
	free(b.buf);
	pthread_mutex_destroy(&b.lock);
	pthread_cond_destroy(&b.idle);
	return r < 0 ? err_wrap(err, r, "import") : 0;
}
