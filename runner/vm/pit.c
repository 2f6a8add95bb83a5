#include "runner/vm/pit.h"

#include "runner/vm/vm.h"
#include "runner/x86/i8254.h"
#include "smfs/base/clock.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

int pit_create(struct vm *vm, struct err *err)
{
	/* KVM answers port 0x61 for the PIT's third counter, which old TSC calibration reads. */
	struct kvm_pit_config cfg = {.flags = KVM_PIT_SPEAKER_DUMMY};

	if (ioctl(vm->fd, KVM_CREATE_PIT2, &cfg) < 0)
		return err_errno(err, "KVM_CREATE_PIT2");
	vm->pit.in_kvm = true;
	return 0;
}

static int get(struct vm *vm, struct kvm_pit_state2 *out, struct err *err)
{
	return ioctl(vm->fd, KVM_GET_PIT2, out) < 0 ? err_errno(err, "KVM_GET_PIT2") : 0;
}

static int set(struct vm *vm, const struct kvm_pit_state2 *s, struct err *err)
{
	return ioctl(vm->fd, KVM_SET_PIT2, s) < 0 ? err_errno(err, "KVM_SET_PIT2") : 0;
}

/* ---- the access that finds it missing ---- */

typedef void (*access_fn)(struct kvm_pit_state2 *s, unsigned off, uint8_t *v, uint64_t now);

static void write_counter(struct kvm_pit_state2 *s, unsigned off, uint8_t *v, uint64_t now)
{
	i8254_write(s, off, *v, now);
}

static void read_counter(struct kvm_pit_state2 *s, unsigned off, uint8_t *v, uint64_t now)
{
	*v = i8254_read(s, off, now);
}

static void write_speaker(struct kvm_pit_state2 *s, unsigned off, uint8_t *v, uint64_t now)
{
	i8254_speaker_write(s, *v, now);
}

static void read_speaker(struct kvm_pit_state2 *s, unsigned off, uint8_t *v, uint64_t now)
{
	*v = i8254_speaker_read(s, now);
}

/*
 * It may be there already: another vCPU was first, or this is the rest of a repeated access.
 * Setting its state again starts its counters anew, as any setting does.
 */
static uint8_t access_it(struct vm *vm, access_fn fn, uint64_t off, uint8_t v)
{
	struct kvm_pit_state2 s = vm->pit.held;
	struct err err = ERR_INIT;
	int r = vm->pit.in_kvm ? get(vm, &s, &err) : 0;

	if (r == 0)
		fn(&s, (unsigned)off, &v, monotonic_ns());
	if (r == 0 && !vm->pit.in_kvm)
		r = pit_create(vm, &err);
	if (r == 0)
		r = set(vm, &s, &err);
	if (r < 0)
		vm_fail(vm, "give the guest its interval timer: %s", err.msg);
	return v;
}

static void counters_write(struct device *d, uint64_t off, unsigned len, uint64_t v)
{
	access_it(d->vm, write_counter, off, (uint8_t)v);
}

static uint64_t counters_read(struct device *d, uint64_t off, unsigned len)
{
	return access_it(d->vm, read_counter, off, 0);
}

static void speaker_write(struct device *d, uint64_t off, unsigned len, uint64_t v)
{
	access_it(d->vm, write_speaker, off, (uint8_t)v);
}

static uint64_t speaker_read(struct device *d, uint64_t off, unsigned len)
{
	return access_it(d->vm, read_speaker, off, 0);
}

static const struct device_ops counters_ops = {
	.type = "i8254", .read = counters_read, .write = counters_write};
static const struct device_ops speaker_ops = {
	.type = "i8254", .read = speaker_read, .write = speaker_write};

/* ---- its state ---- */

static int window(struct vm *vm, struct device *d, const struct device_ops *ops, uint64_t base,
		  uint64_t size, struct err *err)
{
	*d = (struct device){.ops = ops,
			     .vm = vm,
			     .bus = BUS_PIO,
			     .base = base,
			     .size = size,
			     .gsi = -1,
			     .irq_fd = -1};
	snprintf(d->id, sizeof(d->id), "%s@%#x", ops->type, (unsigned)base);
	return bus_add(&vm->pio, d, err);
}

/* The counters start anew, as they do when KVM is given a state. */
static int hold(struct vm *vm, const struct kvm_pit_state2 *s, struct err *err)
{
	struct pit *p = &vm->pit;
	int r;

	p->held = *s;
	for (unsigned i = 0; i < I8254_CHANNELS; i++)
		p->held.channels[i].count_load_time = (int64_t)monotonic_ns();
	/* A machine that is reset has them. */
	if (p->counters.vm)
		return 0;
	r = window(vm, &p->counters, &counters_ops, I8254_PORT, I8254_PORTS, err);
	return r < 0 ? r : window(vm, &p->speaker, &speaker_ops, I8254_SPEAKER, 1, err);
}

/*
 * No interrupt of its gets through before the guest programs the controllers: as a Linux that uses
 * the IOAPIC has the 8259s. (One line masked may be one whose interrupt is being handled.)
 */
static bool deaf(const struct vm_irq_state *s)
{
	return s->pic[0].chip.pic.imr == 0xff && s->pic[1].chip.pic.imr == 0xff &&
	       s->ioapic.chip.ioapic.redirtbl[0].fields.mask;
}

/* Whether a one-shot is over KVM's state does not tell. */
static bool awaited(const struct vm_irq_state *s)
{
	const enum i8254_irq irq = i8254_irq(&s->pit2);

	return irq == I8254_PERIODIC || (irq == I8254_ONCE && !deaf(s));
}

int pit_restore(struct vm *vm, const struct vm_irq_state *s, struct err *err)
{
	if (vm->pit.in_kvm)
		return set(vm, &s->pit2, err);
	if (!awaited(s))
		return hold(vm, &s->pit2, err);
	int r = pit_create(vm, err);
	return r < 0 ? r : set(vm, &s->pit2, err);
}

int pit_save(struct vm *vm, struct kvm_pit_state2 *out, struct err *err)
{
	*out = vm->pit.held;
	return vm->pit.in_kvm ? get(vm, out, err) : 0;
}
