/*
 * sections_parse() and the states in it: the input as it is; with every checksum made right as
 * far as the lengths allow; and as the payloads of a file with every section a vCPU has. States
 * that are accepted must encode, and decode to the same.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "runner/snapshot/state_file.h"
#include "smfs/base/num.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void reseal(uint8_t *p, size_t size)
{
	size_t at = SECTIONS_HEADER_LEN;

	while (range_ok(at, SECTION_HEADER_LEN, size)) {
		uint32_t len;
		uint64_t sum, padded;

		memcpy(&len, p + at + 20, sizeof(len));
		padded = align_up(len, 8);
		if (!range_ok(at + SECTION_HEADER_LEN, padded, size))
			return;
		sum = XXH3_64bits(p + at + 8, SECTION_HEADER_LEN - 8 + padded);
		memcpy(p + at, &sum, sizeof(sum));
		at += SECTION_HEADER_LEN + padded;
	}
}

static void vcpus(const struct sections *s)
{
	struct vcpu_state *a = malloc(sizeof(*a)), *b = malloc(sizeof(*b));
	struct writer w = WRITER_INIT;
	struct sections again;
	struct err err = ERR_INIT;

	if (!a || !b)
		abort();
	if (state_file_get_vcpu(s, 0, a, &err) == 0) {
		sections_begin(&w);
		state_file_put_vcpu(&w, 0, a);
		sections_end(&w);
		if (w.failed || sections_parse(w.p, w.len, &again, &err) < 0 ||
		    state_file_get_vcpu(&again, 0, b, &err) < 0 || memcmp(a, b, sizeof(*a)) != 0)
			abort();
	}
	writer_free(&w);
	free(a);
	free(b);
}

static void parse(const uint8_t *data, size_t size)
{
	struct sections s;
	struct vm_irq_state irq;
	struct err err = ERR_INIT;

	if (sections_parse(data, size, &s, &err) < 0)
		return;
	vcpus(&s);
	state_file_get_vm(&s, &irq, &err);
	sections_find(&s, SECTION_DEVICE, 0, "serial0");
}

/* The first byte leaves out or repeats a section, the second and third change a length. */
static void parse_built(const uint8_t *data, size_t size)
{
	static const struct {
		uint32_t type;
		uint32_t len;
	} parts[] = {{0x101, 4},   {0x102, 144},  {0x103, 312}, {0x104, 4096}, {0x105, 392},
		     {0x106, 128}, {0x107, 1024}, {0x108, 4},	{0x109, 80},   {0x10a, 64},
		     {0x10b, 64},  {0x201, 112},  {0x202, 48},	{0x204, 520}};
	struct writer w = WRITER_INIT;
	size_t used = 3;

	if (size < 4)
		return;
	sections_begin(&w);
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		uint32_t len = parts[i].len;

		if (i == data[0])
			continue;
		if (i == data[1])
			len += data[2];
		for (int n = 0; n <= (i + ARRAY_SIZE(parts) == data[0]); n++) {
			size_t at = section_open(&w, parts[i].type, 1, 0, NULL);

			for (uint32_t k = 0; k < len; k++, used++)
				put_u8(&w, data[used % size]);
			section_close(&w, at);
		}
	}
	sections_end(&w);
	if (!w.failed)
		parse(w.p, w.len);
	writer_free(&w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);

	if (!copy)
		abort();
	memcpy(copy, data, size);
	parse(copy, size);
	reseal(copy, size);
	parse(copy, size);
	free(copy);
	parse_built(data, size);
	return 0;
}
