/*
 * floor RAM - the least a restore can be: what bench/restore.c holds smvm-runner against.
 *
 * Opens KVM, makes a VM with the in-kernel interrupt chips and timer every restored machine has,
 * maps the snapshot's `ram` MAP_PRIVATE, makes one vCPU with a CPUID table, points it at the tiny
 * guest's second entry (tests/guest/common.inc) and runs it. Bytes the guest writes to the serial
 * port go to standard output. It parses nothing, checks nothing, has no devices, no threads and no
 * second chance.
 *
 * FLOOR_BARE=1 leaves out interrupt chips, timer and CPUID: shown beside, not the bar, since the
 * guest could not be resumed without them.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runner/x86/layout.h"

#define GUEST_AGAIN 0x100010ull
#define CPUID_MAX   128

#define CHECK(x)                    \
	do {                        \
		if ((x) < 0) {      \
			perror(#x); \
			return 1;   \
		}                   \
	} while (0)

static void long_mode(struct kvm_sregs *s)
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

static int set_slot(int vm, uint32_t slot, uint64_t gpa, uint64_t size, uint8_t *hva)
{
	const struct kvm_userspace_memory_region r = {.slot = slot,
						      .guest_phys_addr = gpa,
						      .memory_size = size,
						      .userspace_addr = (uintptr_t)hva};

	return ioctl(vm, KVM_SET_USER_MEMORY_REGION, &r);
}

int main(int argc, char **argv)
{
	const bool bare = getenv("FLOOR_BARE") != NULL;
	struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
	struct kvm_regs regs = {.rip = GUEST_AGAIN, .rflags = 2};
	struct kvm_sregs sregs;
	const uint64_t hole = 3ull << 30;
	struct kvm_run *run;
	struct stat st;
	uint8_t *ram;
	int kvm, vm, vcpu, fd, run_len;
	uint64_t low, len;

	if (argc != 2) {
		fprintf(stderr, "usage: floor RAM\n");
		return 2;
	}
	CHECK(kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC));
	CHECK(vm = ioctl(kvm, KVM_CREATE_VM, 0));
	CHECK(fd = open(argv[1], O_RDONLY | O_CLOEXEC));
	CHECK(fstat(fd, &st));
	len = (uint64_t)st.st_size;
	ram = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
	if (ram == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	CHECK(ioctl(vm, KVM_SET_TSS_ADDR, LAYOUT_TSS));
	low = len < hole ? len : hole;
	CHECK(set_slot(vm, 0, 0, low, ram));
	if (len > low)
		CHECK(set_slot(vm, 1, 1ull << 32, len - low, ram + low));
	if (!bare) {
		CHECK(ioctl(vm, KVM_CREATE_IRQCHIP, 0));
		CHECK(ioctl(vm, KVM_CREATE_PIT2, &pit));
	}
	CHECK(vcpu = ioctl(vm, KVM_CREATE_VCPU, 0));
	CHECK(run_len = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
	run = mmap(NULL, (size_t)run_len, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED) {
		perror("mmap run");
		return 1;
	}
	if (!bare) {
		/* The table a guest would have been saved with: the first entries are enough. */
		struct {
			struct kvm_cpuid2 head;
			struct kvm_cpuid_entry2 entry[CPUID_MAX];
		} cpuid = {.head.nent = 2};

		cpuid.entry[0] = (struct kvm_cpuid_entry2){.function = 0, .eax = 1};
		cpuid.entry[1] = (struct kvm_cpuid_entry2){.function = 0x80000001,
							   .edx = 1u << 29 | 1u << 20 | 1u << 11};
		CHECK(ioctl(vcpu, KVM_SET_CPUID2, &cpuid));
	}
	CHECK(ioctl(vcpu, KVM_GET_SREGS, &sregs));
	long_mode(&sregs);
	CHECK(ioctl(vcpu, KVM_SET_SREGS, &sregs));
	CHECK(ioctl(vcpu, KVM_SET_REGS, &regs));

	for (;;) {
		CHECK(ioctl(vcpu, KVM_RUN, 0));
		if (run->exit_reason != KVM_EXIT_IO || run->io.direction != KVM_EXIT_IO_OUT ||
		    run->io.port != LAYOUT_SERIAL_PORT) {
			fprintf(stderr, "floor: exit reason %u\n", run->exit_reason);
			return 1;
		}
		CHECK(write(STDOUT_FILENO, (uint8_t *)run + run->io.data_offset, run->io.size));
	}
}
