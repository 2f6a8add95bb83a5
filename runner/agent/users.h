/*
 * users.h - a user specification of an image ("1000", "www-data", "app:staff", "0:0") against the
 * image's own /etc/passwd and /etc/group.
 *
 * The files are the image's and may hold anything: lines are parsed with bounds and bad ones
 * skipped, as the C library does, without its plugins (smvm-init is static and needs nothing of the
 * image).
 */
#ifndef RUNNER_AGENT_USERS_H
#define RUNNER_AGENT_USERS_H

#include <limits.h>
#include <sys/types.h>

#include "smfs/base/err.h"

#define USERS_FILE_MAX	 (1u << 20)
#define USERS_GROUPS_MAX 256

struct creds {
	uid_t uid;
	gid_t gid;
	gid_t groups[USERS_GROUPS_MAX];
	unsigned ngroups;
	char name[256]; /* "": a bare number that no passwd line has */
	char home[PATH_MAX];
};

/* `spec` "" or NULL: root. Missing files read as empty. EINVAL names what is unknown. */
int users_resolve(const char *root, const char *spec, struct creds *out, struct err *err);
/* The same over the two files' text (NUL-terminated). */
int users_resolve_text(const char *passwd, const char *group, const char *spec, struct creds *out,
		       struct err *err);

#endif
