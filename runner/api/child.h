/*
 * child.h - a process of smvm-runner's that a handle has started: its command line, how it begins
 * and ends, what it says on standard error.
 *
 * It gets default signals, none blocked, a session of its own and no descriptor of the program's.
 * Its standard error is a pipe that it never waits for: what does not fit is lost to it, and what
 * is kept here is the end of what it has said. So one that talks much costs what a pipe holds.
 */
#ifndef RUNNER_API_CHILD_H
#define RUNNER_API_CHILD_H

#include <stdbool.h>
#include <sys/types.h>

#include "smfs/base/err.h"

#define CHILD_ARGS_MAX 1024
#define CHILD_TAIL_MAX 4096

/* A command line; its words are owned. */
struct args {
	char *v[CHILD_ARGS_MAX + 1];
	size_t n;
	bool failed; /* a word is missing: no memory, or too many */
};

/* $SMVM_RUNNER, or smvm-runner, and its command. */
void args_begin(struct args *a, const char *command);
void args_add(struct args *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* --name=value; nothing if value is NULL. */
void args_option(struct args *a, const char *name, const char *value);
void args_free(struct args *a);

struct child {
	pid_t pid; /* 0: none was started */
	int pidfd; /* -1 */
	int log_fd;
	bool joined;
	size_t ntail;
	char tail[CHILD_TAIL_MAX];
};

void child_init(struct child *c);
/* `in`, `out` become its standard input and output (-1: /dev/null); they stay the caller's. */
int child_spawn(struct child *c, const struct args *a, int in, int out, struct err *err);
/* Take in what it has said. Never waits. */
void child_listen(struct child *c);
/* Whether it has ended, joined or not. */
bool child_ended(const struct child *c);
/*
 * Wait for its end; `timeout_ms` -1: for ever. Its status: 128 + N after signal N. EALREADY
 * "already joined", ENOTSUP none was started.
 */
int child_join(struct child *c, int timeout_ms, int *status, struct err *err);
/*
 * What it said last, "smvm-runner: why", as the error, with the code its exit status stands for; if
 * it said nothing, *err and `r` stay as they are.
 */
int child_last_words(struct child *c, int r, struct err *err);
/* Wait for its end, kill it after `grace_ms`, and forget it: as after child_init(). */
void child_end(struct child *c, int grace_ms);

#endif
