#include "runner/guest/modules.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

#include <archive.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define INDEX_MAX (8u << 20)
#define DEPTH_MAX 16

static const struct {
	const char *name;
	bool needed;
} wanted[] = {
	{"virtio_mmio", true}, /* every device of ours is behind it */
	{"virtio_pmem", true},
	{"nd_pmem", true},
	/* libcrc32c asks the crypto layer for it by name, and nobody in the initramfs would answer.
	 */
	{"crc32c_generic", false},
	{"erofs", true},
	{"overlay", true},
	{"vmw_vsock_virtio_transport", true},
	{"virtio_blk", false},
	{"virtio-rng", false},
	{"ext4", false},
};

struct index {
	char *dep, *builtin, *softdep; /* whole files */
	const char *dir;
};

static void index_free(struct index *x)
{
	free(x->dep);
	free(x->builtin);
	free(x->softdep);
}

static int read_index(const char *dir, const char *name, char **out, struct err *err)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return read_file(AT_FDCWD, path, INDEX_MAX, out, NULL, err);
}

/* '-' and '_' are one character in module names. */
static bool name_is(const char *path, size_t len, const char *name)
{
	const char *base = memrchr(path, '/', len);
	const char *dot;
	size_t n;

	base = base ? base + 1 : path;
	n = (size_t)(path + len - base);
	dot = memmem(base, n, ".ko", 3);
	if (!dot || (size_t)(dot - base) != strlen(name))
		return false;
	for (size_t i = 0; name[i]; i++) {
		char a = base[i] == '-' ? '_' : base[i], b = name[i] == '-' ? '_' : name[i];

		if (a != b)
			return false;
	}
	return true;
}

/* The line of `text` whose first word (up to `end`) is the path of module `name`; NULL. */
static const char *find_line(const char *text, const char *name)
{
	while (*text) {
		size_t len = strcspn(text, "\n"), word = strcspn(text, ":\n");

		if (name_is(text, word, name))
			return text;
		text += len + (text[len] == '\n');
	}
	return NULL;
}

static int add(const struct index *x, struct module_list *l, const char *name, unsigned depth,
	       bool *found, struct err *err);

/* "softdep NAME pre: a b post: c": only what has to come before concerns us. */
static int add_soft(const struct index *x, struct module_list *l, const char *name, unsigned depth,
		    struct err *err)
{
	char word[128];

	for (const char *p = x->softdep; *p;) {
		const char *end = p + strcspn(p, "\n");
		bool pre = false, ignored;
		unsigned field = 0;

		for (const char *q = p; q < end; field++) {
			size_t n = strcspn(q, " \n");
			int r;

			snprintf(word, sizeof(word), "%.*s", (int)MIN(n, sizeof(word) - 1), q);
			q += n + (q[n] == ' ');
			if (field == 0 && strcmp(word, "softdep") != 0)
				break;
			if (field == 1 && strcmp(word, name) != 0)
				break;
			if (field < 2)
				continue;
			if (!strcmp(word, "pre:") || !strcmp(word, "post:")) {
				pre = word[1] == 'r';
				continue;
			}
			/* An alias and not a module: not found, and not needed. */
			if (pre && (r = add(x, l, word, depth + 1, &ignored, err)) < 0)
				return r;
		}
		p = end + (*end == '\n');
	}
	return 0;
}

static void base_name(const char *path, size_t len, char *out, size_t cap)
{
	const char *base = memrchr(path, '/', len);
	size_t n;

	base = base ? base + 1 : path;
	n = (size_t)(path + len - base);
	const char *dot = memmem(base, n, ".ko", 3);
	snprintf(out, cap, "%.*s", (int)(dot ? (size_t)(dot - base) : n), base);
}

static int push(struct module_list *l, const char *path, size_t len, struct err *err)
{
	for (unsigned i = 0; i < l->n; i++)
		if (strlen(l->path[i]) == len && !memcmp(l->path[i], path, len))
			return 0;
	if (l->n == GUEST_MODULES_MAX)
		return err_set(err, E2BIG, "modules of the guest: more than %d", GUEST_MODULES_MAX);
	l->path[l->n] = strndup(path, len);
	if (!l->path[l->n])
		return err_set(err, ENOMEM, "modules of the guest: out of memory");
	l->n++;
	return 0;
}

/* Depth first: a module comes after all on its own line of modules.dep. */
static int add(const struct index *x, struct module_list *l, const char *name, unsigned depth,
	       bool *found, struct err *err)
{
	const char *line, *end, *p;
	size_t len;
	int r;

	*found = true;
	if (depth > DEPTH_MAX)
		return err_set(err, ELOOP, "%s/modules.dep: dependencies of %s nest too deep",
			       x->dir, name);
	if (find_line(x->builtin, name))
		return 0;
	line = find_line(x->dep, name);
	if (!line) {
		*found = false;
		return 0;
	}
	len = strcspn(line, ":");
	for (unsigned i = 0; i < l->n; i++)
		if (strlen(l->path[i]) == len && !memcmp(l->path[i], line, len))
			return 0;
	end = line + strcspn(line, "\n");
	for (p = line + len + 1; p < end;) {
		char dep[NAME_MAX + 1];
		size_t n = strcspn(p, " \n");
		bool ok;

		if (n) {
			base_name(p, n, dep, sizeof(dep));
			r = add(x, l, dep, depth + 1, &ok, err);
			if (r < 0)
				return r;
			if (!ok)
				return err_set(err, ENOENT, "%s/modules.dep: %s, which %s needs",
					       x->dir, dep, name);
		}
		p += n + 1;
	}
	r = add_soft(x, l, name, depth, err);
	return r < 0 ? r : push(l, line, len, err);
}

int guest_modules_list(const char *modules_dir, struct module_list *out, struct err *err)
{
	__attribute__((cleanup(index_free))) struct index x = {.dir = modules_dir};
	int r;

	*out = (struct module_list){0};
	if ((r = read_index(modules_dir, "modules.dep", &x.dep, err)) < 0 ||
	    (r = read_index(modules_dir, "modules.builtin", &x.builtin, err)) < 0 ||
	    (r = read_index(modules_dir, "modules.softdep", &x.softdep, err)) < 0)
		return err_wrap(err, r, "modules of the guest's kernel");
	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
		bool found;

		r = add(&x, out, wanted[i].name, 0, &found, err);
		if (r == 0 && !found && wanted[i].needed)
			r = err_set(err, ENOENT,
				    "modules of the guest's kernel: %s has no %s, which a guest "
				    "needs; use another kernel",
				    modules_dir, wanted[i].name);
		if (r < 0) {
			guest_modules_free(out);
			return r;
		}
	}
	return 0;
}

void guest_modules_free(struct module_list *l)
{
	for (unsigned i = 0; i < l->n; i++)
		free(l->path[i]);
	*l = (struct module_list){0};
}

static void free_reader(struct archive **a)
{
	if (*a)
		archive_read_free(*a);
}

/* Only the filter the name announces: what else libarchive knows is not needed, nor linked. */
static int inflate(const char *path, const char *packed, size_t packed_len, void **data,
		   size_t *len, struct err *err)
{
	__attribute__((cleanup(free_reader))) struct archive *a = archive_read_new();
	size_t n = strlen(path), cap = 0, have = 0;
	cleanup_free char *buf = NULL;
	struct archive_entry *e;
	int r;

	if (!a)
		return err_set(err, ENOMEM, "module %s: out of memory", path);
	if (n > 3 && !strcmp(path + n - 3, ".xz"))
		r = archive_read_support_filter_xz(a);
	else if (n > 3 && !strcmp(path + n - 3, ".gz"))
		r = archive_read_support_filter_gzip(a);
	else if (n > 4 && !strcmp(path + n - 4, ".zst"))
		r = archive_read_support_filter_zstd(a);
	else
		return err_set(err, ENOTSUP, "module %s: unknown compression", path);
	if (r != ARCHIVE_OK || archive_read_support_format_raw(a) != ARCHIVE_OK ||
	    archive_read_open_memory(a, packed, packed_len) != ARCHIVE_OK ||
	    archive_read_next_header(a, &e) != ARCHIVE_OK)
		return err_set(err, EBADMSG, "module %s: decompress: %s", path,
			       archive_error_string(a));
	/* What is not compressed so would pass the filters untouched. */
	if (archive_filter_code(a, 0) == ARCHIVE_FILTER_NONE)
		return err_set(err, EBADMSG, "module %s: not compressed as its name says", path);
	for (;;) {
		if (have == cap) {
			size_t want = cap ? cap * 2 : 256 * 1024;
			char *p;

			if (want > GUEST_MODULE_MAX)
				return err_set(err, EFBIG, "module %s: larger than %u bytes", path,
					       GUEST_MODULE_MAX);
			p = realloc(buf, want);
			if (!p)
				return err_set(err, ENOMEM, "module %s: out of memory", path);
			buf = p;
			cap = want;
		}
		ssize_t k = archive_read_data(a, buf + have, cap - have);
		if (k < 0)
			return err_set(err, EBADMSG, "module %s: decompress: %s", path,
				       archive_error_string(a));
		if (k == 0)
			break;
		have += (size_t)k;
	}
	*data = steal_ptr(&buf);
	*len = have;
	return 0;
}

int guest_module_read(const char *modules_dir, const char *path, void **data, size_t *len,
		      struct err *err)
{
	cleanup_free char *file = NULL;
	char full[PATH_MAX];
	size_t n = strlen(path), file_len;
	int r;

	snprintf(full, sizeof(full), "%s/%s", modules_dir, path);
	r = read_file(AT_FDCWD, full, GUEST_MODULE_MAX, &file, &file_len, err);
	if (r < 0)
		return r;
	if (n < 3 || strcmp(path + n - 3, ".ko") != 0)
		return inflate(path, file, file_len, data, len, err);
	*data = steal_ptr(&file);
	*len = file_len;
	return 0;
}
