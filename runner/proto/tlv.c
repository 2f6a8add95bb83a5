#include "runner/proto/tlv.h"

#include "smfs/base/num.h"

#include <stdlib.h>
#include <string.h>

bool tlv_next(struct reader *r, struct tlv *t)
{
	size_t n;

	if (r->failed || r->left == 0)
		return false;
	t->tag = get_u16(r);
	t->p = get_blob32(r, UINT32_MAX, &n);
	t->len = (uint32_t)n;
	return reader_ok(r);
}

bool tlv_ok(const struct reader *r, const struct tlv *t)
{
	return reader_done(r) && !t->bad && !t->oom;
}

int tlv_malformed(const char *message, const struct tlv *t, struct err *err)
{
	if (t->oom)
		return err_set(err, ENOMEM, "agent message %s: out of memory", message);
	return err_set(err, EPROTO, "agent message %s: malformed at item %u", message, t->tag);
}

void tlv_bytes(struct tlv *t, void *out, size_t n)
{
	if (t->len != n)
		t->bad = true;
	else
		memcpy(out, t->p, n);
}

void tlv_u8(struct tlv *t, uint8_t *out)
{
	tlv_bytes(t, out, 1);
}

void tlv_bool(struct tlv *t, bool *out)
{
	uint8_t v = 0;

	tlv_u8(t, &v);
	if (v > 1)
		t->bad = true;
	*out = v == 1;
}

static uint64_t number(struct tlv *t, unsigned size)
{
	uint64_t v = 0;

	if (t->len != size) {
		t->bad = true;
		return 0;
	}
	for (unsigned i = 0; i < size; i++)
		v |= (uint64_t)t->p[i] << (8 * i);
	return v;
}

void tlv_u16(struct tlv *t, uint16_t *out)
{
	*out = (uint16_t)number(t, 2);
}

void tlv_u32(struct tlv *t, uint32_t *out)
{
	*out = (uint32_t)number(t, 4);
}

void tlv_u64(struct tlv *t, uint64_t *out)
{
	*out = number(t, 8);
}

static bool is_text(const struct tlv *t, size_t max)
{
	return t->len <= max && !memchr(t->p, 0, t->len);
}

void tlv_str(struct tlv *t, char *out, size_t cap)
{
	if (!is_text(t, cap - 1)) {
		t->bad = true;
		return;
	}
	memcpy(out, t->p, t->len);
	out[t->len] = '\0';
}

void tlv_strdup(struct tlv *t, char **out, size_t max)
{
	char *s;

	if (!is_text(t, max)) {
		t->bad = true;
		return;
	}
	s = strndup((const char *)t->p, t->len);
	if (!s) {
		t->oom = true;
		return;
	}
	free(*out);
	*out = s;
}

void tlv_list(struct tlv *t, char ***list, unsigned *n, unsigned max_n)
{
	char *s = NULL;

	if (*n >= max_n) {
		t->bad = true;
		return;
	}
	/* Grows by doubling at powers of two: *n strings and a NULL always fit. */
	if ((*n & (*n + 1)) == 0) {
		char **p = realloc(*list, ((size_t)*n + 1) * 2 * sizeof(*p));

		if (!p) {
			t->oom = true;
			return;
		}
		*list = p;
		p[*n] = NULL;
	}
	tlv_strdup(t, &s, SIZE_MAX);
	if (!s)
		return;
	(*list)[(*n)++] = s;
	(*list)[*n] = NULL;
}

void put_tlv(struct writer *w, uint16_t tag, const void *p, size_t n)
{
	put_u16(w, tag);
	put_blob32(w, p, n);
}

void put_tlv_str(struct writer *w, uint16_t tag, const char *s)
{
	if (s && *s)
		put_tlv(w, tag, s, strlen(s));
}

void put_tlv_u8(struct writer *w, uint16_t tag, uint8_t v)
{
	put_tlv(w, tag, &v, 1);
}

void put_tlv_u16(struct writer *w, uint16_t tag, uint16_t v)
{
	put_u16(w, tag);
	put_u32(w, sizeof(v));
	put_u16(w, v);
}

void put_tlv_u32(struct writer *w, uint16_t tag, uint32_t v)
{
	put_u16(w, tag);
	put_u32(w, sizeof(v));
	put_u32(w, v);
}

void put_tlv_u64(struct writer *w, uint16_t tag, uint64_t v)
{
	put_u16(w, tag);
	put_u32(w, sizeof(v));
	put_u64(w, v);
}

void put_tlv_list(struct writer *w, uint16_t tag, char *const *list)
{
	for (; list && *list; list++)
		put_tlv(w, tag, *list, strlen(*list));
}

void strv_free(char **list)
{
	for (char **p = list; p && *p; p++)
		free(*p);
	free(list);
}
