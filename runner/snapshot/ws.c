#include "runner/snapshot/ws.h"

#include <inttypes.h>
#include <stdlib.h>
#include <xxhash.h>

#include "runner/snapshot/ram_file.h"
#include "smfs/base/num.h"

#define MAGIC	   0x544553574d564d53ull /* "SMVMWSET" */
#define VERSION	   1u
#define WRITTEN	   (1u << 31)
#define SUM_AT	   32u
#define FIRST_ROOM 64u

_Static_assert(MEMORY_RAM_MAX / WS_PAGE < WRITTEN, "a number of pages fits beside the flag");

/* ---- recording ----------------------------------------------------------------------------- */

struct recording {
	struct ws *ws;
	uint32_t room;
};

static int add(struct recording *rec, uint64_t page, uint64_t pages, bool written, struct err *err)
{
	struct ws *w = rec->ws;
	struct ws_range *last = w->n ? &w->range[w->n - 1] : NULL;

	if (last && last->page + last->pages == page && last->written == written) {
		last->pages += (uint32_t)pages;
		return 0;
	}
	if (w->n == WS_RANGES_MAX) {
		w->full = true;
		return 0;
	}
	if (!w->range || w->n == rec->room) {
		const uint32_t room = rec->room ? 2 * rec->room : FIRST_ROOM;
		struct ws_range *p = reallocarray(w->range, room, sizeof(*p));

		if (!p)
			return err_set(err, ENOMEM, "record the working set: out of memory");
		w->range = p;
		rec->room = room;
	}
	w->range[w->n++] = (struct ws_range){
		.page = (uint32_t)page, .pages = (uint32_t)pages, .written = written};
	return 0;
}

static int record_run(void *arg, const struct memory_region *r, uint64_t off, uint64_t len,
		      enum ram_page kind, struct err *err)
{
	struct recording *rec = arg;

	if (kind == RAM_UNTOUCHED || rec->ws->full)
		return 0;
	return add(rec, (r->file_off + off) / WS_PAGE, len / WS_PAGE, kind == RAM_OWN, err);
}

int ws_record(const struct memory *m, struct ws *out, struct err *err)
{
	struct ws w = {.ram_bytes = memory_ram_bytes(m)};
	struct recording rec = {.ws = &w};
	int ret = ram_runs_each(m, record_run, &rec, err);

	if (ret < 0) {
		ws_free(&w);
		return ret;
	}
	*out = w;
	return 0;
}

void ws_count(const struct ws *w, uint64_t *read, uint64_t *written)
{
	*read = *written = 0;
	for (uint32_t i = 0; i < w->n; i++)
		*(w->range[i].written ? written : read) += w->range[i].pages;
}

/* ---- the file ------------------------------------------------------------------------------ */

/* Of the whole file, its own place being zero. */
static uint64_t checksum(const uint8_t *p, size_t len)
{
	static const uint8_t zeros[8];
	XXH3_state_t *x = XXH3_createState();
	uint64_t sum;

	if (!x)
		return 0;
	XXH3_64bits_reset(x);
	XXH3_64bits_update(x, p, SUM_AT);
	XXH3_64bits_update(x, zeros, sizeof(zeros));
	XXH3_64bits_update(x, p + SUM_AT + sizeof(zeros), len - SUM_AT - sizeof(zeros));
	sum = XXH3_64bits_digest(x);
	XXH3_freeState(x);
	return sum;
}

void ws_encode(const struct ws *w, struct writer *out)
{
	const size_t start = out->len;

	put_u64(out, MAGIC);
	put_u32(out, VERSION);
	put_u32(out, 0);
	put_u64(out, w->ram_bytes);
	put_u32(out, w->n);
	put_u32(out, 0);
	put_u64(out, 0);
	for (uint32_t i = 0; i < w->n; i++) {
		put_u32(out, w->range[i].page);
		put_u32(out, w->range[i].pages | (w->range[i].written ? WRITTEN : 0));
	}
	if (!out->failed)
		store_le64(out->p + start + SUM_AT, checksum(out->p + start, out->len - start));
}

static int decode_ranges(struct reader *r, struct ws *w, struct err *err)
{
	const uint64_t pages = w->ram_bytes / WS_PAGE;
	uint64_t end = 0;

	w->range = calloc(w->n, sizeof(*w->range));
	if (w->n && !w->range)
		return err_set(err, ENOMEM, "ws: out of memory");
	for (uint32_t i = 0; i < w->n; i++) {
		const uint32_t page = get_u32(r), word = get_u32(r), n = word & ~WRITTEN;

		if (!n || !range_ok(page, n, pages))
			return err_set(err, EBADMSG,
				       "ws: range %u is of %u pages at %u, RAM has %" PRIu64, i, n,
				       page, pages);
		if (page < end)
			return err_set(err, EBADMSG, "ws: range %u begins before the last one ends",
				       i);
		end = (uint64_t)page + n;
		w->range[i] = (struct ws_range){
			.page = page, .pages = n, .written = (word & WRITTEN) != 0};
	}
	return 0;
}

int ws_decode(const void *p, size_t len, uint64_t ram_bytes, struct ws *out, struct err *err)
{
	struct reader r = reader_of(p, len);
	struct ws w = {0};
	int ret;

	if (len < WS_HEADER_LEN || len > WS_FILE_MAX)
		return err_set(err, EBADMSG, "ws: %zu bytes, from %u to %u is possible", len,
			       WS_HEADER_LEN, WS_FILE_MAX);
	if (get_u64(&r) != MAGIC)
		return err_set(err, EBADMSG, "ws: is no working set (magic number)");
	const uint32_t version = get_u32(&r), flags = get_u32(&r);
	if (version != VERSION || flags)
		return err_set(err, ENOTSUP,
			       "ws: version %u, flags %#x; this program knows version %u", version,
			       flags, VERSION);
	w.ram_bytes = get_u64(&r);
	w.n = get_u32(&r);
	const uint32_t zero = get_u32(&r);
	const uint64_t sum = get_u64(&r);
	if (zero || w.n > WS_RANGES_MAX || len != WS_HEADER_LEN + (size_t)w.n * WS_RANGE_LEN)
		return err_set(err, EBADMSG, "ws: %zu bytes are not those of %u ranges", len, w.n);
	if (sum != checksum(p, len))
		return err_set(err, EBADMSG, "ws: checksum is wrong");
	if (w.ram_bytes != ram_bytes)
		return err_set(err, EBADMSG,
			       "ws: of a RAM of %" PRIu64 " bytes, this one has %" PRIu64,
			       w.ram_bytes, ram_bytes);
	ret = decode_ranges(&r, &w, err);
	if (ret < 0) {
		ws_free(&w);
		return ret;
	}
	*out = w;
	return 0;
}

void ws_free(struct ws *w)
{
	free(w->range);
	*w = (struct ws){0};
}
