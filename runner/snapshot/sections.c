/* sections.c - framing of the `vcpu` file. */
#include "runner/snapshot/sections.h"

#include <stdbool.h>
#include <string.h>
#include <xxhash.h>

#include "runner/snapshot/state_items.h"
#include "smfs/base/num.h"

#define SECTION_ALIGN 8u
#define END_LEN	      16u

static void patch_u64(struct writer *w, size_t at, uint64_t v)
{
	patch_u32(w, at, (uint32_t)v);
	patch_u32(w, at + 4, (uint32_t)(v >> 32));
}

void sections_begin(struct writer *w)
{
	put_bytes(w, SECTIONS_MAGIC, 8);
	put_u32(w, SECTIONS_VERSION);
	put_u32(w, 0); /* flags */
}

size_t section_open(struct writer *w, enum section_type type, uint16_t version, uint32_t index,
		    const char *id)
{
	size_t at = w->len, n = id ? strlen(id) : 0;

	if (n >= SECTION_ID_LEN) {
		w->failed = true;
		return at;
	}
	put_u64(w, 0); /* checksum, by section_close() */
	put_u32(w, type);
	put_u16(w, version);
	put_u16(w, 0); /* flags */
	put_u32(w, index);
	put_u32(w, 0); /* length, by section_close() */
	put_bytes(w, id ? id : "", n);
	put_zero(w, SECTION_ID_LEN - n);
	put_u64(w, 0);
	return at;
}

void section_close(struct writer *w, size_t at)
{
	size_t len;

	if (w->failed)
		return;
	len = w->len - at - SECTION_HEADER_LEN;
	if (len > SECTION_LEN_MAX) {
		w->failed = true;
		return;
	}
	put_zero(w, align_up(len, SECTION_ALIGN) - len);
	patch_u32(w, at + 20, (uint32_t)len);
	if (w->failed)
		return;
	patch_u64(w, at, XXH3_64bits(w->p + at + 8, w->len - at - 8));
}

/* Sections are counted by walking what was written: no second bookkeeping to go wrong. */
static uint32_t count_sections(const struct writer *w)
{
	struct reader r = reader_of(w->p, w->len);
	uint32_t n = 0;

	get_view(&r, SECTIONS_HEADER_LEN);
	while (reader_ok(&r) && r.left > 0) {
		uint32_t len;

		get_view(&r, 20);
		len = get_u32(&r);
		get_view(&r, SECTION_HEADER_LEN - 24 + align_up(len, SECTION_ALIGN));
		n++;
	}
	return n;
}

void sections_end(struct writer *w)
{
	uint32_t n;
	size_t at;

	if (w->failed)
		return;
	n = count_sections(w);
	at = section_open(w, SECTION_END, 1, 0, NULL);
	put_u32(w, n);
	put_u32(w, 0);
	put_u64(w, w->len + 8); /* length of the whole file: these are its last eight bytes */
	section_close(w, at);
	if (n > SECTIONS_MAX || w->len > SECTIONS_FILE_MAX)
		w->failed = true;
}

static bool all_zero(const uint8_t *p, size_t n)
{
	while (n > 0 && *p == 0)
		p++, n--;
	return n == 0;
}

/* One section off the reader; `off` is where it starts, for messages. */
static int parse_section(struct reader *r, size_t off, struct section *s, struct err *err)
{
	const uint8_t *start = r->p;
	const char *id;
	uint64_t sum;
	uint32_t len;
	uint16_t flags;
	size_t left = r->left, padded;

	sum = get_u64(r);
	s->type = get_u32(r);
	s->version = get_u16(r);
	flags = get_u16(r);
	s->index = get_u32(r);
	len = get_u32(r);
	id = get_view(r, SECTION_ID_LEN);
	get_u64(r);
	if (!reader_ok(r))
		return err_set(err, EBADMSG, "truncated: section header at byte %zu is cut off",
			       off);
	padded = align_up(len, SECTION_ALIGN);
	if (len > SECTION_LEN_MAX || SECTION_HEADER_LEN + padded > left)
		return err_set(err, EBADMSG,
			       "truncated: section at byte %zu wants %u bytes, file has %zu", off,
			       len, left - SECTION_HEADER_LEN);
	if (XXH3_64bits(start + 8, SECTION_HEADER_LEN - 8 + padded) != sum)
		return err_set(err, EBADMSG, "section at byte %zu: bad checksum", off);
	/* The checksum holds, so what follows was written so, by mistake or malice. */
	if (flags)
		return err_set(err, ENOTSUP, "section at byte %zu: unknown flags 0x%x", off, flags);
	if (!memchr(id, 0, SECTION_ID_LEN) ||
	    !all_zero((const uint8_t *)id + strlen(id), SECTION_ID_LEN - strlen(id)))
		return err_set(err, EBADMSG, "section at byte %zu: malformed id", off);
	if (!all_zero(start + 56, 8) || !all_zero(start + SECTION_HEADER_LEN + len, padded - len))
		return err_set(err, EBADMSG, "section at byte %zu: padding is not zero", off);
	memcpy(s->id, id, SECTION_ID_LEN);
	s->data = get_view(r, padded);
	s->len = len;
	return 0;
}

static int parse_end(const struct section *s, unsigned n, size_t file_len, struct err *err)
{
	struct reader r = reader_of(s->data, s->len);
	uint32_t count = get_u32(&r), zero = get_u32(&r);
	uint64_t total = get_u64(&r);

	if (s->version != 1 || s->index != 0 || s->id[0] || !reader_done(&r) || zero)
		return err_set(err, EBADMSG, "malformed end section");
	if (count != n)
		return err_set(err, EBADMSG, "end section counts %u sections, file has %u", count,
			       n);
	if (total != file_len)
		return err_set(err, EBADMSG, "end section says %llu bytes, file has %zu",
			       (unsigned long long)total, file_len);
	return 0;
}

static int check_known(const struct section *s, struct err *err)
{
	if (s->type == SECTION_DEVICE) {
		if (!s->id[0] || s->index)
			return err_set(err, EBADMSG, "malformed device section");
		return 0;
	}
	if (!state_item_of_section(s->type))
		return err_set(err, ENOTSUP, "unknown section type 0x%x: made by a newer version?",
			       s->type);
	if (s->version != SECTION_VERSION)
		return err_set(err, ENOTSUP, "section type 0x%x: version %u, this program reads %u",
			       s->type, s->version, SECTION_VERSION);
	if (s->id[0])
		return err_set(err, EBADMSG, "section type 0x%x has an id", s->type);
	return 0;
}

int sections_parse(const void *bytes, size_t len, struct sections *out, struct err *err)
{
	struct reader r = reader_of(bytes, len);
	const void *magic = get_view(&r, 8);
	uint32_t version = get_u32(&r), flags = get_u32(&r);
	int ret;

	out->n = 0;
	if (len > SECTIONS_FILE_MAX)
		return err_set(err, EBADMSG, "%zu bytes, above the limit of %u", len,
			       SECTIONS_FILE_MAX);
	if (!reader_ok(&r))
		return err_set(err, EBADMSG, "truncated: no whole header");
	if (memcmp(magic, SECTIONS_MAGIC, 8) != 0)
		return err_set(err, EBADMSG, "not a vcpu file: wrong magic");
	if (version != SECTIONS_VERSION)
		return err_set(err, ENOTSUP, "vcpu file version %u, this program reads %u", version,
			       SECTIONS_VERSION);
	if (flags)
		return err_set(err, ENOTSUP, "vcpu file has unknown flags 0x%x", flags);

	while (r.left > 0) {
		struct section s;

		if ((ret = parse_section(&r, len - r.left, &s, err)) < 0)
			return ret;
		if (s.type == SECTION_END) {
			if ((ret = parse_end(&s, out->n, len, err)) < 0)
				return ret;
			if (!reader_done(&r))
				return err_set(err, EBADMSG, "bytes after the end section");
			return 0;
		}
		if ((ret = check_known(&s, err)) < 0)
			return ret;
		if (sections_find(out, s.type, s.index, s.id))
			return err_set(err, EBADMSG,
				       "duplicate section: type 0x%x index %u id \"%s\"", s.type,
				       s.index, s.id);
		if (out->n == SECTIONS_MAX)
			return err_set(err, EBADMSG, "more than %u sections", SECTIONS_MAX);
		out->s[out->n++] = s;
	}
	return err_set(err, EBADMSG, "truncated: no end section");
}

const struct section *sections_find(const struct sections *s, enum section_type type,
				    uint32_t index, const char *id)
{
	for (unsigned i = 0; i < s->n; i++) {
		const struct section *c = &s->s[i];

		if (c->type == type && c->index == index && strcmp(c->id, id ? id : "") == 0)
			return c;
	}
	return NULL;
}
