/*
 * state.h - everything KVM knows about a vCPU and the VM's interrupt hardware, as plain structs.
 *
 * get and set walk the orders KVM.md gives; the orders matter and are explained at the code. The
 * functions take descriptors, so a test or a bench can use them without a struct vm.
 *
 * WHEN. All vCPUs stopped and pending I/O completed (vm_pause()), once per pause. set is for vCPUs
 * that have never run.
 *
 * PORTABLE BY CONSTRUCTION. The CPUID table (x86/cpuid.h) hides what has no place here: PMU, SGX,
 * VMX/SVM, AMX; so their MSRs are not collected and xsave stays within VCPU_XSAVE_MAX.
 *
 * HOSTILE INPUT. A state read from a file is checked by vcpu_state_check() before set: counts,
 * sizes and flags in range. The values themselves are KVM's to refuse; the error names the ioctl
 * or the MSR.
 *
 * The structs are large (some 20 KiB): keep them on the heap. Any thread may call, one at a time
 * per vCPU (KVM serialises per descriptor).
 */
#ifndef RUNNER_X86_STATE_H
#define RUNNER_X86_STATE_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#include "smfs/base/err.h"

/* x87 to AVX-512 and PKRU take 2,696 bytes; KVM never gives less than 4,096. */
#define VCPU_XSAVE_MAX 8192
#define VCPU_CPUID_MAX 128
#define VCPU_MSRS_MAX  384

/* kvm_cpuid2 and kvm_msrs end in a flexible array; these give it room. */
struct vcpu_cpuid {
	uint32_t n, padding;
	struct kvm_cpuid_entry2 entry[VCPU_CPUID_MAX];
};

struct vcpu_msrs {
	uint32_t n, padding;
	struct kvm_msr_entry entry[VCPU_MSRS_MAX];
};

struct vcpu_state {
	struct kvm_mp_state mp_state;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	uint32_t xsave_len; /* bytes of `xsave` in use */
	uint8_t xsave[VCPU_XSAVE_MAX] __attribute__((aligned(64)));
	struct kvm_xcrs xcrs;
	struct kvm_debugregs debugregs;
	bool has_lapic; /* an in-kernel irqchip exists */
	struct kvm_lapic_state lapic;
	uint32_t tsc_khz;
	struct vcpu_cpuid cpuid;
	struct vcpu_msrs msrs; /* MSR_IA32_TSC first, TSC_DEADLINE last */
	struct kvm_vcpu_events events;
};

/* The VM's own: only with an in-kernel irqchip, except the clock. */
struct vm_irq_state {
	bool has_irqchip;
	struct kvm_pit_state2 pit2; /* vm/pit.h gets and sets it, before the rest is set */
	struct kvm_clock_data clock;
	struct kvm_irqchip pic[2], ioapic;
};

/*
 * What to collect; found once per VM, since it costs some ioctls. `msr` is KVM's own list without
 * what the CPUID table hides, plus the MTRRs and the machine-check banks, in the order of use.
 */
struct state_plan {
	uint32_t xsave_len;
	bool irqchip;
	uint32_t nmsrs;
	uint32_t msr[VCPU_MSRS_MAX];
};
int state_plan_new(int kvm_fd, int vm_fd, bool irqchip, struct state_plan *out, struct err *err);

/* `index` is the vCPU's number, for messages. */
int vcpu_state_get(int vcpu_fd, unsigned index, const struct state_plan *plan,
		   struct vcpu_state *out, struct err *err);
int vcpu_state_check(const struct vcpu_state *s, struct err *err);
/*
 * -ENOTSUP when the guest's TSC frequency is more than 250 ppm off the host's and the host cannot
 * scale.
 */
int vcpu_state_set(int vcpu_fd, unsigned index, const struct vcpu_state *s, struct err *err);

int vm_irq_state_get(int vm_fd, bool irqchip, struct vm_irq_state *out, struct err *err);
int vm_irq_state_set(int vm_fd, const struct vm_irq_state *s, struct err *err);

/*
 * Tell the guest's kvmclock it was paused, so its watchdogs do not take the gap for a lockup. After
 * all state is set. A guest without kvmclock is no error.
 */
int vcpu_kvmclock_paused(int vcpu_fd, struct err *err);

#endif
