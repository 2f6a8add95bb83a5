/*
 * vm.h - one virtual machine: its KVM objects, memory, devices and threads.
 *
 * LIFE. vm_new() makes the KVM VM in the order KVM.md measured as cheap: VM -> memory slots ->
 * irqchip -> PIT (a restored machine's: pit.h) -> vCPUs -> devices. Then either the boot path
 * (runner/x86/boot.h loads a kernel and sets the first registers) or the restore path
 * (runner/snapshot/restore.h loads state); then vm_start(). vm_pause() and vm_resume() bracket a
 * snapshot. vm_wait() blocks until the guest is over. vm_free() ends everything.
 *
 * THREADS. One thread per vCPU runs KVM_RUN; one I/O thread runs the loop; the thread that called
 * vm_start() waits. `dev_lock` is the one lock: held around every device operation, whichever
 * thread it is on. There is no process-wide state: two VMs could live in one process.
 */
#ifndef RUNNER_VM_VM_H
#define RUNNER_VM_VM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "runner/vm/bus.h"
#include "runner/vm/device.h"
#include "runner/vm/loop.h"
#include "runner/vm/memory.h"
#include "runner/vm/pit.h"
#include "smfs/base/err.h"

#define VM_MAX_VCPUS 8
#define VM_MAX_PMEM  4

struct vcpu;
struct kvm_cpuid2;

enum vm_end {
	VM_RUNNING = 0,
	VM_SHUTDOWN, /* guest powered off */
	VM_RESET,    /* guest asked for a reset (reboot, or panic with panic=-1) */
	VM_STOPPED,  /* vm_stop() */
	VM_FAILED,   /* KVM error, triple fault; vm->end_err says what */
};

/* A file the guest sees as persistent memory, read-only (devices/virtio_pmem.h). */
struct vm_pmem {
	const char *id;	  /* of the device to be: "pmem-rootfs" */
	int fd;		  /* open for reading; only borrowed, for the length of vm_new() */
	const char *path; /* for messages */
};

struct vm_config {
	uint64_t ram_bytes;
	unsigned vcpus;
	/*
	 * RAM: -1 = anonymous; otherwise an open `ram` of a snapshot, mapped MAP_PRIVATE.
	 * `ram_path` is for messages.
	 */
	int ram_fd;
	const char *ram_path;
	/* In a forked copy of a VM's process: that VM's memory, whose RAM to take over. Or NULL. */
	struct memory *inherited;
	/* The CPUID table to give the vCPUs; NULL = host's supported table, filtered (x86/cpuid.h).
	 */
	const struct kvm_cpuid2 *cpuid;
	/*
	 * vm_new() maps these behind RAM with virtio_pmem_map(), in order and before it sets the
	 * memory slots. The device itself is virtio_pmem_new(), later.
	 */
	struct vm_pmem pmem[VM_MAX_PMEM];
	unsigned npmem;
	/*
	 * Restore: where each RAM region's data ends, for memory_defer(); NULL: not known. Taken
	 * up for one vCPU only: an atomic access emulated as MMIO would not be one for another.
	 */
	const uint64_t *ram_used;
	bool irqchip; /* false only for the smallest of test guests */
	/*
	 * The vCPUs will be given a vcpu_state each (x86/state.h), CPUID table included: set none
	 * here. `cpuid` is ignored.
	 */
	bool restore;
};

struct vm {
	int kvm_fd, fd;
	bool irqchip, restore; /* of the config */
	struct memory mem;
	struct bus pio, mmio;
	struct pit pit;
	unsigned nvcpus;
	struct vcpu *vcpu[VM_MAX_VCPUS];
	struct device *devices; /* in order of creation */
	struct loop *loop;
	pthread_t loop_thread;
	pthread_mutex_t dev_lock;
	int next_gsi; /* for vm_add_device() of a virtio device; from 6 upwards, without 8, 9 */
	uint64_t next_mmio; /* next virtio-mmio window; VM_MMIO_BASE upwards, 4 KiB each */
	_Atomic int end;    /* enum vm_end */
	struct err end_err;
	int end_fd; /* eventfd readable once `end` is set: for a control loop. Poll, never read it
		     */
	bool running, paused, loop_started;

	/* vCPU threads park here (vcpu.h). */
	pthread_mutex_t park_lock;
	pthread_cond_t park_cond;
	_Atomic bool stop_vcpus; /* they shall park, or end once `end` is set */
	unsigned parked, alive;
	_Atomic bool slots_set;	       /* all of RAM is KVM's: memory_set_later() is done */
	_Atomic bool guest_ran;	       /* a vCPU has left the guest; with park_lock and park_cond */
	_Atomic uint64_t guest_ran_us; /* monotonic_us() of that first exit; 0: not yet */
	uint64_t map_us;	       /* what mapping memory and setting its slots took */
	void *spare_page;	       /* vm_remap_ram()'s, mapped when first needed */
	unsigned rewinds_refused;      /* how often the kernel could not tell what was written */
};

#define VM_MMIO_BASE  0xd0000000ull
#define VM_MMIO_STEP  0x1000ull
#define VM_PMEM_ALIGN (2ull << 20)
/* A page of address space that is no one's, for vm_remap_ram() alone. */
#define VM_SPARE_GPA   0xfed00000ull
#define VM_SPARE_BYTES 4096ull

int vm_new(const struct vm_config *cfg, struct vm **out, struct err *err);
void vm_free(struct vm *vm);

/*
 * Hand a device to the VM, which then owns it. bus/base/size/gsi as the device set them; a virtio
 * device comes with base 0 and gets the next window and GSI. Registers the irqfd. Before
 * vm_start().
 */
int vm_add_device(struct vm *vm, struct device *d, struct err *err);
struct device *vm_find_device(const struct vm *vm, const char *id);

/*
 * Create the vCPU and I/O threads; vCPUs start in the guest at once. A VM made with cfg.restore
 * first has every device resumed.
 */
int vm_start(struct vm *vm, struct err *err);
/*
 * Wait until the guest has run: for its first exit, or some milliseconds if it makes none. For what
 * works beside a new guest and is not to take its first instruction's processor.
 */
void vm_await_guest(struct vm *vm);
/*
 * Stop all vCPUs outside the guest with any pending PIO/MMIO completed (one re-entry with
 * immediate_exit), then quiesce every device in list order. On error the VM is running again.
 *
 * Call from neither a vCPU nor the loop thread, and without the device lock, which is free again on
 * return: take it around what touches devices. The loop goes on; quiesced devices do nothing.
 */
int vm_pause(struct vm *vm, struct err *err);
/* Devices resume, then vCPUs. */
int vm_resume(struct vm *vm, struct err *err);
/*
 * Of a paused VM: RAM becomes `ram_fd`'s content, mapped as vm_new() would, over the same memory
 * slots, and KVM forgets what it knew of the old. Then the state is loaded and vm_resume() called.
 * After a failure the VM is good for vm_free() only.
 *
 * `same`: RAM is mapped from that file already. Then only what has been written is given up, where
 * the kernel can tell that (PAGEMAP_SCAN); where not, the log says so once, and rewinds_refused
 * counts. *rewound: the bytes given up, 0 when all was mapped anew.
 */
int vm_remap_ram(struct vm *vm, int ram_fd, const char *path, bool same, uint64_t *rewound,
		 struct err *err);
/*
 * The first change of a VM's slots after its interrupt chips exist waits for a grace period, 7 to
 * 10 ms here, all later ones take microseconds. Called beside a running guest this has it over
 * with before the first vm_remap_ram().
 */
int vm_prime_remap(struct vm *vm, struct err *err);
/* End the VM from any thread, a signal handler included. The first reason given stays. */
void vm_end(struct vm *vm, enum vm_end why);
/* vm_end(VM_FAILED) with a message for vm_wait()'s caller. */
void vm_fail(struct vm *vm, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Returns once the vCPU and I/O threads are gone. `err` is filled for VM_FAILED. */
enum vm_end vm_wait(struct vm *vm, struct err *err);

#endif
