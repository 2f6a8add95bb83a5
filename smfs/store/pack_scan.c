#include "smfs/store/pack_scan.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

/* Read at once, so that headers cost no system call each. A larger frame is read whole. */
#define WINDOW (1 * MIB)

struct window {
	struct pack_scan *scan;
	uint8_t *p;
	size_t cap, len;
	uint64_t off;
};

/* `n` bytes at `off`, which is within the pack. */
static int at(struct window *w, uint64_t off, size_t n, const uint8_t **out, struct err *err)
{
	if (off < w->off || off + n > w->off + w->len) {
		if (n > w->cap) {
			void *p = realloc(w->p, n);

			if (!p)
				return err_set(err, ENOMEM, "scan pack %s: out of memory",
					       w->scan->name);
			w->p = p;
			w->cap = n;
		}
		ssize_t got = pread_upto(w->scan->fd, w->p, w->cap, off);
		if (got < 0) {
			errno = (int)-got;
			return err_errno(err, "read pack %s at %" PRIu64, w->scan->name, off);
		}
		w->off = off;
		w->len = (size_t)got;
		if ((size_t)got < n)
			return err_set(err, EIO, "pack %s: shrank while it was read",
				       w->scan->name);
	}
	*out = w->p + (off - w->off);
	return 0;
}

static uint64_t after_hole(const struct pack_scan *s, uint64_t off)
{
	off_t data = lseek(s->fd, (off_t)off, SEEK_DATA);

	if (data < 0)
		return errno == ENXIO ? s->len : off;
	return MIN(align_down((uint64_t)data, FRAME_ALIGN), s->len);
}

static void pass(struct pack_scan *s, uint64_t n)
{
	if (s->done)
		__atomic_fetch_add(s->done, n, __ATOMIC_RELAXED);
}

/* The last bytes of a pack: a header without its payload's sum, which whatever is appended gives.
 */
static int cut_head_at(struct window *w, uint64_t off, struct err *err)
{
	struct pack_scan *s = w->scan;
	uint8_t head[FRAME_HEAD_LEN] = {0};
	const uint8_t *p = NULL;
	struct frame_head h;
	int r = at(w, off, FRAME_PROOF_LEN, &p, err);

	if (r < 0)
		return r;
	memcpy(head, p, FRAME_PROOF_LEN);
	if (!s->over || frame_head_decode(head, &h) < 0)
		return 0;
	r = s->over(s, off, &h, err);
	return r < 0 ? r : 0;
}

/* What begins at `off`: 1 = a frame, with its header in *h; 0 = none. */
static int frame_at(struct window *w, uint64_t off, struct frame_head *h, struct err *err)
{
	struct pack_scan *s = w->scan;
	const uint8_t *p = NULL;
	int r;

	if (!range_ok(off, FRAME_HEAD_LEN, s->len))
		return range_ok(off, FRAME_PROOF_LEN, s->len) ? cut_head_at(w, off, err) : 0;
	if ((r = at(w, off, FRAME_HEAD_LEN, &p, err)) < 0)
		return r;
	if (frame_head_decode(p, h) < 0)
		return 0;
	if (!range_ok(off, frame_disk_len(h->stored_len), s->len))
		return s->over && (r = s->over(s, off, h, err)) < 0 ? r : 0;
	if (s->payload && (r = at(w, off, frame_disk_len(h->stored_len), &p, err)) < 0)
		return r;
	r = s->frame(s, off, h, s->payload ? p + FRAME_HEAD_LEN : NULL, err);
	return r < 0 ? r : r == 0;
}

static int scan_with(struct window *w, struct err *err)
{
	struct pack_scan *s = w->scan;
	bool lost = false;
	uint64_t next;

	s->searching = false;
	for (uint64_t off = PACK_HEAD_LEN; off < s->len; off = next) {
		struct frame_head h;
		int r = frame_at(w, off, &h, err);

		if (r < 0)
			return r;
		next = off + (r ? frame_disk_len(h.stored_len) : FRAME_ALIGN);
		/* Where a window ends is often enough to ask. */
		if (r == 0 && (next % WINDOW == 0 || !lost))
			next = MAX(next, after_hole(s, next));
		lost = r == 0;
		s->searching |= lost;
		pass(s, next - off);
	}
	return 0;
}

int pack_scan(struct pack_scan *scan, struct err *err)
{
	struct window w = {.scan = scan, .p = malloc(WINDOW), .cap = WINDOW};
	int r = w.p ? scan_with(&w, err)
		    : err_set(err, ENOMEM, "scan pack %s: out of memory", scan->name);

	free(w.p);
	return r;
}
