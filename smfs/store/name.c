/* Names: which are valid, getting one, listing. Changes are in ingest_commit.c. */
#include "smfs/store/names_each.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/hex.h"

#include <ctype.h>
#include <string.h>

static bool alnum(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool word(const char *s, size_t n, const char *extra)
{
	for (size_t i = 0; i < n; i++)
		if (!alnum(s[i]) && !strchr(extra, s[i]))
			return false;
	return n > 0;
}

static const char *check_snapshot(const char *s, size_t n)
{
	if (n > 128)
		return "longer than 128 bytes";
	if (!alnum(s[0]))
		return "must begin with a letter or digit";
	return word(s, n, "._-") ? NULL : "only letters, digits and . _ - are allowed";
}

static const char *check_layer(const char *s, size_t n)
{
	uint8_t b[32];

	if (n != 71 || strncmp(s, "sha256:", 7) != 0 || !hex_decode(s + 7, 64, b, 32))
		return "not sha256:<64 lower-case hex digits>";
	return NULL;
}

/* host[:port] */
static const char *check_registry(const char *s, size_t n)
{
	const char *colon = memchr(s, ':', n);
	size_t host = colon ? (size_t)(colon - s) : n;

	if (!word(s, host, ".-_") || !alnum(s[0]))
		return "registry is not a host name";
	if (colon) {
		size_t len = n - host - 1;

		if (len < 1 || len > 5)
			return "registry port is not a number";
		for (size_t i = 0; i < len; i++)
			if (!isdigit((unsigned char)colon[1 + i]))
				return "registry port is not a number";
	}
	return NULL;
}

static const char *check_repository(const char *s, size_t n)
{
	for (size_t at = 0; at <= n;) {
		const char *slash = memchr(s + at, '/', n - at);
		size_t len = slash ? (size_t)(slash - s) - at : n - at;

		if (!len || !alnum(s[at]) || !word(s + at, len, "._-"))
			return "repository has an empty or invalid component";
		at += len + 1;
	}
	return NULL;
}

static const char *check_image(const char *s, size_t n)
{
	const char *slash = memchr(s, '/', n), *tag = memrchr(s, ':', n), *why;

	if (!slash)
		return "not <registry>/<repository>:<tag>";
	if (!tag || tag < slash)
		return "has no tag";
	size_t taglen = n - (size_t)(tag - s) - 1;
	if (taglen < 1 || taglen > 128 || !word(tag + 1, taglen, "._-") || tag[1] == '.' ||
	    tag[1] == '-')
		return "tag is not [A-Za-z0-9_][A-Za-z0-9._-]{0,127}";
	why = check_registry(s, (size_t)(slash - s));
	return why ? why : check_repository(slash + 1, (size_t)(tag - slash) - 1);
}

const char *kind_word(enum smfs_kind kind)
{
	switch (kind) {
	case SMFS_SNAPSHOT:
		return "snapshot";
	case SMFS_IMAGE:
		return "image";
	case SMFS_LAYER:
		return "layer";
	default:
		return "name";
	}
}

int smfs_name_check(enum smfs_kind kind, const char *name, struct err *err)
{
	size_t n = strnlen(name, SMFS_REF_MAX + 1);
	const char *why;

	if (kind < SMFS_SNAPSHOT || kind > SMFS_LAYER)
		return err_set(err, EINVAL, "name of unknown kind %d", (int)kind);
	if (n == 0)
		why = "empty";
	else if (n > SMFS_REF_MAX)
		why = "too long";
	else if (kind == SMFS_SNAPSHOT)
		why = check_snapshot(name, n);
	else if (kind == SMFS_IMAGE)
		why = check_image(name, n);
	else
		why = check_layer(name, n);
	return why ? err_set(err, EINVAL, "%s name \"%.100s\": %s", kind_word(kind), name, why) : 0;
}

int smfs_name_get(struct smfs_store *s, enum smfs_kind kind, const char *name,
		  struct smfs_name *out, struct err *err)
{
	int r = index_name(s->ix, kind, name, out, err);

	if (r == 0)
		return err_set(err, ENOENT, "%s: no such name", name);
	return r < 0 ? r : 0;
}

ssize_t smfs_name_list(struct smfs_store *s, enum smfs_kind kind, const char *after,
		       struct smfs_name *out, size_t max, struct err *err)
{
	return index_names(s->ix, kind, after, out, max, err);
}

static int each_of_kind(struct smfs_store *s, enum smfs_kind kind, name_fn fn, void *arg,
			struct err *err)
{
	enum { BATCH = 64 };
	cleanup_free struct smfs_name *v = calloc(BATCH + 1, sizeof(*v));
	struct smfs_name *last = v ? &v[BATCH] : NULL;
	ssize_t n;

	if (!v)
		return err_set(err, ENOMEM, "list names: out of memory");
	while ((n = smfs_name_list(s, kind, last->name, v, BATCH, err)) > 0) {
		*last = v[n - 1];
		for (ssize_t i = 0; i < n; i++) {
			int r = fn(&v[i], arg, err);

			if (r < 0)
				return r;
		}
	}
	return n < 0 ? (int)n : 0;
}

int names_each(struct smfs_store *s, name_fn fn, void *arg, struct err *err)
{
	int r = 0;

	for (enum smfs_kind kind = SMFS_SNAPSHOT; kind <= SMFS_LAYER && r == 0; kind++)
		r = each_of_kind(s, kind, fn, arg, err);
	return r;
}
