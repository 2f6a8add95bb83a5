#include "pull/ref.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "pull/text.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/err.h"

#define DEFAULT_REGISTRY "docker.io"
#define DEFAULT_TAG	 "latest"

static int refuse(struct err *err, const char *text, const char *why)
{
	return err_set(err, EINVAL,
		       "reference %.200s: %s; write [REGISTRY/]REPOSITORY[:TAG][@sha256:DIGEST] or "
		       "oci:DIR[:TAG]",
		       text, why);
}

static bool is_lower_alnum(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

/* Components of lower-case letters and digits, joined by one '.', one or two '_', or '-'s. */
static bool repository_ok(const char *s)
{
	const char *start = s;

	for (; *s; s++) {
		size_t run;

		if (is_lower_alnum(*s))
			continue;
		/* A separator stands between two letters or digits. */
		run = *s == '-' ? strspn(s, "-") : *s == '_' && s[1] == '_' ? 2 : 1;
		if (!strchr("._-/", *s) || s == start || !is_lower_alnum(s[-1]) ||
		    !is_lower_alnum(s[run]))
			return false;
		s += run - 1;
	}
	return s > start;
}

static bool tag_ok(const char *s)
{
	if (!isalnum((unsigned char)*s) && *s != '_')
		return false;
	for (; *s; s++)
		if (!isalnum((unsigned char)*s) && !strchr("._-", *s))
			return false;
	return true;
}

/* A host name, IPv4 or [IPv6], with an optional port. */
static bool registry_ok(const char *s)
{
	const char *port;

	if (*s == '[') {
		port = strchr(s, ']');
		if (!port || port == s + 1 ||
		    strspn(s + 1, "0123456789abcdefABCDEF:.") + s + 1 != port)
			return false;
		port++;
	} else {
		size_t n = 0;

		for (; isalnum((unsigned char)s[n]) || s[n] == '.' || s[n] == '-'; n++)
			if (s[n] == '.' && (n == 0 || s[n - 1] == '.'))
				return false;
		if (n == 0 || *s == '-')
			return false;
		port = s + n;
	}
	if (!*port)
		return true;
	if (*port++ != ':' || strlen(port) > 5 || strspn(port, "0123456789") != strlen(port) ||
	    !*port)
		return false;
	long v = strtol(port, NULL, 10);

	return v > 0 && v <= 65535;
}

static int parse_layout(const char *text, const char *rest, struct ref *out, struct err *err)
{
	const char *colon = strrchr(rest, ':');
	size_t dirlen = strlen(rest);

	out->kind = REF_LAYOUT;
	if (colon && !strchr(colon, '/')) {
		if (!tag_ok(colon + 1) || !text_copy(out->tag, sizeof(out->tag), colon + 1))
			return refuse(err, text, "the tag is not valid");
		dirlen = colon - rest;
	}
	if (dirlen == 0 || dirlen >= sizeof(out->dir))
		return refuse(err, text, "the folder of the layout is missing or too long");
	memcpy(out->dir, rest, dirlen);
	return 0;
}

int ref_parse(const char *text, struct ref *out, struct err *err)
{
	static const char *const transports[] = {
		"docker-archive:", "oci-archive:", "docker-daemon:", "containers-storage:", "dir:"};
	char work[REF_REGISTRY_MAX + REF_REPOSITORY_MAX + REF_TAG_MAX + DIGEST_STR_MAX + 4];
	char *rest = work;

	memset(out, 0, sizeof(*out));
	if (strncmp(text, "oci:", 4) == 0)
		return parse_layout(text, text + 4, out, err);
	for (size_t i = 0; i < sizeof(transports) / sizeof(transports[0]); i++)
		if (strncmp(text, transports[i], strlen(transports[i])) == 0)
			return err_set(err, ENOTSUP,
				       "reference %.200s: %.*s is not supported; copy the image "
				       "into an OCI "
				       "layout (skopeo copy SRC oci:DIR:TAG) and pull oci:DIR:TAG",
				       text, (int)strlen(transports[i]) - 1, transports[i]);
	if (strstr(text, "://")) {
		if (strncmp(text, "docker://", 9) != 0)
			return refuse(err, text, "a URL is not a reference");
		text += 9;
	}
	if (!text_copy(work, sizeof(work), text))
		return refuse(err, text, "too long");

	char *at = strchr(work, '@');

	if (at) {
		*at = '\0';
		if (digest_parse(at + 1, &out->digest, err) < 0)
			return err_wrap(err, -EINVAL, "reference %.200s", text);
		out->has_digest = true;
	}
	char *slash = strchr(work, '/');

	if (slash && (memchr(work, '.', slash - work) || memchr(work, ':', slash - work) ||
		      (slash - work == 9 && memcmp(work, "localhost", 9) == 0))) {
		*slash = '\0';
		if (!registry_ok(work) || !text_copy(out->registry, sizeof(out->registry), work))
			return refuse(err, text, "the registry is not a valid host[:port]");
		rest = slash + 1;
	} else {
		text_copy(out->registry, sizeof(out->registry), DEFAULT_REGISTRY);
	}
	if (strcasecmp(out->registry, "index.docker.io") == 0 ||
	    strcasecmp(out->registry, "registry-1.docker.io") == 0)
		text_copy(out->registry, sizeof(out->registry), DEFAULT_REGISTRY);

	char *colon = strrchr(rest, ':');

	if (colon) {
		*colon = '\0';
		if (!tag_ok(colon + 1) || !text_copy(out->tag, sizeof(out->tag), colon + 1))
			return refuse(err, text, "the tag is not valid");
	} else if (!at) {
		text_copy(out->tag, sizeof(out->tag), DEFAULT_TAG);
	}
	const char *library = strcmp(out->registry, DEFAULT_REGISTRY) == 0 && !strchr(rest, '/')
				      ? "library/"
				      : "";

	if (!repository_ok(rest) || !text_copy(out->repository, sizeof(out->repository), library) ||
	    !text_append(out->repository, sizeof(out->repository), rest))
		return refuse(err, text,
			      "the repository is not valid (lower-case letters, digits, . _ - /)");
	return 0;
}

static int layout_name(const struct ref *ref, char out[SMFS_REF_MAX + 1])
{
	cleanup_free char *real = realpath(ref->dir, NULL);
	const char *path = real ? real : ref->dir;
	const char *base = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
	int n = snprintf(out, SMFS_REF_MAX + 1, "localhost/%s:%s", base,
			 ref->tag[0] ? ref->tag : DEFAULT_TAG);

	for (char *p = out; *p && *p != ':'; p++)
		*p = (char)tolower((unsigned char)*p);
	return n;
}

int ref_image_name(const struct ref *ref, char out[SMFS_REF_MAX + 1], struct err *err)
{
	int n;

	if (ref->kind == REF_LAYOUT) {
		n = layout_name(ref, out);
	} else if (ref->tag[0]) {
		n = snprintf(out, SMFS_REF_MAX + 1, "%s/%s:%s", ref->registry, ref->repository,
			     ref->tag);
	} else {
		char digest[DIGEST_STR_MAX];

		digest_format(&ref->digest, digest);
		n = snprintf(out, SMFS_REF_MAX + 1, "%s/%s:sha256-%s", ref->registry,
			     ref->repository, digest + 7);
	}
	if (n > SMFS_REF_MAX)
		return err_set(err, ENAMETOOLONG,
			       "image name %.100s...: longer than %d bytes; choose one with --name",
			       out, SMFS_REF_MAX);
	int r = smfs_name_check(SMFS_IMAGE, out, err);

	return r < 0 ? err_wrap(err, r, "choose a name with --name") : 0;
}

const char *ref_registry_host(const struct ref *ref)
{
	return strcmp(ref->registry, DEFAULT_REGISTRY) == 0 ? "registry-1.docker.io"
							    : ref->registry;
}

bool ref_is_loopback(const struct ref *ref)
{
	const char *r = ref->registry;
	size_t host = *r == '[' ? strcspn(r, "]") + 1 : strcspn(r, ":");

	if ((host == 9 && strncasecmp(r, "localhost", 9) == 0) ||
	    (host == 5 && strncmp(r, "[::1]", 5) == 0))
		return true;
	/* An IPv4 address: 127.example.com is none. */
	return strncmp(r, "127.", 4) == 0 && strspn(r, "0123456789.") == host;
}
