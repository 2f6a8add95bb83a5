#include "runner/x86/state.h"

#include "runner/x86/cpuid.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

_Static_assert(offsetof(struct vcpu_cpuid, entry) == sizeof(struct kvm_cpuid2), "kvm_cpuid2");
_Static_assert(offsetof(struct vcpu_msrs, entry) == sizeof(struct kvm_msrs), "kvm_msrs");

/* MSR numbers: Intel SDM vol. 4; AMD APM vol. 2, appendix A; KVM's own: Documentation/virt/kvm. */
#define MSR_TSC		 0x10
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_MC0_CTL	 0x400
#define MCE_BANKS_MAX	 32

/* Not in KVM's list, and settable from outside. */
static const uint32_t mtrr_msrs[] = {
	0x2ff, /* default type */
	0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x206, 0x207, 0x208,
	0x209, 0x20a, 0x20b, 0x20c, 0x20d, 0x20e, 0x20f, 0x250, 0x258,
	0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f,
};

/* In KVM's list, and the state of something the CPUID table hides (x86/cpuid.c) or we never use. */
static const struct {
	uint32_t first, last;
} hidden_msrs[] = {
	{0x3a, 0x3a},	/* FEATURE_CONTROL: VMX, SGX */
	{0x8c, 0x8f},	/* SGX launch control */
	{0xc1, 0xd0},	/* performance counters */
	{0xe1, 0xe1},	/* UMWAIT_CONTROL: WAITPKG */
	{0x186, 0x195}, /* event selects */
	{0x1a6, 0x1a7}, /* off-core response */
	{0x1c4, 0x1c5}, /* XFD: AMX */
	{0x1c8, 0x1c9}, /* LBR */
	{0x1ce, 0x1ce},
	{0x309, 0x30c},		  /* fixed counters */
	{0x345, 0x345},		  /* PERF_CAPABILITIES */
	{0x38d, 0x390},		  /* fixed counter and global control */
	{0x3f1, 0x3f2},		  /* PEBS */
	{0x480, 0x493},		  /* VMX capabilities */
	{0x4c1, 0x4d0},		  /* performance counters, full width */
	{0x560, 0x58f},		  /* PT */
	{0x600, 0x600},		  /* DS area */
	{0x14ce, 0x14cf},	  /* arch LBR */
	{0x40000000, 0x400001ff}, /* Hyper-V, which is not offered */
	{0xc0000300, 0xc0000303}, /* perfmon v2 */
	{0xc0010000, 0xc0010007}, /* AMD performance counters */
	{0xc0010114, 0xc0010117}, /* SVM: VM_CR, VM_HSAVE_PA */
	{0xc0010200, 0xc001020b}, /* AMD performance counters, extended */
};

/*
 * Settings of the host KVM that describe it rather than the guest: a value read here may be refused
 * by set on the same host. Skipped, each by name.
 */
static const struct {
	uint32_t msr;
	const char *name;
} may_fail[] = {
	{0x10a, "ARCH_CAPABILITIES"}, {0xce, "PLATFORM_INFO"},
	{0xcf, "CORE_CAPABILITIES"},  {0x8b, "UCODE_REV"},
	{0xc0010015, "HWCR"},	      {0xc001102b, "AMD_DE_CFG"},
	{0xc0011029, "DE_CFG"},	      {0x4b564d07, "KVM_MIGRATION_CONTROL"},
};

static bool is_hidden(uint32_t msr)
{
	for (size_t i = 0; i < ARRAY_SIZE(hidden_msrs); i++)
		if (msr >= hidden_msrs[i].first && msr <= hidden_msrs[i].last)
			return true;
	return false;
}

static bool may_skip(uint32_t msr)
{
	for (size_t i = 0; i < ARRAY_SIZE(may_fail); i++)
		if (msr == may_fail[i].msr)
			return true;
	return false;
}

static int plan_add(struct state_plan *p, uint32_t msr, struct err *err)
{
	for (uint32_t i = 0; i < p->nmsrs; i++)
		if (p->msr[i] == msr)
			return 0;
	if (p->nmsrs == VCPU_MSRS_MAX)
		return err_set(err, E2BIG, "list the vCPU's MSRs: KVM has more than %u",
			       VCPU_MSRS_MAX);
	p->msr[p->nmsrs++] = msr;
	return 0;
}

static int plan_msrs(int kvm_fd, struct state_plan *p, struct err *err)
{
	int banks = ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_MCE);
	struct {
		uint32_t n;
		uint32_t index[1024];
	} list = {.n = ARRAY_SIZE(list.index)};
	int r;

	if (ioctl(kvm_fd, KVM_GET_MSR_INDEX_LIST, &list) < 0)
		return err_errno(err, "KVM_GET_MSR_INDEX_LIST");
	/* The clock first: TSC_DEADLINE, at the end, is relative to it. */
	r = plan_add(p, MSR_TSC, err);
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(mtrr_msrs); i++)
		r = plan_add(p, mtrr_msrs[i], err);
	for (uint32_t i = 0; r == 0 && i < list.n; i++)
		if (list.index[i] != MSR_TSC_DEADLINE && !is_hidden(list.index[i]))
			r = plan_add(p, list.index[i], err);
	for (int i = 0; r == 0 && i < 4 * MIN(banks, MCE_BANKS_MAX); i++)
		r = plan_add(p, MSR_MC0_CTL + i, err);
	if (r == 0 && p->irqchip)
		r = plan_add(p, MSR_TSC_DEADLINE, err);
	return r;
}

int state_plan_new(int kvm_fd, int vm_fd, bool irqchip, struct state_plan *out, struct err *err)
{
	int len = ioctl(vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);

	*out = (struct state_plan){.irqchip = irqchip, .xsave_len = sizeof(struct kvm_xsave)};
	if (len > VCPU_XSAVE_MAX)
		return err_set(err, ENOTSUP,
			       "XSAVE area of %d bytes: %u at most; a CPU feature is enabled that "
			       "snapshots do not carry",
			       len, VCPU_XSAVE_MAX);
	if (len > (int)out->xsave_len)
		out->xsave_len = len;
	return plan_msrs(kvm_fd, out, err);
}

/* ---- MSRs ---- */

/*
 * KVM_GET_MSRS and KVM_SET_MSRS stop at the first register they refuse and return how many they
 * did. Go on behind it if its name is on the list, and drop it from the table.
 */
static int walk_msrs(int fd, unsigned index, unsigned long req, struct vcpu_msrs *all,
		     const char *what, struct err *err)
{
	cleanup_free struct vcpu_msrs *part = malloc(sizeof(*part));
	uint32_t at = 0, kept = 0;

	if (!part)
		return err_set(err, ENOMEM, "vCPU %u: %s: out of memory", index, what);
	while (at < all->n) {
		uint32_t left = all->n - at;

		part->n = left;
		part->padding = 0;
		memcpy(part->entry, &all->entry[at], left * sizeof(part->entry[0]));
		int done = ioctl(fd, req, part);
		if (done < 0)
			return err_errno(err, "vCPU %u: %s", index, what);
		done = MIN((uint32_t)done, left);
		memmove(&all->entry[kept], part->entry, done * sizeof(part->entry[0]));
		kept += done;
		at += done;
		if (at == all->n)
			break;
		if (!may_skip(part->entry[done].index))
			return err_set(err, ENOTSUP,
				       "vCPU %u: %s: KVM refuses MSR %#x (value %#llx)", index,
				       what, part->entry[done].index,
				       req == KVM_SET_MSRS ? part->entry[done].data : 0ull);
		at++;
	}
	all->n = kept;
	return 0;
}

/* As a new vCPU has it. */
static bool bank_at_reset(const struct kvm_msr_entry *e)
{
	return e->index >= MSR_MC0_CTL && e->index < MSR_MC0_CTL + 4 * MCE_BANKS_MAX && !e->data;
}

/* Up to 128 MSRs, hardly ever touched: not worth their time at each restore. */
static void drop_banks_at_reset(struct vcpu_msrs *m)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < m->n; i++)
		if (!bank_at_reset(&m->entry[i]))
			m->entry[kept++] = m->entry[i];
	m->n = kept;
}

static int get_msrs(int fd, unsigned index, const struct state_plan *plan, struct vcpu_msrs *out,
		    struct err *err)
{
	out->n = plan->nmsrs;
	for (uint32_t i = 0; i < plan->nmsrs; i++)
		out->entry[i] = (struct kvm_msr_entry){.index = plan->msr[i]};
	int r = walk_msrs(fd, index, KVM_GET_MSRS, out, "KVM_GET_MSRS", err);
	if (r == 0)
		drop_banks_at_reset(out);
	return r;
}

static int set_msrs(int fd, unsigned index, const struct vcpu_msrs *msrs, struct err *err)
{
	cleanup_free struct vcpu_msrs *copy = NULL;

	/* One call when all goes well, straight from the caller's table. */
	int done = ioctl(fd, KVM_SET_MSRS, msrs);
	if (done < 0)
		return err_errno(err, "vCPU %u: KVM_SET_MSRS", index);
	if ((uint32_t)done == msrs->n)
		return 0;
	copy = malloc(sizeof(*copy));
	if (!copy)
		return err_set(err, ENOMEM, "vCPU %u: KVM_SET_MSRS: out of memory", index);
	copy->n = msrs->n - done;
	memcpy(copy->entry, &msrs->entry[done], copy->n * sizeof(copy->entry[0]));
	return walk_msrs(fd, index, KVM_SET_MSRS, copy, "KVM_SET_MSRS", err);
}

/* ---- the rest of a vCPU ---- */

struct step {
	unsigned long req;
	void *arg;
	const char *name;
};

static int walk(int fd, unsigned index, const struct step *step, size_t n, struct err *err)
{
	for (size_t i = 0; i < n; i++)
		if (ioctl(fd, step[i].req, step[i].arg) < 0)
			return err_errno(err, "vCPU %u: %s", index, step[i].name);
	return 0;
}

/* Kernels before 6.4 leave `nent` of KVM_GET_CPUID2 as large as the caller's room. */
static void trim_cpuid(struct vcpu_cpuid *t)
{
	static const struct kvm_cpuid_entry2 unused;

	while (t->n > 0 && !memcmp(&t->entry[t->n - 1], &unused, sizeof(unused)))
		t->n--;
}

#define STEP(req, arg)         \
	{                      \
		req, arg, #req \
	}

/*
 * MP_STATE first: KVM_GET_MP_STATE takes pending INIT and SIPI events in, which changes registers.
 * VCPU_EVENTS last: reading other state may still change what is pending.
 */
int vcpu_state_get(int vcpu_fd, unsigned index, const struct state_plan *plan,
		   struct vcpu_state *out, struct err *err)
{
	const struct step first[] = {
		STEP(KVM_GET_MP_STATE, &out->mp_state),
		STEP(KVM_GET_REGS, &out->regs),
		STEP(KVM_GET_SREGS, &out->sregs),
		{plan->xsave_len > sizeof(struct kvm_xsave) ? KVM_GET_XSAVE2 : KVM_GET_XSAVE,
		 out->xsave, "KVM_GET_XSAVE"},
		STEP(KVM_GET_XCRS, &out->xcrs),
		STEP(KVM_GET_DEBUGREGS, &out->debugregs),
	};
	const struct step lapic = STEP(KVM_GET_LAPIC, &out->lapic);
	const struct step cpuid = STEP(KVM_GET_CPUID2, &out->cpuid);
	const struct step events = STEP(KVM_GET_VCPU_EVENTS, &out->events);
	int r;

	memset(out, 0, sizeof(*out));
	out->xsave_len = plan->xsave_len;
	out->has_lapic = plan->irqchip;
	out->cpuid.n = VCPU_CPUID_MAX;
	r = walk(vcpu_fd, index, first, ARRAY_SIZE(first), err);
	if (r == 0 && out->has_lapic)
		r = walk(vcpu_fd, index, &lapic, 1, err);
	if (r < 0)
		return r;
	int khz = ioctl(vcpu_fd, KVM_GET_TSC_KHZ, 0);
	if (khz < 0)
		return err_errno(err, "vCPU %u: KVM_GET_TSC_KHZ", index);
	out->tsc_khz = khz;
	r = walk(vcpu_fd, index, &cpuid, 1, err);
	trim_cpuid(&out->cpuid);
	if (r == 0)
		r = get_msrs(vcpu_fd, index, plan, &out->msrs, err);
	return r < 0 ? r : walk(vcpu_fd, index, &events, 1, err);
}

int vcpu_state_check(const struct vcpu_state *s, struct err *err)
{
	if (s->xsave_len < sizeof(struct kvm_xsave) || s->xsave_len > VCPU_XSAVE_MAX)
		return err_set(err, EBADMSG, "vCPU state: XSAVE area of %u bytes, from %zu to %u",
			       s->xsave_len, sizeof(struct kvm_xsave), VCPU_XSAVE_MAX);
	if (!s->cpuid.n || s->cpuid.n > VCPU_CPUID_MAX)
		return err_set(err, EBADMSG, "vCPU state: %u CPUID entries, from 1 to %u",
			       s->cpuid.n, VCPU_CPUID_MAX);
	if (s->msrs.n > VCPU_MSRS_MAX)
		return err_set(err, EBADMSG, "vCPU state: %u MSRs, at most %u", s->msrs.n,
			       VCPU_MSRS_MAX);
	if (s->xcrs.nr_xcrs > KVM_MAX_XCRS)
		return err_set(err, EBADMSG, "vCPU state: %u XCRs, at most %u", s->xcrs.nr_xcrs,
			       KVM_MAX_XCRS);
	if (!s->tsc_khz)
		return err_set(err, EBADMSG, "vCPU state: TSC frequency 0");
	if (!cpuid_is_filtered(&s->cpuid))
		return err_set(
			err, ENOTSUP,
			"vCPU state: its CPUID table shows a feature that no machine of this "
			"program has");
	return 0;
}

static int set_tsc_khz(int fd, unsigned index, uint32_t want, struct err *err)
{
	int have = ioctl(fd, KVM_GET_TSC_KHZ, 0);

	if (have < 0)
		return err_errno(err, "vCPU %u: KVM_GET_TSC_KHZ", index);
	/* 250 ppm is what KVM itself tolerates (tsc_tolerance_ppm), and NTP corrects. */
	uint64_t diff = (uint32_t)have > want ? (uint32_t)have - want : want - (uint32_t)have;
	if (diff * 1000000 <= 250ull * want)
		return 0;
	if (ioctl(fd, KVM_SET_TSC_KHZ, (unsigned long)want) < 0)
		return err_set(
			err, ENOTSUP,
			"vCPU %u: the guest's TSC runs at %u kHz, this host's at %d kHz, and it "
			"cannot scale; restore on a host of the same frequency",
			index, want, have);
	return 0;
}

/*
 * CPUID2 first: KVM checks all else against it. SREGS before LAPIC: it carries the APIC base, which
 * says how the LAPIC page is laid out. LAPIC before MSRS: a TSC_DEADLINE written while the LVT
 * timer is not in deadline mode is dropped, and the guest would wait for ever; the deadline is the
 * last MSR, since it counts in the TSC set by the first. REGS before VCPU_EVENTS: setting registers
 * drops a pending exception.
 */
int vcpu_state_set(int vcpu_fd, unsigned index, const struct vcpu_state *s, struct err *err)
{
	const struct step first[] = {
		STEP(KVM_SET_CPUID2, (void *)&s->cpuid),
	};
	const struct step second[] = {
		STEP(KVM_SET_MP_STATE, (void *)&s->mp_state),
		STEP(KVM_SET_REGS, (void *)&s->regs),
		STEP(KVM_SET_SREGS, (void *)&s->sregs),
		STEP(KVM_SET_XSAVE, (void *)s->xsave),
		STEP(KVM_SET_XCRS, (void *)&s->xcrs),
		STEP(KVM_SET_DEBUGREGS, (void *)&s->debugregs),
	};
	const struct step lapic = STEP(KVM_SET_LAPIC, (void *)&s->lapic);
	const struct step events = STEP(KVM_SET_VCPU_EVENTS, (void *)&s->events);
	int r = vcpu_state_check(s, err);

	if (r == 0)
		r = walk(vcpu_fd, index, first, ARRAY_SIZE(first), err);
	if (r == 0)
		r = set_tsc_khz(vcpu_fd, index, s->tsc_khz, err);
	if (r == 0)
		r = walk(vcpu_fd, index, second, ARRAY_SIZE(second), err);
	if (r == 0 && s->has_lapic)
		r = walk(vcpu_fd, index, &lapic, 1, err);
	if (r == 0)
		r = set_msrs(vcpu_fd, index, &s->msrs, err);
	return r < 0 ? r : walk(vcpu_fd, index, &events, 1, err);
}

int vcpu_kvmclock_paused(int vcpu_fd, struct err *err)
{
	/* EINVAL: this guest uses no kvmclock. */
	if (ioctl(vcpu_fd, KVM_KVMCLOCK_CTRL, 0) < 0 && errno != EINVAL)
		return err_errno(err, "KVM_KVMCLOCK_CTRL");
	return 0;
}

/* ---- the VM ---- */

static int vm_ioctl(int fd, unsigned long req, void *arg, const char *name, struct err *err)
{
	return ioctl(fd, req, arg) < 0 ? err_errno(err, "%s", name) : 0;
}

#define VM_IOCTL(fd, req, arg, err) vm_ioctl(fd, req, (void *)(arg), #req, err)

int vm_irq_state_get(int vm_fd, bool irqchip, struct vm_irq_state *out, struct err *err)
{
	int r;

	memset(out, 0, sizeof(*out));
	out->has_irqchip = irqchip;
	out->pic[0].chip_id = KVM_IRQCHIP_PIC_MASTER;
	out->pic[1].chip_id = KVM_IRQCHIP_PIC_SLAVE;
	out->ioapic.chip_id = KVM_IRQCHIP_IOAPIC;
	r = VM_IOCTL(vm_fd, KVM_GET_CLOCK, &out->clock, err);
	if (r == 0 && irqchip)
		r = VM_IOCTL(vm_fd, KVM_GET_IRQCHIP, &out->pic[0], err);
	if (r == 0 && irqchip)
		r = VM_IOCTL(vm_fd, KVM_GET_IRQCHIP, &out->pic[1], err);
	if (r == 0 && irqchip)
		r = VM_IOCTL(vm_fd, KVM_GET_IRQCHIP, &out->ioapic, err);
	return r;
}

int vm_irq_state_set(int vm_fd, const struct vm_irq_state *s, struct err *err)
{
	/*
	 * Frozen time: the guest's clock goes on from where it stopped. With KVM_CLOCK_REALTIME set
	 * KVM would add the time since, and the wall clock is the agent's to set.
	 */
	struct kvm_clock_data clock = {.clock = s->clock.clock};
	int r;

	if (s->has_irqchip &&
	    (s->pic[0].chip_id != KVM_IRQCHIP_PIC_MASTER ||
	     s->pic[1].chip_id != KVM_IRQCHIP_PIC_SLAVE || s->ioapic.chip_id != KVM_IRQCHIP_IOAPIC))
		return err_set(err, EBADMSG, "interrupt controller state: wrong chip number");
	r = VM_IOCTL(vm_fd, KVM_SET_CLOCK, &clock, err);
	if (r == 0 && s->has_irqchip)
		r = VM_IOCTL(vm_fd, KVM_SET_IRQCHIP, &s->pic[0], err);
	if (r == 0 && s->has_irqchip)
		r = VM_IOCTL(vm_fd, KVM_SET_IRQCHIP, &s->pic[1], err);
	if (r == 0 && s->has_irqchip)
		r = VM_IOCTL(vm_fd, KVM_SET_IRQCHIP, &s->ioapic, err);
	return r;
}
