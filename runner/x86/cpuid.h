/*
 * cpuid.h - the CPUID table a guest sees.
 *
 * cpuid_host() is what KVM supports here, less what a snapshot cannot carry or another host may
 * lack without need: PMU, architectural LBR, processor trace, SGX, VMX/SVM, WAITPKG, AMX and its
 * XCR0 bits. KVM's paravirtual leaves (kvmclock) stay. cpuid_for_vcpu() then patches what differs
 * per vCPU: APIC ids and topology (one socket of n single-threaded cores), HYPERVISOR,
 * TSC_DEADLINE.
 */
#ifndef RUNNER_X86_CPUID_H
#define RUNNER_X86_CPUID_H

#include <stdbool.h>

#include "runner/x86/state.h"

/* KVM_GET_SUPPORTED_CPUID (300 us: not on a restore), filtered. */
int cpuid_host(int kvm_fd, struct vcpu_cpuid *out, struct err *err);

/* The filter alone, for tables of any origin. */
void cpuid_filter(struct vcpu_cpuid *t);

/*
 * The filter would find nothing to hide, nor is there Hyper-V. A table out of a snapshot must be
 * so: nested virtualization would be in the reach of a guest whose snapshot somebody else wrote.
 */
bool cpuid_is_filtered(const struct vcpu_cpuid *t);

/* Adds the topology leaves it needs; -E2BIG when the table has no room. */
int cpuid_for_vcpu(struct vcpu_cpuid *t, unsigned index, unsigned nvcpus, bool irqchip,
		   struct err *err);

/* The entry of a leaf, NULL if the table has none. `sub` counts only for leaves with subleaves. */
struct kvm_cpuid_entry2 *cpuid_find(struct vcpu_cpuid *t, uint32_t leaf, uint32_t sub);

#endif
