#include "runner/vm/vcpu.h"

#include "runner/vm/vm.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>

int vcpu_new(struct vm *vm, unsigned index, size_t run_len, struct vcpu **out, struct err *err)
{
	struct vcpu *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return err_set(err, ENOMEM, "create vCPU %u: out of memory", index);
	c->vm = vm;
	c->index = index;
	c->run_len = run_len;
	c->fd = ioctl(vm->fd, KVM_CREATE_VCPU, (unsigned long)index);
	if (c->fd < 0) {
		r = err_errno(err, "create vCPU %u", index);
		goto fail;
	}
	c->run = mmap(NULL, run_len, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
	if (c->run == MAP_FAILED) {
		c->run = NULL;
		r = err_errno(err, "map the run page of vCPU %u", index);
		goto fail;
	}
	/* In a forked copy of this process the mapping would keep the VM alive. */
	if (madvise(c->run, run_len, MADV_DONTFORK) < 0) {
		r = err_errno(err, "keep the run page of vCPU %u from children", index);
		goto fail;
	}
	*out = c;
	return 0;
fail:
	vcpu_free(c);
	return r;
}

void vcpu_free(struct vcpu *c)
{
	if (!c)
		return;
	if (c->run)
		munmap(c->run, c->run_len);
	if (c->fd >= 0)
		close(c->fd);
	free(c);
}

static void set_immediate_exit(struct vcpu *c, uint8_t v)
{
	__atomic_store_n(&c->run->immediate_exit, v, __ATOMIC_SEQ_CST);
}

void vcpu_kick(struct vcpu *c)
{
	set_immediate_exit(c, 1);
	if (__atomic_load_n(&c->started, __ATOMIC_SEQ_CST))
		pthread_kill(c->thread, VCPU_SIGNAL);
}

static void exit_io(struct vcpu *c)
{
	struct kvm_run *run = c->run;
	uint8_t *p = (uint8_t *)run + run->io.data_offset;
	bool out = run->io.direction == KVM_EXIT_IO_OUT;

	pthread_mutex_lock(&c->vm->dev_lock);
	for (uint32_t i = 0; i < run->io.count; i++, p += run->io.size)
		bus_access(&c->vm->pio, run->io.port, p, run->io.size, out);
	pthread_mutex_unlock(&c->vm->dev_lock);
}

/* Wait until all of RAM has its slots (memory.h, LATER). true: there was something to wait for. */
static bool await_slots(struct vm *vm)
{
	if (atomic_load(&vm->slots_set))
		return false;
	pthread_mutex_lock(&vm->park_lock);
	/* Now, if whoever sets them is still waiting for a sign of life. */
	atomic_store(&vm->guest_ran, true);
	pthread_cond_broadcast(&vm->park_cond);
	while (!atomic_load(&vm->slots_set))
		pthread_cond_wait(&vm->park_cond, &vm->park_lock);
	pthread_mutex_unlock(&vm->park_lock);
	return true;
}

static void exit_mmio(struct vcpu *c)
{
	struct kvm_run *run = c->run;
	uint8_t *ram = memory_at(&c->vm->mem, run->mmio.phys_addr, run->mmio.len);

	/* RAM whose slot is not there yet. This one access is ours to finish. */
	if (ram) {
		await_slots(c->vm);
		if (run->mmio.is_write)
			memcpy(ram, run->mmio.data, run->mmio.len);
		else
			memcpy(run->mmio.data, ram, run->mmio.len);
		return;
	}
	pthread_mutex_lock(&c->vm->dev_lock);
	bus_access(&c->vm->mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len,
		   run->mmio.is_write);
	pthread_mutex_unlock(&c->vm->dev_lock);
}

static uint64_t rip_of(struct vcpu *c)
{
	struct kvm_regs regs;

	return ioctl(c->fd, KVM_GET_REGS, &regs) < 0 ? 0 : regs.rip;
}

static void exit_internal_error(struct vcpu *c)
{
	static const char *const what[] = {
		[KVM_INTERNAL_ERROR_EMULATION] = "an instruction KVM cannot emulate",
		[KVM_INTERNAL_ERROR_SIMUL_EX] = "simultaneous exceptions",
		[KVM_INTERNAL_ERROR_DELIVERY_EV] = "an exit while delivering an event",
		[KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON] = "an unexpected hardware exit",
	};
	const struct kvm_run *run = c->run;
	uint32_t sub = run->internal.suberror;
	const char *name = sub < sizeof(what) / sizeof(what[0]) && what[sub] ? what[sub] : "?";
	char insn[3 * sizeof(run->emulation_failure.insn_bytes) + 16] = "";
	unsigned n = 0;

	if (sub == KVM_INTERNAL_ERROR_EMULATION && run->emulation_failure.ndata >= 3 &&
	    run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) {
		unsigned size = run->emulation_failure.insn_size;

		if (size > sizeof(run->emulation_failure.insn_bytes))
			size = sizeof(run->emulation_failure.insn_bytes);
		for (unsigned i = 0; i < size; i++)
			n += snprintf(insn + n, sizeof(insn) - n, "%s%02x", i ? " " : ", bytes ",
				      run->emulation_failure.insn_bytes[i]);
	}
	vm_fail(c->vm, "run vCPU %u: KVM internal error %u (%s) at rip %#" PRIx64 "%s", c->index,
		sub, name, rip_of(c), insn);
}

static void exit_system_event(struct vcpu *c)
{
	uint32_t type = c->run->system_event.type;

	switch (type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		vm_end(c->vm, VM_SHUTDOWN);
		break;
	case KVM_SYSTEM_EVENT_RESET:
		vm_end(c->vm, VM_RESET);
		break;
	default:
		vm_fail(c->vm, "run vCPU %u: system event %u", c->index, type);
	}
}

static void handle_exit(struct vcpu *c)
{
	switch (c->run->exit_reason) {
	case KVM_EXIT_IO:
		exit_io(c);
		break;
	case KVM_EXIT_MMIO:
		exit_mmio(c);
		break;
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		break;
	case KVM_EXIT_HLT:
		/* Only without irqchip: nothing will ever wake it. */
		vm_end(c->vm, VM_SHUTDOWN);
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		exit_system_event(c);
		break;
	case KVM_EXIT_SHUTDOWN:
		vm_fail(c->vm, "run vCPU %u: the guest crashed (triple fault) at rip %#" PRIx64,
			c->index, rip_of(c));
		break;
	case KVM_EXIT_FAIL_ENTRY:
		vm_fail(c->vm,
			"run vCPU %u: the CPU refused the guest state (hardware reason %#llx) at "
			"rip %#" PRIx64,
			c->index, c->run->fail_entry.hardware_entry_failure_reason, rip_of(c));
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		/* An access to RAM without its slot that KVM could not emulate: try again with it.
		 */
		if (!await_slots(c->vm))
			exit_internal_error(c);
		break;
	default:
		vm_fail(c->vm, "run vCPU %u: unexpected KVM exit reason %u at rip %#" PRIx64,
			c->index, c->run->exit_reason, rip_of(c));
	}
}

static void note_first_exit(struct vm *vm)
{
	uint64_t never = 0;

	if (!atomic_load_explicit(&vm->guest_ran_us, memory_order_relaxed))
		atomic_compare_exchange_strong(&vm->guest_ran_us, &never, monotonic_us());
}

static void tell_guest_ran(struct vm *vm)
{
	pthread_mutex_lock(&vm->park_lock);
	atomic_store(&vm->guest_ran, true);
	pthread_cond_broadcast(&vm->park_cond);
	pthread_mutex_unlock(&vm->park_lock);
}

/* One KVM_RUN and what came of it; false when a kick or the end of the VM stopped it. */
static bool run_once(struct vcpu *c)
{
	if (ioctl(c->fd, KVM_RUN, 0) == 0) {
		note_first_exit(c->vm);
		handle_exit(c);
		if (!atomic_load_explicit(&c->vm->guest_ran, memory_order_relaxed))
			tell_guest_ran(c->vm);
		return true;
	}
	if (errno == EINTR)
		return false;
	/* EAGAIN: a secondary vCPU was woken by INIT and waits for its start-up interrupt. */
	if (errno != EAGAIN) {
		struct err e;

		err_errno(&e, "run vCPU %u: KVM_RUN", c->index);
		vm_fail(c->vm, "%s", e.msg);
		return false;
	}
	return true;
}

/*
 * Leave the guest state whole: with immediate_exit set KVM_RUN only completes what the last exit
 * left half done. That may be another exit (the second half of an access across pages).
 */
static void complete_io(struct vcpu *c)
{
	set_immediate_exit(c, 1);
	while (atomic_load(&c->vm->end) == VM_RUNNING && run_once(c))
		;
}

/* Wait until the vCPUs may run again: true; or until the VM has ended: false. */
static bool park(struct vcpu *c)
{
	struct vm *vm = c->vm;

	complete_io(c);
	pthread_mutex_lock(&vm->park_lock);
	vm->parked++;
	pthread_cond_broadcast(&vm->park_cond);
	while (atomic_load(&vm->stop_vcpus) && atomic_load(&vm->end) == VM_RUNNING)
		pthread_cond_wait(&vm->park_cond, &vm->park_lock);
	vm->parked--;
	/*
	 * Under the lock, for the caller enters the guest without another look at stop_vcpus: the
	 * next pause sets that under the lock and kicks afterwards. vm_end() takes no lock, and
	 * sets `end` before it kicks.
	 */
	set_immediate_exit(c, 0);
	pthread_mutex_unlock(&vm->park_lock);
	return atomic_load(&vm->end) == VM_RUNNING;
}

static void *vcpu_main(void *arg)
{
	struct vcpu *c = arg;
	struct vm *vm = c->vm;
	char name[16];
	sigset_t set;

	/* For whoever looks at a host's threads. */
	snprintf(name, sizeof(name), "vcpu %u", c->index);
	prctl(PR_SET_NAME, name);
	sigemptyset(&set);
	sigaddset(&set, VCPU_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	while (atomic_load(&vm->end) == VM_RUNNING)
		if (!atomic_load(&vm->stop_vcpus) || park(c))
			run_once(c);
	pthread_mutex_lock(&vm->park_lock);
	vm->alive--;
	pthread_cond_broadcast(&vm->park_cond);
	pthread_mutex_unlock(&vm->park_lock);
	return NULL;
}

int vcpu_start(struct vcpu *c, struct err *err)
{
	int r = pthread_create(&c->thread, NULL, vcpu_main, c);

	if (r)
		return err_set(err, r, "start the thread of vCPU %u: %s", c->index, strerror(r));
	__atomic_store_n(&c->started, true, __ATOMIC_SEQ_CST);
	return 0;
}
