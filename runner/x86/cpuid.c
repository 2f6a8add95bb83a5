#include "runner/x86/cpuid.h"

#include "smfs/base/num.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

/* Feature bits by their names in the Intel SDM (vol. 2, CPUID) and the AMD APM (vol. 3, E.4). */
#define BIT(n) (1u << (n))

enum { EAX, EBX, ECX, EDX };

static const struct {
	uint32_t leaf, sub;
	uint8_t reg;
	uint32_t hide;
} hidden_bits[] = {
	{0x1, 0, ECX, BIT(2) | BIT(5) | BIT(15)},	      /* DTES64, VMX, PDCM */
	{0x1, 0, EDX, BIT(21)},				      /* DS */
	{0x7, 0, EBX, BIT(2) | BIT(25)},		      /* SGX, PT */
	{0x7, 0, ECX, BIT(5) | BIT(30)},		      /* WAITPKG, SGX_LC */
	{0x7, 0, EDX, BIT(19) | BIT(22) | BIT(24) | BIT(25)}, /* arch LBR, AMX-BF16, -TILE, -INT8 */
	{0x7, 1, EAX, BIT(21) | BIT(8)},		      /* AMX-FP16, arch PMU ext */
	{0x7, 1, EDX, BIT(8)},				      /* AMX-COMPLEX */
	{0xd, 0, EAX, BIT(17) | BIT(18)},		      /* XCR0: XTILECFG, XTILEDATA */
	{0xd, 1, EAX, BIT(4)},				      /* XFD, which only AMX uses */
	{0xd, 1, ECX, BIT(8) | BIT(15)},		      /* XSS: PT, LBR */
	{0x80000001, 0, ECX, BIT(2) | BIT(10) | BIT(23) | BIT(24) | BIT(28)}, /* SVM, IBS, perf */
};

/* Leaves of hidden features, all subleaves. */
static const uint32_t hidden_leaves[] = {
	0xa,	    /* PMU */
	0x12,	    /* SGX */
	0x14,	    /* PT */
	0x1c,	    /* LBR */
	0x1d,	    /* AMX tiles */
	0x1e,	    /* AMX TMUL */
	0x23,	    /* PMU ext */
	0x8000000a, /* SVM */
	0x8000001b, /* IBS */
	0x80000022, /* perfmon v2 */
};

static uint32_t *reg_of(struct kvm_cpuid_entry2 *e, unsigned reg)
{
	uint32_t *regs[] = {&e->eax, &e->ebx, &e->ecx, &e->edx};

	return regs[reg];
}

struct kvm_cpuid_entry2 *cpuid_find(struct vcpu_cpuid *t, uint32_t leaf, uint32_t sub)
{
	for (uint32_t i = 0; i < t->n; i++) {
		struct kvm_cpuid_entry2 *e = &t->entry[i];

		if (e->function == leaf &&
		    (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == sub))
			return e;
	}
	return NULL;
}

static void remove_at(struct vcpu_cpuid *t, uint32_t i)
{
	memmove(&t->entry[i], &t->entry[i + 1], (t->n - i - 1) * sizeof(t->entry[0]));
	t->n--;
}

static bool hidden(const struct kvm_cpuid_entry2 *e)
{
	/* The AMX components of the XSAVE area. */
	if (e->function == 0xd && (e->index == 17 || e->index == 18))
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(hidden_leaves); i++)
		if (e->function == hidden_leaves[i])
			return true;
	return false;
}

/* Leaf 0xd says how large the XSAVE area of all components is: say it again without AMX. */
static void resize_xsave(struct vcpu_cpuid *t)
{
	struct kvm_cpuid_entry2 *d = cpuid_find(t, 0xd, 0);
	uint32_t size = 512 + 64; /* legacy area and header */

	if (!d)
		return;
	for (uint32_t i = 2; i < 32; i++) {
		struct kvm_cpuid_entry2 *c = d->eax & BIT(i) ? cpuid_find(t, 0xd, i) : NULL;

		if (c && c->index == i && c->eax <= 65536 && c->ebx <= 65536)
			size = MAX(size, c->eax + c->ebx);
	}
	d->ecx = size;
}

void cpuid_filter(struct vcpu_cpuid *t)
{
	for (uint32_t i = 0; i < t->n;) {
		if (hidden(&t->entry[i]))
			remove_at(t, i);
		else
			i++;
	}
	for (size_t i = 0; i < ARRAY_SIZE(hidden_bits); i++) {
		struct kvm_cpuid_entry2 *e = cpuid_find(t, hidden_bits[i].leaf, hidden_bits[i].sub);

		if (e)
			*reg_of(e, hidden_bits[i].reg) &= ~hidden_bits[i].hide;
	}
	resize_xsave(t);
}

#define HYPERV_LEAF	 0x40000001
#define HYPERV_SIGNATURE 0x31237648 /* "Hv#1": has KVM offer its Hyper-V emulation */

static bool shows_hidden(const struct kvm_cpuid_entry2 *e)
{
	const uint32_t regs[] = {e->eax, e->ebx, e->ecx, e->edx};

	if (hidden(e) || (e->function == HYPERV_LEAF && e->eax == HYPERV_SIGNATURE))
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(hidden_bits); i++)
		if (e->function == hidden_bits[i].leaf &&
		    (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) ||
		     e->index == hidden_bits[i].sub) &&
		    regs[hidden_bits[i].reg] & hidden_bits[i].hide)
			return true;
	return false;
}

/* Every entry, not the first of a leaf: a table from outside may have a leaf twice. */
bool cpuid_is_filtered(const struct vcpu_cpuid *t)
{
	for (uint32_t i = 0; i < t->n; i++)
		if (shows_hidden(&t->entry[i]))
			return false;
	return true;
}

int cpuid_host(int kvm_fd, struct vcpu_cpuid *out, struct err *err)
{
	memset(out, 0, sizeof(*out));
	out->n = VCPU_CPUID_MAX;
	if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, out) < 0)
		return err_errno(err, "KVM_GET_SUPPORTED_CPUID");
	cpuid_filter(out);
	return 0;
}

/* ---- per vCPU ---- */

static unsigned bits_for(unsigned n)
{
	unsigned bits = 0;

	while ((1u << bits) < n)
		bits++;
	return bits;
}

static struct kvm_cpuid_entry2 *add(struct vcpu_cpuid *t, uint32_t leaf, uint32_t sub)
{
	if (t->n == VCPU_CPUID_MAX)
		return NULL;
	struct kvm_cpuid_entry2 *e = &t->entry[t->n++];
	*e = (struct kvm_cpuid_entry2){
		.function = leaf, .index = sub, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX};
	return e;
}

/* Leaves 0xb and 0x1f: one thread per core (level 1), n cores (level 2), end of list. */
static bool extended_topology(struct vcpu_cpuid *t, uint32_t leaf, unsigned index, unsigned n)
{
	for (uint32_t i = 0; i < t->n;) {
		if (t->entry[i].function == leaf)
			remove_at(t, i);
		else
			i++;
	}
	for (uint32_t sub = 0; sub < 3; sub++) {
		struct kvm_cpuid_entry2 *e = add(t, leaf, sub);

		if (!e)
			return false;
		e->eax = sub == 1 ? bits_for(n) : 0;
		e->ebx = sub == 0 ? 1 : sub == 1 ? n : 0;
		e->ecx = sub < 2 ? (sub + 1) << 8 | sub : sub;
		e->edx = index;
	}
	return true;
}

/* Leaf 4 and AMD's 0x8000001d: the last-level cache is everybody's, the others are per core. */
static void cache_topology(struct kvm_cpuid_entry2 *e, unsigned n)
{
	unsigned level = e->eax >> 5 & 7;

	if (!(e->eax & 0x1f))
		return;
	e->eax &= ~(0xfffu << 14);
	if (level >= 3)
		e->eax |= (n - 1) << 14;
	if (e->function == 4) {
		e->eax &= ~(0x3fu << 26);
		e->eax |= ((1u << bits_for(n)) - 1) << 26;
	}
}

static bool is_amd(struct vcpu_cpuid *t)
{
	const struct kvm_cpuid_entry2 *e = cpuid_find(t, 0, 0);

	/* "Auth"enticAMD, "Hygo"nGenuine */
	return e && (e->ebx == 0x68747541 || e->ebx == 0x6f677948);
}

static void patch_amd(struct kvm_cpuid_entry2 *e, unsigned index, unsigned n)
{
	switch (e->function) {
	case 0x80000001:
		e->ecx &= ~BIT(1);
		if (n > 1)
			e->ecx |= BIT(1); /* CmpLegacy: no hyper-threads */
		break;
	case 0x80000008:
		e->ecx = (e->ecx & ~0xf0ffu) | bits_for(n) << 12 | (n - 1);
		break;
	case 0x8000001e:
		e->eax = index;
		e->ebx = index;
		e->ecx = 0;
		break;
	}
}

static void patch(struct kvm_cpuid_entry2 *e, unsigned index, unsigned n, bool irqchip)
{
	switch (e->function) {
	case 0x1:
		e->ebx = (e->ebx & 0x0000ffff) | (1u << bits_for(n)) << 16 | index << 24;
		e->ecx |= BIT(31); /* HYPERVISOR */
		/* KVM's local APIC has both modes, whatever the host's has. */
		e->ecx &= ~(BIT(24) | BIT(21));
		if (irqchip)
			e->ecx |= BIT(24) | BIT(21); /* TSC_DEADLINE, x2APIC */
		e->edx &= ~BIT(28);
		if (n > 1)
			e->edx |= BIT(28); /* HTT: EBX 23:16 counts */
		break;
	case 0x4:
	case 0x8000001d:
		cache_topology(e, n);
		break;
	}
}

int cpuid_for_vcpu(struct vcpu_cpuid *t, unsigned index, unsigned nvcpus, bool irqchip,
		   struct err *err)
{
	const struct kvm_cpuid_entry2 *first = cpuid_find(t, 0, 0);
	uint32_t max = first ? first->eax : 0;

	bool amd = is_amd(t);

	for (uint32_t i = 0; i < t->n; i++) {
		patch(&t->entry[i], index, nvcpus, irqchip);
		if (amd)
			patch_amd(&t->entry[i], index, nvcpus);
	}
	if ((max >= 0xb && !extended_topology(t, 0xb, index, nvcpus)) ||
	    (max >= 0x1f && !extended_topology(t, 0x1f, index, nvcpus)))
		return err_set(err, E2BIG, "CPUID table: no room for the topology of %u vCPUs",
			       nvcpus);
	return 0;
}
