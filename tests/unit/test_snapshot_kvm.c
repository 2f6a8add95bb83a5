/*
 * Save and restore in one process, on real KVM: the machine that comes back is the one that was
 * saved, and a changed state is seen by the guest (so a guest's "all well" means something).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <x86intrin.h>
#include <xxhash.h>

#include "runner/snapshot/restore.h"
#include "runner/snapshot/save.h"
#include "runner/snapshot/sections.h"
#include "runner/vm/vcpu.h"
#include "runner/x86/boot.h"
#include "runner/x86/layout.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"
#include "smfs/store/store.h"

#define TIMEOUT_MS 60000

/* A scratch directory with a store, a snapshot of a guest in it, and that snapshot's files. */
struct fixture {
	const char *guest;
	uint64_t ram_bytes;
	char dir[32], store[48], files[48];
	char *meta, *vcpu;
	size_t meta_len, vcpu_len;
};

/* What a guest says goes into a pipe: sink and reader need no lock of their own. */
static void to_pipe(void *arg, const uint8_t *p, size_t n)
{
	if (write(*(int *)arg, p, n) != (ssize_t)n)
		abort();
}

static void read_line(int fd, char *line, size_t size)
{
	size_t n = 0;

	do {
		struct pollfd p = {.fd = fd, .events = POLLIN};

		assert_int_equal(poll(&p, 1, TIMEOUT_MS), 1);
		assert_int_equal(read(fd, line + n, 1), 1);
	} while (line[n++] != '\n' && n < size - 1);
	line[n] = 0;
}

static void must(int ret, const struct err *err)
{
	if (ret < 0)
		fail_msg("%s", err->msg);
}

static void end_machine(struct machine *m)
{
	struct err err = ERR_INIT;

	vm_end(m->vm, VM_STOPPED);
	vm_wait(m->vm, &err);
	machine_free(m);
}

static void copy_out(struct smfs_store *s, const struct smfs_dir *d, const char *to)
{
	for (size_t i = 0; i < smfs_dir_count(d); i++) {
		const struct smfs_entry *e = smfs_dir_at(d, i);
		static uint8_t buf[MIB], zeros[MIB];
		struct smfs_file *file;
		struct err err = ERR_INIT;
		char path[64];
		int fd;

		snprintf(path, sizeof(path), "%s/%s", to, e->name);
		must(smfs_file_open(s, &e->content, &file, &err), &err);
		fd = open(path, O_CREAT | O_WRONLY, 0600);
		assert_int_equal(ftruncate(fd, (off_t)e->content.size), 0);
		for (uint64_t off = 0; off < e->content.size; off += MIB) {
			ssize_t n = smfs_file_pread(file, buf, MIB, off, &err);

			assert_int_equal(n, MIN(MIB, e->content.size - off));
			if (memcmp(buf, zeros, (size_t)n) != 0)
				assert_int_equal(pwrite_full(fd, buf, (size_t)n, off), 0);
		}
		smfs_file_close(file);
		close(fd);
	}
}

static void take_snapshot(struct fixture *f)
{
	const char *build = getenv("BUILD");
	const uint8_t uuid[16] = {1, 2, 3};
	char guest[512], line[128];
	int out[2];
	struct machine_config cfg = {.vcpus = 1,
				     .ram_bytes = f->ram_bytes,
				     .ram_fd = -1,
				     .serial_sink = to_pipe,
				     .serial_arg = &out[1]};
	struct save_info info = {.store = f->store,
				 .by = "test",
				 .mount = "/",
				 .name = "one",
				 .kernel_path = guest,
				 .generation = 1,
				 .uuid = uuid};
	struct save_stats stats;
	struct smfs_store *s;
	struct smfs_name name;
	struct smfs_dir *d;
	struct machine m;
	struct err err = ERR_INIT;

	snprintf(guest, sizeof(guest), "%s/guest/%s", build ? build : "build", f->guest);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	must(smfs_store_init(f->store, &err), &err);
	must(machine_new(&cfg, &m, &err), &err);
	must(boot_load(m.vm, &(struct boot_config){.kernel = guest}, &err), &err);
	must(vm_start(m.vm, &err), &err);
	read_line(out[0], line, sizeof(line));
	assert_int_equal(strncmp(line, "up ", 3), 0);

	must(snapshot_save(&m, &info, &stats, &err), &err);
	assert_int_equal(stats.ram_bytes, f->ram_bytes);
	assert_true(stats.data_bytes > 0 && stats.data_bytes < 4 * MIB);
	assert_true(stats.pause_us >= stats.capture_us);
	assert_false(m.vm->paused);

	/* A second one of that name is refused, and leaves the machine running. */
	assert_int_equal(snapshot_save(&m, &info, &stats, &err), -EEXIST);
	assert_false(m.vm->paused);

	/* A machine its caller has paused stays so. */
	must(vm_pause(m.vm, &err), &err);
	info.name = "two";
	must(snapshot_save(&m, &info, &stats, &err), &err);
	assert_true(m.vm->paused);
	must(vm_resume(m.vm, &err), &err);
	end_machine(&m);
	close(out[0]);
	close(out[1]);

	must(smfs_store_open(f->store, SMFS_RDONLY, &s, &err), &err);
	must(smfs_name_get(s, SMFS_SNAPSHOT, "one", &name, &err), &err);
	must(smfs_dir_open(s, &name.root, &d, &err), &err);
	assert_int_equal(smfs_dir_count(d), 3);
	copy_out(s, d, f->files);
	smfs_dir_close(d);
	smfs_store_close(s);
}

static int setup(void **state, const char *guest, uint64_t ram_bytes)
{
	struct fixture *f;
	struct err err = ERR_INIT;
	int dir;

	if (access("/dev/kvm", R_OK | W_OK) < 0)
		return 0;
	f = calloc(1, sizeof(*f));
	assert_non_null(f);
	f->guest = guest;
	f->ram_bytes = ram_bytes;
	strcpy(f->dir, "/tmp/test-snapshot.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->store, sizeof(f->store), "%s/store", f->dir);
	snprintf(f->files, sizeof(f->files), "%s/files", f->dir);
	assert_int_equal(mkdir(f->files, 0700), 0);
	take_snapshot(f);
	dir = open(f->files, O_RDONLY | O_DIRECTORY);
	must(read_file(dir, "meta", MIB, &f->meta, &f->meta_len, &err), &err);
	must(read_file(dir, "vcpu", MIB, &f->vcpu, &f->vcpu_len, &err), &err);
	close(dir);
	*state = f;
	return 0;
}

static int setup_fpu(void **state)
{
	return setup(state, "fpu", 16 * MIB);
}

static int setup_reach(void **state)
{
	return setup(state, "reach", GIB);
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	char command[64];

	if (!f)
		return 0;
	snprintf(command, sizeof(command), "rm -rf '%s'", f->dir);
	free(f->meta);
	free(f->vcpu);
	free(f);
	return system(command);
}

static struct fixture *kvm(void **state)
{
	if (!*state) {
		print_message("# no /dev/kvm\n");
		skip();
	}
	return *state;
}

static void put_file(const struct fixture *f, const char *name, const void *p, size_t len)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", f->files, name);
	fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
	assert_int_equal(write_full(fd, p, len), 0);
	close(fd);
}

/*
 * The snapshot with the byte `off` bytes into the first section of `type` xor-ed with `flip` (or
 * the section `cut` bytes shorter), everything else and all checksums right.
 */
static void rewrite(const struct fixture *f, uint32_t type, size_t off, uint8_t flip, size_t cut)
{
	cleanup_writer struct writer w = WRITER_INIT;
	cleanup_free struct snapshot_meta *meta = malloc(sizeof(*meta));
	cleanup_free char *text = NULL;
	struct sections s;
	struct err err = ERR_INIT;
	bool done = false;
	size_t len;

	must(sections_parse(f->vcpu, f->vcpu_len, &s, &err), &err);
	sections_begin(&w);
	for (unsigned i = 0; i < s.n; i++) {
		const struct section *x = &s.s[i];
		size_t at = section_open(&w, x->type, x->version, x->index, x->id);

		put_bytes(&w, x->data, x->len);
		if (x->type == type && !done) {
			done = true;
			w.len -= cut;
			if (!cut)
				w.p[w.len - x->len + off] ^= flip;
		}
		section_close(&w, at);
	}
	sections_end(&w);
	assert_true(done && !w.failed);
	must(meta_decode(f->meta, f->meta_len, meta, &err), &err);
	meta->vcpu_bytes = w.len;
	meta->vcpu_xxh3 = XXH3_64bits(w.p, w.len);
	must(meta_encode(meta, &text, &len, &err), &err);
	put_file(f, "vcpu", w.p, w.len);
	put_file(f, "meta", text, len);
}

/* Restore what is in f->files and return the first line the guest says; it then powers off. */
static void restored_says(const struct fixture *f, char *line, size_t size)
{
	struct restore_timing t;
	struct snapshot *s;
	struct machine m;
	struct err err = ERR_INIT;
	int out[2];

	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	must(snapshot_open(f->files, "/", &s, &err), &err);
	must(snapshot_restore(s,
			      &(struct restore_opts){.serial_sink = to_pipe, .serial_arg = &out[1]},
			      &m, &t, &err),
	     &err);
	snapshot_close(s);
	must(vm_start(m.vm, &err), &err);
	read_line(out[0], line, size);
	assert_int_equal(vm_wait(m.vm, &err), VM_SHUTDOWN);
	machine_free(&m);
	close(out[0]);
	close(out[1]);
}

static void as_saved(const struct fixture *f)
{
	put_file(f, "meta", f->meta, f->meta_len);
	put_file(f, "vcpu", f->vcpu, f->vcpu_len);
}

static void registers_come_back(void **state)
{
	struct fixture *f = kvm(state);
	char line[128];

	as_saved(f);
	for (int i = 0; i < 3; i++) {
		restored_says(f, line, sizeof(line));
		assert_string_equal(line, "regs ok\n");
	}
}

/* Offsets: struct kvm_regs; Intel SDM volume 1, 10.5.1 and 13.4 for the XSAVE area. */
static void a_changed_register_is_noticed(void **state)
{
	static const struct {
		uint32_t type;
		size_t off;
		const char *says;
	} changes[] = {
		{SECTION_VCPU_REGS, offsetof(struct kvm_regs, rbx), "regs bad 0000000000000001\n"},
		{SECTION_VCPU_REGS, offsetof(struct kvm_regs, r15), "regs bad 0000000000000001\n"},
		{SECTION_VCPU_XSAVE, 160 + 16 * 15, "regs bad 0000000000000002\n"}, /* xmm15 */
		{SECTION_VCPU_XSAVE, 576 + 16 * 3, "regs bad 0000000000000002\n"}, /* ymm3, upper */
		{SECTION_VCPU_XSAVE, 32 + 16 * 2, "regs bad 0000000000000004\n"},  /* st2 */
		{SECTION_VCPU_XSAVE, 25, "regs bad 0000000000000008\n"},	   /* MXCSR */
	};
	struct fixture *f = kvm(state);
	char line[128];

	for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
		rewrite(f, changes[i].type, changes[i].off, 1, 0);
		restored_says(f, line, sizeof(line));
		assert_string_equal(line, changes[i].says);
	}
}

/* Each kind of section, one byte short: refused by name before or while loading, nothing leaks. */
static void a_section_too_short_is_refused(void **state)
{
	struct fixture *f = kvm(state);
	struct sections s;
	struct err err = ERR_INIT;

	must(sections_parse(f->vcpu, f->vcpu_len, &s, &err), &err);
	for (unsigned i = 0; i < s.n; i++) {
		struct snapshot *snap;
		struct restore_timing t;
		struct machine m;
		int ret;

		if (s.s[i].len == 0)
			continue;
		rewrite(f, s.s[i].type, 0, 0, 1);
		err_clear(&err);
		ret = snapshot_open(f->files, "/", &snap, &err);
		if (ret == 0) {
			assert_int_equal(s.s[i].type, SECTION_DEVICE);
			ret = snapshot_restore(snap, &(struct restore_opts){0}, &m, &t, &err);
			snapshot_close(snap);
		}
		print_message("# 0x%x: %s\n", s.s[i].type, err.msg);
		assert_int_equal(ret, -EBADMSG);
	}
}

/* Where KVM scales, the guest gets its frequency; where it does not, it is told why it cannot run.
 */
static void a_tsc_that_cannot_be_matched_is_refused(void **state)
{
	struct fixture *f = kvm(state);
	cleanup_fd int kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	const bool scales = ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) > 0;
	struct restore_timing t;
	struct snapshot *snap;
	struct machine m;
	struct err err = ERR_INIT;
	int ret;

	/* 1 kHz more or less is within what clocks drift. */
	rewrite(f, SECTION_VCPU_TSC_KHZ, 0, 1, 0);
	for (int far = 0; far < 2; far++) {
		must(snapshot_open(f->files, "/", &snap, &err), &err);
		ret = snapshot_restore(snap, &(struct restore_opts){0}, &m, &t, &err);
		snapshot_close(snap);
		if (ret == 0)
			machine_free(&m);
		if (far && !scales) {
			assert_int_equal(ret, -ENOTSUP);
			assert_non_null(strstr(err.msg, "TSC runs at"));
		} else {
			must(ret, &err);
		}
		rewrite(f, SECTION_VCPU_TSC_KHZ, 2, 0x20, 0); /* 2 GHz more or less */
	}
	as_saved(f);
}

/*
 * A restored machine runs before KVM has all of its RAM (memory.h, LATER): whatever the guest does
 * first in the part that is missing, it is memory. r12 tells tests/guest/reach.S what to do.
 */
static void untouched_memory_is_memory_at_once(void **state)
{
	struct fixture *f = kvm(state);
	cleanup_free struct snapshot_meta *meta = malloc(sizeof(*meta));
	struct err err = ERR_INIT;
	char line[128], want[128];

	must(meta_decode(f->meta, f->meta_len, meta, &err), &err);
	assert_true(meta->region[0].used < 4 * MIB);
	for (uint8_t kind = 0; kind < 8; kind++) {
		rewrite(f, SECTION_VCPU_REGS, offsetof(struct kvm_regs, r12), kind, 0);
		snprintf(want, sizeof(want), "reach ok %016x\n", kind);
		restored_says(f, line, sizeof(line));
		assert_string_equal(line, want);
	}
}

/* ---- in place ------------------------------------------------------------------------------- */

static uint64_t tsc_of(const struct machine *m)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msr = {.head = {.nmsrs = 1}, .entry = {.index = 0x10}};

	assert_int_equal(ioctl(m->vm->vcpu[0]->fd, KVM_GET_MSRS, &msr), 1);
	return msr.entry.data;
}

/* Byte for byte, but for the page that tells the guest who it is now. */
static void ram_is_that_of(const struct machine *m, const struct fixture *f)
{
	static uint8_t want[MIB];
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "%s/ram", f->files);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	for (uint64_t off = 0; off < f->ram_bytes; off += MIB) {
		uint8_t *have = memory_at(&m->vm->mem, off, MIB);

		assert_int_equal(pread_full(fd, want, MIB, (off_t)off), 0);
		for (uint64_t p = 0; p < MIB; p += 4096)
			if (off + p != LAYOUT_MAILBOX && memcmp(have + p, want + p, 4096) != 0)
				fail_msg("the page at %#llx is not the snapshot's",
					 (unsigned long long)(off + p));
	}
	close(fd);
}

/* `again`: it is what it was made of last, so that no more is done than needs to be. */
static void reset_to(struct machine *m, const struct fixture *f, bool again)
{
	struct restore_timing t;
	struct snapshot *s;
	struct err err = ERR_INIT;

	must(snapshot_open(f->files, "/", &s, &err), &err);
	must(snapshot_fits_machine(s, m, &err), &err);
	must(vm_pause(m->vm, &err), &err);
	must(snapshot_reset(s, &(struct restore_opts){.clock = CLOCK_ADVANCE}, m, &t, &err), &err);
	snapshot_close(s);
	assert_int_equal(t.rewound_bytes != 0, again && !m->vm->rewinds_refused);
	ram_is_that_of(m, f);
}

/*
 * A machine in which one guest runs is reset: to that guest's own snapshot, whose counter and
 * clocks are then back, however short after the last reset that was; and to another's, whose
 * registers all are its own.
 */
static void a_running_machine_becomes_another(void **state)
{
	struct fixture *f = kvm(state), *g;
	char line[128], first[128] = "";
	uint64_t tsc[5], begin, start = __rdtsc();
	struct restore_timing t;
	struct snapshot *s;
	struct machine m;
	struct err err = ERR_INIT;
	void *other;
	int out[2];

	as_saved(f);
	assert_int_equal(setup(&other, "counter", f->ram_bytes), 0);
	g = other;
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	must(snapshot_open(g->files, "/", &s, &err), &err);
	must(snapshot_restore(s,
			      &(struct restore_opts){.serial_sink = to_pipe, .serial_arg = &out[1]},
			      &m, &t, &err),
	     &err);
	begin = tsc_of(&m);
	snapshot_close(s);
	must(vm_start(m.vm, &err), &err);
	read_line(out[0], first, sizeof(first));
	assert_int_equal(strncmp(first, "gen 0000000000000002 ", 21), 0);
	for (size_t i = 0; i < ARRAY_SIZE(tsc); i++) {
		usleep(100000);
		/* What a device of the monitor's own has written goes as well. */
		memset(memory_at(&m.vm->mem, f->ram_bytes - 8 * MIB, MIB), 0x77, MIB);
		reset_to(&m, g, true);
		tsc[i] = tsc_of(&m);
		must(vm_resume(m.vm, &err), &err);
		read_line(out[0], line, sizeof(line));
		assert_string_equal(line, first);
	}
	/*
	 * Not where it had been left, a tenth of a second on each time, which are 100 million
	 * cycles at the least. A KVM that cannot offset the TSC shows the host's.
	 */
	if (begin - start < 1ull << 32)
		print_message("# this KVM has no TSC of a guest's own\n");
	else
		for (size_t i = 0; i < ARRAY_SIZE(tsc); i++)
			assert_true(tsc[i] + 50000000 > begin && tsc[i] < begin + 50000000);

	reset_to(&m, f, false);
	must(vm_resume(m.vm, &err), &err);
	read_line(out[0], line, sizeof(line));
	assert_string_equal(line, "regs ok\n");
	assert_int_equal(vm_wait(m.vm, &err), VM_SHUTDOWN);
	machine_free(&m);
	close(out[0]);
	close(out[1]);
	teardown(&other);
}

static void another_shape_does_not_fit(void **state)
{
	struct fixture *f = kvm(state);
	struct machine_config cfg = {.vcpus = 1, .ram_bytes = f->ram_bytes, .ram_fd = -1};
	struct snapshot *s;
	struct machine m;
	struct err err = ERR_INIT;

	as_saved(f);
	must(snapshot_open(f->files, "/", &s, &err), &err);
	for (int i = 0; i < 4; i++) {
		struct machine_config c = cfg;

		c.vcpus += i == 1;
		c.ram_bytes += i == 2 ? 2 * MIB : 0;
		c.linux_guest = i == 3;
		must(machine_new(&c, &m, &err), &err);
		assert_int_equal(snapshot_fits_machine(s, &m, &err), i ? -ENOTSUP : 0);
		machine_free(&m);
	}
	snapshot_close(s);
}

int main(void)
{
	const struct CMUnitTest fpu[] = {
		cmocka_unit_test(registers_come_back),
		cmocka_unit_test(a_changed_register_is_noticed),
		cmocka_unit_test(a_section_too_short_is_refused),
		cmocka_unit_test(a_tsc_that_cannot_be_matched_is_refused),
		cmocka_unit_test(a_running_machine_becomes_another),
		cmocka_unit_test(another_shape_does_not_fit),
	};
	const struct CMUnitTest reach[] = {
		cmocka_unit_test(untouched_memory_is_memory_at_once),
	};
	int failed = cmocka_run_group_tests(fpu, setup_fpu, teardown);

	return failed + cmocka_run_group_tests(reach, setup_reach, teardown);
}
