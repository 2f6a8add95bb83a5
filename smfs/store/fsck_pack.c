/* Packs against themselves and against the index. */
#include "smfs/store/fsck_priv.h"

#include "smfs/base/cleanup.h"
#include "smfs/store/object.h"
#include "smfs/store/pack_scan.h"
#include "smfs/store/quarantine.h"

#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

struct pack_check {
	struct pack_scan scan;
	struct fsck *f;
	uint64_t id;
	char name[PACK_NAME_LEN];
};

static bool is_indexed(const struct frame_loc *loc, const struct pack_check *pc, uint64_t off,
		       const struct frame_head *h)
{
	return loc->pack == pc->id && loc->off == off && loc->stored_len == h->stored_len &&
	       loc->raw_len == h->raw_len && loc->codec == h->codec && loc->kind == h->kind;
}

static int check_frame(struct pack_scan *scan, uint64_t off, const struct frame_head *h,
		       const uint8_t *payload, struct err *err)
{
	struct pack_check *pc = container_of(scan, struct pack_check, scan);
	struct fsck *f = pc->f;
	struct idset_entry *e = idset_find(&f->frames, h->kind, &h->id);
	struct frame_loc loc;
	int r = e ? index_find(f->s->ix, h->kind, &h->id, &loc, err) : 0;

	if (r < 0)
		return r;
	f->out->frames++;
	if (h->kind != FRAME_CHUNK)
		f->out->nodes++;
	/* Of two copies the index knows one; the other is garbage, and harms nobody if it is bad.
	 */
	if (r == 0 || !is_indexed(&loc, pc, off, h)) {
		f->out->garbage_frames++;
		return 0;
	}
	if (!f->read_data && quarantine_has(f->s, &h->id, &loc)) {
		char hex[65];

		e->bits |= FSCK_BAD;
		f->out->bad_frames++;
		fsck_report(f, "pack %s: frame %.12s at %" PRIu64 ": found damaged before",
			    pc->name, smfs_id_hex(&h->id, hex), off);
		return 0;
	}
	if (f->read_data) {
		cleanup_free uint8_t *raw = malloc(h->raw_len);

		if (!raw)
			return err_set(err, ENOMEM, "check frame: out of memory");
		r = object_read_at(f->s, &loc, &h->id, true, raw, err);
		if (r < 0 && r != -EBADMSG)
			return r;
		if (r < 0) {
			e->bits |= FSCK_BAD;
			f->out->bad_frames++;
			quarantine_note(f->s, &h->id, &loc);
			fsck_report(f, "pack %s: %s", pc->name, err->msg);
			err_clear(err);
			return 0;
		}
		quarantine_forget(f->s, &h->id, &loc);
	}
	e->bits |= FSCK_SEEN;
	return 0;
}

/* Of a store repaired by a program that did not know better, or of a pack that was cut. */
static int check_over(struct pack_scan *scan, uint64_t off, const struct frame_head *h,
		      struct err *err)
{
	struct pack_check *pc = container_of(scan, struct pack_check, scan);

	fsck_report(pc->f,
		    "pack %s: at %" PRIu64 " the header of a frame that ends past the pack, and "
		    "would hide what is appended; run `smfs fsck --repair`",
		    pc->name, off);
	return 0;
}

static int scan_pack(struct fsck *f, const struct index_pack *p, struct err *err)
{
	struct pack_check pc = {.f = f, .id = p->id};
	struct pack_ref *ref;
	struct stat st;

	f->out->packs++;
	pack_name(p->id, pc.name);
	int r = pack_ref(f->s->packs, p->id, &ref, err);
	if (r < 0 && r != -EBADMSG)
		return r;
	if (r < 0) {
		f->out->bad_frames++;
		fsck_report(f, "%s", err->msg);
		err_clear(err);
		return 0;
	}
	pc.scan = (struct pack_scan){.fd = pack_fd(ref),
				     .len = p->len,
				     .name = pc.name,
				     .frame = check_frame,
				     .over = check_over,
				     .done = &f->out->done_bytes};
	if (fstat(pack_fd(ref), &st) < 0) {
		r = err_errno(err, "stat pack %s", pc.name);
	} else {
		if ((uint64_t)st.st_size < p->len) {
			fsck_report(f, "pack %s: %" PRIu64 " bytes long, %" PRIu64 " are recorded",
				    pc.name, (uint64_t)st.st_size, p->len);
			f->out->bad_frames++;
			pc.scan.len = (uint64_t)st.st_size;
		}
		r = pack_scan(&pc.scan, err);
	}
	pack_unref(f->s->packs, ref);
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
