/* state_file.c - KVM's structs into sections and back. */
#include "runner/snapshot/state_file.h"

#include <stddef.h>
#include <string.h>

#include "smfs/base/num.h"

#define LAPIC SECTION_VCPU_LAPIC

/* The parts that are one struct of fixed size: one table for both directions. */
static const struct part {
	enum section_type type;
	const char *name;
	size_t off, size;
} vcpu_parts[] = {
#define PART(type, field)                                         \
	{                                                         \
		type, #field, offsetof(struct vcpu_state, field), \
			sizeof(((struct vcpu_state *)0)->field)   \
	}
	PART(SECTION_VCPU_MP_STATE, mp_state),	 PART(SECTION_VCPU_REGS, regs),
	PART(SECTION_VCPU_SREGS, sregs),	 PART(SECTION_VCPU_XCRS, xcrs),
	PART(SECTION_VCPU_DEBUGREGS, debugregs), PART(LAPIC, lapic),
	PART(SECTION_VCPU_TSC_KHZ, tsc_khz),	 PART(SECTION_VCPU_EVENTS, events),
#undef PART
};

static const struct vm_part {
	enum section_type type;
	uint32_t index;
	const char *name;
	size_t off, size;
} vm_parts[] = {
#define PART(type, index, field)                                           \
	{                                                                  \
		type, index, #field, offsetof(struct vm_irq_state, field), \
			sizeof(((struct vm_irq_state *)0)->field)          \
	}
	PART(SECTION_VM_PIT2, 0, pit2),	    PART(SECTION_VM_CLOCK, 0, clock),
	PART(SECTION_VM_PIC, 0, pic[0]),    PART(SECTION_VM_PIC, 1, pic[1]),
	PART(SECTION_VM_IOAPIC, 0, ioapic),
#undef PART
};

static void put(struct writer *w, enum section_type type, unsigned index, const void *p, size_t n)
{
	size_t at = section_open(w, type, SECTION_VERSION, index, NULL);

	put_bytes(w, p, n);
	section_close(w, at);
}

void state_file_put_vcpu(struct writer *w, unsigned index, const struct vcpu_state *s)
{
	for (size_t i = 0; i < ARRAY_SIZE(vcpu_parts); i++)
		if (vcpu_parts[i].type != LAPIC || s->has_lapic)
			put(w, vcpu_parts[i].type, index, (const uint8_t *)s + vcpu_parts[i].off,
			    vcpu_parts[i].size);
	put(w, SECTION_VCPU_XSAVE, index, s->xsave, s->xsave_len);
	put(w, SECTION_VCPU_CPUID, index, s->cpuid.entry, s->cpuid.n * sizeof(s->cpuid.entry[0]));
	put(w, SECTION_VCPU_MSRS, index, s->msrs.entry, s->msrs.n * sizeof(s->msrs.entry[0]));
}

static int get_fixed(const struct sections *f, enum section_type type, unsigned index,
		     const char *name, void *out, size_t size, struct err *err)
{
	const struct section *s = sections_find(f, type, index, NULL);

	if (!s)
		return err_set(err, EBADMSG, "%s %u: section is missing", name, index);
	if (s->len != size)
		return err_set(err, EBADMSG, "%s %u: %zu bytes, must be %zu", name, index, s->len,
			       size);
	memcpy(out, s->data, size);
	return 0;
}

/* An array of up to `max` elements of `size`; `least` bytes at least. */
static int get_array(const struct sections *f, enum section_type type, unsigned index,
		     const char *name, void *out, size_t size, size_t least, size_t max,
		     uint32_t *n, struct err *err)
{
	const struct section *s = sections_find(f, type, index, NULL);

	if (!s)
		return err_set(err, EBADMSG, "%s %u: section is missing", name, index);
	if (s->len % size || s->len / size < least || s->len / size > max)
		return err_set(err, EBADMSG, "%s %u: %zu bytes: out of range", name, index, s->len);
	memcpy(out, s->data, s->len);
	*n = (uint32_t)(s->len / size);
	return 0;
}

int state_file_get_vcpu(const struct sections *f, unsigned index, struct vcpu_state *s,
			struct err *err)
{
	int ret;

	memset(s, 0, sizeof(*s));
	s->has_lapic = sections_find(f, LAPIC, index, NULL) != NULL;
	for (size_t i = 0; i < ARRAY_SIZE(vcpu_parts); i++) {
		const struct part *p = &vcpu_parts[i];

		if (p->type == LAPIC && !s->has_lapic)
			continue;
		ret = get_fixed(f, p->type, index, p->name, (uint8_t *)s + p->off, p->size, err);
		if (ret < 0)
			return ret;
	}
	if ((ret = get_array(f, SECTION_VCPU_XSAVE, index, "xsave", s->xsave, 1, 4096,
			     VCPU_XSAVE_MAX, &s->xsave_len, err)) < 0 ||
	    (ret = get_array(f, SECTION_VCPU_CPUID, index, "cpuid", s->cpuid.entry,
			     sizeof(s->cpuid.entry[0]), 1, VCPU_CPUID_MAX, &s->cpuid.n, err)) < 0 ||
	    (ret = get_array(f, SECTION_VCPU_MSRS, index, "msrs", s->msrs.entry,
			     sizeof(s->msrs.entry[0]), 1, VCPU_MSRS_MAX, &s->msrs.n, err)) < 0)
		return ret;
	ret = vcpu_state_check(s, err);
	return ret < 0 ? err_wrap(err, ret, "vCPU %u", index) : 0;
}

/* Without an irqchip the clock is all there is. */
static bool vm_part_exists(const struct vm_part *p, bool has_irqchip)
{
	return has_irqchip || p->type == SECTION_VM_CLOCK;
}

void state_file_put_vm(struct writer *w, const struct vm_irq_state *s)
{
	for (size_t i = 0; i < ARRAY_SIZE(vm_parts); i++)
		if (vm_part_exists(&vm_parts[i], s->has_irqchip))
			put(w, vm_parts[i].type, vm_parts[i].index,
			    (const uint8_t *)s + vm_parts[i].off, vm_parts[i].size);
}

int state_file_get_vm(const struct sections *f, struct vm_irq_state *s, struct err *err)
{
	int ret;

	memset(s, 0, sizeof(*s));
	s->has_irqchip = sections_find(f, SECTION_VM_IOAPIC, 0, NULL) != NULL;
	for (size_t i = 0; i < ARRAY_SIZE(vm_parts); i++) {
		const struct vm_part *p = &vm_parts[i];

		if (!vm_part_exists(p, s->has_irqchip))
			continue;
		ret = get_fixed(f, p->type, p->index, p->name, (uint8_t *)s + p->off, p->size, err);
		if (ret < 0)
			return ret;
	}
	return 0;
}
