/*
 * spawn.h - start one program: credentials, directory, cgroup, descriptors, terminal.
 */
#ifndef RUNNER_AGENT_SPAWN_H
#define RUNNER_AGENT_SPAWN_H

#include <stdbool.h>
#include <sys/types.h>

#include "runner/agent/users.h"
#include "smfs/base/err.h"

struct spawn {
	char *const *argv;
	char *const *env; /* argv[0] without a slash is looked up in its PATH */
	const char *cwd;
	const struct creds *creds;
	int fd[3];	    /* become 0, 1, 2; may be the same descriptor */
	bool tty;	    /* fd[0] is a terminal and becomes the controlling one */
	const char *cgroup; /* joined before any of the program runs; NULL: none */
	bool die_with_parent;
};

/*
 * The program leads its own session and process group (so kill(-pid) reaches what it started), has
 * all signals at their defaults and no other descriptor. Returns once exec has succeeded; on
 * failure no process is left and the error says which step failed on what.
 */
int spawn(const struct spawn *s, pid_t *pid, struct err *err);

#define SPAWN_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/*
 * base, then over (same names replaced), then PATH, HOME, TERM where missing. Free with
 * strv_free().
 */
char **spawn_env(char *const *base, char *const *over, const char *home, bool tty);
const char *env_get(char *const *env, const char *name);

#endif
