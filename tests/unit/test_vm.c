/*
 * A machine on this host's /dev/kvm: a few instructions long guests that print, count, crash, halt
 * and ask for the end; pausing at any moment; state carried over to a second VM.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "runner/devices/pm.h"
#include "runner/devices/serial.h"
#include "runner/devices/vmgenid.h"
#include "runner/vm/vcpu.h"
#include "runner/vm/vm.h"
#include "runner/x86/boot.h"
#include "runner/x86/layout.h"
#include "runner/x86/state.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

#define RAM	(4 * MIB)
#define CODE	0x100000ull
#define COUNTER 0x180000ull

/* ---- guests: machine code, entered in long mode ---- */

#define MOV_DX(port)   0x66, 0xba, (port)&0xff, (port) >> 8
#define MOV_AL(v)      0xb0, (v)
#define OUT	       0xee
#define HLT_FOREVER    0xf4, 0xeb, 0xfd
#define OUT_BYTE(p, v) MOV_DX(p), MOV_AL(v), OUT

static const uint8_t prints_and_powers_off[] = {
	OUT_BYTE(0x3f8, 'h'), OUT_BYTE(0x3f8, 'i'),
	OUT_BYTE(LAYOUT_PM_PORT, PM_SLEEP_ENABLE | PM_SLEEP_TYPE_S5 << 2), HLT_FOREVER};
static const uint8_t resets_by_acpi[] = {OUT_BYTE(LAYOUT_PM_PORT + PM_RESET, PM_RESET_VALUE),
					 HLT_FOREVER};
static const uint8_t resets_by_keyboard[] = {OUT_BYTE(0x64, 0xfe), HLT_FOREVER};
static const uint8_t halts[] = {HLT_FOREVER};
static const uint8_t crashes[] = {0x0f, 0x0b}; /* ud2, and no IDT */
static const uint8_t counts[] = {
	0x48, 0xff, 0x04, 0x25, 0x00, 0x00, 0x18, 0x00, /* 1: inc qword [COUNTER] */
	0xeb, 0xf6,					/* jmp 1b */
};
#define PROBE_PORT 0x500
static const uint8_t reads_a_port[] = {MOV_DX(PROBE_PORT), 0xec, 0xeb,
				       0xfd}; /* 1: in al, dx; jmp 1b */
#define PROBE_MMIO 0xd8000000ull
static const uint8_t reads_mmio[] = {
	0xbe, 0x00, 0x00, 0x00, 0xd8, /* mov esi, PROBE_MMIO */
	0x8a, 0x06,		      /* 1: mov al, [rsi] */
	0xeb, 0xfc,		      /* jmp 1b */
};

static void write_guest(const char *path, const uint8_t *code, size_t len)
{
	struct {
		Elf64_Ehdr h;
		Elf64_Phdr p;
		uint8_t code[256];
	} e = {
		.h = {.e_type = ET_EXEC,
		      .e_machine = EM_X86_64,
		      .e_entry = CODE,
		      .e_phoff = sizeof(Elf64_Ehdr),
		      .e_phentsize = sizeof(Elf64_Phdr),
		      .e_phnum = 1},
		.p = {.p_type = PT_LOAD, .p_paddr = CODE, .p_filesz = len, .p_memsz = len},
	};

	memcpy(e.h.e_ident, ELFMAG, SELFMAG);
	e.h.e_ident[EI_CLASS] = ELFCLASS64;
	e.h.e_ident[EI_DATA] = ELFDATA2LSB;
	e.p.p_offset = (uint8_t *)e.code - (uint8_t *)&e;
	assert_true(len <= sizeof(e.code));
	memcpy(e.code, code, len);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write_full(fd, &e, sizeof(e)), 0);
	close(fd);
}

static void assert_ok(int r, const struct err *err)
{
	if (r < 0)
		print_error("%s\n", err->msg);
	assert_int_equal(r, 0);
}

static void need_kvm(void)
{
	if (access("/dev/kvm", R_OK | W_OK) < 0) {
		print_message("no usable /dev/kvm\n");
		skip();
	}
}

static struct vm *new_vm(unsigned vcpus, bool irqchip)
{
	struct vm_config cfg = {.ram_bytes = RAM, .vcpus = vcpus, .ram_fd = -1, .irqchip = irqchip};
	struct err err;
	struct vm *vm;

	need_kvm();
	assert_ok(vm_new(&cfg, &vm, &err), &err);
	return vm;
}

static void load(struct vm *vm, const uint8_t *code, size_t len)
{
	char path[] = "/tmp/test_vm.XXXXXX";
	struct boot_config b = {.kernel = path};
	struct err err;

	close(mkstemp(path));
	write_guest(path, code, len);
	int r = boot_load(vm, &b, &err);
	unlink(path);
	assert_ok(r, &err);
}

#define LOAD(vm, code) load(vm, code, sizeof(code))

static void start(struct vm *vm)
{
	struct err err;

	assert_ok(vm_start(vm, &err), &err);
}

static struct text {
	char s[64];
	size_t n;
} text;

static void collect(void *arg, const uint8_t *p, size_t n)
{
	struct text *t = arg;

	for (size_t i = 0; i < n && t->n + 1 < sizeof(t->s); i++)
		t->s[t->n++] = (char)p[i];
}

/* ---- how a guest ends ---- */

static void a_guest_prints_and_powers_off(void **state)
{
	struct vm *vm = new_vm(1, true);

	text = (struct text){0};
	assert_int_equal(serial_new(vm, collect, &text, NULL, NULL), 0);
	assert_int_equal(pm_new(vm, NULL), 0);
	LOAD(vm, prints_and_powers_off);
	start(vm);
	assert_int_equal(vm_wait(vm, NULL), VM_SHUTDOWN);
	assert_string_equal(text.s, "hi");
	vm_free(vm);
}

static void a_guest_resets(void **state)
{
	struct vm *vm = new_vm(2, true);

	assert_int_equal(pm_new(vm, NULL), 0);
	LOAD(vm, resets_by_acpi);
	start(vm);
	assert_int_equal(vm_wait(vm, NULL), VM_RESET);
	vm_free(vm);

	vm = new_vm(1, true);
	assert_int_equal(i8042_new(vm, NULL), 0);
	LOAD(vm, resets_by_keyboard);
	start(vm);
	assert_int_equal(vm_wait(vm, NULL), VM_RESET);
	vm_free(vm);
}

static void a_crash_says_where(void **state)
{
	struct vm *vm = new_vm(1, true);
	struct err err = ERR_INIT;

	LOAD(vm, crashes);
	start(vm);
	assert_int_equal(vm_wait(vm, &err), VM_FAILED);
	assert_non_null(strstr(err.msg, "triple fault"));
	assert_int_equal(err.code, EIO);
	vm_free(vm);
}

static void a_halt_without_interrupts_is_the_end(void **state)
{
	struct vm *vm = new_vm(1, false);

	LOAD(vm, halts);
	start(vm);
	assert_int_equal(vm_wait(vm, NULL), VM_SHUTDOWN);
	vm_free(vm);
}

static void a_running_guest_is_stopped_from_outside(void **state)
{
	struct vm *vm = new_vm(2, true);
	struct err err;

	LOAD(vm, counts);
	start(vm);
	vm_end(vm, VM_STOPPED);
	vm_end(vm, VM_RESET); /* the first reason stays */
	assert_int_equal(vm_wait(vm, NULL), VM_STOPPED);
	assert_int_equal(vm_pause(vm, &err), -EBUSY);
	vm_free(vm);
}

static void a_vm_is_freed_in_any_state(void **state)
{
	struct vm *vm = new_vm(2, true);

	vm_free(vm); /* never started */
	vm = new_vm(2, true);
	LOAD(vm, counts);
	start(vm);
	vm_free(vm); /* running */
	vm = new_vm(2, true);
	LOAD(vm, counts);
	start(vm);
	assert_int_equal(vm_pause(vm, NULL), 0);
	vm_free(vm); /* paused */
	vm_free(NULL);
}

/* ---- pausing ---- */

static uint64_t counter(struct vm *vm)
{
	return __atomic_load_n((uint64_t *)memory_at(&vm->mem, COUNTER, 8), __ATOMIC_SEQ_CST);
}

/* Until it has moved on from `from`; a deadline, not a delay. */
static bool moves(struct vm *vm, uint64_t from)
{
	struct timespec t = {.tv_nsec = 1000000};

	for (int i = 0; i < 60000; i++) {
		if (counter(vm) != from)
			return true;
		nanosleep(&t, NULL);
	}
	return false;
}

static void a_paused_guest_stands_still(void **state)
{
	struct timespec t = {.tv_nsec = 2000000};
	struct vm *vm = new_vm(2, true);
	struct err err;

	LOAD(vm, counts);
	start(vm);
	assert_int_equal(vm_resume(vm, &err), -EINVAL);
	for (int i = 0; i < 20; i++) {
		assert_true(moves(vm, counter(vm)));
		assert_ok(vm_pause(vm, &err), &err);
		assert_int_equal(vm_pause(vm, &err), -EBUSY);
		uint64_t at = counter(vm);
		nanosleep(&t, NULL);
		assert_int_equal(counter(vm), at);
		assert_ok(vm_resume(vm, &err), &err);
		assert_true(moves(vm, at));
	}
	vm_free(vm);
}

/*
 * The kick of the next pause may come while a vCPU is still leaving the last one; were it lost, a
 * guest that never exits would run on and vm_pause() wait for ever.
 */
static void a_pause_may_follow_a_resume_at_once(void **state)
{
	struct vm *vm = new_vm(2, true);
	struct err err;

	LOAD(vm, counts);
	start(vm);
	assert_true(moves(vm, 0));
	alarm(300);
	for (unsigned i = 0; i < 10000; i++) {
		assert_ok(vm_pause(vm, &err), &err);
		assert_ok(vm_resume(vm, &err), &err);
		/* Anywhere in the time that leaving takes. */
		for (volatile unsigned n = i * 7919 % 20000; n; n--)
			;
	}
	alarm(0);
	assert_true(moves(vm, counter(vm)));
	vm_free(vm);
}

struct probe {
	struct device dev;
	unsigned reads, quiesced, resumed;
	int refuse; /* quiesce fails with this */
};

static uint64_t probe_read(struct device *d, uint64_t off, unsigned len)
{
	return ++container_of(d, struct probe, dev)->reads;
}

static int probe_quiesce(struct device *d, struct err *err)
{
	struct probe *p = container_of(d, struct probe, dev);

	if (p->refuse)
		return err_set(err, p->refuse, "busy");
	p->quiesced++;
	return 0;
}

static void probe_resume(struct device *d)
{
	container_of(d, struct probe, dev)->resumed++;
}

static void probe_free(struct device *d)
{
	free(container_of(d, struct probe, dev));
}

static const struct device_ops probe_ops = {
	.type = "probe",
	.read = probe_read,
	.quiesce = probe_quiesce,
	.resume = probe_resume,
	.free = probe_free,
};

static struct probe *add_probe(struct vm *vm, const char *id, enum device_bus bus, uint64_t base)
{
	struct probe *p = calloc(1, sizeof(*p));
	struct err err;

	p->dev =
		(struct device){.ops = &probe_ops, .bus = bus, .base = base, .size = 16, .gsi = -1};
	snprintf(p->dev.id, sizeof(p->dev.id), "%s", id);
	assert_ok(vm_add_device(vm, &p->dev, &err), &err);
	return p;
}

/* What the device answered last is what the register holds, at whatever moment the pause came. */
static void pending_reads_reach_their_register(struct vm *vm, struct probe *p)
{
	struct timespec t = {0};
	struct kvm_regs regs;
	struct err err;

	start(vm);
	for (int i = 0; i < 100; i++) {
		t.tv_nsec = 20000 + i * 7919 % 300000;
		nanosleep(&t, NULL);
		assert_ok(vm_pause(vm, &err), &err);
		assert_int_equal(ioctl(vm->vcpu[0]->fd, KVM_GET_REGS, &regs), 0);
		if (p->reads)
			assert_int_equal(regs.rax & 0xff, p->reads & 0xff);
		assert_ok(vm_resume(vm, &err), &err);
	}
	assert_true(p->reads > 0);
	vm_free(vm);
}

static void a_pause_completes_a_port_read(void **state)
{
	struct vm *vm = new_vm(1, true);
	struct probe *p = add_probe(vm, "probe", BUS_PIO, PROBE_PORT);

	LOAD(vm, reads_a_port);
	pending_reads_reach_their_register(vm, p);
}

static void a_pause_completes_an_mmio_read(void **state)
{
	struct vm *vm = new_vm(1, true);
	struct probe *p = add_probe(vm, "probe", BUS_MMIO, PROBE_MMIO);

	LOAD(vm, reads_mmio);
	pending_reads_reach_their_register(vm, p);
}

static void a_device_that_cannot_stop_keeps_the_vm_running(void **state)
{
	struct vm *vm = new_vm(1, true);
	struct probe *a = add_probe(vm, "a", BUS_PIO, 0x500);
	struct probe *b = add_probe(vm, "b", BUS_PIO, 0x600);
	struct err err;

	LOAD(vm, counts);
	start(vm);
	b->refuse = EBUSY;
	assert_int_equal(vm_pause(vm, &err), -EBUSY);
	assert_string_equal(err.msg, "quiesce b: busy");
	assert_int_equal(a->quiesced, 1);
	assert_int_equal(a->resumed, 1);
	assert_true(moves(vm, counter(vm)));
	b->refuse = 0;
	assert_ok(vm_pause(vm, &err), &err);
	assert_int_equal(b->quiesced, 1);
	assert_ok(vm_resume(vm, &err), &err);
	assert_int_equal(a->resumed, 2);
	vm_free(vm);
}

/* ---- devices ---- */

static void devices_get_distinct_windows_and_interrupts(void **state)
{
	struct vm *vm = new_vm(1, true);
	struct err err = ERR_INIT;
	unsigned seen = 0;
	int r = 0;

	for (int i = 0; r == 0; i++) {
		struct probe *p = calloc(1, sizeof(*p));

		p->dev = (struct device){.ops = &probe_ops, .bus = BUS_MMIO, .gsi = -1};
		snprintf(p->dev.id, sizeof(p->dev.id), "virtio%d", i);
		r = vm_add_device(vm, &p->dev, &err);
		if (r < 0) {
			free(p);
			continue;
		}
		assert_in_range(p->dev.gsi, LAYOUT_GED_GSI + 1, LAYOUT_GSI_MAX);
		assert_false(seen & 1u << p->dev.gsi);
		seen |= 1u << p->dev.gsi;
		assert_int_equal(p->dev.base, VM_MMIO_BASE + i * VM_MMIO_STEP);
		assert_ptr_equal(vm_find_device(vm, p->dev.id), &p->dev);
		assert_true(p->dev.irq_fd >= 0);
	}
	assert_int_equal(r, -ENOSPC);
	assert_false(seen & (1u << 8 | 1u << LAYOUT_SCI_GSI));
	struct device *d;
	assert_int_equal(serial_new(vm, NULL, NULL, &d, NULL), 0);
	assert_int_equal(serial_new(vm, NULL, NULL, &d, &err), -EEXIST);
	vm_free(vm);
}

static void the_generation_id_is_in_reserved_ram(void **state)
{
	static const uint8_t id[VMGENID_LEN] = "0123456789abcdef";
	struct vm *vm = new_vm(1, true);
	struct device *d;

	assert_int_equal(vmgenid_new(vm, &d, NULL), 0);
	assert_int_equal(vmgenid_set(d, id, true, NULL), 0);
	assert_memory_equal(memory_at(&vm->mem, LAYOUT_VMGENID, VMGENID_LEN), id, VMGENID_LEN);
	vm_free(vm);
}

/* ---- configuration and state ---- */

static void impossible_machines_are_refused(void **state)
{
	struct vm_config cfg = {.ram_bytes = RAM, .vcpus = 0, .ram_fd = -1, .irqchip = true};
	struct err err;
	struct vm *vm;

	need_kvm();
	assert_int_equal(vm_new(&cfg, &vm, &err), -EINVAL);
	cfg.vcpus = VM_MAX_VCPUS + 1;
	assert_int_equal(vm_new(&cfg, &vm, &err), -EINVAL);
	cfg.vcpus = 1;
	cfg.ram_bytes = 100;
	assert_int_equal(vm_new(&cfg, &vm, &err), -EINVAL);
}

static int ram_copy(struct vm *vm)
{
	int fd = memfd_create("ram", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(write_full(fd, memory_at(&vm->mem, 0, RAM), RAM), 0);
	return fd;
}

static void assert_same_state(const struct vcpu_state *a, const struct vcpu_state *b)
{
	assert_memory_equal(&a->regs, &b->regs, sizeof(a->regs));
	assert_memory_equal(&a->xcrs, &b->xcrs, sizeof(a->xcrs));
	assert_memory_equal(&a->xsave, &b->xsave, a->xsave_len);
	assert_memory_equal(&a->debugregs, &b->debugregs, sizeof(a->debugregs));
	assert_int_equal(a->sregs.cr3, b->sregs.cr3);
	assert_int_equal(a->sregs.efer, b->sregs.efer);
	assert_int_equal(a->sregs.apic_base, b->sregs.apic_base);
	assert_int_equal(a->mp_state.mp_state, b->mp_state.mp_state);
	assert_int_equal(a->msrs.n, b->msrs.n);
	for (uint32_t i = 0; i < a->msrs.n; i++) {
		assert_int_equal(a->msrs.entry[i].index, b->msrs.entry[i].index);
		/* The time-stamp counter goes on. */
		if (a->msrs.entry[i].index != 0x10)
			assert_int_equal(a->msrs.entry[i].data, b->msrs.entry[i].data);
		else
			assert_true(b->msrs.entry[i].data >= a->msrs.entry[i].data);
	}
}

static void a_second_vm_goes_on_where_the_first_stood(void **state)
{
	struct vm *a = new_vm(2, true), *b;
	struct state_plan *plan = calloc(1, sizeof(*plan));
	struct vcpu_state *s = calloc(2, sizeof(*s)), *again = calloc(1, sizeof(*again));
	struct vm_irq_state *irq = calloc(1, sizeof(*irq));
	struct err err;

	LOAD(a, counts);
	start(a);
	assert_true(moves(a, 0));
	assert_ok(vm_pause(a, &err), &err);
	assert_ok(state_plan_new(a->kvm_fd, a->fd, true, plan, &err), &err);
	for (unsigned i = 0; i < 2; i++)
		assert_ok(vcpu_state_get(a->vcpu[i]->fd, i, plan, &s[i], &err), &err);
	assert_ok(vm_irq_state_get(a->fd, true, irq, &err), &err);
	assert_ok(pit_save(a, &irq->pit2, &err), &err);
	uint64_t at = counter(a);
	int ram = ram_copy(a);
	vm_free(a);

	struct vm_config cfg = {.ram_bytes = RAM,
				.vcpus = 2,
				.ram_fd = ram,
				.ram_path = "copy",
				.irqchip = true,
				.restore = true};
	assert_ok(vm_new(&cfg, &b, &err), &err);
	struct probe *p = add_probe(b, "probe", BUS_PIO, 0x500);
	for (unsigned i = 0; i < 2; i++) {
		assert_ok(vcpu_state_set(b->vcpu[i]->fd, i, &s[i], &err), &err);
		assert_ok(vcpu_kvmclock_paused(b->vcpu[i]->fd, &err), &err);
	}
	assert_ok(pit_restore(b, irq, &err), &err);
	assert_ok(vm_irq_state_set(b->fd, irq, &err), &err);
	for (unsigned i = 0; i < 2; i++) {
		assert_ok(vcpu_state_get(b->vcpu[i]->fd, i, plan, again, &err), &err);
		assert_same_state(&s[i], again);
	}
	assert_int_equal(counter(b), at);
	start(b);
	assert_int_equal(p->resumed, 1); /* restored devices are started */
	assert_true(moves(b, at));
	assert_true(counter(b) > at);
	vm_free(b);
	close(ram);
	free(irq);
	free(again);
	free(s);
	free(plan);
}

static void states_out_of_range_are_refused(void **state)
{
	struct vcpu_state *s = calloc(1, sizeof(*s));
	struct err err;

	s->xsave_len = 4096;
	s->cpuid.n = 1;
	s->tsc_khz = 1;
	assert_int_equal(vcpu_state_check(s, &err), 0);
	s->xsave_len = 0;
	assert_int_equal(vcpu_state_check(s, &err), -EBADMSG);
	s->xsave_len = VCPU_XSAVE_MAX + 1;
	assert_int_equal(vcpu_state_check(s, &err), -EBADMSG);
	s->xsave_len = 4096;
	s->cpuid.n = VCPU_CPUID_MAX + 1;
	assert_int_equal(vcpu_state_check(s, &err), -EBADMSG);
	s->cpuid.n = 1;
	s->msrs.n = VCPU_MSRS_MAX + 1;
	assert_int_equal(vcpu_state_check(s, &err), -EBADMSG);
	s->msrs.n = 0;
	s->xcrs.nr_xcrs = 1000;
	assert_int_equal(vcpu_state_check(s, &err), -EBADMSG);
	s->xcrs.nr_xcrs = 0;
	s->tsc_khz = 0;
	assert_int_equal(vcpu_state_check(s, &err), -EBADMSG);
	free(s);
}

static const struct kvm_msr_entry *find_msr(const struct vcpu_state *s, uint32_t index)
{
	for (uint32_t i = 0; i < s->msrs.n; i++)
		if (s->msrs.entry[i].index == index)
			return &s->msrs.entry[i];
	return NULL;
}

static void msrs_are_in_the_order_of_use(void **state)
{
	struct vm *vm = new_vm(1, true);
	struct state_plan *plan = calloc(1, sizeof(*plan));
	struct vcpu_state *s = calloc(1, sizeof(*s));
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[1];
	} bank = {.head.nmsrs = 1, .entry = {{.index = 0x404, .data = UINT64_MAX}}};
	struct err err;

	LOAD(vm, counts);
	assert_ok(state_plan_new(vm->kvm_fd, vm->fd, true, plan, &err), &err);
	assert_ok(vcpu_state_get(vm->vcpu[0]->fd, 0, plan, s, &err), &err);
	assert_int_equal(s->msrs.entry[0].index, 0x10);		     /* TSC */
	assert_int_equal(s->msrs.entry[s->msrs.n - 1].index, 0x6e0); /* TSC_DEADLINE */
	assert_non_null(find_msr(s, 0x2ff));			     /* MTRR */
	/* A machine-check bank is carried once it is in use. */
	assert_null(find_msr(s, 0x404));
	assert_int_equal(ioctl(vm->vcpu[0]->fd, KVM_SET_MSRS, &bank), 1);
	assert_ok(vcpu_state_get(vm->vcpu[0]->fd, 0, plan, s, &err), &err);
	assert_non_null(find_msr(s, 0x404));
	free(s);
	free(plan);
	vm_free(vm);
}

static void a_refused_msr_is_named(void **state)
{
	struct vm *vm = new_vm(1, true);
	struct state_plan *plan = calloc(1, sizeof(*plan));
	struct vcpu_state *s = calloc(1, sizeof(*s));
	struct err err;

	LOAD(vm, counts);
	assert_ok(state_plan_new(vm->kvm_fd, vm->fd, true, plan, &err), &err);
	assert_ok(vcpu_state_get(vm->vcpu[0]->fd, 0, plan, s, &err), &err);
	s->msrs.entry[1] = (struct kvm_msr_entry){.index = 0xdeadbeef, .data = 1};
	assert_int_equal(vcpu_state_set(vm->vcpu[0]->fd, 0, s, &err), -ENOTSUP);
	assert_non_null(strstr(err.msg, "0xdeadbeef"));
	free(s);
	free(plan);
	vm_free(vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_guest_prints_and_powers_off),
		cmocka_unit_test(a_guest_resets),
		cmocka_unit_test(a_crash_says_where),
		cmocka_unit_test(a_halt_without_interrupts_is_the_end),
		cmocka_unit_test(a_running_guest_is_stopped_from_outside),
		cmocka_unit_test(a_vm_is_freed_in_any_state),
		cmocka_unit_test(a_paused_guest_stands_still),
		cmocka_unit_test(a_pause_may_follow_a_resume_at_once),
		cmocka_unit_test(a_pause_completes_a_port_read),
		cmocka_unit_test(a_pause_completes_an_mmio_read),
		cmocka_unit_test(a_device_that_cannot_stop_keeps_the_vm_running),
		cmocka_unit_test(devices_get_distinct_windows_and_interrupts),
		cmocka_unit_test(the_generation_id_is_in_reserved_ram),
		cmocka_unit_test(impossible_machines_are_refused),
		cmocka_unit_test(a_second_vm_goes_on_where_the_first_stood),
		cmocka_unit_test(states_out_of_range_are_refused),
		cmocka_unit_test(msrs_are_in_the_order_of_use),
		cmocka_unit_test(a_refused_msr_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
