/*
 * doctor.h - is this host able to run machines, how well, and what to do where it is not?
 *
 * A check looks at one thing and says one line of what it found; where that is not good, one more
 * of what to do. What can be tried is tried rather than looked up: a guest is run, a backing file
 * registered, a page written. Nothing is changed on the host, and nothing is left behind.
 *
 *   PASS  as it should be
 *   WARN  machines run, but something is slower, smaller or less safe than it could be
 *   FAIL  machines, or a part of the product that is named, will not work
 *   SKIP  could not be found out, or there is nothing to look at; says why
 *
 * Checks come in groups, one file and one function each, listed in one table (doctor.c). All of
 * them together take less than two seconds on a host that is not busy. What may hang (a mount
 * without a server, a broken KVM, a file system of the network) runs in a child that is killed at
 * its deadline, which is several times what a slow host takes.
 *
 * THREADS. All of it is for one thread, and for a process that has no others: it forks.
 */
#ifndef RUNNER_DOCTOR_DOCTOR_H
#define RUNNER_DOCTOR_DOCTOR_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "smfs/base/err.h"

enum doctor_status { DOCTOR_PASS, DOCTOR_WARN, DOCTOR_FAIL, DOCTOR_SKIP, DOCTOR_STATUSES };

struct doctor {
	const char *mount; /* where the store is mounted, or would be */
	const char *store; /* its directory; NULL: whatever the mount says, or the default */
	FILE *out;	   /* a line per check as it comes; NULL: none */

	/* The outcome. */
	unsigned count[DOCTOR_STATUSES];
	json_t *checks; /* [{"group", "name", "status", "found", "advice", "figures"}] */

	const char *group; /* the one at work */
};

/*
 * Run every check. 0 whatever they find; errors: ENOMEM. doctor_free() it in any case, which leaves
 * nothing of it.
 */
int doctor_run(struct doctor *d, struct err *err);
void doctor_free(struct doctor *d);
const char *doctor_status_name(enum doctor_status s);

/* ---- for the groups ------------------------------------------------------------------------ */

/*
 * What a check came to. `fmt` is what was found, without a full stop; `advice` what to do, which is
 * not told with PASS and may be NULL then.
 */
void doctor_say(struct doctor *d, enum doctor_status s, const char *name, const char *advice,
		const char *fmt, ...) __attribute__((format(printf, 5, 6)));
/* FAIL below `fail`, WARN below `warn`, else PASS. */
enum doctor_status doctor_grade(uint64_t n, uint64_t warn, uint64_t fail);
/* A figure of the check last said, for machines: "instructions_per_s". */
void doctor_figure(struct doctor *d, const char *key, double value);

/*
 * Run `fn` in a child and take over the `len` bytes it leaves in `buf`. -ETIMEDOUT: it was killed
 * after `timeout_ms`; -ECHILD: it died by itself; other errors are of making it.
 */
typedef void (*doctor_trial)(void *buf);
int doctor_try(doctor_trial fn, void *buf, size_t len, int timeout_ms);

/* The first line of a small file, malloc'd, without its newline; NULL when it cannot be read. */
char *doctor_line(const char *path);

void doctor_kvm(struct doctor *d);
void doctor_fuse(struct doctor *d);
void doctor_kernel(struct doctor *d);
void doctor_memory(struct doctor *d);
void doctor_limits(struct doctor *d);
void doctor_cgroup(struct doctor *d);
void doctor_clock(struct doctor *d);
void doctor_store(struct doctor *d);
void doctor_guest(struct doctor *d);

#endif
