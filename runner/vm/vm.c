#include "runner/vm/vm.h"

#include "runner/devices/virtio_pmem.h"
#include "runner/vm/vcpu.h"
#include "runner/x86/cpuid.h"
#include "runner/x86/layout.h"
#include "runner/x86/state.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/num.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>

#define LATER_WAIT_MS 10

static void guard_enter(void *arg)
{
	struct vm *vm = arg;

	pthread_mutex_lock(&vm->dev_lock);
}

static void guard_leave(void *arg)
{
	struct vm *vm = arg;

	pthread_mutex_unlock(&vm->dev_lock);
}

static int open_kvm(struct vm *vm, struct err *err)
{
	vm->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (vm->kvm_fd < 0)
		return err_set(err, errno, "open /dev/kvm: %s; %s", strerror(errno),
			       errno == EACCES ? "join the group kvm"
					       : "load the module kvm_intel or kvm_amd");
	int v = ioctl(vm->kvm_fd, KVM_GET_API_VERSION, 0);
	if (v != KVM_API_VERSION)
		return err_set(err, ENOTSUP, "/dev/kvm: API version %d, %d is needed", v,
			       KVM_API_VERSION);
	do
		vm->fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, 0);
	while (vm->fd < 0 && errno == EINTR);
	if (vm->fd < 0)
		return err_errno(err, "KVM_CREATE_VM");
	if (ioctl(vm->fd, KVM_SET_TSS_ADDR, LAYOUT_TSS) < 0)
		return err_errno(err, "KVM_SET_TSS_ADDR");
	return 0;
}

static int map_memory(struct vm *vm, const struct vm_config *cfg, struct err *err)
{
	int r = memory_layout(&vm->mem, cfg->ram_bytes, err);

	if (r < 0)
		return r;
	if (cfg->inherited)
		r = memory_inherit(&vm->mem, cfg->inherited, err);
	else if (cfg->ram_fd >= 0)
		r = memory_map_file(&vm->mem, cfg->ram_fd,
				    cfg->ram_path ? cfg->ram_path : "snapshot RAM", err);
	else
		r = memory_map_anon(&vm->mem, err);
	if (r == 0 && cfg->ram_used && cfg->vcpus == 1)
		memory_defer(&vm->mem, cfg->ram_used);
	for (unsigned i = 0; r == 0 && i < cfg->npmem; i++)
		r = virtio_pmem_map(&vm->mem, &cfg->pmem[i], err);
	return r < 0 ? r : memory_set_slots(&vm->mem, vm->fd, err);
}

static int create_irqchip(struct vm *vm, struct err *err)
{
	if (ioctl(vm->fd, KVM_CREATE_IRQCHIP, 0) < 0)
		return err_errno(err, "KVM_CREATE_IRQCHIP");
	/* A restored machine's comes with its state. */
	return vm->restore ? 0 : pit_create(vm, err);
}

static int create_vcpus(struct vm *vm, const struct vm_config *cfg, struct err *err)
{
	int run_len = ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);

	if (run_len < (int)sizeof(struct kvm_run))
		return err_errno(err, "KVM_GET_VCPU_MMAP_SIZE");
	for (unsigned i = 0; i < cfg->vcpus; i++) {
		int r = vcpu_new(vm, i, run_len, &vm->vcpu[i], err);

		if (r < 0)
			return r;
		vm->nvcpus++;
	}
	return 0;
}

static int set_cpuid(struct vm *vm, const struct kvm_cpuid2 *given, struct err *err)
{
	cleanup_free struct vcpu_cpuid *base = calloc(1, sizeof(*base));
	cleanup_free struct vcpu_cpuid *t = calloc(1, sizeof(*t));
	int r = 0;

	if (!base || !t)
		return err_set(err, ENOMEM, "build the CPUID table: out of memory");
	if (!given) {
		r = cpuid_host(vm->kvm_fd, base, err);
	} else if (given->nent > VCPU_CPUID_MAX) {
		r = err_set(err, E2BIG, "CPUID table of %u entries: %u at most", given->nent,
			    VCPU_CPUID_MAX);
	} else {
		base->n = given->nent;
		memcpy(base->entry, given->entries, given->nent * sizeof(base->entry[0]));
	}
	for (unsigned i = 0; r == 0 && i < vm->nvcpus; i++) {
		*t = *base;
		r = cpuid_for_vcpu(t, i, vm->nvcpus, vm->irqchip, err);
		if (r == 0 && ioctl(vm->vcpu[i]->fd, KVM_SET_CPUID2, t) < 0)
			r = err_errno(err, "KVM_SET_CPUID2 on vCPU %u", i);
	}
	return r;
}

/* The order is measured (KVM.md): memory slots first, or the irqchip makes each of them slow. */
static int build(struct vm *vm, const struct vm_config *cfg, struct err *err)
{
	int r = open_kvm(vm, err);

	const uint64_t start = monotonic_us();
	if (r == 0)
		r = map_memory(vm, cfg, err);
	vm->map_us = monotonic_us() - start;
	if (r == 0 && cfg->irqchip)
		r = create_irqchip(vm, err);
	if (r == 0)
		r = create_vcpus(vm, cfg, err);
	if (r == 0 && !cfg->restore)
		r = set_cpuid(vm, cfg->cpuid, err);
	if (r == 0)
		r = loop_new(&vm->loop, err);
	if (r < 0)
		return r;
	loop_set_guard(vm->loop, guard_enter, guard_leave, vm);
	vm->end_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return vm->end_fd < 0 ? err_errno(err, "create eventfd") : 0;
}

int vm_new(const struct vm_config *cfg, struct vm **out, struct err *err)
{
	if (cfg->vcpus < 1 || cfg->vcpus > VM_MAX_VCPUS)
		return err_set(err, EINVAL, "%u vCPUs: must be from 1 to %u", cfg->vcpus,
			       VM_MAX_VCPUS);
	struct vm *vm = calloc(1, sizeof(*vm));
	if (!vm)
		return err_set(err, ENOMEM, "create VM: out of memory");
	vm->kvm_fd = vm->fd = vm->end_fd = -1;
	vm->irqchip = cfg->irqchip;
	vm->restore = cfg->restore;
	vm->next_gsi = LAYOUT_GED_GSI + 1;
	vm->next_mmio = VM_MMIO_BASE;
	pthread_mutex_init(&vm->dev_lock, NULL);
	pthread_mutex_init(&vm->park_lock, NULL);
	pthread_cond_init(&vm->park_cond, NULL);
	int r = build(vm, cfg, err);
	if (r < 0) {
		vm_free(vm);
		return err_wrap(err, r, "create VM");
	}
	*out = vm;
	return 0;
}

void vm_free(struct vm *vm)
{
	if (!vm)
		return;
	if (vm->running) {
		vm_end(vm, VM_STOPPED);
		vm_wait(vm, NULL);
	}
	while (vm->devices) {
		struct device *d = vm->devices;

		vm->devices = d->next;
		if (d->irq_fd >= 0)
			close(d->irq_fd);
		d->irq_fd = -1;
		d->ops->free(d);
	}
	loop_free(vm->loop);
	for (unsigned i = 0; i < VM_MAX_VCPUS; i++)
		vcpu_free(vm->vcpu[i]);
	if (vm->fd >= 0)
		close(vm->fd);
	if (vm->kvm_fd >= 0)
		close(vm->kvm_fd);
	if (vm->end_fd >= 0)
		close(vm->end_fd);
	memory_free(&vm->mem);
	if (vm->spare_page)
		munmap(vm->spare_page, VM_SPARE_BYTES);
	pthread_mutex_destroy(&vm->dev_lock);
	pthread_mutex_destroy(&vm->park_lock);
	pthread_cond_destroy(&vm->park_cond);
	free(vm);
}

/* ---- devices ---- */

static int next_window(struct vm *vm, struct device *d, struct err *err)
{
	/* 8 is the real-time clock's, which KVM's IOAPIC treats specially; 9 is named in the FADT.
	 */
	while (vm->next_gsi == 8 || vm->next_gsi == LAYOUT_SCI_GSI)
		vm->next_gsi++;
	if (vm->next_gsi > LAYOUT_GSI_MAX)
		return err_set(err, ENOSPC, "add device %s: no interrupt left", d->id);
	d->base = vm->next_mmio;
	d->size = VM_MMIO_STEP;
	d->gsi = vm->next_gsi++;
	vm->next_mmio += VM_MMIO_STEP;
	return 0;
}

static int attach_irq(struct vm *vm, struct device *d, struct err *err)
{
	cleanup_fd int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	if (fd < 0)
		return err_errno(err, "add device %s: create eventfd", d->id);
	struct kvm_irqfd irqfd = {.fd = fd, .gsi = d->gsi};
	if (ioctl(vm->fd, KVM_IRQFD, &irqfd) < 0)
		return err_errno(err, "add device %s: KVM_IRQFD for interrupt %d", d->id, d->gsi);
	d->irq_fd = steal_fd(&fd);
	return 0;
}

int vm_add_device(struct vm *vm, struct device *d, struct err *err)
{
	struct device **end = &vm->devices;
	int r = 0;

	d->vm = vm;
	d->irq_fd = -1;
	if (vm_find_device(vm, d->id))
		return err_set(err, EEXIST, "add device %s: the VM has one of this name", d->id);
	if (d->bus == BUS_MMIO && !d->base)
		r = next_window(vm, d, err);
	if (r == 0 && d->bus != BUS_NONE)
		r = bus_add(d->bus == BUS_PIO ? &vm->pio : &vm->mmio, d, err);
	if (r == 0 && d->gsi >= 0 && vm->irqchip)
		r = attach_irq(vm, d, err);
	if (r < 0)
		return r;
	while (*end)
		end = &(*end)->next;
	d->next = NULL;
	*end = d;
	return 0;
}

struct device *vm_find_device(const struct vm *vm, const char *id)
{
	for (struct device *d = vm->devices; d; d = d->next)
		if (!strcmp(d->id, id))
			return d;
	return NULL;
}

void device_irq(struct device *d)
{
	uint64_t one = 1;

	/* An eventfd counter cannot fill up here: KVM empties it as it injects. */
	if (d->irq_fd >= 0 && write(d->irq_fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
		vm_fail(d->vm, "raise the interrupt of %s: %s", d->id, strerror(errno));
}

/* ---- running ---- */

static void ignore_signal(int sig)
{
}

static void *loop_main(void *arg)
{
	struct vm *vm = arg;
	struct err e = ERR_INIT;

	prctl(PR_SET_NAME, "devices");
	if (loop_run(vm->loop, &e) < 0)
		vm_fail(vm, "I/O thread: %s", e.msg);
	return NULL;
}

static void resume_devices(struct vm *vm, const struct device *until)
{
	for (struct device *d = vm->devices; d != until; d = d->next)
		if (d->ops->resume)
			d->ops->resume(d);
}

static int start_vcpu(struct vm *vm, struct vcpu *c, struct err *err)
{
	pthread_mutex_lock(&vm->park_lock);
	vm->alive++;
	pthread_mutex_unlock(&vm->park_lock);
	int r = vcpu_start(c, err);
	if (r < 0) {
		pthread_mutex_lock(&vm->park_lock);
		vm->alive--;
		pthread_mutex_unlock(&vm->park_lock);
	}
	return r;
}

/* vCPUs first: the guest's first instruction does not wait for the I/O thread. */
static int start_threads(struct vm *vm, struct err *err)
{
	int r = 0;

	vm->running = true;
	for (unsigned i = 0; r == 0 && i < vm->nvcpus; i++)
		r = start_vcpu(vm, vm->vcpu[i], err);
	if (r < 0)
		return r;
	r = pthread_create(&vm->loop_thread, NULL, loop_main, vm);
	if (r)
		return err_set(err, r, "start the I/O thread: %s", strerror(r));
	vm->loop_started = true;
	return 0;
}

/*
 * Setting a large slot keeps a processor in the kernel for milliseconds, and the vCPU's new thread
 * may have been put on that one: so not before the guest has run, which its first exit proves. A
 * guest that makes none in LATER_WAIT_MS has run for most of them.
 */
void vm_await_guest(struct vm *vm)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += LATER_WAIT_MS * 1000000L;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_mutex_lock(&vm->park_lock);
	while (!atomic_load(&vm->guest_ran) && atomic_load(&vm->end) == VM_RUNNING)
		if (pthread_cond_clockwait(&vm->park_cond, &vm->park_lock, CLOCK_MONOTONIC,
					   &until) == ETIMEDOUT)
			break;
	pthread_mutex_unlock(&vm->park_lock);
}

/* The rest of RAM, beside the running vCPU, which waits if it wants some of it. */
static int set_later_slots(struct vm *vm, struct err *err)
{
	int r = 0;

	if (memory_has_later(&vm->mem)) {
		vm_await_guest(vm);
		r = memory_set_later(&vm->mem, vm->fd, err);
	}

	pthread_mutex_lock(&vm->park_lock);
	atomic_store(&vm->slots_set, true);
	pthread_cond_broadcast(&vm->park_cond);
	pthread_mutex_unlock(&vm->park_lock);
	return r;
}

static void kick_all(struct vm *vm)
{
	for (unsigned i = 0; i < vm->nvcpus; i++)
		vcpu_kick(vm->vcpu[i]);
}

int vm_start(struct vm *vm, struct err *err)
{
	struct sigaction sa = {.sa_handler = ignore_signal};
	sigset_t all, old;

	if (vm->running)
		return err_set(err, EBUSY, "start VM: it runs already");
	if (sigaction(VCPU_SIGNAL, &sa, NULL) < 0)
		return err_errno(err, "start VM: install signal handler");
	if (vm->restore) {
		pthread_mutex_lock(&vm->dev_lock);
		resume_devices(vm, NULL);
		pthread_mutex_unlock(&vm->dev_lock);
	}
	/* The process's signals are the control thread's business. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int r = start_threads(vm, err);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	/* Also after a failure: a vCPU that has started may be waiting for them. */
	int later = set_later_slots(vm, r < 0 ? NULL : err);
	if (r == 0)
		r = later;
	/* A vm_end() while the threads came up may have missed those it could not signal yet. */
	if (atomic_load(&vm->end) != VM_RUNNING)
		kick_all(vm);
	if (r < 0 && vm->running) {
		vm_end(vm, VM_STOPPED);
		vm_wait(vm, NULL);
	}
	return r;
}

static int park_vcpus(struct vm *vm, struct err *err)
{
	pthread_mutex_lock(&vm->park_lock);
	atomic_store(&vm->stop_vcpus, true);
	pthread_mutex_unlock(&vm->park_lock);
	kick_all(vm);
	pthread_mutex_lock(&vm->park_lock);
	while (vm->parked < vm->alive && atomic_load(&vm->end) == VM_RUNNING)
		pthread_cond_wait(&vm->park_cond, &vm->park_lock);
	pthread_mutex_unlock(&vm->park_lock);
	if (atomic_load(&vm->end) != VM_RUNNING)
		return err_set(err, ECANCELED, "pause VM: it has ended");
	return 0;
}

static void unpark_vcpus(struct vm *vm)
{
	pthread_mutex_lock(&vm->park_lock);
	atomic_store(&vm->stop_vcpus, false);
	/* vm_end() sets `end`, then stop_vcpus; whichever comes last here, the flag stays set. */
	if (atomic_load(&vm->end) != VM_RUNNING)
		atomic_store(&vm->stop_vcpus, true);
	pthread_cond_broadcast(&vm->park_cond);
	pthread_mutex_unlock(&vm->park_lock);
}

static int quiesce_devices(struct vm *vm, struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&vm->dev_lock);
	for (struct device *d = vm->devices; d && r == 0; d = d->next) {
		if (d->ops->quiesce)
			r = d->ops->quiesce(d, err);
		if (r < 0) {
			err_wrap(err, r, "quiesce %s", d->id);
			resume_devices(vm, d);
		}
	}
	pthread_mutex_unlock(&vm->dev_lock);
	return r;
}

int vm_pause(struct vm *vm, struct err *err)
{
	if (!vm->running || vm->paused)
		return err_set(err, EBUSY, "pause VM: it is %s",
			       vm->paused ? "paused" : "not running");
	int r = park_vcpus(vm, err);
	if (r < 0)
		return r;
	r = quiesce_devices(vm, err);
	if (r < 0)
		unpark_vcpus(vm);
	else
		vm->paused = true;
	return r;
}

int vm_resume(struct vm *vm, struct err *err)
{
	if (!vm->paused)
		return err_set(err, EINVAL, "resume VM: it is not paused");
	/* Its clocks went on: a guest not told so takes a long pause for a processor locked up. */
	for (unsigned i = 0; i < vm->nvcpus; i++) {
		int r = vcpu_kvmclock_paused(vm->vcpu[i]->fd, err);

		if (r < 0)
			return r;
	}
	pthread_mutex_lock(&vm->dev_lock);
	resume_devices(vm, NULL);
	pthread_mutex_unlock(&vm->dev_lock);
	vm->paused = false;
	unpark_vcpus(vm);
	return 0;
}

/* ---- the end ---- */

/* Async-signal-safe: parked threads are woken by vm_wait(). */
void vm_end(struct vm *vm, enum vm_end why)
{
	int running = VM_RUNNING;
	uint64_t one = 1;
	int saved = errno;

	if (!atomic_compare_exchange_strong(&vm->end, &running, why))
		return;
	atomic_store(&vm->stop_vcpus, true);
	kick_all(vm);
	ssize_t ignored = write(vm->end_fd, &one, sizeof(one));
	(void)ignored;
	errno = saved;
}

void vm_fail(struct vm *vm, const char *fmt, ...)
{
	char msg[ERR_MSG_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	pthread_mutex_lock(&vm->park_lock);
	/* Readers look only after vm_wait() has joined the writer. */
	if (atomic_load(&vm->end) == VM_RUNNING && !vm->end_err.code)
		err_set(&vm->end_err, EIO, "%s", msg);
	pthread_mutex_unlock(&vm->park_lock);
	vm_end(vm, VM_FAILED);
}

/* Until vm_end() has done its last step, not its first: it signals threads that we then join. */
static void await_end(struct vm *vm)
{
	struct pollfd p = {.fd = vm->end_fd, .events = POLLIN};

	while (poll(&p, 1, -1) != 1)
		;
}

enum vm_end vm_wait(struct vm *vm, struct err *err)
{
	if (vm->running) {
		await_end(vm);
		pthread_mutex_lock(&vm->park_lock);
		pthread_cond_broadcast(&vm->park_cond);
		pthread_mutex_unlock(&vm->park_lock);
		for (unsigned i = 0; i < vm->nvcpus; i++) {
			struct vcpu *c = vm->vcpu[i];

			if (!c->started)
				continue;
			pthread_join(c->thread, NULL);
			__atomic_store_n(&c->started, false, __ATOMIC_SEQ_CST);
		}
		if (vm->loop_started) {
			loop_stop(vm->loop);
			pthread_join(vm->loop_thread, NULL);
		}
		vm->running = vm->paused = vm->loop_started = false;
	}
	enum vm_end why = atomic_load(&vm->end);
	if (why == VM_FAILED && err)
		*err = vm->end_err;
	return why;
}
