/* The bus: from an address to the one device that answers, or to nobody. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "runner/vm/bus.h"
#include "runner/vm/device.h"
#include "smfs/base/num.h"

struct probe {
	struct device dev;
	unsigned reads, writes, len;
	uint64_t off, value;
};

static uint64_t probe_read(struct device *d, uint64_t off, unsigned len)
{
	struct probe *p = container_of(d, struct probe, dev);

	p->reads++;
	p->off = off;
	p->len = len;
	return 0x1122334455667788;
}

static void probe_write(struct device *d, uint64_t off, unsigned len, uint64_t value)
{
	struct probe *p = container_of(d, struct probe, dev);

	p->writes++;
	p->off = off;
	p->len = len;
	p->value = value;
}

static const struct device_ops probe_ops = {.read = probe_read, .write = probe_write};

static struct probe probe_at(uint64_t base, uint64_t size)
{
	struct probe p = {.dev = {.ops = &probe_ops, .base = base, .size = size}};

	snprintf(p.dev.id, sizeof(p.dev.id), "at-%llx", (unsigned long long)base);
	return p;
}

static void windows_are_found_by_address(void **state)
{
	struct probe p[] = {probe_at(0x3000, 0x10), probe_at(0x1000, 0x1000), probe_at(0x2000, 8)};
	struct bus b = {0};

	for (size_t i = 0; i < ARRAY_SIZE(p); i++)
		assert_int_equal(bus_add(&b, &p[i].dev, NULL), 0);
	assert_ptr_equal(bus_find(&b, 0x1000, 1), &p[1].dev);
	assert_ptr_equal(bus_find(&b, 0x1ffc, 4), &p[1].dev);
	assert_ptr_equal(bus_find(&b, 0x2000, 8), &p[2].dev);
	assert_ptr_equal(bus_find(&b, 0x300f, 1), &p[0].dev);
	assert_null(bus_find(&b, 0xfff, 1));
	assert_null(bus_find(&b, 0xfff, 2));
	assert_null(bus_find(&b, 0x1ffe, 4));
	assert_null(bus_find(&b, 0x2008, 1));
	assert_null(bus_find(&b, 0x3010, 1));
	assert_null(bus_find(&b, UINT64_MAX, 8));
}

static void windows_do_not_overlap(void **state)
{
	struct probe a = probe_at(0x1000, 0x100),
		     bad[] = {probe_at(0x1000, 1), probe_at(0x10ff, 1), probe_at(0xfff, 2),
			      probe_at(0x800, 0x1000)};
	struct probe before = probe_at(0xf00, 0x100), after = probe_at(0x1100, 1);
	struct bus b = {0};
	struct err err;

	assert_int_equal(bus_add(&b, &a.dev, NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(bus_add(&b, &bad[i].dev, &err), -EEXIST);
	assert_int_equal(bus_add(&b, &before.dev, NULL), 0);
	assert_int_equal(bus_add(&b, &after.dev, NULL), 0);
	struct probe wraps = probe_at(UINT64_MAX - 1, 4), empty = probe_at(0x9000, 0);
	assert_int_equal(bus_add(&b, &wraps.dev, &err), -EINVAL);
	assert_int_equal(bus_add(&b, &empty.dev, &err), -EINVAL);
}

static void the_table_has_an_end(void **state)
{
	struct probe p[BUS_MAX_DEVICES + 1];
	struct bus b = {0};
	struct err err;

	for (size_t i = 0; i < BUS_MAX_DEVICES; i++) {
		p[i] = probe_at(0x10000 - i * 16, 16);
		assert_int_equal(bus_add(&b, &p[i].dev, NULL), 0);
	}
	p[BUS_MAX_DEVICES] = probe_at(0x20000, 16);
	assert_int_equal(bus_add(&b, &p[BUS_MAX_DEVICES].dev, &err), -ENOSPC);
	for (size_t i = 1; i < b.n; i++)
		assert_true(b.dev[i - 1]->base < b.dev[i]->base);
}

static void accesses_carry_offset_length_and_value(void **state)
{
	struct probe p = probe_at(0x1000, 0x100);
	struct bus b = {0};
	uint8_t data[8] = {0xaa, 0xbb, 0xcc, 0xdd};

	assert_int_equal(bus_add(&b, &p.dev, NULL), 0);
	bus_access(&b, 0x1010, data, 2, true);
	assert_int_equal(p.off, 0x10);
	assert_int_equal(p.len, 2);
	assert_int_equal(p.value, 0xbbaa);
	bus_access(&b, 0x10fc, data, 4, false);
	assert_int_equal(p.off, 0xfc);
	assert_memory_equal(data, "\x88\x77\x66\x55\0\0\0\0", 8);
}

static void what_nobody_claims_reads_as_ones(void **state)
{
	struct probe p = probe_at(0x1000, 0x100);
	struct bus b = {0};
	uint8_t data[8] = {0};

	assert_int_equal(bus_add(&b, &p.dev, NULL), 0);
	bus_access(&b, 0x2000, data, 4, false);
	assert_memory_equal(data, "\xff\xff\xff\xff\0\0\0\0", 8);
	bus_access(&b, 0x10fe, data, 4, true); /* across the edge */
	assert_int_equal(p.reads + p.writes, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(windows_are_found_by_address),
		cmocka_unit_test(windows_do_not_overlap),
		cmocka_unit_test(the_table_has_an_end),
		cmocka_unit_test(accesses_carry_offset_length_and_value),
		cmocka_unit_test(what_nobody_claims_reads_as_ones),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
