#include "runner/x86/aml.h"

#include "runner/vm/vm.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Opcodes: ACPI 6.5, section 20.3. */
enum {
	OP_ZERO = 0x00,
	OP_ONE = 0x01,
	OP_NAME = 0x08,
	OP_BYTE = 0x0a,
	OP_WORD = 0x0b,
	OP_DWORD = 0x0c,
	OP_STRING = 0x0d,
	OP_QWORD = 0x0e,
	OP_SCOPE = 0x10,
	OP_BUFFER = 0x11,
	OP_PACKAGE = 0x12,
	OP_METHOD = 0x14,
	OP_EXT = 0x5b,
	OP_ROOT = 0x5c,
	OP_DEVICE = 0x82, /* after OP_EXT */
	OP_NOTIFY = 0x86,
};

#define PKG_LEN 3 /* every package length takes the three-byte form: room for 1 MiB */

static void put_name(struct writer *w, const char *name)
{
	if (strlen(name) != 4) {
		w->failed = true;
		return;
	}
	put_bytes(w, name, 4);
}

static size_t open_package(struct writer *w)
{
	size_t at = w->len;

	put_zero(w, PKG_LEN);
	return at;
}

/* The length counts itself. Low nibble in the first byte, whose top bits say two more follow. */
void aml_end(struct writer *w, size_t at)
{
	size_t len = w->len - at;

	if (w->failed || at + PKG_LEN > w->len || len >= 1u << 20) {
		w->failed = true;
		return;
	}
	w->p[at] = 2 << 6 | (len & 0xf);
	w->p[at + 1] = len >> 4;
	w->p[at + 2] = len >> 12;
}

size_t aml_scope(struct writer *w, const char *name)
{
	put_u8(w, OP_SCOPE);
	size_t at = open_package(w);
	put_u8(w, OP_ROOT);
	put_name(w, name);
	return at;
}

size_t aml_device(struct writer *w, const char *name)
{
	put_u8(w, OP_EXT);
	put_u8(w, OP_DEVICE);
	size_t at = open_package(w);
	put_name(w, name);
	return at;
}

size_t aml_method(struct writer *w, const char *name, unsigned args)
{
	put_u8(w, OP_METHOD);
	size_t at = open_package(w);
	put_name(w, name);
	put_u8(w, args & 7); /* not serialized */
	return at;
}

void aml_name(struct writer *w, const char *name)
{
	put_u8(w, OP_NAME);
	put_name(w, name);
}

void aml_name_int(struct writer *w, const char *name, uint64_t v)
{
	aml_name(w, name);
	aml_int(w, v);
}

void aml_name_string(struct writer *w, const char *name, const char *s)
{
	aml_name(w, name);
	aml_string(w, s);
}

/* Five bits a letter, four a digit, the whole stored big-endian (ACPI 6.5, 19.6.36). */
static bool parse_eisaid(const char *id, uint32_t *out)
{
	static const char digits[] = "0123456789ABCDEF";
	uint32_t v = 0;

	if (strlen(id) != 7)
		return false;
	for (int i = 0; i < 3; i++) {
		if (id[i] < 'A' || id[i] > 'Z')
			return false;
		v = v << 5 | (uint32_t)(id[i] - '@');
	}
	for (int i = 3; i < 7; i++) {
		const char *d = strchr(digits, id[i]);

		if (!d)
			return false;
		v = v << 4 | (uint32_t)(d - digits);
	}
	*out = __builtin_bswap32(v);
	return true;
}

void aml_name_eisaid(struct writer *w, const char *name, const char *id)
{
	uint32_t v;

	aml_name(w, name);
	if (!parse_eisaid(id, &v)) {
		w->failed = true;
		return;
	}
	put_u8(w, OP_DWORD);
	put_u32(w, v);
}

void aml_int(struct writer *w, uint64_t v)
{
	if (v <= 1) {
		put_u8(w, v ? OP_ONE : OP_ZERO);
	} else if (v <= UINT8_MAX) {
		put_u8(w, OP_BYTE);
		put_u8(w, v);
	} else if (v <= UINT16_MAX) {
		put_u8(w, OP_WORD);
		put_u16(w, v);
	} else if (v <= UINT32_MAX) {
		put_u8(w, OP_DWORD);
		put_u32(w, v);
	} else {
		put_u8(w, OP_QWORD);
		put_u64(w, v);
	}
}

void aml_string(struct writer *w, const char *s)
{
	put_u8(w, OP_STRING);
	put_bytes(w, s, strlen(s) + 1);
}

size_t aml_package(struct writer *w, uint8_t n)
{
	put_u8(w, OP_PACKAGE);
	size_t at = open_package(w);
	put_u8(w, n);
	return at;
}

void aml_notify(struct writer *w, const char *name, uint64_t value)
{
	put_u8(w, OP_NOTIFY);
	put_name(w, name);
	aml_int(w, value);
}

#define BUFFER_HEAD (PKG_LEN + 3) /* package length, WordConst of the size */

size_t aml_resources(struct writer *w)
{
	aml_name(w, "_CRS");
	put_u8(w, OP_BUFFER);
	size_t at = open_package(w);
	put_u8(w, OP_WORD);
	put_u16(w, 0);
	return at;
}

void aml_memory32(struct writer *w, uint32_t base, uint32_t size)
{
	put_u8(w, 0x86); /* 32-bit fixed memory range descriptor */
	put_u16(w, 9);
	put_u8(w, 1); /* writable */
	put_u32(w, base);
	put_u32(w, size);
}

void aml_io(struct writer *w, uint16_t base, uint8_t size)
{
	put_u8(w, 0x47); /* I/O port descriptor */
	put_u8(w, 1);	 /* decodes 16 bits */
	put_u16(w, base);
	put_u16(w, base);
	put_u8(w, 1); /* alignment */
	put_u8(w, size);
}

void aml_interrupt(struct writer *w, uint32_t gsi)
{
	put_u8(w, 0x89); /* extended interrupt descriptor */
	put_u16(w, 6);
	put_u8(w, 0x3); /* consumer, edge, active high, exclusive */
	put_u8(w, 1);
	put_u32(w, gsi);
}

void aml_resources_end(struct writer *w, size_t at)
{
	put_u8(w, 0x79); /* end tag; checksum 0 means "do not check" */
	put_u8(w, 0);
	size_t size = w->len - at - BUFFER_HEAD;
	if (w->failed || size > UINT16_MAX) {
		w->failed = true;
		return;
	}
	w->p[at + PKG_LEN + 1] = size;
	w->p[at + PKG_LEN + 2] = size >> 8;
	aml_end(w, at);
}

void aml_virtio_mmio(struct writer *w, uint64_t base, uint64_t size, int gsi)
{
	uint64_t n = (base - VM_MMIO_BASE) / VM_MMIO_STEP;
	char name[5];

	if (base < VM_MMIO_BASE || n > 0xff || gsi < 0) {
		w->failed = true;
		return;
	}
	snprintf(name, sizeof(name), "VR%02X", (unsigned)n);
	size_t dev = aml_device(w, name);
	aml_name_string(w, "_HID", "LNRO0005");
	aml_name_int(w, "_UID", n);
	size_t crs = aml_resources(w);
	aml_memory32(w, base, size);
	aml_interrupt(w, gsi);
	aml_resources_end(w, crs);
	aml_end(w, dev);
}
