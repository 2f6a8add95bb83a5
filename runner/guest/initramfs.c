#include "runner/guest/initramfs.h"

#include "runner/guest/modules.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/hex.h"
#include "smfs/base/io.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"
#include "smfs/base/sha256.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define INITRAMFS_MAX (256u << 20)
#define AGENT_MAX     (64u << 20)
/* Part of the cache key: raise it when the layout below changes. */
#define LAYOUT_VERSION "smvm initramfs 1"

void initramfs_free(struct initramfs *i)
{
	free(i->data);
	*i = (struct initramfs){0};
}

/* ---- cpio ---------------------------------------------------------------------------------- */

static la_ssize_t collect(struct archive *a, void *w, const void *p, size_t n)
{
	put_bytes(w, p, n);
	return ((struct writer *)w)->failed ? -1 : (la_ssize_t)n;
}

static struct archive *cpio_open(struct writer *w)
{
	struct archive *a = archive_write_new();

	if (!a)
		return NULL;
	if (archive_write_set_format_cpio_newc(a) != ARCHIVE_OK ||
	    archive_write_set_bytes_per_block(a, 0) != ARCHIVE_OK ||
	    archive_write_open(a, w, NULL, collect, NULL) != ARCHIVE_OK) {
		archive_write_free(a);
		return NULL;
	}
	return a;
}

static int cpio_entry(struct archive *a, const char *name, unsigned mode, dev_t rdev,
		      const void *data, size_t len, struct err *err)
{
	struct archive_entry *e = archive_entry_new();
	int r;

	if (!e)
		return err_set(err, ENOMEM, "initramfs: %s: out of memory", name);
	archive_entry_set_pathname(e, name);
	archive_entry_set_mode(e, mode);
	archive_entry_set_size(e, (la_int64_t)len);
	/* The same input gives the same bytes: no owner, no time of ours. */
	archive_entry_set_mtime(e, 0, 0);
	if (S_ISCHR(mode))
		archive_entry_set_rdev(e, rdev);
	r = archive_write_header(a, e);
	archive_entry_free(e);
	if (r != ARCHIVE_OK || (len && archive_write_data(a, data, len) != (la_ssize_t)len))
		return err_set(err, EIO, "initramfs: write %s: %s", name, archive_error_string(a));
	return 0;
}

static int cpio_close(struct archive *a, struct writer *w, int r, struct err *err)
{
	if (archive_write_close(a) != ARCHIVE_OK && r == 0)
		r = err_set(err, EIO, "initramfs: %s", archive_error_string(a));
	archive_write_free(a);
	if (r == 0 && w->failed)
		r = err_set(err, ENOMEM, "initramfs: out of memory");
	/* Each archive of several begins at a multiple of four. */
	put_zero(w, align_up(w->len, 4) - w->len);
	return r;
}

/* ---- the part per kernel ------------------------------------------------------------------- */

struct base {
	struct module_list modules;
	const char *modules_dir;
	char *agent;
	size_t agent_len;
};

static void base_free(struct base *b)
{
	guest_modules_free(&b->modules);
	free(b->agent);
}

static int put_modules(struct archive *a, const struct base *b, struct err *err)
{
	cleanup_writer struct writer list = WRITER_INIT;
	char name[NAME_MAX + 16];
	int r = 0;

	for (unsigned i = 0; r == 0 && i < b->modules.n; i++) {
		const char *path = b->modules.path[i], *base = strrchr(path, '/');
		cleanup_free void *data = NULL;
		size_t len;

		base = base ? base + 1 : path;
		snprintf(name, sizeof(name), "modules/%.*s", (int)(strstr(base, ".ko") - base) + 3,
			 base);
		r = guest_module_read(b->modules_dir, path, &data, &len, err);
		if (r == 0)
			r = cpio_entry(a, name, S_IFREG | 0644, 0, data, len, err);
		put_bytes(&list, "/", 1);
		put_bytes(&list, name, strlen(name));
		put_bytes(&list, "\n", 1);
	}
	if (r == 0 && list.failed)
		r = err_set(err, ENOMEM, "initramfs: out of memory");
	return r < 0 ? r : cpio_entry(a, "modules.list", S_IFREG | 0644, 0, list.p, list.len, err);
}

static int build_base(const struct base *b, struct writer *w, struct err *err)
{
	static const char *const dirs[] = {"dev", "proc", "sys", "run", "modules"};
	struct archive *a = cpio_open(w);
	int r = 0;

	if (!a)
		return err_set(err, ENOMEM, "initramfs: out of memory");
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(dirs); i++)
		r = cpio_entry(a, dirs[i], S_IFDIR | 0755, 0, NULL, 0, err);
	/* The kernel opens it for process 1 before anything is mounted. */
	if (r == 0)
		r = cpio_entry(a, "dev/console", S_IFCHR | 0600, makedev(5, 1), NULL, 0, err);
	if (r == 0)
		r = cpio_entry(a, "init", S_IFREG | 0755, 0, b->agent, b->agent_len, err);
	if (r == 0)
		r = put_modules(a, b, err);
	return cpio_close(a, w, r, err);
}

/* Names the content without reading the modules: they change with their size or time. */
static int cache_key(const struct base *b, const char *version, char hex[2 * SHA256_LEN + 1],
		     struct err *err)
{
	uint8_t id[SHA256_LEN];
	struct sha256 h;
	char line[PATH_MAX + 64];
	struct stat st;

	sha256_init(&h);
	sha256_update(&h, LAYOUT_VERSION, sizeof(LAYOUT_VERSION));
	sha256_update(&h, version, strlen(version) + 1);
	sha256_update(&h, b->agent, b->agent_len);
	for (unsigned i = 0; i < b->modules.n; i++) {
		snprintf(line, sizeof(line), "%s/%s", b->modules_dir, b->modules.path[i]);
		if (stat(line, &st) < 0)
			return err_errno(err, "module %s", line);
		snprintf(line, sizeof(line), "%s %lld %lld.%09ld", b->modules.path[i],
			 (long long)st.st_size, (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
		sha256_update(&h, line, strlen(line) + 1);
	}
	sha256_final(&h, id);
	hex_encode(id, sizeof(id), hex);
	return 0;
}

/* What is read from it runs in the guest as process 1: nobody else may have put it there. */
static bool cache_is_ours(const char *dir)
{
	struct stat st;

	if (stat(dir, &st) < 0)
		return errno == ENOENT; /* cache_write() makes it */
	if ((st.st_uid == geteuid() || st.st_uid == 0) && !(st.st_mode & (S_IWGRP | S_IWOTH)))
		return true;
	log_warn("initramfs cache %s: others may write to it; going on without", dir);
	return false;
}

static bool cache_read(const char *path, struct writer *w)
{
	cleanup_free char *data = NULL;
	struct err e = ERR_INIT;
	size_t len;
	int r = read_file(AT_FDCWD, path, INITRAMFS_MAX, &data, &len, &e);

	/* A cpio archive begins so; anything else is somebody else's file. */
	if (r == 0 && len > 6 && !memcmp(data, "070701", 6)) {
		*w = (struct writer){.p = (uint8_t *)steal_ptr(&data), .len = len, .cap = len};
		return true;
	}
	if (r != -ENOENT)
		log_warn("initramfs cache %s: %s; building anew", path,
			 r < 0 ? e.msg : "not a cpio archive");
	return false;
}

static void cache_write(const char *dir, const char *path, const struct writer *w)
{
	struct err e = ERR_INIT;

	if (mkdir(dir, 0755) < 0 && errno != EEXIST)
		log_warn("initramfs cache %s: %s; going on without", dir, strerror(errno));
	else if (write_file_atomic(AT_FDCWD, path, w->p, w->len, 0644, &e) < 0)
		log_warn("initramfs cache: %s; going on without", e.msg);
}

static int get_base(const struct initramfs_opts *o, struct writer *w, struct err *err)
{
	__attribute__((cleanup(base_free))) struct base b = {.modules_dir = o->kernel->modules_dir};
	const char *dir = o->cache_dir ? o->cache_dir : getenv("SMVM_CACHE_DIR");
	char agent[PATH_MAX], path[PATH_MAX], hex[2 * SHA256_LEN + 1];
	int r;

	if (!dir)
		dir = INITRAMFS_CACHE_DIR;
	if (o->agent_path)
		snprintf(agent, sizeof(agent), "%s", o->agent_path);
	else if ((r = initramfs_find_agent(agent, err)) < 0)
		return r;
	r = read_file(AT_FDCWD, agent, AGENT_MAX, &b.agent, &b.agent_len, err);
	if (r == 0)
		r = guest_modules_list(b.modules_dir, &b.modules, err);
	if (r == 0)
		r = cache_key(&b, o->kernel->version, hex, err);
	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "%s/initramfs-%s-%.16s.cpio", dir, o->kernel->version, hex);
	const bool cache = *dir && cache_is_ours(dir);
	if (cache && cache_read(path, w))
		return 0;
	r = build_base(&b, w, err);
	if (r == 0 && cache)
		cache_write(dir, path, w);
	return r;
}

/* ---- the part per boot --------------------------------------------------------------------- */

static int add_conf(const struct bootconf *c, struct writer *w, struct err *err)
{
	cleanup_writer struct writer conf = WRITER_INIT;
	struct archive *a;
	int r;

	bootconf_encode(&conf, c);
	if (conf.failed)
		return err_set(err, ENOMEM, "initramfs: out of memory");
	if (conf.len > BOOTCONF_MAX)
		return err_set(err, E2BIG,
			       "boot configuration: %zu bytes of arguments and environment, at "
			       "most %u fit",
			       conf.len, BOOTCONF_MAX);
	a = cpio_open(w);
	if (!a)
		return err_set(err, ENOMEM, "initramfs: out of memory");
	r = cpio_entry(a, BOOTCONF_PATH + 1, S_IFREG | 0600, 0, conf.p, conf.len, err);
	return cpio_close(a, w, r, err);
}

int initramfs_build(const struct initramfs_opts *o, struct initramfs *out, struct err *err)
{
	cleanup_writer struct writer w = WRITER_INIT;
	int r = get_base(o, &w, err);

	*out = (struct initramfs){0};
	if (r == 0)
		r = add_conf(o->conf, &w, err);
	if (r < 0)
		return err_wrap(err, r, "build the initramfs");
	out->len = w.len;
	out->data = steal_ptr(&w.p);
	return 0;
}

int initramfs_find_agent(char *out, struct err *err)
{
	static const char *const beside[] = {"smvm-init", "../lib/smvm/smvm-init"};
	const char *env = getenv("SMVM_INIT");
	char exe[PATH_MAX];
	ssize_t n;
	char *slash;

	if (env) {
		snprintf(out, PATH_MAX, "%s", env);
		if (access(out, R_OK) < 0)
			return err_errno(err, "agent %s (named by SMVM_INIT)", out);
		return 0;
	}
	n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	if (n < 0)
		return err_errno(err, "find smvm-init: read /proc/self/exe");
	exe[n] = '\0';
	slash = strrchr(exe, '/');
	if (slash)
		*slash = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(beside); i++) {
		if (snprintf(out, PATH_MAX, "%s/%s", exe, beside[i]) < PATH_MAX &&
		    access(out, R_OK) == 0)
			return 0;
	}
	return err_set(err, ENOENT,
		       "find smvm-init: not in %s nor in %s/../lib/smvm; name it with SMVM_INIT",
		       exe, exe);
}
