/* Packs against themselves and against the index. */
#include "smfs/store/fsck_priv.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/store/object.h"

#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

/* A pack is scanned through a window, so that headers cost no system call each. */
#define WINDOW (1 * MIB)

struct scan {
	struct fsck *f;
	struct pack_ref *ref;
	uint64_t id, len;
	char name[PACK_NAME_LEN];
	uint8_t *win;
	uint64_t win_off;
	size_t win_len;
	/* Where damage began, 0 = not in damage. */
	uint64_t lost_from;
};

/* `n` bytes at `off`, which is within the pack. NULL: *r tells. */
static const uint8_t *at(struct scan *sc, uint64_t off, size_t n, int *r, struct err *err)
{
	if (off < sc->win_off || off + n > sc->win_off + sc->win_len) {
		ssize_t got = pread_upto(pack_fd(sc->ref), sc->win, WINDOW, off);

		if (got < 0) {
			errno = (int)-got;
			*r = err_errno(err, "read pack %s at %" PRIu64, sc->name, off);
			return NULL;
		}
		sc->win_off = off;
		sc->win_len = (size_t)got;
		if ((size_t)got < n) {
			*r = err_set(err, EIO, "pack %s: shrank while it was read", sc->name);
			return NULL;
		}
	}
	return sc->win + (off - sc->win_off);
}

static void end_of_damage(struct scan *sc, uint64_t off)
{
	if (!sc->lost_from)
		return;
	fsck_report(sc->f, "pack %s: bytes %" PRIu64 "-%" PRIu64 ": no frame can be read", sc->name,
		    sc->lost_from, off - 1);
	sc->f->out->bad_frames++;
	sc->lost_from = 0;
}

static int check_frame(struct scan *sc, uint64_t off, const struct frame_head *h, struct err *err)
{
	struct fsck *f = sc->f;
	struct frame_loc loc = {.pack = sc->id,
				.off = off,
				.stored_len = h->stored_len,
				.raw_len = h->raw_len,
				.kind = h->kind,
				.codec = h->codec};
	struct idset_entry *e = idset_find(&f->frames, h->kind, &h->id);
	struct frame_loc indexed;
	int r = 0;

	f->out->frames++;
	if (h->kind != FRAME_CHUNK)
		f->out->nodes++;
	if (f->read_data) {
		cleanup_free uint8_t *raw = malloc(h->raw_len);

		if (!raw)
			return err_set(err, ENOMEM, "check frame: out of memory");
		r = object_read_at(f->s, &loc, &h->id, true, raw, err);
		if (r < 0 && r != -EBADMSG)
			return r;
		if (r < 0) {
			f->out->bad_frames++;
			fsck_report(f, "pack %s: %s", sc->name, err->msg);
		}
	}
	int found = e ? index_find(f->s->ix, h->kind, &h->id, &indexed, err) : 0;
	if (found < 0)
		return found;
	/* Of two copies the index knows one; the other is garbage. */
	if (found && indexed.pack == sc->id && indexed.off == off &&
	    indexed.stored_len == h->stored_len && indexed.raw_len == h->raw_len &&
	    indexed.codec == h->codec && indexed.kind == h->kind)
		e->bits |= r < 0 ? FSCK_BAD : FSCK_SEEN;
	else
		f->out->garbage_frames++;
	return 0;
}

static int scan_frames(struct scan *sc, struct err *err)
{
	uint64_t off = PACK_HEAD_LEN;
	struct frame_head h;
	int r = 0;

	while (off < sc->len) {
		const uint8_t *p = NULL;

		if (range_ok(off, FRAME_HEAD_LEN, sc->len)) {
			p = at(sc, off, FRAME_HEAD_LEN, &r, err);
			if (!p)
				return r;
		}
		if (!p || frame_head_decode(p, &h) < 0 ||
		    !range_ok(off, frame_disk_len(h.stored_len), sc->len)) {
			/* Frames are aligned and a header proves itself, so the next one is found.
			 */
			if (!sc->lost_from)
				sc->lost_from = off;
			off += FRAME_ALIGN;
			continue;
		}
		end_of_damage(sc, off);
		r = check_frame(sc, off, &h, err);
		if (r < 0)
			return r;
		off += frame_disk_len(h.stored_len);
	}
	end_of_damage(sc, sc->len);
	return 0;
}

static int scan_pack(struct fsck *f, const struct index_pack *p, struct err *err)
{
	struct scan sc = {.f = f, .id = p->id, .len = p->len};
	struct stat st;

	f->out->packs++;
	pack_name(p->id, sc.name);
	int r = pack_ref(f->s->packs, p->id, &sc.ref, err);
	if (r < 0 && r != -EBADMSG)
		return r;
	if (r < 0) {
		f->out->bad_frames++;
		fsck_report(f, "%s", err->msg);
		return 0;
	}
	sc.win = malloc(WINDOW);
	if (!sc.win) {
		r = err_set(err, ENOMEM, "check pack: out of memory");
	} else if (fstat(pack_fd(sc.ref), &st) < 0) {
		r = err_errno(err, "stat pack %s", sc.name);
	} else {
		if ((uint64_t)st.st_size < sc.len) {
			fsck_report(f, "pack %s: %" PRIu64 " bytes long, %" PRIu64 " are recorded",
				    sc.name, (uint64_t)st.st_size, sc.len);
			f->out->bad_frames++;
			sc.len = (uint64_t)st.st_size;
		}
		r = scan_frames(&sc, err);
	}
	free(sc.win);
	pack_unref(f->s->packs, sc.ref);
	return r;
}

int fsck_packs(struct fsck *f, struct err *err)
{
	cleanup_free struct index_pack *v = NULL;
	size_t n;
	int r = index_packs(f->s->ix, &v, &n, err);

	for (size_t i = 0; i < n && r == 0; i++)
		r = scan_pack(f, &v[i], err);
	return r;
}
