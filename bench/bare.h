/*
 * bare.h - the least a VM over given RAM can be: what the floors are made of.
 *
 * KVM's in-kernel interrupt chips, which every machine of the runner has, and no interval timer,
 * which a restored one has not either (vm/pit.h); memory slots; one vCPU with a CPUID table,
 * pointed at the tiny guests' second entry (tests/guest/common.inc). It parses nothing, checks
 * nothing, has no devices, no threads and no second chance: an error ends the process.
 */
#ifndef BENCH_BARE_H
#define BENCH_BARE_H

#include <fcntl.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "runner/x86/layout.h"

#define GUEST_AGAIN 0x100010ull
#define CPUID_MAX   128

#define CHECK(x)                    \
	do {                        \
		if ((x) < 0) {      \
			perror(#x); \
			exit(1);    \
		}                   \
	} while (0)

static inline void long_mode(struct kvm_sregs *s)
{
	const struct kvm_segment code = {.limit = 0xffffffff,
					 .selector = 0x10,
					 .type = 11,
					 .present = 1,
					 .s = 1,
					 .l = 1,
					 .g = 1};
	const struct kvm_segment data = {.limit = 0xffffffff,
					 .selector = 0x18,
					 .type = 3,
					 .present = 1,
					 .s = 1,
					 .db = 1,
					 .g = 1};

	s->cs = code;
	s->ds = s->es = s->fs = s->gs = s->ss = data;
	s->cr0 = 0x80000033;
	s->cr4 = 0x20;
	s->cr3 = LAYOUT_PML4;
	s->efer = 0x500;
}

static inline int set_slot(int vm, uint32_t slot, uint64_t gpa, uint64_t size, uint8_t *hva)
{
	const struct kvm_userspace_memory_region r = {.slot = slot,
						      .guest_phys_addr = gpa,
						      .memory_size = size,
						      .userspace_addr = (uintptr_t)hva};

	return ioctl(vm, KVM_SET_USER_MEMORY_REGION, &r);
}

struct bare_vm {
	int kvm, vm, vcpu;
	struct kvm_run *run;
};

/* `without_chips`: no interrupt chips and CPUID; its guest could not be resumed. */
static inline void bare_vm_new(struct bare_vm *b, uint8_t *ram, uint64_t len, bool without_chips)
{
	struct kvm_regs regs = {.rip = GUEST_AGAIN, .rflags = 2};
	const uint64_t hole = 3ull << 30, low = len < hole ? len : hole;
	struct kvm_sregs sregs;
	int run_len;

	CHECK(b->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC));
	CHECK(b->vm = ioctl(b->kvm, KVM_CREATE_VM, 0));
	CHECK(ioctl(b->vm, KVM_SET_TSS_ADDR, LAYOUT_TSS));
	CHECK(set_slot(b->vm, 0, 0, low, ram));
	if (len > low)
		CHECK(set_slot(b->vm, 1, 1ull << 32, len - low, ram + low));
	if (!without_chips)
		CHECK(ioctl(b->vm, KVM_CREATE_IRQCHIP, 0));
	CHECK(b->vcpu = ioctl(b->vm, KVM_CREATE_VCPU, 0));
	CHECK(run_len = ioctl(b->kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
	b->run = mmap(NULL, (size_t)run_len, PROT_READ | PROT_WRITE, MAP_SHARED, b->vcpu, 0);
	if (b->run == MAP_FAILED) {
		perror("mmap run");
		exit(1);
	}
	if (!without_chips) {
		/* The table a guest would have been saved with: the first entries are enough. */
		struct {
			struct kvm_cpuid2 head;
			struct kvm_cpuid_entry2 entry[CPUID_MAX];
		} cpuid = {.head.nent = 2};

		cpuid.entry[0] = (struct kvm_cpuid_entry2){.function = 0, .eax = 1};
		cpuid.entry[1] = (struct kvm_cpuid_entry2){.function = 0x80000001,
							   .edx = 1u << 29 | 1u << 20 | 1u << 11};
		CHECK(ioctl(b->vcpu, KVM_SET_CPUID2, &cpuid));
	}
	CHECK(ioctl(b->vcpu, KVM_GET_SREGS, &sregs));
	long_mode(&sregs);
	CHECK(ioctl(b->vcpu, KVM_SET_SREGS, &sregs));
	CHECK(ioctl(b->vcpu, KVM_SET_REGS, &regs));
}

/* The next bytes (*len of them, until the call after this) the guest writes to its serial port. */
static inline const uint8_t *bare_vm_next(struct bare_vm *b, size_t *len)
{
	CHECK(ioctl(b->vcpu, KVM_RUN, 0));
	if (b->run->exit_reason != KVM_EXIT_IO || b->run->io.direction != KVM_EXIT_IO_OUT ||
	    b->run->io.port != LAYOUT_SERIAL_PORT) {
		fprintf(stderr, "bare VM: exit reason %u\n", b->run->exit_reason);
		exit(1);
	}
	*len = b->run->io.size;
	return (const uint8_t *)b->run + b->run->io.data_offset;
}

#endif
