/*
 * What a guest is made of: the kernel that is found, the modules it needs, the initramfs, the
 * workload an image asks for, and the users it names.
 */
#include "runner/agent/users.h"
#include "runner/guest/image.h"
#include "runner/guest/initramfs.h"
#include "runner/guest/modules.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64];

static int setup(void **state)
{
	strcpy(dir, "/tmp/guest-test.XXXXXX");
	assert_non_null(mkdtemp(dir));
	return 0;
}

static int teardown(void **state)
{
	char cmd[96];

	snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	return system(cmd) != 0;
}

/* Write dir/name, making its folders. */
static const char *put(const char *name, const void *data, size_t len)
{
	static char path[4096];
	struct err e = ERR_INIT;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	for (char *p = path + strlen(dir) + 1; (p = strchr(p, '/')); *p++ = '/') {
		*p = '\0';
		mkdir(path, 0755);
	}
	assert_int_equal(write_file_atomic(AT_FDCWD, path, data, len, 0755, &e), 0);
	return path;
}

static const char *put_text(const char *name, const char *text)
{
	return put(name, text, strlen(text));
}

/* ---- kernel -------------------------------------------------------------------------------- */

static void put_kernel(const char *name, const char *version)
{
	uint8_t k[0x1000] = {0};

	memcpy(k + 0x202, "HdrS", 4);
	k[0x206] = 0x0f;
	k[0x207] = 0x02;
	k[0x20e] = 0x00; /* the version string is at 0x200 + 0x400 */
	k[0x20f] = 0x04;
	snprintf((char *)k + 0x600, 256, "%s (someone@host) #1 SMP", version);
	put(name, k, sizeof(k));
}

static void the_newest_cloud_kernel_is_found(void **state)
{
	struct guest_kernel k;
	struct err e = ERR_INIT;
	char want[128];

	assert_int_equal(guest_kernel_find_in(dir, "/m", NULL, &k, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "linux-image-cloud-amd64"));
	put_kernel("vmlinuz-6.12.1-amd64", "6.12.1-amd64");
	put_kernel("vmlinuz-6.1.0-9-cloud-amd64", "6.1.0-9-cloud-amd64");
	put_kernel("vmlinuz-6.1.0-10-cloud-amd64", "6.1.0-10-cloud-amd64");
	assert_int_equal(guest_kernel_find_in(dir, "/m", NULL, &k, &e), 0);
	assert_string_equal(k.version, "6.1.0-10-cloud-amd64");
	assert_string_equal(k.modules_dir, "/m/6.1.0-10-cloud-amd64");
	snprintf(want, sizeof(want), "%s/vmlinuz-6.12.1-amd64", dir);
	assert_int_equal(guest_kernel_find_in(dir, "/m", want, &k, &e), 0);
	assert_string_equal(k.version, "6.12.1-amd64");
}

static void what_is_no_kernel_is_refused(void **state)
{
	struct guest_kernel k;
	struct err e = ERR_INIT;

	assert_int_equal(guest_kernel_find_in("/", "/m", put_text("short", "MZ"), &k, &e),
			 -EBADMSG);
	assert_int_equal(guest_kernel_find_in("/", "/m", "/no/such/kernel", &k, &e), -ENOENT);
	put_kernel("evil", "../../etc");
	char path[128];
	snprintf(path, sizeof(path), "%s/evil", dir);
	assert_int_equal(guest_kernel_find_in("/", "/m", path, &k, &e), -EBADMSG);
}

/* ---- modules ------------------------------------------------------------------------------- */

static const char dep[] = "kernel/virtio.ko.xz: kernel/virtio_ring.ko.xz\n"
			  "kernel/virtio_ring.ko.xz:\n"
			  "kernel/virtio_mmio.ko.xz: kernel/virtio.ko.xz kernel/virtio_ring.ko.xz\n"
			  "kernel/libnvdimm.ko:\n"
			  "kernel/virtio_pmem.ko: kernel/libnvdimm.ko kernel/virtio.ko.xz\n"
			  "kernel/nd_pmem.ko: kernel/libnvdimm.ko\n"
			  "kernel/crc.ko:\n"
			  "kernel/libcrc32c.ko:\n"
			  "kernel/erofs.ko: kernel/libcrc32c.ko\n"
			  "kernel/vsock/vmw-vsock-virtio-transport.ko: kernel/virtio.ko.xz\n"
			  "kernel/not_erofs.ko:\n";
static const char builtin[] = "kernel/fs/overlayfs/overlay.ko\n";
static const char softdep[] =
	"# a comment\nsoftdep libcrc32c pre: crc nothing-such post: not_erofs\n";

static void put_module_index(const char *deps)
{
	put_text("modules.dep", deps);
	put_text("modules.builtin", builtin);
	put_text("modules.softdep", softdep);
}

static int place(const struct module_list *l, const char *name)
{
	for (unsigned i = 0; i < l->n; i++)
		if (strstr(l->path[i], name))
			return (int)i;
	return -1;
}

static void modules_come_after_what_they_need(void **state)
{
	struct module_list l;
	struct err e = ERR_INIT;

	put_module_index(dep);
	if (guest_modules_list(dir, &l, &e) < 0)
		fail_msg("%s", e.msg);
	assert_true(place(&l, "virtio_ring") < place(&l, "virtio.ko"));
	assert_true(place(&l, "virtio.ko") < place(&l, "virtio_mmio"));
	assert_true(place(&l, "libnvdimm") < place(&l, "nd_pmem"));
	/* A soft dependency comes first too; '-' and '_' are one; a longer name is another module.
	 */
	assert_true(place(&l, "/crc.ko") >= 0);
	assert_true(place(&l, "/crc.ko") < place(&l, "libcrc32c"));
	assert_true(place(&l, "vmw-vsock") >= 0);
	assert_int_equal(place(&l, "not_erofs"), -1);
	assert_int_equal(place(&l, "overlay"), -1);
	for (unsigned i = 0; i < l.n; i++)
		for (unsigned j = 0; j < i; j++)
			assert_string_not_equal(l.path[i], l.path[j]);
	guest_modules_free(&l);
}

static void a_kernel_that_lacks_one_is_named(void **state)
{
	struct module_list l;
	struct err e = ERR_INIT;

	put_module_index("kernel/virtio_mmio.ko:\n");
	assert_int_equal(guest_modules_list(dir, &l, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "virtio_pmem"));
	/* A circle ends. */
	put_module_index("a/virtio_mmio.ko: a/b.ko\na/b.ko: a/virtio_mmio.ko\n");
	assert_int_equal(guest_modules_list(dir, &l, &e), -ELOOP);
	/* A dependency that has no line. */
	put_module_index("a/virtio_mmio.ko: a/b.ko\n");
	assert_int_equal(guest_modules_list(dir, &l, &e), -ENOENT);
}

static void compressed_modules_are_inflated(void **state)
{
	static const char *const tool[][2] = {
		{"xz -c", ".xz"}, {"gzip -c", ".gz"}, {"zstd -qc", ".zst"}};
	char cmd[256], name[32];
	size_t n = 700000, len;
	uint8_t *body = malloc(n);
	struct err e = ERR_INIT;
	void *data;

	for (size_t i = 0; i < n; i++)
		body[i] = (uint8_t)(i * i >> 7);
	put("m.ko", body, n);
	for (size_t i = 0; i < ARRAY_SIZE(tool); i++) {
		snprintf(name, sizeof(name), "m.ko%s", tool[i][1]);
		snprintf(cmd, sizeof(cmd), "%s %s/m.ko > %s/%s", tool[i][0], dir, dir, name);
		assert_int_equal(system(cmd), 0);
		if (guest_module_read(dir, name, &data, &len, &e) < 0)
			fail_msg("%s", e.msg);
		assert_int_equal(len, n);
		assert_memory_equal(data, body, n);
		free(data);
	}
	put_text("bad.ko.xz", "this is not xz");
	assert_int_equal(guest_module_read(dir, "bad.ko.xz", &data, &len, &e), -EBADMSG);
	free(body);
}

/* ---- initramfs ----------------------------------------------------------------------------- */

/* Reads all archives of `i` one after the other, as Linux does; the content of the one named. */
static char *unpack(const struct initramfs *i, const char *name, char *listing, size_t cap,
		    size_t *len)
{
	char *found = NULL;
	size_t at = 0;

	listing[0] = '\0';
	while (at < i->len) {
		struct archive *a = archive_read_new();
		struct archive_entry *en;

		archive_read_support_format_cpio(a);
		assert_int_equal(archive_read_open_memory(a, (char *)i->data + at, i->len - at), 0);
		while (archive_read_next_header(a, &en) == ARCHIVE_OK) {
			const char *p = archive_entry_pathname(en);

			snprintf(listing + strlen(listing), cap - strlen(listing), "%s %o\n", p,
				 archive_entry_mode(en));
			if (!strcmp(p, name)) {
				size_t n = (size_t)archive_entry_size(en);
				*len = n;
				found = calloc(1, n + 1);
				assert_int_equal(archive_read_data(a, found, n), (la_ssize_t)n);
			}
		}
		archive_read_free(a);
		/* On to the next archive: after this one's trailer. */
		uint8_t *t = memmem((char *)i->data + at, i->len - at, "TRAILER!!!", 10);
		assert_non_null(t);
		at = align_up((size_t)(t - (uint8_t *)i->data) + 11, 4);
		while (at < i->len && ((char *)i->data)[at] == '\0')
			at++;
	}
	return found;
}

static void the_initramfs_holds_agent_modules_and_configuration(void **state)
{
	struct guest_kernel k = {.version = "6.1.0-test"};
	struct bootconf conf = {.hostname = "one"}, got;
	char agent[128], cache[128], listing[8192];
	struct initramfs a, b;
	struct err e = ERR_INIT;
	char *text, cmd[256];
	size_t len;

	put_module_index("kernel/virtio_mmio.ko:\nkernel/virtio_pmem.ko:\nkernel/nd_pmem.ko:\n"
			 "kernel/erofs.ko:\nkernel/vmw_vsock_virtio_transport.ko:\n");
	put_text("kernel/virtio_mmio.ko", "mmio");
	put_text("kernel/virtio_pmem.ko", "pmem");
	put_text("kernel/nd_pmem.ko", "nd");
	put_text("kernel/erofs.ko", "erofs");
	put_text("kernel/vmw_vsock_virtio_transport.ko", "vsock");
	put_text("agent", "#!agent");
	snprintf(k.modules_dir, sizeof(k.modules_dir), "%s", dir);
	snprintf(agent, sizeof(agent), "%s/agent", dir);
	snprintf(cache, sizeof(cache), "%s/cache", dir);
	struct initramfs_opts o = {
		.kernel = &k, .conf = &conf, .agent_path = agent, .cache_dir = cache};
	if (initramfs_build(&o, &a, &e) < 0)
		fail_msg("%s", e.msg);
	text = unpack(&a, "modules.list", listing, sizeof(listing), &len);
	assert_string_equal(text, "/modules/virtio_mmio.ko\n/modules/virtio_pmem.ko\n"
				  "/modules/nd_pmem.ko\n/modules/erofs.ko\n"
				  "/modules/vmw_vsock_virtio_transport.ko\n");
	free(text);
	assert_non_null(strstr(listing, "init 100755\n"));
	assert_non_null(strstr(listing, "dev/console 20600\n"));
	assert_non_null(strstr(listing, "modules/erofs.ko 100644\n"));
	assert_non_null(strstr(listing, "smvm.conf 100600\n"));
	text = unpack(&a, "init", listing, sizeof(listing), &len);
	assert_string_equal(text, "#!agent");
	free(text);

	/* From the cache, with the next VM's configuration: the same but for that. */
	conf.hostname = "two";
	assert_int_equal(initramfs_build(&o, &b, &e), 0);
	assert_int_equal(b.len, a.len);
	text = unpack(&b, "smvm.conf", listing, sizeof(listing), &len);
	assert_int_equal(bootconf_decode(text, len, &got, &e), 0);
	assert_string_equal(got.hostname, "two");
	bootconf_free(&got);
	free(text);
	initramfs_free(&b);

	/* Not from a cache that others can write to: what is there may be theirs. */
	int null = open("/dev/null", O_WRONLY), keep = dup(2);
	snprintf(cmd, sizeof(cmd), "for f in %s/*; do printf 070701evil > $f; done", cache);
	assert_int_equal(system(cmd), 0);
	assert_int_equal(chmod(cache, 0777), 0);
	dup2(null, 2); /* the warning about it */
	assert_int_equal(initramfs_build(&o, &b, &e), 0);
	dup2(keep, 2);
	assert_int_equal(b.len, a.len);
	initramfs_free(&b);
	assert_int_equal(chmod(cache, 0755), 0);

	/* Another agent is another initramfs; a spoilt cache file is not used. */
	put_text("agent", "#!other");
	assert_int_equal(initramfs_build(&o, &b, &e), 0);
	text = unpack(&b, "init", listing, sizeof(listing), &len);
	assert_string_equal(text, "#!other");
	free(text);
	initramfs_free(&b);
	snprintf(cmd, sizeof(cmd), "for f in %s/*; do echo spoilt > $f; done", cache);
	assert_int_equal(system(cmd), 0);
	dup2(null, 2);
	assert_int_equal(initramfs_build(&o, &b, &e), 0);
	dup2(keep, 2);
	close(keep);
	close(null);
	text = unpack(&b, "init", listing, sizeof(listing), &len);
	assert_string_equal(text, "#!other");
	free(text);
	initramfs_free(&b);
	initramfs_free(&a);
}

/* ---- image --------------------------------------------------------------------------------- */

static const char config[] = "{\"architecture\":\"amd64\",\"config\":{\"Entrypoint\":[\"/"
			     "entry\",\"-e\"],\"Cmd\":[\"cmd\"],"
			     "\"Env\":[\"A=1\",\"B=2\"],\"WorkingDir\":\"/srv\",\"User\":\"app\"}}";

static void apply(const struct image_overrides *o, struct bootconf *conf)
{
	struct image_config c;
	struct err e = ERR_INIT;

	*conf = (struct bootconf){0};
	if (image_config_parse(config, strlen(config), &c, &e) < 0)
		fail_msg("%s", e.msg);
	assert_string_equal(c.architecture, "amd64");
	assert_int_equal(image_apply(&c, o, conf, &e), 0);
	image_config_free(&c);
}

static void the_image_says_what_runs(void **state)
{
	struct bootconf conf;

	apply(&(struct image_overrides){0}, &conf);
	assert_string_equal(conf.argv[0], "/entry");
	assert_string_equal(conf.argv[1], "-e");
	assert_string_equal(conf.argv[2], "cmd");
	assert_null(conf.argv[3]);
	assert_string_equal(conf.cwd, "/srv");
	assert_string_equal(conf.user, "app");
	assert_string_equal(conf.env[0], "A=1");
	assert_non_null(strstr(conf.env[2], "PATH="));
	bootconf_free(&conf);
}

static void the_command_line_overrides(void **state)
{
	char *entry[] = {"/other", NULL}, *args[] = {"x", "y", NULL};
	char *env[] = {"B=3", "PATH=/p", NULL};
	struct bootconf conf;

	apply(&(struct image_overrides){.args = args, .extra_env = env, .cwd = "/", .user = "0"},
	      &conf);
	assert_string_equal(conf.argv[1], "-e");
	assert_string_equal(conf.argv[2], "x");
	assert_null(conf.argv[4]);
	assert_string_equal(conf.env[0], "A=1");
	assert_string_equal(conf.env[1], "B=3");
	assert_string_equal(conf.env[2], "PATH=/p");
	assert_null(conf.env[3]);
	assert_string_equal(conf.cwd, "/");
	assert_string_equal(conf.user, "0");
	bootconf_free(&conf);
	/* The image's Cmd belongs to the image's entrypoint. */
	apply(&(struct image_overrides){.entrypoint = entry}, &conf);
	assert_string_equal(conf.argv[0], "/other");
	assert_null(conf.argv[1]);
	bootconf_free(&conf);
}

static void strange_configurations(void **state)
{
	static const char *const fine[] = {"{}", "{\"config\":null}",
					   "{\"config\":{\"Cmd\":null,\"Env\":[]}}"};
	static const char *const bad[] = {
		"",
		"[]",
		"{\"config\":[]}",
		"{\"config\":{\"Cmd\":\"sh\"}}",
		"{\"config\":{\"Cmd\":[1]}}",
		"{\"config\":{\"Env\":{\"A\":1}}}",
		"{\"config\":{\"User\":7}}",
		"{\"config\":{\"Cmd\":[\"a\\u0000b\"]}}",
	};
	struct image_config c;
	struct err e = ERR_INIT;

	for (size_t i = 0; i < ARRAY_SIZE(fine); i++) {
		assert_int_equal(image_config_parse(fine[i], strlen(fine[i]), &c, &e), 0);
		assert_null(c.cmd[0]);
		image_config_free(&c);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(image_config_parse(bad[i], strlen(bad[i]), &c, &e), -EBADMSG);
}

/* ---- users --------------------------------------------------------------------------------- */

static const char passwd[] = "root:x:0:0:root:/root:/bin/sh\n"
			     "broken line\n"
			     "short:x:5\n"
			     "huge:x:99999999999:5::/:/x\n"
			     "minus:x:4294967295:5::/:/x\n"
			     "app:x:1000:1001:An: App:/home/app:/bin/sh\n"
			     "web:x:33:33:w:/var/www:/x";
static const char group[] =
	"root:x:0:\nweb:x:33:\nmedia:x:44:app,web\nfew:x:45:application\nvid:x:46:web,app\n";

static void users_by_name_and_number(void **state)
{
	static const struct {
		const char *spec;
		uid_t uid;
		gid_t gid;
		unsigned ngroups;
		const char *home;
	} want[] = {
		{"", 0, 0, 1, "/root"},
		{"root", 0, 0, 1, "/root"},
		{"web", 33, 33, 3, "/var/www"},
		{"33", 33, 33, 3, "/var/www"},
		{"web:media", 33, 44, 1, "/var/www"},
		{"7", 7, 0, 1, "/"},
		{"7:8", 7, 8, 1, "/"},
		{"0:0", 0, 0, 1, "/root"},
	};
	static const char *const bad[] = {"nobody",	"short",       "huge",	     "minus",
					  "web:none",	":",	       "web:",	     "-1",
					  "4294967295", "99999999999", "broken line"};
	struct creds c;
	struct err e = ERR_INIT;

	for (size_t i = 0; i < ARRAY_SIZE(want); i++) {
		if (users_resolve_text(passwd, group, want[i].spec, &c, &e) < 0)
			fail_msg("%s: %s", want[i].spec, e.msg);
		assert_int_equal(c.uid, want[i].uid);
		assert_int_equal(c.gid, want[i].gid);
		assert_int_equal(c.ngroups, want[i].ngroups);
		assert_string_equal(c.home, want[i].home);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (users_resolve_text(passwd, group, bad[i], &c, &e) != -EINVAL)
			fail_msg("'%s' was accepted", bad[i]);
	/* An image without the files still has its root. */
	assert_int_equal(users_resolve("/no/such/root", NULL, &c, &e), 0);
	assert_int_equal(c.uid, 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(the_newest_cloud_kernel_is_found),
		T(what_is_no_kernel_is_refused),
		T(modules_come_after_what_they_need),
		T(a_kernel_that_lacks_one_is_named),
		T(compressed_modules_are_inflated),
		T(the_initramfs_holds_agent_modules_and_configuration),
		T(the_image_says_what_runs),
		T(the_command_line_overrides),
		T(strange_configurations),
		T(users_by_name_and_number),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
