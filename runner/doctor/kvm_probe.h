/*
 * kvm_probe.h - how fast does this host's KVM run a kernel?
 *
 * A KVM that is there need not be of use: where page tables are kept in software, or a hypervisor
 * below emulates the processor's own virtualization, ring 0 may run a thousand times slower than
 * the processor does, and a stock kernel does not come up in the lifetime of a request. No name of
 * a module and no capability tells. So a virtual machine of 2 MiB is made, and ring-0 code in
 * 64-bit mode is timed in it: the instructions of a kernel's first steps once (CR3, EFER, CPUID,
 * IDT), a counting loop, and exits to user space.
 */
#ifndef RUNNER_DOCTOR_KVM_PROBE_H
#define RUNNER_DOCTOR_KVM_PROBE_H

#include "smfs/base/err.h"

struct kvm_probe {
	double insn_per_s;  /* of ring 0 */
	double exits_per_s; /* by port I/O, to this process and back */
	double create_us;   /* from opening /dev/kvm to a vCPU with its registers */
};

/*
 * Takes a tenth of a second, with figures in `out` as they become known: 0 before. May hang with a
 * broken KVM, or be slow on a busy host: run it where it can be killed.
 */
int kvm_probe(struct kvm_probe *out, struct err *err);

#endif
