#include "runner/agent/users.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct field {
	const char *p;
	size_t n;
};

/* Splits the line at *text at colons; false at the end. Lines with another count of fields are
 * skipped. */
static bool next_line(const char **text, struct field *f, unsigned want)
{
	while (**text) {
		const char *line = *text;
		size_t len = strcspn(line, "\n");
		unsigned n = 0;

		*text = line + len + (line[len] == '\n');
		for (const char *p = line, *end = line + len; n < want;) {
			const char *colon = memchr(p, ':', (size_t)(end - p));
			const char *stop = colon && n + 1 < want ? colon : end;

			f[n++] = (struct field){p, (size_t)(stop - p)};
			if (!colon || stop == end)
				break;
			p = stop + 1;
		}
		if (n == want && f[0].n)
			return true;
	}
	return false;
}

static bool is(const struct field *f, const char *s, size_t n)
{
	return f->n == n && !memcmp(f->p, s, n);
}

/* A whole decimal id below 2^32 - 1 (which means "no change" to the kernel). */
static bool to_id(const char *p, size_t n, uint32_t *out)
{
	uint64_t v = 0;

	if (n == 0 || n > 10)
		return false;
	for (size_t i = 0; i < n; i++) {
		if (p[i] < '0' || p[i] > '9')
			return false;
		v = v * 10 + (uint64_t)(p[i] - '0');
	}
	if (v >= UINT32_MAX)
		return false;
	*out = (uint32_t)v;
	return true;
}

static void copy(char *out, size_t cap, const struct field *f)
{
	size_t n = f->n < cap ? f->n : 0;

	memcpy(out, f->p, n);
	out[n] = '\0';
}

/* name:x:uid:gid:gecos:home:shell */
static bool find_user(const char *passwd, const char *who, size_t n, struct creds *c)
{
	uint32_t want = 0, uid, gid;
	bool numeric = to_id(who, n, &want);
	struct field f[7];

	while (next_line(&passwd, f, 7)) {
		if (!to_id(f[2].p, f[2].n, &uid) || !to_id(f[3].p, f[3].n, &gid))
			continue;
		if (!is(&f[0], who, n) && !(numeric && uid == want))
			continue;
		c->uid = uid;
		c->gid = gid;
		copy(c->name, sizeof(c->name), &f[0]);
		copy(c->home, sizeof(c->home), &f[5]);
		return true;
	}
	if (!numeric)
		return false;
	c->uid = want;
	c->gid = 0;
	return true;
}

/* name:x:gid:member,member */
static bool find_group(const char *group, const char *who, size_t n, gid_t *out)
{
	struct field f[4];
	uint32_t gid;

	if (to_id(who, n, out))
		return true;
	while (next_line(&group, f, 4)) {
		if (is(&f[0], who, n) && to_id(f[2].p, f[2].n, &gid)) {
			*out = gid;
			return true;
		}
	}
	return false;
}

static bool has_member(const struct field *list, const char *name)
{
	const char *p = list->p, *end = p + list->n;
	size_t n = strlen(name);

	while (p < end) {
		const char *comma = memchr(p, ',', (size_t)(end - p));
		size_t len = (size_t)((comma ? comma : end) - p);

		if (len == n && !memcmp(p, name, n))
			return true;
		p += len + 1;
	}
	return false;
}

static void supplementary(const char *group, struct creds *c)
{
	struct field f[4];
	uint32_t gid;

	c->groups[c->ngroups++] = c->gid;
	if (!c->name[0])
		return;
	while (c->ngroups < USERS_GROUPS_MAX && next_line(&group, f, 4))
		if (has_member(&f[3], c->name) && to_id(f[2].p, f[2].n, &gid) && gid != c->gid)
			c->groups[c->ngroups++] = gid;
}

int users_resolve_text(const char *passwd, const char *group, const char *spec, struct creds *out,
		       struct err *err)
{
	const char *colon;
	size_t n;

	if (!spec || !*spec)
		spec = "0";
	colon = strchr(spec, ':');
	n = colon ? (size_t)(colon - spec) : strlen(spec);
	memset(out, 0, sizeof(*out));
	if (!find_user(passwd, spec, n, out))
		return err_set(err, EINVAL, "user %.*s: not in the image's /etc/passwd", (int)n,
			       spec);
	if (colon) {
		if (!find_group(group, colon + 1, strlen(colon + 1), &out->gid))
			return err_set(err, EINVAL, "group %s: not in the image's /etc/group",
				       colon + 1);
		/* An explicit group stands alone, as docker has it. */
		out->groups[out->ngroups++] = out->gid;
	} else {
		supplementary(group, out);
	}
	if (!out->home[0])
		snprintf(out->home, sizeof(out->home), "%s", out->uid == 0 ? "/root" : "/");
	return 0;
}

static int read_optional(const char *root, const char *name, char **out, struct err *err)
{
	char path[PATH_MAX];
	struct err e = ERR_INIT;
	size_t len;
	int r;

	snprintf(path, sizeof(path), "%s%s", root, name);
	r = read_file(AT_FDCWD, path, USERS_FILE_MAX, out, &len, &e);
	if (r == -ENOENT || r == -ENOTDIR) {
		*out = calloc(1, 1);
		return *out ? 0 : err_set(err, ENOMEM, "read %s: out of memory", path);
	}
	if (r < 0)
		return err_set(err, -r, "%s", e.msg);
	return 0;
}

int users_resolve(const char *root, const char *spec, struct creds *out, struct err *err)
{
	cleanup_free char *passwd = NULL, *group = NULL;
	int r = read_optional(root, "/etc/passwd", &passwd, err);

	if (r == 0)
		r = read_optional(root, "/etc/group", &group, err);
	return r < 0 ? r : users_resolve_text(passwd, group, spec, out, err);
}
