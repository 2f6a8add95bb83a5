/*
 * Export: what a name reaches, each frame once, copied from its pack as it is.
 *
 * Memory: 48 bytes for each frame of the names and bases, and a buffer.
 */
#include "smfs/store/bundle.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/sha256.h"
#include "smfs/store/idset.h"
#include "smfs/store/index_gc.h"
#include "smfs/store/names_each.h"
#include "smfs/store/walk.h"

#include <string.h>
#include <xxhash.h>

#define OUT_BYTES ((size_t)MIB)

struct out {
	int fd;
	uint8_t *buf;
	size_t fill, cap;
	struct sha256 sha;
};

struct bundle_writer {
	struct walk w;
	struct idset seen; /* sent, or the receiver's already */
	struct out out;
	const struct smfs_bundle_watch *watch;
	struct smfs_bundle_stat stat;
	int failed; /* by the callback that cannot return it */
	struct err why;
};

/* ---- output ---- */

static int flush(struct out *o, struct err *err)
{
	sha256_update(&o->sha, o->buf, o->fill);
	int r = write_full(o->fd, o->buf, o->fill);
	o->fill = 0;
	if (r < 0)
		return err_set(err, -r, "write stream: %s", strerror(-r));
	return 0;
}

/* `n` bytes of the buffer to fill in; NULL after an error. */
static uint8_t *out_room(struct out *o, size_t n, struct err *err)
{
	if (o->cap - o->fill < n && flush(o, err) < 0)
		return NULL;
	if (o->cap < n) {
		uint8_t *p = realloc(o->buf, n);

		if (!p) {
			err_set(err, ENOMEM, "write stream: out of memory");
			return NULL;
		}
		o->buf = p;
		o->cap = n;
	}
	return o->buf + o->fill;
}

static int out_bytes(struct bundle_writer *b, const void *p, size_t n, struct err *err)
{
	uint8_t *to = out_room(&b->out, n, err);

	if (!to)
		return -err->code;
	memcpy(to, p, n);
	b->out.fill += n;
	b->stat.stream_bytes += n;
	return 0;
}

static int find_frame(struct smfs_store *s, uint8_t kind, const struct smfs_id *id,
		      struct frame_loc *loc, struct err *err)
{
	char hex[65];
	int r = index_find_any(s->ix, kind, id, loc, err);

	if (r == 0)
		return err_set(err, EBADMSG, "frame %.12s: not in the store", smfs_id_hex(id, hex));
	return r < 0 ? r : 0;
}

/* How often one frame may move while it is being read, by the collector. */
#define MOVES_MAX 64

/* The frame as it is, into the buffer, wherever it is by now; see read_located() in object.c. */
static int copy_frame(struct bundle_writer *b, uint8_t kind, const struct smfs_id *id,
		      struct frame_loc *loc, struct err *err)
{
	struct smfs_store *s = b->w.s;
	int r = find_frame(s, kind, id, loc, err);

	for (int moves = 0; r == 0; moves++) {
		uint8_t *to = out_room(&b->out, frame_disk_len(loc->stored_len), err);
		struct frame_loc now;

		if (!to)
			return -err->code;
		r = pack_read_frame(s->packs, loc, id, to, err);
		if (r != -EBADMSG || moves == MOVES_MAX ||
		    index_find_any(s->ix, kind, id, &now, NULL) != 1 ||
		    (now.pack == loc->pack && now.off == loc->off))
			break;
		packs_forget(s->packs, loc->pack);
		err_clear(err);
		*loc = now;
		r = 0;
	}
	return r;
}

static int emit(struct bundle_writer *b, uint8_t kind, const struct smfs_id *id, struct err *err)
{
	struct frame_loc loc;
	int r = copy_frame(b, kind, id, &loc, err);

	if (r < 0)
		return r;
	uint64_t len = frame_disk_len(loc.stored_len);
	b->out.fill += len;
	b->stat.stream_bytes += len;
	b->stat.frames++;
	b->stat.raw_bytes += loc.raw_len;
	b->stat.stored_bytes += len;
	return b->watch ? b->watch->tick(b->watch->arg, &b->stat, err) : 0;
}

/* ---- the walk ---- */

static int enter_node(struct walk *w, uint8_t kind, const struct smfs_id *id, struct err *err)
{
	struct bundle_writer *b = container_of(w, struct bundle_writer, w);
	bool fresh;

	if (b->failed) {
		*err = b->why;
		return b->failed;
	}
	if (!idset_add(&b->seen, kind, id, &fresh))
		return err_set(err, ENOMEM, "list frames: out of memory");
	return fresh;
}

static int add_chunk(struct bundle_writer *b, const struct smfs_id *id, struct err *err)
{
	bool fresh;

	if (!idset_add(&b->seen, FRAME_CHUNK, id, &fresh))
		return err_set(err, ENOMEM, "list frames: out of memory");
	return fresh;
}

static int base_chunk(struct walk *w, const struct smfs_id *id, uint32_t off, uint32_t len,
		      struct err *err)
{
	int r = add_chunk(container_of(w, struct bundle_writer, w), id, err);

	return r < 0 ? r : 0;
}

static int send_chunk(struct walk *w, const struct smfs_id *id, uint32_t off, uint32_t len,
		      struct err *err)
{
	struct bundle_writer *b = container_of(w, struct bundle_writer, w);
	int r = add_chunk(b, id, err);

	if (r == 1)
		r = emit(b, FRAME_CHUNK, id, err);
	return r < 0 ? err_wrap(err, r, "%s", w->path_len ? w->path : ".") : 0;
}

static void leave_node(struct walk *w, uint8_t kind, const struct smfs_id *id)
{
	struct bundle_writer *b = container_of(w, struct bundle_writer, w);

	if (!b->failed)
		b->failed = emit(b, kind, id, &b->why);
}

static int bad_node(struct walk *w, struct err *err)
{
	return err_wrap(err, -err->code, "%s", w->path_len ? w->path : ".");
}

static int walk_name(struct bundle_writer *b, const struct smfs_name *n, bool base, struct err *err)
{
	b->w.node = enter_node;
	b->w.bad = bad_node;
	b->w.chunk = base ? base_chunk : send_chunk;
	b->w.clean = base ? NULL : leave_node;
	int r = walk_tree(&b->w, &n->root, err);

	if (r == 0 && b->failed) {
		*err = b->why;
		r = b->failed;
	}
	return r < 0 ? err_wrap(err, r, "%s %s", kind_word(n->kind), n->name) : 0;
}

/* ---- the whole ---- */

static int write_head(struct bundle_writer *b, const struct smfs_name *names, size_t n,
		      const struct smfs_name *bases, size_t nbases, struct err *err)
{
	cleanup_writer struct writer table = WRITER_INIT;
	struct bundle_head h = {.nnames = (uint32_t)n, .nbases = (uint32_t)nbases};
	uint8_t head[BUNDLE_HEAD_LEN];

	for (size_t i = 0; i < nbases; i++)
		bundle_base_put(&table, &bases[i]);
	for (size_t i = 0; i < n; i++) {
		bundle_name_put(&table, &names[i]);
		h.logical += names[i].logical_bytes;
	}
	put_zero(&table, align_up(table.len, 8) - table.len);
	if (table.failed)
		return err_set(err, ENOMEM, "export: out of memory");
	h.table_len = table.len;
	h.table_sum = XXH3_64bits(table.p, table.len);
	bundle_head_encode(&h, head);
	int r = out_bytes(b, head, sizeof(head), err);
	return r < 0 ? r : out_bytes(b, table.p, table.len, err);
}

static int write_tail(struct bundle_writer *b, struct err *err)
{
	struct bundle_tail t = {
		.frames = b->stat.frames,
		.raw = b->stat.raw_bytes,
		.stored = b->stat.stored_bytes,
		.length = b->stat.stream_bytes,
	};
	uint8_t tail[BUNDLE_TAIL_LEN];
	int r = flush(&b->out, err);

	if (r < 0)
		return r;
	sha256_final(&b->out.sha, t.digest);
	bundle_tail_encode(&t, tail);
	r = write_full(b->out.fd, tail, sizeof(tail));
	if (r < 0)
		return err_set(err, -r, "write stream: %s", strerror(-r));
	b->stat.stream_bytes += sizeof(tail);
	return 0;
}

int smfs_bundle_write(struct smfs_store *s, const struct smfs_name *names, size_t n,
		      const struct smfs_name *bases, size_t nbases, int fd,
		      const struct smfs_bundle_watch *watch, struct smfs_bundle_stat *stat,
		      struct err *err)
{
	struct bundle_writer b = {.w.s = s, .out.fd = fd, .watch = watch};
	int r = 0;

	if (n < 1 || n > BUNDLE_NAMES_MAX || nbases > BUNDLE_NAMES_MAX)
		return err_set(err, EINVAL, "export: %zu names and %zu bases; up to %u of each", n,
			       nbases, BUNDLE_NAMES_MAX);
	b.out.cap = OUT_BYTES;
	b.out.buf = malloc(b.out.cap);
	if (!b.out.buf)
		return err_set(err, ENOMEM, "export: out of memory");
	sha256_init(&b.out.sha);
	b.stat.names = n;
	/* Before the first byte: a base that is damaged here may be whole there, but who knows. */
	for (size_t i = 0; i < nbases && r == 0; i++)
		r = walk_name(&b, &bases[i], true, err);
	if (r == 0)
		r = write_head(&b, names, n, bases, nbases, err);
	for (size_t i = 0; i < n && r == 0; i++)
		r = walk_name(&b, &names[i], false, err);
	if (r == 0)
		r = write_tail(&b, err);
	walk_fini(&b.w);
	idset_free(&b.seen);
	free(b.out.buf);
	*stat = b.stat;
	return r < 0 ? err_wrap(err, r, "export") : 0;
}
