#include "pull/layout.h"

#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "pull/ref.h"
#include "pull/source.h"
#include "pull/text.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/err.h"
#include "smfs/base/hex.h"
#include "smfs/base/io.h"

struct layout {
	struct source source;
	const char *dir; /* for messages; in `ref` */
	int fd;
	struct ref ref;
	struct descriptor top; /* what the reference points to */
};

struct file_stream {
	struct byte_stream b;
	int fd;
	uint64_t off;
};

static void json_done(json_t **j)
{
	json_decref(*j);
}

static ssize_t file_read(struct byte_stream *b, void *buf, size_t len, struct err *err)
{
	struct file_stream *f = (struct file_stream *)b;
	ssize_t n = pread_upto(f->fd, buf, len, f->off);

	if (n < 0)
		return err_set(err, (int)-n, "read: %s", strerror((int)-n));
	f->off += n;
	return n;
}

static void file_close(struct byte_stream *b)
{
	close(((struct file_stream *)b)->fd);
	free(b);
}

static int layout_blob(struct source *s, const struct descriptor *d, uint64_t offset,
		       struct byte_stream **out, struct err *err)
{
	struct layout *l = (struct layout *)s;
	char hex[2 * SHA256_LEN + 1], path[128];
	struct file_stream *f;
	struct stat st;

	snprintf(path, sizeof(path), "blobs/sha256/%s", hex_encode(d->digest.b, SHA256_LEN, hex));
	cleanup_fd int fd = openat(l->fd, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return err_errno(err, "open %s/%s", l->dir, path);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return err_set(err, EBADMSG, "%s/%s: not a regular file", l->dir, path);
	/* A file does not come back longer: unlike a connection's, this end is final. */
	if ((uint64_t)st.st_size != d->size)
		return err_set(err, EBADMSG, "%s/%s: %lld bytes, %lu promised", l->dir, path,
			       (long long)st.st_size, (unsigned long)d->size);
	f = calloc(1, sizeof(*f));
	if (!f)
		return err_set(err, ENOMEM, "open %s: out of memory", path);
	*f = (struct file_stream){
		.b = {.read = file_read, .close = file_close}, .fd = steal_fd(&fd), .off = offset};
	*out = &f->b;
	return 0;
}

static int layout_manifest(struct source *s, const struct descriptor *want, struct document *out,
			   struct err *err)
{
	struct layout *l = (struct layout *)s;
	int r = blob_load(s, want ? want : &l->top, MANIFEST_MAX, out, err);

	if (r == 0)
		text_copy(out->media_type, sizeof(out->media_type),
			  want ? want->media_type : l->top.media_type);
	return r;
}

static int layout_resolve(struct source *s, struct digest *out, struct err *err)
{
	*out = ((struct layout *)s)->top.digest;
	return 0;
}

static void layout_close(struct source *s)
{
	struct layout *l = (struct layout *)s;

	close(l->fd);
	free(l);
}

static const struct source_ops layout_ops = {
	.manifest = layout_manifest,
	.resolve = layout_resolve,
	.open_blob = layout_blob,
	.close = layout_close,
};

/* The name annotation may be a bare tag or a whole reference ending in it. */
static bool tag_matches(const char *name, const char *tag)
{
	const char *colon = name ? strrchr(name, ':') : NULL;

	return name && (strcmp(name, tag) == 0 || (colon && strcmp(colon + 1, tag) == 0));
}

static int choose(struct layout *l, const json_t *index, struct err *err)
{
	const json_t *list = json_object_get(index, "manifests");
	const json_t *found = NULL;
	char tags[300] = "";
	size_t matches = 0;

	for (size_t i = 0; i < json_array_size(list); i++) {
		const json_t *m = json_array_get(list, i);
		const char *name = json_string_value(json_object_get(
			json_object_get(m, "annotations"), "org.opencontainers.image.ref.name"));
		size_t n = strlen(tags);

		snprintf(tags + n, sizeof(tags) - n, "%s%.60s", n ? ", " : "",
			 name ? name : "(no tag)");
		if (l->ref.tag[0] && !tag_matches(name, l->ref.tag))
			continue;
		found = m;
		matches++;
	}
	if (matches == 0)
		return err_set(err, ENOENT, "layout %s: no image with tag %s; it has: %s", l->dir,
			       l->ref.tag[0] ? l->ref.tag : "(any)", *tags ? tags : "none");
	if (matches > 1)
		return err_set(err, EINVAL, "layout %s: %zu images fit; name one: %s", l->dir,
			       matches, tags);

	const char *digest = json_string_value(json_object_get(found, "digest"));
	const char *type = json_string_value(json_object_get(found, "mediaType"));
	json_int_t size = json_integer_value(json_object_get(found, "size"));

	if (!type || !text_copy(l->top.media_type, MEDIA_TYPE_MAX, type) || size <= 0 ||
	    size > MANIFEST_MAX)
		return err_set(err, EBADMSG, "layout %s: index.json: not a valid descriptor",
			       l->dir);
	l->top.size = size;
	if (digest_parse(digest ? digest : "", &l->top.digest, err) < 0)
		return err_wrap(err, -EBADMSG, "layout %s: index.json", l->dir);
	return 0;
}

static int load_index(struct layout *l, struct err *err)
{
	cleanup_free char *version = NULL, *body = NULL;
	json_t *j __attribute__((cleanup(json_done))) = NULL;
	json_error_t e;
	size_t len;
	int r = read_file(l->fd, "oci-layout", 4096, &version, &len, err);

	if (r < 0)
		return err_wrap(err, r, "%s is not an OCI layout", l->dir);
	j = json_loadb(version, len, 0, &e);
	const char *v = json_string_value(json_object_get(j, "imageLayoutVersion"));

	if (!v || strncmp(v, "1.", 2) != 0)
		return err_set(err, ENOTSUP, "layout %s: version %.20s is not supported", l->dir,
			       v ? v : "unknown");
	json_decref(j);
	j = NULL;
	r = read_file(l->fd, "index.json", MANIFEST_MAX, &body, &len, err);
	if (r < 0)
		return err_wrap(err, r, "layout %s", l->dir);
	j = json_loadb(body, len, JSON_REJECT_DUPLICATES, &e);
	if (!j)
		return err_set(err, EBADMSG, "layout %s: index.json: line %d: %s", l->dir, e.line,
			       e.text);
	return choose(l, j, err);
}

int layout_open(const struct ref *ref, struct cancel *cancel, struct source **out, struct err *err)
{
	struct layout *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return err_set(err, ENOMEM, "open layout: out of memory");
	l->source = (struct source){.ops = &layout_ops, .cancel = cancel};
	l->ref = *ref;
	l->dir = l->ref.dir;
	l->fd = open(l->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (l->fd < 0) {
		r = err_errno(err, "open layout %s", l->dir);
		free(l);
		return r;
	}
	r = load_index(l, err);
	if (r < 0) {
		layout_close(&l->source);
		return r;
	}
	*out = &l->source;
	return 0;
}
