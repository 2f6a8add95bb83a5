#include "runner/x86/acpi.h"

#include "runner/devices/pm.h"
#include "runner/vm/vm.h"
#include "runner/x86/aml.h"
#include "runner/x86/layout.h"
#include "smfs/base/num.h"

#include <errno.h>
#include <string.h>

/* Sizes and offsets: ACPI 6.5, section 5.2. */
#define HEADER_LEN	   36
#define HEADER_LENGTH_AT   4
#define HEADER_CHECKSUM_AT 9
#define RSDP_LEN	   36
#define RSDP_V1_LEN	   20
#define FADT_LEN	   276

#define FADT_WBINVD	      (1u << 0)
#define FADT_POWER_BUTTON     (1u << 4) /* no fixed one */
#define FADT_SLEEP_BUTTON     (1u << 5)
#define FADT_RESET_REG	      (1u << 10)
#define FADT_HW_REDUCED	      (1u << 20)
#define FADT_BOOT_NO_VGA      (1u << 2)
#define FADT_BOOT_NO_CMOS_RTC (1u << 5)

/* The tables lie one after another in `w`, whose first byte is LAYOUT_ACPI. */
static uint64_t address(const struct writer *w)
{
	return LAYOUT_ACPI + w->len;
}

static void put_padded(struct writer *w, const char *s, size_t n)
{
	size_t len = MIN(strlen(s), n);

	put_bytes(w, s, len);
	for (; len < n; len++)
		put_u8(w, ' ');
}

static size_t table_begin(struct writer *w, const char *signature, uint8_t revision)
{
	put_zero(w, align_up(w->len, 16) - w->len);
	size_t at = w->len;
	put_bytes(w, signature, 4);
	put_u32(w, 0); /* length */
	put_u8(w, revision);
	put_u8(w, 0); /* checksum */
	put_padded(w, "SMVM", 6);
	put_padded(w, "SMVM", 8);
	put_u32(w, 1);
	put_padded(w, "SMVM", 4);
	put_u32(w, 1);
	return at;
}

static void set_checksum(struct writer *w, size_t at, size_t len, size_t checksum_at)
{
	uint8_t sum = 0;

	if (w->failed)
		return;
	w->p[at + checksum_at] = 0;
	for (size_t i = 0; i < len; i++)
		sum += w->p[at + i];
	w->p[at + checksum_at] = -sum;
}

static uint64_t table_end(struct writer *w, size_t at)
{
	patch_u32(w, at + HEADER_LENGTH_AT, w->len - at);
	set_checksum(w, at, w->len - at, HEADER_CHECKSUM_AT);
	return LAYOUT_ACPI + at;
}

static uint64_t put_dsdt(struct writer *w, struct vm *vm)
{
	size_t at = table_begin(w, "DSDT", 2);
	size_t sb = aml_scope(w, "_SB_");

	for (struct device *d = vm->devices; d; d = d->next)
		if (d->ops->aml)
			d->ops->aml(d, w);
	aml_end(w, sb);
	/* Soft off: what the guest writes into the sleep control register. */
	aml_name(w, "_S5_");
	size_t s5 = aml_package(w, 4);
	aml_int(w, PM_SLEEP_TYPE_S5);
	for (int i = 0; i < 3; i++)
		aml_int(w, 0);
	aml_end(w, s5);
	return table_end(w, at);
}

/* Generic address structure of a byte-wide port. */
static void put_port(struct writer *w, uint64_t port)
{
	put_u8(w, 1); /* system I/O space */
	put_u8(w, 8); /* bits */
	put_u8(w, 0);
	put_u8(w, 1); /* byte access */
	put_u64(w, port);
}

static void pad_to(struct writer *w, size_t at, size_t offset)
{
	size_t have = w->len - at;

	if (have > offset)
		w->failed = true;
	else
		put_zero(w, offset - have);
}

static uint64_t put_fadt(struct writer *w, uint64_t dsdt)
{
	size_t at = table_begin(w, "FACP", 6);

	pad_to(w, at, 40);
	put_u32(w, dsdt);
	pad_to(w, at, 46);
	put_u16(w, LAYOUT_SCI_GSI);
	pad_to(w, at, 109);
	put_u16(w, FADT_BOOT_NO_VGA | FADT_BOOT_NO_CMOS_RTC);
	pad_to(w, at, 112);
	put_u32(w, FADT_WBINVD | FADT_POWER_BUTTON | FADT_SLEEP_BUTTON | FADT_RESET_REG |
			   FADT_HW_REDUCED);
	put_port(w, LAYOUT_PM_PORT + PM_RESET);
	put_u8(w, PM_RESET_VALUE);
	pad_to(w, at, 131);
	put_u8(w, 5); /* minor version */
	pad_to(w, at, 140);
	put_u64(w, dsdt);
	pad_to(w, at, 244);
	put_port(w, LAYOUT_PM_PORT + PM_SLEEP_CONTROL);
	put_port(w, LAYOUT_PM_PORT + PM_SLEEP_STATUS);
	put_padded(w, "SMVM", 8);
	pad_to(w, at, FADT_LEN);
	return table_end(w, at);
}

static uint64_t put_madt(struct writer *w, unsigned nvcpus)
{
	size_t at = table_begin(w, "APIC", 5);

	put_u32(w, LAYOUT_LAPIC);
	put_u32(w, 0);
	for (unsigned i = 0; i < nvcpus; i++) {
		put_u8(w, 0); /* processor local APIC */
		put_u8(w, 8);
		put_u8(w, i);
		put_u8(w, i);
		put_u32(w, 1); /* enabled */
	}
	put_u8(w, 1); /* I/O APIC */
	put_u8(w, 12);
	put_u8(w, 0);
	put_u8(w, 0);
	put_u32(w, LAYOUT_IOAPIC);
	put_u32(w, 0); /* its first GSI */
	return table_end(w, at);
}

static void fill_rsdp(struct writer *w, uint64_t xsdt)
{
	struct writer r = WRITER_INIT;

	put_bytes(&r, "RSD PTR ", 8);
	put_u8(&r, 0);
	put_padded(&r, "SMVM", 6);
	put_u8(&r, 2);	/* revision */
	put_u32(&r, 0); /* no RSDT */
	put_u32(&r, RSDP_LEN);
	put_u64(&r, xsdt);
	put_u8(&r, 0); /* extended checksum */
	put_zero(&r, 3);
	set_checksum(&r, 0, RSDP_V1_LEN, 8);
	set_checksum(&r, 0, RSDP_LEN, 32);
	if (r.failed || w->failed)
		w->failed = true;
	else
		memcpy(w->p, r.p, RSDP_LEN);
	writer_free(&r);
}

int acpi_write(struct vm *vm, uint64_t *rsdp, struct err *err)
{
	cleanup_writer struct writer w = WRITER_INIT;
	void *to;

	put_zero(&w, RSDP_LEN); /* filled in last */
	uint64_t dsdt = put_dsdt(&w, vm);
	uint64_t fadt = put_fadt(&w, dsdt);
	uint64_t madt = put_madt(&w, vm->nvcpus);
	size_t xsdt = table_begin(&w, "XSDT", 1);
	put_u64(&w, fadt);
	put_u64(&w, madt);
	fill_rsdp(&w, table_end(&w, xsdt));
	if (w.failed)
		return err_set(err, ENOMEM,
			       "build ACPI tables: a device's description is bad or "
			       "memory is short");
	if (address(&w) > LAYOUT_ACPI_END)
		return err_set(err, E2BIG, "build ACPI tables: %zu bytes, room for %llu", w.len,
			       LAYOUT_ACPI_END - LAYOUT_ACPI);
	to = memory_at(&vm->mem, LAYOUT_ACPI, w.len);
	if (!to)
		return err_set(err, EINVAL, "place ACPI tables: no RAM at %#llx", LAYOUT_ACPI);
	memcpy(to, w.p, w.len);
	*rsdp = LAYOUT_ACPI;
	return 0;
}
