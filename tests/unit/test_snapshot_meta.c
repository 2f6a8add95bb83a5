/* `meta`: round trip, damage, foreign formats, hostile values, CPU fit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "runner/snapshot/meta.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"

static void sample(struct snapshot_meta *m)
{
	memset(m, 0, sizeof(*m));
	m->wall_clock_ns = 1790000000123456789;
	strcpy(m->cpu.vendor, "GenuineIntel");
	m->cpu.family = 6;
	m->cpu.model = 143;
	m->cpu.stepping = 8;
	m->cpu.microcode = 0x2b000643;
	m->cpu.word[0] = (struct cpu_word){1, 0, CPU_ECX, 0xfffa3203};
	m->cpu.word[1] = (struct cpu_word){0x80000001, 0, CPU_EDX, 0x2c100800};
	m->cpu.nwords = 2;
	m->ram_bytes = 4 * GIB;
	m->region[0] = (struct meta_region){0, 3 * GIB, 0, 65536};
	m->region[1] = (struct meta_region){4 * GIB, GIB, 3 * GIB, GIB};
	m->nregions = 2;
	m->vcpus = 2;
	m->tsc_khz = 2100000;
	strcpy(m->kernel.path, "/boot/vmlinuz-6.1.0-cloud-amd64");
	m->has_image = true;
	strcpy(m->image.ref, "docker.io/library/alpine:3.20");
	strcpy(m->image.rootfs, "images/docker.io/library/alpine:3.20/rootfs.erofs");
	strcpy(m->image.digest, "sha256:00ff");
	m->image.size = 123456789;
	m->generation = 7;
	memset(m->uuid, 0xa5, sizeof(m->uuid));
	m->device[0] = (struct meta_device){.id = "serial0",
					    .type = "serial",
					    .version = 1,
					    .base = 0x3f8,
					    .size = 8,
					    .gsi = 4};
	m->device[1] = (struct meta_device){.id = "pmem-rootfs",
					    .type = "virtio-pmem",
					    .version = 2,
					    .base = 0xd0000000,
					    .size = 0x1000,
					    .gsi = 5,
					    .source = "images/x",
					    .readonly = true};
	m->device[2] = (struct meta_device){.id = "vmgenid0", .type = "vmgenid", .gsi = -1};
	m->ndevices = 3;
	m->vcpu_bytes = 4242;
	m->vcpu_xxh3 = 0x00123456789abcde;
}

static char *encode(const struct snapshot_meta *m, size_t *len)
{
	struct err err = ERR_INIT;
	char *text = NULL;

	assert_int_equal(meta_encode(m, &text, len, &err), 0);
	assert_int_equal(strlen(text), *len);
	return text;
}

/* After an edit, as a forger or a newer writer would: the checksum made right again. */
static void reseal(char *text, size_t len)
{
	char *at = text + len - strlen("\"\n}\n") - 16, sum[17];

	memset(at, '0', 16);
	snprintf(sum, sizeof(sum), "%016llx", (unsigned long long)XXH3_64bits(text, len));
	memcpy(at, sum, 16);
}

/* Encode, replace the first `from` by `to` (any lengths), reseal, decode. */
static int decode_edited_of(const struct snapshot_meta *m, const char *from, const char *to,
			    struct err *err)
{
	struct snapshot_meta back;
	cleanup_free char *text = NULL, *edited = NULL;
	size_t len, n;
	char *at;

	text = encode(m, &len);
	at = strstr(text, from);
	assert_non_null(at);
	edited = malloc(len + strlen(to) + 1);
	assert_non_null(edited);
	n = (size_t)sprintf(edited, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
	reseal(edited, n);
	err_clear(err);
	return meta_decode(edited, n, &back, err);
}

static int decode_edited(const char *from, const char *to, struct err *err)
{
	struct snapshot_meta m;

	sample(&m);
	return decode_edited_of(&m, from, to, err);
}

static void round_trip(void **state)
{
	struct snapshot_meta m, back;
	cleanup_free char *text = NULL, *again = NULL;
	struct err err = ERR_INIT;
	size_t len, len2;

	sample(&m);
	text = encode(&m, &len);
	assert_int_equal(meta_decode(text, len, &back, &err), 0);
	assert_memory_equal(&m, &back, sizeof(m));
	again = encode(&back, &len2);
	assert_string_equal(text, again);

	m.has_image = false;
	memset(&m.image, 0, sizeof(m.image));
	m.ndevices = 0;
	memset(m.device, 0, sizeof(m.device));
	free(again);
	again = encode(&m, &len2);
	assert_int_equal(meta_decode(again, len2, &back, &err), 0);
	assert_memory_equal(&m, &back, sizeof(m));
}

static void every_flipped_bit_and_byte_is_refused(void **state)
{
	struct snapshot_meta m, back;
	cleanup_free char *text = NULL;
	struct err err = ERR_INIT;
	size_t len;

	sample(&m);
	text = encode(&m, &len);
	for (size_t i = 0; i < len; i++) {
		const char old = text[i];
		static const unsigned char flips[] = {1,  2,  4,   8,	 16,
						      32, 64, 128, 0xff, 0x20 ^ 0x0a};

		for (size_t k = 0; k < ARRAY_SIZE(flips); k++) {
			text[i] = (char)(old ^ flips[k]);
			err_clear(&err);
			assert_int_equal(meta_decode(text, len, &back, &err), -EBADMSG);
			assert_true(err.msg[0]);
		}
		text[i] = old;
	}
	assert_int_equal(meta_decode(text, len, &back, &err), 0);
}

static void every_truncation_is_refused(void **state)
{
	struct snapshot_meta m, back;
	cleanup_free char *text = NULL;
	struct err err = ERR_INIT;
	size_t len;

	sample(&m);
	text = encode(&m, &len);
	for (size_t i = 0; i < len; i++) {
		/* A copy of exactly that size, so that the sanitizer sees a read past it. */
		cleanup_free char *cut = malloc(i ? i : 1);

		memcpy(cut, text, i);
		assert_int_equal(meta_decode(cut, i, &back, &err), -EBADMSG);
	}
}

static void foreign_formats_are_refused(void **state)
{
	struct err err = ERR_INIT;

	assert_int_equal(decode_edited("\"format\": 1", "\"format\": 2", &err), -ENOTSUP);
	assert_non_null(strstr(err.msg, "format 2"));
	assert_int_equal(decode_edited("\"required\": []", "\"required\": [\"warp\"]", &err),
			 -ENOTSUP);
	assert_non_null(strstr(err.msg, "warp"));
	assert_int_equal(decode_edited("x86_64", "aarch64", &err), -ENOTSUP);
	assert_non_null(strstr(err.msg, "aarch64"));
	/* An unknown member that is not required is from a newer writer, and harmless. */
	assert_int_equal(decode_edited("\"arch\"", "\"mood\": 1, \"arch\"", &err), 0);
}

static void hostile_values_are_refused(void **state)
{
	static const struct {
		const char *from, *to;
	} edits[] = {
		{"\"vcpus\": 2", "\"vcpus\": 0"},
		{"\"vcpus\": 2", "\"vcpus\": -1"},
		{"\"vcpus\": 2", "\"vcpus\": 2.0"},
		{"\"vcpus\": 2", "\"vcpus\": 99999"},
		{"\"vcpus\": 2", "\"vcpus\": \"2\""},
		{"\"vcpus\": 2", "\"vcpus\": 2, \"vcpus\": 2"},
		{"\"ram_bytes\": 4294967296", "\"ram_bytes\": 4294967297"},
		{"\"ram_bytes\": 4294967296", "\"ram_bytes\": 99999999999999999999999"},
		{"\"offset\": 3221225472", "\"offset\": 3221221376"},
		{"\"gpa\": 4294967296", "\"gpa\": 4096"},
		{"\"gpa\": 0", "\"gpa\": 1"},
		{"\"used\": 1073741824", "\"used\": 1073741825"},
		{"\"used\": 65536", "\"xused\": 65536"},
		{"\"size\": 3221225472", "\"size\": 0"},
		{"images/docker.io", "../docker.io"},
		{"images/docker.io", "/docker.io"},
		{"images/docker.io", "images/../../docker.io"},
		{"sha256:00ff", "sha256:\\u0000ff"},
		{"\"id\": \"pmem-rootfs\"", "\"id\": \"serial0\""},
		{"\"id\": \"pmem-rootfs\"", "\"id\": \"0123456789012345678901234567890123456789\""},
		{"\"gsi\": 5", "\"gsi\": 4096"},
		{"\"base\": \"0xd0000000\"", "\"base\": \"d0000000\""},
		{"GenuineIntel", "GenuineIntelGenuineIntel"},
		{"00000001.0.ecx", "00000001.0.efx"},
		{"00000001.0.ecx=fffa3203", "00000001.0.ecx=fffa3203 "},
		{"a5a5a5", "A5a5a5"},
		{"\"required\": []", "\"required\": {}"},
		{"\"kernel\": {", "\"kernel\": {}, \"k\": {"},
	};
	struct err err = ERR_INIT;

	for (size_t i = 0; i < ARRAY_SIZE(edits); i++) {
		print_message("# %s -> %s\n", edits[i].from, edits[i].to);
		assert_int_equal(decode_edited(edits[i].from, edits[i].to, &err), -EBADMSG);
	}
}

/* A reader that knows nothing of them is told; the file's name leads nowhere else. */
static void disks_have_files(void **state)
{
	static const char *const edits[][2] = {
		{"\"content\": 4096", "\"content\": 0"},
		{"\"content\": 4096", "\"content\": -1"},
		{"\"content\": 4096", "\"content\": \"4096\""},
		{"\"content\": 4096", "\"content\": null"},
		{"\"id\": \"disk0\"", "\"id\": \"ram\""},
		{"\"id\": \"disk0\"", "\"id\": \"disk/../../x\""},
		{"\"id\": \"disk0\"", "\"id\": \"../disk\""},
		{"\"readonly\": false,\n      \"content\"", "\"readonly\": true, \"content\""},
	};
	struct snapshot_meta m, back;
	cleanup_free char *text = NULL;
	struct err err = ERR_INIT;
	size_t len;

	sample(&m);
	m.device[m.ndevices++] = (struct meta_device){
		.id = "disk0", .type = "virtio-blk", .version = 1, .gsi = 6, .content = 4096};
	text = encode(&m, &len);
	assert_non_null(strstr(text, "\"disks\""));
	assert_int_equal(meta_decode(text, len, &back, &err), 0);
	assert_memory_equal(&m, &back, sizeof(m));
	for (size_t i = 0; i < ARRAY_SIZE(edits); i++) {
		print_message("# %s -> %s\n", edits[i][0], edits[i][1]);
		assert_int_equal(decode_edited_of(&m, edits[i][0], edits[i][1], &err), -EBADMSG);
	}
}

static void every_member_is_needed(void **state)
{
	static const char *const members[] = {
		"format",     "required",  "arch",  "wall_clock_ns", "cpu",	 "vcpus",
		"tsc_khz",    "ram_bytes", "image", "ram_regions",   "kernel",	 "parent",
		"generation", "devices",   "vcpu",  "vendor",	     "features", "rootfs"};
	struct err err = ERR_INIT;

	for (size_t i = 0; i < ARRAY_SIZE(members); i++) {
		char from[32], to[32];
		int ret;

		snprintf(from, sizeof(from), "\"%s\":", members[i]);
		snprintf(to, sizeof(to), "\"x%s\":", members[i]);
		ret = decode_edited(from, to, &err);
		print_message("# without %s: %s\n", members[i], err.msg);
		assert_int_equal(ret, -EBADMSG);
	}
}

static void this_host_fits_itself(void **state)
{
	struct snapshot_cpu host;
	struct err err = ERR_INIT;

	hostcpu_get(&host, NULL);
	assert_true(host.nwords > 5);
	assert_int_equal(hostcpu_fits(&host, &host, &err), 0);
}

static void lost_features_are_named(void **state)
{
	struct snapshot_cpu host, snap;
	struct err err = ERR_INIT;

	hostcpu_get(&host, NULL);
	snap = host;
	for (unsigned i = 0; i < host.nwords; i++) {
		if (host.word[i].leaf == 7 && host.word[i].subleaf == 0 &&
		    host.word[i].reg == CPU_EBX) {
			host.word[i].value &= ~(1u << 5 | 1u << 16);
			snap.word[i].value |= 1u << 5 | 1u << 16;
		}
		if (host.word[i].leaf == 7 && host.word[i].reg == CPU_EDX &&
		    host.word[i].subleaf == 0) {
			host.word[i].value &= ~1u; /* a bit without a name */
			snap.word[i].value |= 1u;
		}
	}
	assert_int_equal(hostcpu_fits(&snap, &host, &err), -ENOTSUP);
	assert_non_null(strstr(err.msg, "avx2"));
	assert_non_null(strstr(err.msg, "avx512f"));
	assert_non_null(strstr(err.msg, "cpuid:0x7.0.d:0"));
	/* A host with more than the snapshot needs is fine. */
	assert_int_equal(hostcpu_fits(&host, &snap, &err), 0);
	/* A word the host does not have at all reads as nothing there. */
	host.nwords = 0;
	assert_int_equal(hostcpu_fits(&snap, &host, &err), -ENOTSUP);
}

static void another_cpu_is_refused(void **state)
{
	struct snapshot_cpu host, snap;
	struct err err = ERR_INIT;

	hostcpu_get(&host, NULL);
	snap = host;
	strcpy(snap.vendor, "CyrixInstead");
	assert_int_equal(hostcpu_fits(&snap, &host, &err), -ENOTSUP);
	assert_non_null(strstr(err.msg, "CyrixInstead"));
	snap = host;
	snap.model ^= 1;
	assert_int_equal(hostcpu_fits(&snap, &host, &err), -ENOTSUP);
	snap = host;
	snap.stepping ^= 1;
	snap.microcode ^= 1;
	assert_int_equal(hostcpu_fits(&snap, &host, &err), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),
		cmocka_unit_test(every_flipped_bit_and_byte_is_refused),
		cmocka_unit_test(every_truncation_is_refused),
		cmocka_unit_test(foreign_formats_are_refused),
		cmocka_unit_test(hostile_values_are_refused),
		cmocka_unit_test(disks_have_files),
		cmocka_unit_test(every_member_is_needed),
		cmocka_unit_test(this_host_fits_itself),
		cmocka_unit_test(lost_features_are_named),
		cmocka_unit_test(another_cpu_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
