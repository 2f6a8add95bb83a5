/*
 * tlv.h - items of tag (u16), length (u32) and value, the payload of most agent messages and of
 * the boot configuration.
 *
 *     while (tlv_next(&r, &t))
 *             switch (t.tag) { case X: tlv_u32(&t, &v); ... }
 *     if (!reader_ok(&r) || t.bad) ...
 *
 * A value of the wrong size, a string with a NUL inside or above its limit marks the item `bad`,
 * and the mark stays, so that a decoder checks once at the end. Unknown tags are the caller's to
 * skip.
 */
#ifndef RUNNER_PROTO_TLV_H
#define RUNNER_PROTO_TLV_H

#include "smfs/base/bytes.h"
#include "smfs/base/err.h"

struct tlv {
	uint16_t tag;
	const uint8_t *p; /* view into the reader's buffer */
	uint32_t len;
	bool bad; /* some item so far was malformed; sticky */
	bool oom;
};

bool tlv_next(struct reader *r, struct tlv *t);
/* The whole input was read and nothing was malformed. */
bool tlv_ok(const struct reader *r, const struct tlv *t);
/* The error of a message that is not: EPROTO with the item it was met at, or ENOMEM. */
int tlv_malformed(const char *message, const struct tlv *t, struct err *err);

void tlv_u8(struct tlv *t, uint8_t *out);
void tlv_bool(struct tlv *t, bool *out); /* one byte, 0 or 1 */
void tlv_u16(struct tlv *t, uint16_t *out);
void tlv_u32(struct tlv *t, uint32_t *out);
void tlv_u64(struct tlv *t, uint64_t *out);
void tlv_bytes(struct tlv *t, void *out, size_t n); /* exactly n */
/* Into a buffer of `cap` bytes, NUL included. */
void tlv_str(struct tlv *t, char *out, size_t cap);
/* malloc'd, of at most `max` characters; frees what *out held. */
void tlv_strdup(struct tlv *t, char **out, size_t max);
/* Appends to a malloc'd NULL-terminated list of at most `max_n` strings; *n is its length. */
void tlv_list(struct tlv *t, char ***list, unsigned *n, unsigned max_n);

void put_tlv(struct writer *w, uint16_t tag, const void *p, size_t n);
void put_tlv_str(struct writer *w, uint16_t tag, const char *s); /* nothing for NULL or "" */
void put_tlv_u8(struct writer *w, uint16_t tag, uint8_t v);
void put_tlv_u16(struct writer *w, uint16_t tag, uint16_t v);
void put_tlv_u32(struct writer *w, uint16_t tag, uint32_t v);
void put_tlv_u64(struct writer *w, uint16_t tag, uint64_t v);
/* One item per string; an empty string is an item too. NULL list: nothing. */
void put_tlv_list(struct writer *w, uint16_t tag, char *const *list);

void strv_free(char **list);

#endif
