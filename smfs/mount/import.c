#include "smfs/mount/import.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

/* A real one is a few KiB. */
#define META_MAX (1u << 20)

static const struct snapshot_source *find(const struct snapshot_source *src, size_t n,
					  const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(src[i].name, name) == 0)
			return &src[i];
	return NULL;
}

static int size_of(const struct snapshot_source *src, uint64_t *size, struct err *err)
{
	struct stat st;

	if (fstat(src->fd, &st) < 0)
		return err_errno(err, "stat %s", src->name);
	if (!S_ISREG(st.st_mode))
		return err_set(err, EINVAL, "%s is not a regular file", src->name);
	*size = (uint64_t)st.st_size;
	return 0;
}

static int read_meta(const struct snapshot_source *meta, json_t **out, struct err *err)
{
	cleanup_free char *text = NULL;
	json_error_t why;
	uint64_t size;
	int r = size_of(meta, &size, err);

	if (r < 0)
		return r;
	if (size > META_MAX)
		return err_set(err, EINVAL, "meta is %" PRIu64 " bytes, more than %u", size,
			       META_MAX);
	text = malloc(size + 1);
	if (!text)
		return err_set(err, ENOMEM, "read meta: out of memory");
	r = pread_full(meta->fd, text, size, 0);
	if (r < 0)
		return err_set(err, -r, "read meta: %s", strerror(-r));
	*out = json_loadb(text, size, JSON_REJECT_DUPLICATES, &why);
	if (!*out)
		return err_set(err, EINVAL, "meta is not JSON: line %d: %s", why.line, why.text);
	if (!json_is_object(*out)) {
		json_decref(*out);
		return err_set(err, EINVAL, "meta is not a JSON object");
	}
	return 0;
}

/* The name of the file with a device's content, NULL if it has none. */
static const char *content_name(const json_t *device)
{
	return json_object_get(device, "content") ? json_string_value(json_object_get(device, "id"))
						  : NULL;
}

bool snapshot_is_whole(int meta_fd, bool (*has)(const void *arg, const char *name), const void *arg)
{
	const struct snapshot_source meta = {.name = "meta", .fd = meta_fd};
	json_t *j = NULL, *device;
	bool whole = true;
	size_t i;

	if (read_meta(&meta, &j, NULL) < 0)
		return true;
	if (json_is_true(json_object_get(j, "ws")))
		whole = has(arg, "ws");
	json_array_foreach(json_object_get(j, "devices"), i, device)
	{
		const char *name = content_name(device);

		whole = whole && (!name || has(arg, name));
	}
	json_decref(j);
	return whole;
}

/* Where meta says how long a file is, it must be that long. */
static int check_size(const struct snapshot_source *src, const json_t *want, struct err *err)
{
	uint64_t size;
	int r = size_of(src, &size, err);

	if (r < 0 || !json_is_integer(want))
		return r;
	if (json_integer_value(want) < 0 || (uint64_t)json_integer_value(want) != size)
		return err_set(err, EINVAL,
			       "%s is %" PRIu64 " bytes, meta says %" JSON_INTEGER_FORMAT
			       ": the copy is not complete",
			       src->name, size, json_integer_value(want));
	return 0;
}

static int check_disks(const struct snapshot_source *src, size_t n, const json_t *devices,
		       struct err *err)
{
	json_t *device;
	size_t i;
	int r = 0;

	json_array_foreach(devices, i, device)
	{
		const char *name = content_name(device);
		const struct snapshot_source *disk = name ? find(src, n, name) : NULL;

		if (r < 0 || !name)
			continue;
		r = disk ? check_size(disk, json_object_get(device, "content"), err)
			 : err_set(err, EINVAL, "no file `%s`: the machine has that disk", name);
	}
	return r;
}

static int check(const struct snapshot_source *src, size_t n, struct err *err)
{
	const struct snapshot_source *meta = find(src, n, "meta"), *ram = find(src, n, "ram"),
				     *vcpu = find(src, n, "vcpu");
	json_t *j = NULL;

	if (n > SNAPSHOT_FILES_MAX)
		return err_set(err, E2BIG, "a snapshot has at most %d files", SNAPSHOT_FILES_MAX);
	if (!meta || !ram || !vcpu)
		return err_set(err, EINVAL, "no file `%s`: a snapshot has meta, ram and vcpu",
			       !meta  ? "meta"
			       : !ram ? "ram"
				      : "vcpu");
	int r = read_meta(meta, &j, err);
	if (r < 0)
		return r;
	r = check_size(ram, json_object_get(j, "ram_bytes"), err);
	if (r == 0)
		r = check_size(vcpu, json_object_get(json_object_get(j, "vcpu"), "bytes"), err);
	if (r == 0)
		r = check_disks(src, n, json_object_get(j, "devices"), err);
	json_decref(j);
	return r;
}

int snapshot_stage(struct smfs_ingest *ing, const char *name, const struct snapshot_source *src,
		   size_t n, struct smfs_id *root_out, struct err *err)
{
	struct smfs_entry e[SNAPSHOT_FILES_MAX];
	struct smfs_id root;
	int r = check(src, n, err);

	if (r < 0)
		return r;
	for (size_t i = 0; r == 0 && i < n; i++) {
		e[i] = (struct smfs_entry){.name = src[i].name, .mode = S_IFREG | 0400, .nlink = 1};
		r = smfs_ingest_fd_diff(ing, src[i].fd, src[i].base, &e[i].content, err);
	}
	if (r == 0)
		r = smfs_ingest_dir(ing, e, n, &root, err);
	if (r == 0)
		r = smfs_ingest_name(ing, SMFS_SNAPSHOT, name, &root, NULL, 0, err);
	if (r == 0 && root_out)
		*root_out = root;
	return r;
}
