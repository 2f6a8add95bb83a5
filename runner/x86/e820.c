/* The memory map handed to a guest. */
#include "runner/vm/memory.h"
#include "runner/x86/boot.h"
#include "runner/x86/layout.h"
#include "smfs/base/num.h"

unsigned boot_e820(const struct memory *m, struct e820_range out[E820_MAX])
{
	unsigned n = 0;

	out[n++] = (struct e820_range){0, LAYOUT_MAILBOX, E820_RAM};
	out[n++] = (struct e820_range){LAYOUT_MAILBOX, LAYOUT_RESERVED_END - LAYOUT_MAILBOX,
				       E820_RESERVED};
	out[n++] =
		(struct e820_range){LAYOUT_ACPI, LAYOUT_FIRMWARE_END - LAYOUT_ACPI, E820_RESERVED};
	for (unsigned i = 0; i < m->n && n < E820_MAX; i++) {
		const struct memory_region *r = &m->region[i];
		uint64_t start = MAX(r->gpa, LAYOUT_HIGH_RAM);

		if (r->kind == MEMORY_RAM && r->gpa + r->size > start)
			out[n++] = (struct e820_range){start, r->gpa + r->size - start, E820_RAM};
	}
	return n;
}
