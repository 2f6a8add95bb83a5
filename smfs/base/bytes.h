/*
 * bytes.h - bounded reading and growing writing of little-endian binary records.
 *
 * A reader never passes its end: the first short read makes it fail, every later read returns
 * zero, and the caller checks reader_ok() (or reader_done(), which also refuses trailing bytes)
 * once. A writer collects into memory it owns and remembers an allocation failure the same way.
 * Not thread-safe.
 */
#ifndef SMFS_BASE_BYTES_H
#define SMFS_BASE_BYTES_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Into a record of fixed layout, at any alignment. */
static inline void store_le32(uint8_t *p, uint32_t v)
{
	v = htole32(v);
	memcpy(p, &v, sizeof(v));
}

static inline void store_le64(uint8_t *p, uint64_t v)
{
	v = htole64(v);
	memcpy(p, &v, sizeof(v));
}

struct reader {
	const uint8_t *p;
	size_t left;
	bool failed;
};

static inline struct reader reader_of(const void *p, size_t len)
{
	return (struct reader){.p = p, .left = len};
}

uint8_t get_u8(struct reader *r);
uint16_t get_u16(struct reader *r);
uint32_t get_u32(struct reader *r);
uint64_t get_u64(struct reader *r);
/* Copies `n` bytes into `out` (zeroed on failure). */
void get_bytes(struct reader *r, void *out, size_t n);
/* A view of the next `n` bytes inside the reader's buffer, NULL on failure. */
const void *get_view(struct reader *r, size_t n);
/* A u16/u32 length followed by that many bytes; fails when the length is above `max`. */
const void *get_blob16(struct reader *r, size_t max, size_t *n);
const void *get_blob32(struct reader *r, size_t max, size_t *n);
/* A sub-reader over the next `n` bytes. */
struct reader get_sub(struct reader *r, size_t n);

static inline bool reader_ok(const struct reader *r)
{
	return !r->failed;
}

static inline bool reader_done(const struct reader *r)
{
	return !r->failed && r->left == 0;
}

struct writer {
	uint8_t *p;
	size_t len, cap;
	bool failed;
};

#define WRITER_INIT ((struct writer){0})

void put_u8(struct writer *w, uint8_t v);
void put_u16(struct writer *w, uint16_t v);
void put_u32(struct writer *w, uint32_t v);
void put_u64(struct writer *w, uint64_t v);
void put_bytes(struct writer *w, const void *p, size_t n);
void put_zero(struct writer *w, size_t n);
void put_blob16(struct writer *w, const void *p, size_t n); /* fails above 65,535 */
void put_blob32(struct writer *w, const void *p, size_t n);
/* Overwrite an earlier u32 (a length or checksum known only later). */
void patch_u32(struct writer *w, size_t at, uint32_t v);
void writer_free(struct writer *w);

#define cleanup_writer __attribute__((cleanup(writer_free)))

#endif
