#include "smfs/base/bytes.h"

#include "smfs/base/num.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

const void *get_view(struct reader *r, size_t n)
{
	const void *p = r->p;

	if (r->failed || n > r->left) {
		r->failed = true;
		return NULL;
	}
	r->p += n;
	r->left -= n;
	return p;
}

void get_bytes(struct reader *r, void *out, size_t n)
{
	const void *p = get_view(r, n);

	if (!n)
		return;
	if (p)
		memcpy(out, p, n);
	else
		memset(out, 0, n);
}

uint8_t get_u8(struct reader *r)
{
	uint8_t v;

	get_bytes(r, &v, sizeof(v));
	return v;
}

uint16_t get_u16(struct reader *r)
{
	uint16_t v;

	get_bytes(r, &v, sizeof(v));
	return le16toh(v);
}

uint32_t get_u32(struct reader *r)
{
	uint32_t v;

	get_bytes(r, &v, sizeof(v));
	return le32toh(v);
}

uint64_t get_u64(struct reader *r)
{
	uint64_t v;

	get_bytes(r, &v, sizeof(v));
	return le64toh(v);
}

static const void *blob(struct reader *r, size_t len, size_t max, size_t *n)
{
	if (len > max)
		r->failed = true;
	const void *p = get_view(r, len);
	*n = p ? len : 0;
	return p;
}

const void *get_blob16(struct reader *r, size_t max, size_t *n)
{
	size_t len = get_u16(r);

	return blob(r, len, max, n);
}

const void *get_blob32(struct reader *r, size_t max, size_t *n)
{
	size_t len = get_u32(r);

	return blob(r, len, max, n);
}

struct reader get_sub(struct reader *r, size_t n)
{
	const void *p = get_view(r, n);

	if (!p)
		return (struct reader){.failed = true};
	return reader_of(p, n);
}

static bool grow(struct writer *w, size_t n)
{
	size_t need;

	if (w->failed)
		return false;
	if (__builtin_add_overflow(w->len, n, &need)) {
		w->failed = true;
		return false;
	}
	if (need > w->cap) {
		size_t cap = MAX(need, MAX(w->cap * 2, (size_t)256));
		uint8_t *p = realloc(w->p, cap);

		if (!p) {
			w->failed = true;
			return false;
		}
		w->p = p;
		w->cap = cap;
	}
	return true;
}

void put_bytes(struct writer *w, const void *p, size_t n)
{
	if (!n || !grow(w, n))
		return;
	memcpy(w->p + w->len, p, n);
	w->len += n;
}

void put_zero(struct writer *w, size_t n)
{
	if (!n || !grow(w, n))
		return;
	memset(w->p + w->len, 0, n);
	w->len += n;
}

void put_u8(struct writer *w, uint8_t v)
{
	put_bytes(w, &v, sizeof(v));
}

void put_u16(struct writer *w, uint16_t v)
{
	v = htole16(v);
	put_bytes(w, &v, sizeof(v));
}

void put_u32(struct writer *w, uint32_t v)
{
	v = htole32(v);
	put_bytes(w, &v, sizeof(v));
}

void put_u64(struct writer *w, uint64_t v)
{
	v = htole64(v);
	put_bytes(w, &v, sizeof(v));
}

void put_blob16(struct writer *w, const void *p, size_t n)
{
	if (n > UINT16_MAX) {
		w->failed = true;
		return;
	}
	put_u16(w, n);
	put_bytes(w, p, n);
}

void put_blob32(struct writer *w, const void *p, size_t n)
{
	if (n > UINT32_MAX) {
		w->failed = true;
		return;
	}
	put_u32(w, n);
	put_bytes(w, p, n);
}

void patch_u32(struct writer *w, size_t at, uint32_t v)
{
	if (w->failed || !range_ok(at, sizeof(v), w->len)) {
		w->failed = true;
		return;
	}
	v = htole32(v);
	memcpy(w->p + at, &v, sizeof(v));
}

void writer_free(struct writer *w)
{
	free(w->p);
	*w = WRITER_INIT;
}
