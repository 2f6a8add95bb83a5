/*
 * The interval timer of a restored machine: KVM has none until the guest wants it; what the guest
 * sees of it, and what is saved of it, is what KVM's own would have shown. The access that brings
 * it to life is done here and in KVM, side by side, by a guest that executes it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "runner/devices/pm.h"
#include "runner/vm/vcpu.h"
#include "runner/vm/vm.h"
#include "runner/x86/i8254.h"
#include "runner/x86/layout.h"
#include "smfs/base/num.h"

#define CODE	0x1000
#define RESULT	0x2000
#define MS	1000000ull
#define LATCHED 0x1234
#define IDLE	0xff /* the mode of a counter nobody has programmed */

static void assert_ok(int r, const struct err *err)
{
	if (r < 0)
		print_error("%s\n", err->msg);
	assert_int_equal(r, 0);
}

static struct vm *new_vm(bool restored)
{
	struct vm_config cfg = {.ram_bytes = 4 * MIB,
				.vcpus = 1,
				.ram_fd = -1,
				.irqchip = true,
				.restore = restored};
	struct err err;
	struct vm *vm;

	if (access("/dev/kvm", R_OK | W_OK) < 0) {
		print_message("# no usable /dev/kvm\n");
		skip();
	}
	assert_ok(vm_new(&cfg, &vm, &err), &err);
	assert_ok(pm_new(vm, &err), &err);
	return vm;
}

/* Nobody has programmed it, and its interrupts are heard. */
static struct vm_irq_state fresh(void)
{
	struct vm_irq_state s = {.has_irqchip = true};

	for (unsigned i = 0; i < I8254_CHANNELS; i++)
		s.pit2.channels[i] = (struct kvm_pit_channel_state){
			.count = 0x10000, .mode = IDLE, .gate = i != 2, .count_load_time = 1};
	return s;
}

static void mask_all(struct vm_irq_state *s)
{
	s->pic[0].chip.pic.imr = s->pic[1].chip.pic.imr = 0xff;
	s->ioapic.chip.ioapic.redirtbl[0].fields.mask = 1;
}

static bool in_kvm(struct vm *vm)
{
	struct kvm_pit_state2 s;

	return ioctl(vm->fd, KVM_GET_PIT2, &s) == 0;
}

/* One access by a guest in real mode, which then powers off; the byte it read. */
static uint8_t execute(struct vm *vm, uint16_t port, bool write, uint8_t v)
{
	const uint8_t code[] = {
		0xba,
		port & 0xff,
		(uint8_t)(port >> 8), /* mov $port, %dx */
		0xb0,
		v,		     /* mov $v, %al */
		write ? 0xee : 0xec, /* out %al, %dx or in %dx, %al */
		0xa2,
		RESULT & 0xff,
		RESULT >> 8, /* mov %al, RESULT */
		0xba,
		LAYOUT_PM_PORT & 0xff,
		LAYOUT_PM_PORT >> 8,
		0xb0,
		PM_SLEEP_ENABLE | PM_SLEEP_TYPE_S5 << 2,
		0xee,
		0xf4,
	};
	const struct kvm_regs regs = {.rip = CODE, .rflags = 2};
	struct kvm_sregs sregs;
	struct err err;

	memcpy(memory_at(&vm->mem, CODE, sizeof(code)), code, sizeof(code));
	assert_int_equal(ioctl(vm->vcpu[0]->fd, KVM_GET_SREGS, &sregs), 0);
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	assert_int_equal(ioctl(vm->vcpu[0]->fd, KVM_SET_SREGS, &sregs), 0);
	assert_int_equal(ioctl(vm->vcpu[0]->fd, KVM_SET_REGS, &regs), 0);
	assert_ok(vm_start(vm, &err), &err);
	assert_int_equal(vm_wait(vm, &err), VM_SHUTDOWN);
	return *(uint8_t *)memory_at(&vm->mem, RESULT, 1);
}

static void assert_same(const struct kvm_pit_state2 *a, const struct kvm_pit_state2 *b)
{
	assert_int_equal(a->flags, b->flags);
	for (unsigned i = 0; i < I8254_CHANNELS; i++) {
		struct kvm_pit_channel_state x = a->channels[i], y = b->channels[i];

		x.count_load_time = y.count_load_time = 0;
		/* What has been latched just now: how far it had come is another test's. */
		if (x.latched_count != LATCHED)
			x.latched_count = y.latched_count = 0;
		assert_memory_equal(&x, &y, sizeof(x));
	}
}

static const struct access {
	const char *name;
	uint16_t port;
	bool write;
	uint8_t v;
	struct kvm_pit_channel_state before; /* of the counter at `channel` */
	unsigned channel;
} accesses[] = {
	{"counter 0, both bytes, mode 2", 0x43, true, 0x34, {.mode = IDLE}, 0},
	{"counter 1, low byte, mode 3", 0x43, true, 0x56, {.mode = IDLE}, 1},
	{"counter 2, high byte, mode 7 is 3, BCD", 0x43, true, 0xaf, {.mode = 0}, 2},
	{"latch counter 2", 0x43, true, 0x80, {.mode = 0, .rw_mode = 3, .count = 500}, 2},
	{"latch it twice",
	 0x43,
	 true,
	 0x80,
	 {.rw_mode = 3, .count_latched = 1, .latched_count = LATCHED},
	 2},
	{"read back status of all",
	 0x43,
	 true,
	 0xee,
	 {.mode = 1, .rw_mode = 3, .count = 0xffff},
	 1},
	{"read back counts of 0 and 2", 0x43, true, 0xda, {.mode = 5, .rw_mode = 1, .count = 9}, 2},
	{"low byte", 0x42, true, 0x12, {.rw_mode = 1, .write_state = 1}, 2},
	{"low byte 0 is all of it", 0x42, true, 0, {.rw_mode = 1, .write_state = 1}, 2},
	{"high byte", 0x41, true, 0x12, {.rw_mode = 2, .write_state = 2}, 1},
	{"first of two", 0x40, true, 0x12, {.mode = IDLE, .rw_mode = 3, .write_state = 3}, 0},
	{"second of two",
	 0x42,
	 true,
	 0x34,
	 {.rw_mode = 3, .write_state = 4, .write_latch = 0x12},
	 2},
	{"the control word is not readable", 0x43, false, 0, {.mode = IDLE}, 0},
	{"a latched status first",
	 0x42,
	 false,
	 0,
	 {.status_latched = 1, .status = 0x5a, .count_latched = 3},
	 2},
	{"latched, low byte", 0x42, false, 0, {.count_latched = 1, .latched_count = LATCHED}, 2},
	{"latched, high byte", 0x42, false, 0, {.count_latched = 2, .latched_count = LATCHED}, 2},
	{"latched, first of two",
	 0x41,
	 false,
	 0,
	 {.count_latched = 3, .latched_count = LATCHED},
	 1},
	{"gate and speaker on", 0x61, true, 3, {.mode = 3, .count = 100}, 2},
	{"off again", 0x61, true, 0, {.mode = 0, .gate = 1}, 2},
};

static void the_first_access_is_what_kvm_makes_of_it(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(accesses); i++) {
		const struct access *a = &accesses[i];
		struct vm_irq_state s = fresh();
		struct kvm_pit_state2 theirs, ours;
		struct vm *kvm = new_vm(false), *held = new_vm(true);
		struct err err;
		uint8_t x, y;

		s.pit2.channels[a->channel] = a->before;
		if (!a->before.count)
			s.pit2.channels[a->channel].count = 0x10000;
		mask_all(&s);
		assert_int_equal(ioctl(kvm->fd, KVM_SET_PIT2, &s.pit2), 0);
		assert_ok(pit_restore(held, &s, &err), &err);
		assert_false(in_kvm(held));
		x = execute(kvm, a->port, a->write, a->v);
		y = execute(held, a->port, a->write, a->v);
		assert_true(in_kvm(held));
		if (x != y)
			fail_msg("%s: KVM reads %#x, here %#x", a->name, x, y);
		assert_ok(pit_save(kvm, &theirs, &err), &err);
		assert_ok(pit_save(held, &ours, &err), &err);
		print_message("# %s\n", a->name);
		assert_same(&theirs, &ours);
		vm_free(kvm);
		vm_free(held);
	}
}

static void gate_and_output_of_the_third_counter(void **state)
{
	struct kvm_pit_state2 s = fresh().pit2;

	s.channels[2] = (struct kvm_pit_channel_state){.mode = 0, .count = 1193, .gate = 1};
	s.channels[2].count_load_time = (int64_t)MS;
	/* 1193 ticks are a millisecond, and the refresh clock is bit 14 of the nanoseconds. */
	assert_int_equal(i8254_speaker_read(&s, MS * 3 / 2) & ~0x10, 0x01);
	assert_int_equal(i8254_speaker_read(&s, MS * 5 / 2) & ~0x10, 0x21);
	assert_int_not_equal(i8254_speaker_read(&s, 1 << 14) & 0x10,
			     i8254_speaker_read(&s, 2 << 14) & 0x10);
}

static uint16_t count_at(uint8_t mode, uint32_t count, uint64_t now)
{
	struct kvm_pit_state2 s = fresh().pit2;

	s.channels[2] = (struct kvm_pit_channel_state){
		.mode = mode, .count = count, .read_state = 3, .count_load_time = (int64_t)MS};
	const uint8_t low = i8254_read(&s, 2, now);
	return (uint16_t)(low | i8254_read(&s, 2, now) << 8);
}

static void it_counts(void **state)
{
	/* 1.193182 MHz: 1193 ticks a millisecond. */
	assert_int_equal(count_at(2, 10000, MS), 10000);
	assert_int_equal(count_at(2, 10000, 2 * MS), 10000 - 1193);
	assert_int_equal(count_at(2, 1000, 2 * MS), 1000 - 193);
	assert_int_equal(count_at(3, 10000, 2 * MS), 10000 - 2 * 1193);
	assert_int_equal(count_at(0, 1000, 2 * MS), (uint16_t)(1000 - 1193)); /* goes on below 0 */
	assert_int_equal(count_at(0, 0x10000, MS), 0);
	/* What no guest can have made. */
	count_at(77, 0, 0);
	count_at(3, UINT32_MAX, UINT64_MAX);
}

/* ---- whether KVM has it ---- */

/* In KVM after a restore, and what is saved then is what was given. */
static bool restored_into_kvm(const struct vm_irq_state *s)
{
	struct vm *vm = new_vm(true);
	struct kvm_pit_state2 again;
	struct err err;

	assert_ok(pit_restore(vm, s, &err), &err);
	assert_ok(pit_save(vm, &again, &err), &err);
	assert_same(&s->pit2, &again);
	const bool is = in_kvm(vm);
	vm_free(vm);
	return is;
}

static void kvm_has_it_if_an_interrupt_may_be_awaited(void **state)
{
	static const uint8_t once[] = {0, 1, 4}, periodic[] = {2, 3}, silent[] = {5, 6, IDLE};
	struct vm_irq_state heard = fresh(), masked = fresh();

	mask_all(&masked);
	for (size_t i = 0; i < ARRAY_SIZE(silent); i++) {
		heard.pit2.channels[0].mode = silent[i];
		assert_false(restored_into_kvm(&heard));
	}
	for (size_t i = 0; i < ARRAY_SIZE(periodic); i++) {
		heard.pit2.channels[0].mode = masked.pit2.channels[0].mode = periodic[i];
		assert_true(restored_into_kvm(&heard));
		assert_true(restored_into_kvm(&masked));
	}
	for (size_t i = 0; i < ARRAY_SIZE(once); i++) {
		heard.pit2.channels[0].mode = masked.pit2.channels[0].mode = once[i];
		assert_true(restored_into_kvm(&heard));
		assert_false(restored_into_kvm(&masked));
	}
	/* One line masked at an 8259 is one whose interrupt is being handled. */
	masked.pic[0].chip.pic.imr = 0x01;
	assert_true(restored_into_kvm(&masked));
	mask_all(&masked);
	masked.ioapic.chip.ioapic.redirtbl[0].fields.mask = 0;
	assert_true(restored_into_kvm(&masked));
}

static void a_machine_is_reset_to_another_state(void **state)
{
	struct vm_irq_state s = fresh();
	struct kvm_pit_state2 again;
	struct vm *vm = new_vm(true);
	struct err err;

	assert_ok(pit_restore(vm, &s, &err), &err);
	s.pit2.channels[2].count = 4711;
	assert_ok(pit_restore(vm, &s, &err), &err);
	assert_false(in_kvm(vm));
	assert_ok(pit_save(vm, &again, &err), &err);
	assert_same(&s.pit2, &again);
	s.pit2.channels[0].mode = 2;
	assert_ok(pit_restore(vm, &s, &err), &err);
	assert_true(in_kvm(vm));
	/* What KVM has it cannot be rid of. */
	s = fresh();
	assert_ok(pit_restore(vm, &s, &err), &err);
	assert_ok(pit_save(vm, &again, &err), &err);
	assert_same(&s.pit2, &again);
	vm_free(vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_counts),
		cmocka_unit_test(gate_and_output_of_the_third_counter),
		cmocka_unit_test(the_first_access_is_what_kvm_makes_of_it),
		cmocka_unit_test(kvm_has_it_if_an_interrupt_may_be_awaited),
		cmocka_unit_test(a_machine_is_reset_to_another_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
