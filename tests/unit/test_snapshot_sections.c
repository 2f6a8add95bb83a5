/* `vcpu`: framing round trip, damage, order and count, foreign sections. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "runner/snapshot/sections.h"
#include "smfs/base/cleanup.h"

static void add(struct writer *w, enum section_type type, uint16_t version, uint32_t index,
		const char *id, const void *data, size_t len)
{
	size_t at = section_open(w, type, version, index, id);

	put_bytes(w, data, len);
	section_close(w, at);
}

static void sample(struct writer *w)
{
	uint8_t big[1000];

	memset(big, 0x5a, sizeof(big));
	sections_begin(w);
	add(w, SECTION_VCPU_REGS, 1, 0, NULL, big, sizeof(big));
	add(w, SECTION_VCPU_REGS, 1, 1, NULL, big, 17);
	add(w, SECTION_VM_CLOCK, 1, 0, NULL, "irq", 3);
	add(w, SECTION_DEVICE, 9, 0, "serial0", "", 0);
	add(w, SECTION_DEVICE, 1, 0, "pmem-rootfs", "12345678", 8);
	sections_end(w);
	assert_false(w->failed);
}

/* Recompute the checksum of the section that starts at `at`. */
static void reseal(uint8_t *p, size_t at)
{
	uint32_t len;
	uint64_t sum;

	memcpy(&len, p + at + 20, 4);
	sum = XXH3_64bits(p + at + 8, SECTION_HEADER_LEN - 8 + ((len + 7) & ~7u));
	memcpy(p + at, &sum, 8);
}

static void round_trip(void **state)
{
	cleanup_writer struct writer w = WRITER_INIT;
	struct sections s;
	struct err err = ERR_INIT;
	const struct section *d;

	sample(&w);
	assert_int_equal(w.len % 8, 0);
	assert_int_equal(sections_parse(w.p, w.len, &s, &err), 0);
	assert_int_equal(s.n, 5);
	d = sections_find(&s, SECTION_VCPU_REGS, 1, NULL);
	assert_non_null(d);
	assert_int_equal(d->len, 17);
	assert_int_equal(d->data[16], 0x5a);
	d = sections_find(&s, SECTION_DEVICE, 0, "serial0");
	assert_non_null(d);
	assert_int_equal(d->len, 0);
	assert_int_equal(d->version, 9);
	d = sections_find(&s, SECTION_DEVICE, 0, "pmem-rootfs");
	assert_non_null(d);
	assert_memory_equal(d->data, "12345678", 8);
	assert_null(sections_find(&s, SECTION_VCPU_REGS, 2, NULL));
	assert_null(sections_find(&s, SECTION_DEVICE, 0, "serial"));
}

static void every_flipped_bit_and_byte_is_refused(void **state)
{
	cleanup_writer struct writer w = WRITER_INIT;
	struct sections s;
	struct err err = ERR_INIT;

	sample(&w);
	for (size_t i = 0; i < w.len; i++) {
		const uint8_t old = w.p[i];

		for (unsigned bit = 0; bit <= 8; bit++) {
			w.p[i] = old ^ (bit == 8 ? 0xff : (uint8_t)(1u << bit));
			err_clear(&err);
			assert_true(sections_parse(w.p, w.len, &s, &err) < 0);
			assert_true(err.code == EBADMSG || err.code == ENOTSUP);
		}
		w.p[i] = old;
	}
	assert_int_equal(sections_parse(w.p, w.len, &s, &err), 0);
}

static void every_truncation_and_extension_is_refused(void **state)
{
	cleanup_writer struct writer w = WRITER_INIT;
	struct sections s;
	struct err err = ERR_INIT;

	sample(&w);
	for (size_t i = 0; i < w.len; i++) {
		cleanup_free uint8_t *cut = malloc(i ? i : 1);

		memcpy(cut, w.p, i);
		assert_int_equal(sections_parse(cut, i, &s, &err), -EBADMSG);
	}
	put_u8(&w, 0);
	assert_int_equal(sections_parse(w.p, w.len, &s, &err), -EBADMSG);
}

static void reorder_drop_and_duplicate_are_refused(void **state)
{
	struct sections s;
	struct err err = ERR_INIT;
	cleanup_writer struct writer dup = WRITER_INIT, drop = WRITER_INIT, whole = WRITER_INIT;

	sections_begin(&dup);
	add(&dup, SECTION_VM_CLOCK, 1, 0, NULL, "a", 1);
	add(&dup, SECTION_VM_CLOCK, 1, 0, NULL, "b", 1);
	sections_end(&dup);
	assert_int_equal(sections_parse(dup.p, dup.len, &s, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "duplicate"));

	/* The last section before the end cut out of a good file, every checksum intact. */
	sample(&whole);
	put_bytes(&drop, whole.p, whole.len - 2 * SECTION_HEADER_LEN - 8 - 16);
	put_bytes(&drop, whole.p + whole.len - SECTION_HEADER_LEN - 16, SECTION_HEADER_LEN + 16);
	assert_int_equal(sections_parse(drop.p, drop.len, &s, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "end section counts 5"));
}

static void foreign_sections_are_refused(void **state)
{
	struct sections s;
	struct err err = ERR_INIT;
	cleanup_writer struct writer w = WRITER_INIT;
	const size_t at = SECTIONS_HEADER_LEN;

	sections_begin(&w);
	add(&w, SECTION_VM_CLOCK, 1, 0, NULL, "a", 1);
	sections_end(&w);

	w.p[at + 8] = 0x77; /* type */
	reseal(w.p, at);
	assert_int_equal(sections_parse(w.p, w.len, &s, &err), -ENOTSUP);
	assert_non_null(strstr(err.msg, "type 0x277"));
	w.p[at + 8] = SECTION_VM_CLOCK & 0xff;
	w.p[at + 12] = 2; /* version */
	reseal(w.p, at);
	assert_int_equal(sections_parse(w.p, w.len, &s, &err), -ENOTSUP);
	assert_non_null(strstr(err.msg, "version 2"));
	w.p[at + 12] = 1;
	w.p[at + 14] = 1; /* flags */
	reseal(w.p, at);
	assert_int_equal(sections_parse(w.p, w.len, &s, &err), -ENOTSUP);
	w.p[at + 14] = 0;
	w.p[at + 24] = 'x'; /* an id where none belongs */
	reseal(w.p, at);
	assert_int_equal(sections_parse(w.p, w.len, &s, &err), -EBADMSG);
	memset(w.p + at + 24, 'x', SECTION_ID_LEN); /* an id without its NUL */
	reseal(w.p, at);
	assert_int_equal(sections_parse(w.p, w.len, &s, &err), -EBADMSG);
	memset(w.p + at + 24, 0, SECTION_ID_LEN);
	w.p[at + SECTION_HEADER_LEN + 7] = 1; /* padding */
	reseal(w.p, at);
	assert_int_equal(sections_parse(w.p, w.len, &s, &err), -EBADMSG);
	w.p[at + SECTION_HEADER_LEN + 7] = 0;
	reseal(w.p, at);
	assert_int_equal(sections_parse(w.p, w.len, &s, &err), 0);
	w.p[8] = 2; /* file version */
	assert_int_equal(sections_parse(w.p, w.len, &s, &err), -ENOTSUP);
	assert_non_null(strstr(err.msg, "version 2"));
}

static void limits_hold(void **state)
{
	struct sections s;
	struct err err = ERR_INIT;
	cleanup_writer struct writer many = WRITER_INIT, most = WRITER_INIT, id = WRITER_INIT;

	sections_begin(&most);
	for (uint32_t i = 0; i < SECTIONS_MAX; i++)
		add(&most, SECTION_VCPU_REGS, 1, i, NULL, "", 0);
	sections_end(&most);
	assert_false(most.failed);
	assert_int_equal(sections_parse(most.p, most.len, &s, &err), 0);
	assert_int_equal(s.n, SECTIONS_MAX);

	sections_begin(&many);
	for (uint32_t i = 0; i <= SECTIONS_MAX; i++)
		add(&many, SECTION_VCPU_REGS, 1, i, NULL, "", 0);
	sections_end(&many);
	assert_true(many.failed);

	sections_begin(&id);
	section_open(&id, SECTION_DEVICE, 1, 0, "01234567890123456789012345678901");
	assert_true(id.failed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),
		cmocka_unit_test(every_flipped_bit_and_byte_is_refused),
		cmocka_unit_test(every_truncation_and_extension_is_refused),
		cmocka_unit_test(reorder_drop_and_duplicate_are_refused),
		cmocka_unit_test(foreign_sections_are_refused),
		cmocka_unit_test(limits_hold),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
