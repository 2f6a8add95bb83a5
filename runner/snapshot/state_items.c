/* state_items.c - the table. */
#include "runner/snapshot/state_items.h"

#include <string.h>

#include "runner/snapshot/sections.h"
#include "smfs/base/num.h"

/* clang-format off */
#define VCPU(name, type, rule)        {name, STATE_VCPU, STATE_KEPT, type, 1, rule}
#define VM(name, type, n, rule)       {name, STATE_VM, STATE_KEPT, type, n, rule}
#define DEVICE(name, class, rule)     {name, STATE_DEVICE, class, SECTION_DEVICE, 0, rule}
#define MEMORY(name, class, rule)     {name, STATE_MEMORY, class, 0, 0, rule}
#define HOST(name, class, rule)       {name, STATE_HOST, class, 0, 0, rule}
#define GUEST(name, class, rule)      {name, STATE_GUEST, class, 0, 0, rule}

const struct state_item state_items[] = {
	VCPU("mp_state", SECTION_VCPU_MP_STATE, "running, halted, or waiting for its start"),
	VCPU("regs", SECTION_VCPU_REGS, "general registers, rip, rflags"),
	VCPU("sregs", SECTION_VCPU_SREGS, "segments, control registers, APIC base"),
	VCPU("xsave", SECTION_VCPU_XSAVE, "x87, SSE, AVX, AVX-512, PKRU"),
	VCPU("xcrs", SECTION_VCPU_XCRS, "XCR0"),
	VCPU("debugregs", SECTION_VCPU_DEBUGREGS, "DR0 to DR7"),
	VCPU("lapic", SECTION_VCPU_LAPIC, "local APIC: pending interrupts and its timer, which goes on with what was left"),
	VCPU("tsc_khz", SECTION_VCPU_TSC_KHZ, "the guest's frequency: met within 250 ppm, scaled to, or refused"),
	VCPU("cpuid", SECTION_VCPU_CPUID, "what the guest was shown, whatever this host has beyond"),
	VCPU("msrs", SECTION_VCPU_MSRS, "TSC, kvmclock, TSC deadline, MTRRs and the rest; the TSC goes on from its saved value"),
	VCPU("events", SECTION_VCPU_EVENTS, "exceptions and interrupts being delivered"),
	VM("pit2", SECTION_VM_PIT2, 1, "i8254, its counters started anew; KVM has it from its first use on, or at once if an interrupt of it may be awaited"),
	VM("clock", SECTION_VM_CLOCK, 1, "kvmclock goes on from its saved value"),
	VM("pic", SECTION_VM_PIC, 2, "i8259, master and slave"),
	VM("ioapic", SECTION_VM_IOAPIC, 1, "routing and pending interrupts"),

	DEVICE("serial", STATE_KEPT, "registers and received bytes; output goes to the new VM's console"),
	DEVICE("pm", STATE_DERIVED, "stateless: the machine's end"),
	DEVICE("i8042", STATE_DERIVED, "stateless: reset"),
	DEVICE("vmgenid", STATE_IDENTIFIED, "a new identifier, and its interrupt"),
	DEVICE("virtio-pmem", STATE_SHARED, "the image's rootfs.erofs, found by digest; queue positions kept"),
	DEVICE("virtio-blk", STATE_KEPT, "queue positions; nothing is in flight. A read-only one's file is opened anew; a writable one's content is that of the same instant, from then on its own"),
	DEVICE("virtio-rng", STATE_KEPT, "queue positions; bytes come from this host"),
	DEVICE("virtio-vsock", STATE_RESET, "no connection outlives it, and the guest is told; context id and queue positions kept"),

	MEMORY("ram", STATE_SHARED, "one page cache for all until written, then the writer's own"),
	MEMORY("mailbox", STATE_IDENTIFIED, "number, uuid and time of the new generation"),
	MEMORY("vmgenid", STATE_IDENTIFIED, "the new generation's uuid"),
	MEMORY("pmem", STATE_SHARED, "the host's page cache of the image, read-only"),

	HOST("/dev/kvm", STATE_DERIVED, "opened anew"),
	HOST("anon_inode:kvm-vm", STATE_DERIVED, "a VM of its own"),
	HOST("anon_inode:kvm-vcpu:*", STATE_DERIVED, "vCPUs of its own"),
	HOST("anon_inode:*eventfd*", STATE_DERIVED, "doorbells and interrupts, bound to the new VM"),
	HOST("anon_inode:*eventpoll*", STATE_DERIVED, "the I/O loop's"),
	HOST("anon_inode:*timerfd*", STATE_DERIVED, "rate limits of rng and vsock, unarmed"),
	HOST("socket:*", STATE_DERIVED, "listeners in the new VM's own directory; connections end"),
	HOST("*/ram", STATE_SHARED, "the snapshot's, mapped MAP_PRIVATE"),
	HOST("*/disk*", STATE_SHARED, "a read-only disk's file, by path; a writable one's as it was"),
	HOST("*/#*", STATE_DERIVED, "a file without a name: what is written to a private disk"),

	GUEST("entropy", STATE_IDENTIFIED, "64 bytes credited, generator reseeded"),
	GUEST("clock", STATE_IDENTIFIED, "CLOCK_REALTIME is the host's, or as the clock policy says"),
	GUEST("hostname", STATE_IDENTIFIED, "the new VM's name"),
	GUEST("machine-id", STATE_IDENTIFIED, "the generation's uuid"),
	GUEST("mailbox", STATE_IDENTIFIED, "compared with what the agent was told"),
	GUEST("processes", STATE_KEPT, "with their files, timers, loopback and Unix sockets; frozen until the rest is done"),
};
/* clang-format on */

const size_t state_items_n = ARRAY_SIZE(state_items);

const char *state_class_name(enum state_class c)
{
	static const char *const names[] = {[STATE_SHARED] = "shared",
					    [STATE_DERIVED] = "derived",
					    [STATE_KEPT] = "kept",
					    [STATE_RESET] = "reset",
					    [STATE_IDENTIFIED] = "identified"};

	return names[c];
}

const struct state_item *state_item_of_section(uint32_t type)
{
	for (size_t i = 0; i < state_items_n; i++)
		if (type && state_items[i].section == type)
			return &state_items[i];
	return NULL;
}

const struct state_item *state_item_of_device(const char *type)
{
	for (size_t i = 0; i < state_items_n; i++)
		if (state_items[i].where == STATE_DEVICE && strcmp(state_items[i].name, type) == 0)
			return &state_items[i];
	return NULL;
}

unsigned state_sections(unsigned vcpus)
{
	unsigned n = 0;

	for (size_t i = 0; i < state_items_n; i++)
		n += state_items[i].where == STATE_VCPU ? vcpus
		     : state_items[i].where == STATE_VM ? state_items[i].count
							: 0;
	return n;
}
