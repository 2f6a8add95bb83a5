/* ACPI: the encoder's bytes as the specification has them, and tables that hold together. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "runner/vm/vm.h"
#include "runner/x86/acpi.h"
#include "runner/x86/aml.h"
#include "runner/x86/layout.h"
#include "smfs/base/num.h"

#define assert_bytes(w, bytes)                                         \
	do {                                                           \
		assert_false((w)->failed);                             \
		assert_int_equal((w)->len, sizeof(bytes) - 1);         \
		assert_memory_equal((w)->p, bytes, sizeof(bytes) - 1); \
		writer_free(w);                                        \
	} while (0)

/* ---- AML ---- */

static void integers_take_their_shortest_form(void **state)
{
	struct writer w = WRITER_INIT;

	aml_int(&w, 0);
	aml_int(&w, 1);
	aml_int(&w, 2);
	aml_int(&w, 0xff);
	aml_int(&w, 0x100);
	aml_int(&w, 0x10000);
	aml_int(&w, 0x100000000);
	assert_bytes(&w, "\x00\x01\x0a\x02\x0a\xff\x0b\x00\x01\x0c\x00\x00\x01\x00"
			 "\x0e\x00\x00\x00\x00\x01\x00\x00\x00");
}

static void names_hold_values(void **state)
{
	struct writer w = WRITER_INIT;

	aml_name_string(&w, "_HID", "ACPI0013");
	assert_bytes(&w, "\x08_HID\x0d"
			 "ACPI0013\0");
	aml_name_int(&w, "_UID", 3);
	assert_bytes(&w, "\x08_UID\x0a\x03");
	/* The encoding every PC's firmware has for a serial port. */
	aml_name_eisaid(&w, "_HID", "PNP0501");
	assert_bytes(&w, "\x08_HID\x0c\x41\xd0\x05\x01");
}

static void bad_names_are_an_error(void **state)
{
	struct writer w = WRITER_INIT;

	aml_name_int(&w, "TOOLONG", 1);
	assert_true(w.failed);
	writer_free(&w);
	aml_name_eisaid(&w, "_HID", "pnp0501");
	assert_true(w.failed);
	writer_free(&w);
	aml_name_eisaid(&w, "_HID", "PNP05");
	assert_true(w.failed);
	writer_free(&w);
	aml_virtio_mmio(&w, VM_MMIO_BASE - 4096, 4096, 6);
	assert_true(w.failed);
	writer_free(&w);
}

static void packages_know_their_length(void **state)
{
	struct writer w = WRITER_INIT;

	size_t at = aml_package(&w, 2);
	aml_int(&w, 5);
	aml_int(&w, 0);
	aml_end(&w, at);
	/* 3 length bytes, count, 2 + 1: 7. */
	assert_bytes(&w, "\x12\x87\x00\x00\x02\x0a\x05\x00");
	at = aml_scope(&w, "_SB_");
	put_zero(&w, 0x1234 - 3 - 5);
	aml_end(&w, at);
	assert_memory_equal(w.p, "\x10\x84\x23\x01\x5c_SB_", 9);
	writer_free(&w);
	at = aml_device(&w, "DEV0");
	put_zero(&w, 1 << 20);
	aml_end(&w, at);
	assert_true(w.failed);
	writer_free(&w);
}

static void resources_are_a_buffer_with_an_end_tag(void **state)
{
	struct writer w = WRITER_INIT;

	size_t crs = aml_resources(&w);
	aml_memory32(&w, 0xd0000000, 0x1000);
	aml_interrupt(&w, 6);
	aml_io(&w, 0x3f8, 8);
	aml_resources_end(&w, crs);
	assert_bytes(&w, "\x08_CRS\x11\x85\x02\x00\x0b\x1f\x00"
			 "\x86\x09\x00\x01\x00\x00\x00\xd0\x00\x10\x00\x00"
			 "\x89\x06\x00\x03\x01\x06\x00\x00\x00"
			 "\x47\x01\xf8\x03\xf8\x03\x01\x08"
			 "\x79\x00");
}

static void a_method_notifies(void **state)
{
	struct writer w = WRITER_INIT;

	size_t at = aml_method(&w, "_EVT", 1);
	aml_notify(&w, "VGEN", 0x80);
	aml_end(&w, at);
	assert_bytes(&w, "\x14\x8f\x00\x00_EVT\x01\x86VGEN\x0a\x80");
}

/* ---- tables ---- */

static struct vm *fake_vm(unsigned nvcpus)
{
	static struct vm vm;

	memset(&vm, 0, sizeof(vm));
	vm.nvcpus = nvcpus;
	assert_int_equal(memory_layout(&vm.mem, MEMORY_RAM_MIN, NULL), 0);
	assert_int_equal(memory_map_anon(&vm.mem, NULL), 0);
	return &vm;
}

static uint64_t get(const uint8_t *p, unsigned len)
{
	uint64_t v = 0;

	memcpy(&v, p, len);
	return v;
}

static const uint8_t *table_at(struct vm *vm, uint64_t gpa, const char *signature)
{
	assert_in_range(gpa, LAYOUT_ACPI, LAYOUT_ACPI_END - 36);
	assert_int_equal(gpa % 4, 0);
	const uint8_t *p = memory_at(&vm->mem, gpa, 36);
	assert_memory_equal(p, signature, 4);
	uint64_t len = get(p + 4, 4);
	assert_non_null(memory_at(&vm->mem, gpa, len));
	uint8_t sum = 0;
	for (uint64_t i = 0; i < len; i++)
		sum += p[i];
	assert_int_equal(sum, 0);
	return p;
}

static void every_table_is_reached_and_sums_to_zero(void **state)
{
	struct vm *vm = fake_vm(2);
	uint64_t rsdp;
	uint8_t sum = 0;

	assert_int_equal(acpi_write(vm, &rsdp, NULL), 0);
	const uint8_t *r = memory_at(&vm->mem, rsdp, 36);
	assert_memory_equal(r, "RSD PTR ", 8);
	for (int i = 0; i < 36; i++) {
		sum += r[i];
		if (i == 19)
			assert_int_equal(sum, 0);
	}
	assert_int_equal(sum, 0);
	const uint8_t *xsdt = table_at(vm, get(r + 24, 8), "XSDT");
	assert_int_equal(get(xsdt + 4, 4), 36 + 2 * 8);
	const uint8_t *fadt = table_at(vm, get(xsdt + 36, 8), "FACP");
	table_at(vm, get(xsdt + 44, 8), "APIC");
	table_at(vm, get(fadt + 140, 8), "DSDT");
	assert_int_equal(get(fadt + 40, 4), get(fadt + 140, 8));
	memory_free(&vm->mem);
}

/* Offsets: ACPI 6.5, table 5.9. */
static void the_fadt_names_the_sleep_and_reset_registers(void **state)
{
	struct vm *vm = fake_vm(1);
	uint64_t rsdp;

	assert_int_equal(acpi_write(vm, &rsdp, NULL), 0);
	const uint8_t *r = memory_at(&vm->mem, rsdp, 36);
	const uint8_t *xsdt = memory_at(&vm->mem, get(r + 24, 8), 52);
	const uint8_t *fadt = memory_at(&vm->mem, get(xsdt + 36, 8), 276);
	assert_int_equal(get(fadt + 4, 4), 276);
	assert_true(get(fadt + 112, 4) & 1 << 20);
	assert_true(get(fadt + 112, 4) & 1 << 10);
	assert_int_equal(fadt[116], 1);
	assert_int_equal(get(fadt + 120, 8), LAYOUT_PM_PORT + 2);
	assert_int_equal(fadt[128], 1);
	assert_int_equal(get(fadt + 248, 8), LAYOUT_PM_PORT);
	assert_int_equal(get(fadt + 260, 8), LAYOUT_PM_PORT + 1);
	memory_free(&vm->mem);
}

static void the_madt_has_each_cpu_once(void **state)
{
	struct vm *vm = fake_vm(VM_MAX_VCPUS);
	unsigned cpus = 0, ioapics = 0;
	uint64_t rsdp;

	assert_int_equal(acpi_write(vm, &rsdp, NULL), 0);
	const uint8_t *r = memory_at(&vm->mem, rsdp, 36);
	const uint8_t *xsdt = memory_at(&vm->mem, get(r + 24, 8), 52);
	const uint8_t *madt = table_at(vm, get(xsdt + 44, 8), "APIC");
	assert_int_equal(get(madt + 36, 4), LAYOUT_LAPIC);
	for (uint64_t at = 44; at < get(madt + 4, 4); at += madt[at + 1]) {
		if (madt[at] == 0) {
			assert_int_equal(madt[at + 3], cpus++);
			assert_int_equal(get(madt + at + 4, 4), 1);
		} else {
			assert_int_equal(madt[at], 1);
			assert_int_equal(get(madt + at + 4, 4), LAYOUT_IOAPIC);
			ioapics++;
		}
	}
	assert_int_equal(cpus, VM_MAX_VCPUS);
	assert_int_equal(ioapics, 1);
	memory_free(&vm->mem);
}

static void verbose_aml(struct device *d, struct writer *w)
{
	put_zero(w, LAYOUT_ACPI_END - LAYOUT_ACPI);
}

static void failing_aml(struct device *d, struct writer *w)
{
	aml_name(w, "BAD");
}

static void what_devices_say_is_bounded(void **state)
{
	static const struct device_ops verbose = {.aml = verbose_aml},
				       failing = {.aml = failing_aml};
	struct device d = {.ops = &verbose};
	struct vm *vm = fake_vm(1);
	struct err err;
	uint64_t rsdp;

	vm->devices = &d;
	assert_int_equal(acpi_write(vm, &rsdp, &err), -E2BIG);
	d.ops = &failing;
	assert_true(acpi_write(vm, &rsdp, &err) < 0);
	memory_free(&vm->mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(integers_take_their_shortest_form),
		cmocka_unit_test(names_hold_values),
		cmocka_unit_test(bad_names_are_an_error),
		cmocka_unit_test(packages_know_their_length),
		cmocka_unit_test(resources_are_a_buffer_with_an_end_tag),
		cmocka_unit_test(a_method_notifies),
		cmocka_unit_test(every_table_is_reached_and_sums_to_zero),
		cmocka_unit_test(the_fadt_names_the_sleep_and_reset_registers),
		cmocka_unit_test(the_madt_has_each_cpu_once),
		cmocka_unit_test(what_devices_say_is_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
