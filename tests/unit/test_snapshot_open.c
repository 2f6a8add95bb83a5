/* snapshot_open(): what is refused, with which reason, before a VM exists. Needs no KVM. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <xxhash.h>

#include "runner/snapshot/restore.h"
#include "runner/snapshot/state_file.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"

#define DIGEST "sha256:0123"
#define ROOTFS "images/x/rootfs.erofs"

/* A snapshot as save.c would write one, in pieces that a test can change before they are written.
 */
struct fixture {
	char dir[32], rootfs[64];
	struct snapshot_meta meta;
	struct vcpu_state *state; /* two vCPUs */
	struct vm_irq_state irq;
	uint64_t ram_len;
	unsigned vcpus_written, devices_written;
	bool extra_section, break_link;
};

static void put_file(struct fixture *f, const char *name, const void *data, size_t len)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", f->dir, name);
	fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), len);
	close(fd);
}

static void put_vcpu_file(struct fixture *f, struct writer *w)
{
	sections_begin(w);
	for (unsigned i = 0; i < f->vcpus_written; i++)
		state_file_put_vcpu(w, i, &f->state[i]);
	state_file_put_vm(w, &f->irq);
	for (unsigned i = 0; i < f->devices_written; i++)
		section_close(w, section_open(w, SECTION_DEVICE, 1, 0, f->meta.device[i].id));
	if (f->extra_section)
		section_close(w, section_open(w, SECTION_DEVICE, 1, 0, "stowaway"));
	sections_end(w);
	assert_false(w->failed);
	put_file(f, "vcpu", w->p, w->len);
}

static int open_it(struct fixture *f, struct err *err)
{
	cleanup_writer struct writer w = WRITER_INIT;
	cleanup_free char *text = NULL;
	struct snapshot *s = NULL;
	char path[64];
	size_t len;
	int ret;

	put_vcpu_file(f, &w);
	f->meta.vcpu_bytes = w.len;
	f->meta.vcpu_xxh3 = XXH3_64bits(w.p, w.len) ^ f->break_link;
	assert_int_equal(meta_encode(&f->meta, &text, &len, err), 0);
	put_file(f, "meta", text, len);
	put_file(f, "ram", "", 0);
	snprintf(path, sizeof(path), "%s/ram", f->dir);
	assert_int_equal(truncate(path, (off_t)f->ram_len), 0);
	err_clear(err);
	ret = snapshot_open(f->dir, f->dir, &s, err);
	assert_true((s != NULL) == (ret == 0));
	if (s) {
		assert_int_equal(snapshot_next_generation(s), f->meta.generation + 1);
		assert_memory_not_equal(snapshot_next_uuid(s), f->meta.uuid, 16);
	}
	snapshot_close(s);
	return ret;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct snapshot_meta *m = &f->meta;
	char path[64];

	assert_non_null(f);
	strcpy(f->dir, "/tmp/test-snapshot.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(path, sizeof(path), "%s/images", f->dir);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof(path), "%s/images/x", f->dir);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(f->rootfs, sizeof(f->rootfs), "%s/" ROOTFS, f->dir);
	put_file(f, ROOTFS, "erofs", 5);
	assert_int_equal(setxattr(f->rootfs, "user.smfs.digest", DIGEST, strlen(DIGEST), 0), 0);

	f->state = calloc(2, sizeof(*f->state));
	assert_non_null(f->state);
	for (int i = 0; i < 2; i++) {
		f->state[i].xsave_len = sizeof(struct kvm_xsave);
		f->state[i].cpuid.n = 1;
		f->state[i].msrs.n = 2;
		f->state[i].has_lapic = true;
		f->state[i].tsc_khz = 2100000;
	}
	f->irq.has_irqchip = true;
	f->vcpus_written = 2;
	f->devices_written = 3;
	f->ram_len = 64 * MIB;

	hostcpu_get(&m->cpu, NULL);
	m->ram_bytes = 64 * MIB;
	m->region[0] = (struct meta_region){0, 64 * MIB, 0, 0};
	m->nregions = 1;
	m->vcpus = 2;
	m->tsc_khz = 2100000;
	m->generation = 4;
	m->has_image = true;
	strcpy(m->image.ref, "reg/x:1");
	strcpy(m->image.rootfs, ROOTFS);
	strcpy(m->image.digest, DIGEST);
	m->image.size = 5;
	m->device[0] = (struct meta_device){.id = "serial0", .type = "serial", .version = 1};
	m->device[1] = (struct meta_device){.id = "pm", .type = "pm", .version = 1, .gsi = -1};
	m->device[2] = (struct meta_device){.id = "pmem-rootfs", .type = "virtio-pmem"};
	m->ndevices = 3;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	static const char *const names[] = {ROOTFS, "images/x", "images", "meta",
					    "ram",  "vcpu",	""};
	char path[64];

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		snprintf(path, sizeof(path), "%s/%s", f->dir, names[i]);
		remove(path);
	}
	free(f->state);
	free(f);
	return 0;
}

static void refused(struct fixture *f, int code, const char *why)
{
	struct err err = ERR_INIT;
	int ret = open_it(f, &err);

	print_message("# %s\n", err.msg);
	assert_int_equal(ret, -code);
	assert_non_null(strstr(err.msg, why));
	assert_non_null(strstr(err.msg, f->dir));
}

static void a_good_one_opens(void **state)
{
	struct err err = ERR_INIT;

	assert_int_equal(open_it(*state, &err), 0);
}

static void another_cpu(void **state)
{
	struct fixture *f = *state;

	strcpy(f->meta.cpu.vendor, "CyrixInstead");
	refused(f, ENOTSUP, "CyrixInstead");
}

static void a_lost_feature(void **state)
{
	struct fixture *f = *state;

	/* 3DNow! is gone from every CPU this could run on. */
	for (unsigned i = 0; i < f->meta.cpu.nwords; i++)
		if (f->meta.cpu.word[i].leaf == 0x80000001 && f->meta.cpu.word[i].reg == CPU_EDX)
			f->meta.cpu.word[i].value |= 1u << 31;
	refused(f, ENOTSUP, "3dnow");
}

static void ram_of_another_length(void **state)
{
	struct fixture *f = *state;

	f->ram_len -= 4096;
	refused(f, EBADMSG, "ram: ");
	f->ram_len += 8192;
	refused(f, EBADMSG, "ram: ");
	f->ram_len = 0;
	refused(f, EBADMSG, "ram: ");
}

static void another_memory_map(void **state)
{
	struct fixture *f = *state;

	f->meta.region[0] = (struct meta_region){1 * MIB, 64 * MIB, 0, 0};
	refused(f, ENOTSUP, "ram_regions");
	f->meta.region[0] = (struct meta_region){0, 32 * MIB, 0, 0};
	f->meta.region[1] = (struct meta_region){64 * MIB, 32 * MIB, 32 * MIB, 0};
	f->meta.nregions = 2;
	refused(f, ENOTSUP, "ram_regions");
}

static void too_many_vcpus(void **state)
{
	struct fixture *f = *state;

	f->meta.vcpus = VM_MAX_VCPUS + 1;
	refused(f, ENOTSUP, "vCPUs");
}

static void missing_and_surplus_sections(void **state)
{
	struct fixture *f = *state;

	f->vcpus_written = 1;
	refused(f, EBADMSG, "mp_state 1: section is missing");
	f->vcpus_written = 2;
	f->devices_written = 2;
	refused(f, EBADMSG, "pmem-rootfs");
	f->devices_written = 3;
	f->extra_section = true;
	refused(f, EBADMSG, "sections");
	f->extra_section = false;
	f->state[1].has_lapic = false;
	refused(f, EBADMSG, "local APIC");
	f->state[1].has_lapic = true;
	f->irq.has_irqchip = false;
	refused(f, ENOTSUP, "interrupt controllers");
}

static void states_out_of_range(void **state)
{
	struct fixture *f = *state;

	f->state[1].xsave_len = 64;
	refused(f, EBADMSG, "xsave");
	f->state[1].xsave_len = sizeof(struct kvm_xsave);
	f->state[1].cpuid.n = 0;
	refused(f, EBADMSG, "cpuid");
	f->state[1].cpuid.n = 1;
	f->state[1].xcrs.nr_xcrs = 1000;
	refused(f, EBADMSG, "XCR");
}

static void the_vcpu_of_another_meta(void **state)
{
	struct fixture *f = *state;

	f->break_link = true;
	refused(f, EBADMSG, "not the file this meta was written with");
}

static void a_missing_image(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(unlink(f->rootfs), 0);
	refused(f, ENOENT, "reg/x:1 is missing");
}

static void another_image_of_that_name(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(setxattr(f->rootfs, "user.smfs.digest", "sha256:ff", 9, 0), 0);
	refused(f, ENOTSUP, "another image");
	assert_int_equal(setxattr(f->rootfs, "user.smfs.digest", DIGEST, strlen(DIGEST), 0), 0);
	assert_int_equal(truncate(f->rootfs, 4), 0);
	refused(f, ENOTSUP, "another image");
	assert_int_equal(removexattr(f->rootfs, "user.smfs.digest"), 0);
	refused(f, ENODATA, "digest");
}

static void a_writable_disk(void **state)
{
	struct fixture *f = *state;
	struct meta_device *d = &f->meta.device[2];

	strcpy(d->type, "virtio-blk");
	strcpy(d->source, "/dev/null");
	refused(f, EBADMSG, "disk pmem-rootfs");
}

/* A directory from elsewhere does not say which of the host's files its guest reads. */
static void a_disk_of_a_stranger(void **state)
{
	struct fixture *f = *state;
	struct meta_device *d = &f->meta.device[2];

	strcpy(d->type, "virtio-blk");
	strcpy(d->source, "/etc/shadow");
	d->readonly = true;
	refused(f, ENOTSUP, "/etc/shadow");
}

static void a_pipe_for_a_file(void **state)
{
	static const char *const names[] = {"meta", "vcpu", "ram"};
	struct fixture *f = *state;
	struct err err = ERR_INIT;
	struct snapshot *s;
	char path[64];

	assert_int_equal(open_it(f, &err), 0);
	for (size_t i = 0; i < 3; i++) {
		char aside[80];

		snprintf(path, sizeof(path), "%s/%s", f->dir, names[i]);
		snprintf(aside, sizeof(aside), "%s.aside", path);
		assert_int_equal(rename(path, aside), 0);
		assert_int_equal(mkfifo(path, 0600), 0);
		assert_int_equal(snapshot_open(f->dir, f->dir, &s, &err), -EBADMSG);
		assert_non_null(strstr(err.msg, names[i]));
		assert_int_equal(rename(aside, path), 0);
	}
}

static void a_diff(void **state)
{
	struct fixture *f = *state;

	strcpy(f->meta.parent, "base");
	refused(f, ENOTSUP, "base");
}

static void no_directory(void **state)
{
	struct snapshot *s;
	struct err err = ERR_INIT;

	assert_int_equal(snapshot_open("/nowhere/at/all", "/", &s, &err), -ENOENT);
	assert_null(s);
	assert_int_equal(snapshot_open("/proc/self/fd", "/", &s, &err), -ENOENT);
	assert_null(s);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_good_one_opens),
		TEST(another_cpu),
		TEST(a_lost_feature),
		TEST(ram_of_another_length),
		TEST(another_memory_map),
		TEST(too_many_vcpus),
		TEST(missing_and_surplus_sections),
		TEST(states_out_of_range),
		TEST(the_vcpu_of_another_meta),
		TEST(a_missing_image),
		TEST(another_image_of_that_name),
		TEST(a_writable_disk),
		TEST(a_disk_of_a_stranger),
		TEST(a_pipe_for_a_file),
		TEST(a_diff),
		cmocka_unit_test(no_directory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
