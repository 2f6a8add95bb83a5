/* The working set: what is recorded of a mapping, its file, and what is refused as one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "runner/snapshot/ws.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"

#define RAM   (64 * MIB)
#define PAGES (RAM / WS_PAGE)

static struct ws_range some[] = {
	{.page = 0, .pages = 1, .written = 1},
	{.page = 1, .pages = 3},
	{.page = 100, .pages = 50, .written = 1},
	{.page = PAGES - 1, .pages = 1},
};

static void encode(struct writer *w)
{
	const struct ws ws = {.ram_bytes = RAM, .range = some, .n = ARRAY_SIZE(some)};

	ws_encode(&ws, w);
	assert_false(w->failed);
}

static void comes_back_as_it_went(void **state)
{
	cleanup_writer struct writer w = WRITER_INIT;
	struct err err = ERR_INIT;
	uint64_t read, written;
	struct ws ws;

	encode(&w);
	assert_int_equal(w.len, WS_HEADER_LEN + WS_RANGE_LEN * ARRAY_SIZE(some));
	assert_memory_equal(w.p, "SMVMWSET\1\0\0\0\0\0\0\0", 16);
	assert_int_equal(ws_decode(w.p, w.len, RAM, &ws, &err), 0);
	assert_int_equal(ws.n, ARRAY_SIZE(some));
	assert_memory_equal(ws.range, some, sizeof(some));
	ws_count(&ws, &read, &written);
	assert_int_equal(read, 4);
	assert_int_equal(written, 51);
	ws_free(&ws);
}

static void an_empty_one_is_fine(void **state)
{
	const struct ws none = {.ram_bytes = RAM};
	cleanup_writer struct writer w = WRITER_INIT;
	struct err err = ERR_INIT;
	struct ws ws;

	ws_encode(&none, &w);
	assert_int_equal(ws_decode(w.p, w.len, RAM, &ws, &err), 0);
	assert_int_equal(ws.n, 0);
	ws_free(&ws);
}

static void any_changed_byte_is_found(void **state)
{
	cleanup_writer struct writer w = WRITER_INIT;
	struct ws ws;

	encode(&w);
	for (size_t i = 0; i < w.len; i++) {
		struct err err = ERR_INIT;

		w.p[i] ^= 0x10;
		assert_true(ws_decode(w.p, w.len, RAM, &ws, &err) < 0);
		assert_non_null(strstr(err.msg, "ws: "));
		w.p[i] ^= 0x10;
	}
	for (size_t len = 0; len < w.len; len++) {
		struct err err = ERR_INIT;

		assert_int_equal(ws_decode(w.p, len, RAM, &ws, &err), -EBADMSG);
	}
}

/* The checksum is no secret: whoever makes up a file makes it right. */
static int decode_forged(struct writer *w, const char **why)
{
	static struct err err;
	struct ws ws;
	int ret;

	store_le64(w->p + 32, 0);
	store_le64(w->p + 32, XXH3_64bits(w->p, w->len));
	err_clear(&err);
	ret = ws_decode(w->p, w->len, RAM, &ws, &err);
	*why = err.msg;
	if (ret == 0)
		ws_free(&ws);
	return ret;
}

static void hostile_ranges_are_refused(void **state)
{
	static const struct {
		uint32_t range, page, word;
		const char *why;
	} cases[] = {
		{0, 0, 0, "0 pages"},			   /* nothing */
		{0, 0, 1u << 31, "0 pages"},		   /* nothing, written */
		{3, PAGES - 1, 2, "RAM has"},		   /* over the end */
		{3, PAGES, 1, "RAM has"},		   /* behind it */
		{3, UINT32_MAX, 0x7fffffff, "RAM has"},	   /* would overflow */
		{0, 0, (uint32_t)PAGES + 1, "RAM has"},	   /* more than all */
		{1, 0, 1, "before the last one ends"},	   /* overlaps */
		{2, 3, 1, "before the last one ends"},	   /* overlaps by one page */
		{3, 50, 1, "before the last one ends"},	   /* descends */
		{0, 0, 0x7fffffffu | 1u << 31, "RAM has"}, /* huge */
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		cleanup_writer struct writer w = WRITER_INIT;
		const char *why;

		encode(&w);
		assert_int_equal(decode_forged(&w, &why), 0);
		store_le32(w.p + WS_HEADER_LEN + cases[i].range * WS_RANGE_LEN, cases[i].page);
		store_le32(w.p + WS_HEADER_LEN + cases[i].range * WS_RANGE_LEN + 4, cases[i].word);
		assert_int_equal(decode_forged(&w, &why), -EBADMSG);
		assert_non_null(strstr(why, cases[i].why));
	}
}

static void a_hostile_header_is_refused(void **state)
{
	static const struct {
		size_t at;
		uint32_t value;
		int code;
	} cases[] = {{8, 2, ENOTSUP},		{12, 1, ENOTSUP}, {16, RAM / 2, EBADMSG},
		     {20, 1, EBADMSG},		{24, 3, EBADMSG}, {24, 5, EBADMSG},
		     {24, UINT32_MAX, EBADMSG}, {28, 1, EBADMSG}};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		cleanup_writer struct writer w = WRITER_INIT;
		const char *why;

		encode(&w);
		store_le32(w.p + cases[i].at, cases[i].value);
		assert_int_equal(decode_forged(&w, &why), -cases[i].code);
	}
}

/* A private mapping of a file, three of its pages touched. */
static void what_was_touched_is_recorded(void **state)
{
	FILE *f = tmpfile();
	struct memory m = {.n = 1};
	struct err err = ERR_INIT;
	bool read_seen = false;
	struct ws ws;

	assert_non_null(f);
	assert_int_equal(ftruncate(fileno(f), RAM), 0);
	m.region[0] = (struct memory_region){.kind = MEMORY_RAM, .size = RAM};
	uint8_t *p = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE, fileno(f), 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	assert_int_equal(madvise(p, RAM, MADV_NOHUGEPAGE), 0);
	m.region[0].hva = p;
	*(volatile uint8_t *)(p + 10 * WS_PAGE) = 1;
	*(volatile uint8_t *)(p + 11 * WS_PAGE) = 1;
	(void)*(volatile uint8_t *)(p + 1000 * WS_PAGE);

	assert_int_equal(ws_record(&m, &ws, &err), 0);
	assert_int_equal(ws.ram_bytes, RAM);
	assert_false(ws.full);
	for (uint32_t i = 0; i < ws.n; i++) {
		const struct ws_range *r = &ws.range[i];

		if (r->written) {
			assert_int_equal(r->page, 10);
			assert_int_equal(r->pages, 2);
		} else if (r->page <= 1000 && r->page + r->pages > 1000) {
			read_seen = true;
		}
	}
	assert_true(read_seen);
	uint64_t read, written;
	ws_count(&ws, &read, &written);
	assert_int_equal(written, 2);
	assert_true(read >= 1 && read <= 64);
	ws_free(&ws);
	munmap(p, RAM);
	fclose(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(comes_back_as_it_went),
		cmocka_unit_test(an_empty_one_is_fine),
		cmocka_unit_test(any_changed_byte_is_found),
		cmocka_unit_test(hostile_ranges_are_refused),
		cmocka_unit_test(a_hostile_header_is_refused),
		cmocka_unit_test(what_was_touched_is_recorded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
