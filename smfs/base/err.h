/*
 * err.h - the error object every fallible function fills.
 *
 * A function that can fail returns 0 or a negative errno and takes `struct err *err` last. On
 * failure it has called err_set() (or err_errno()) exactly once with what was attempted and on
 * what; callers on the way up may err_wrap() context in front. The command's main prints the
 * message as its one line and maps `code` to an exit status. `err` may be NULL where a caller
 * needs only the code.
 *
 * A message reads: WHAT failed, on WHAT, WHY; and where the user can act, "; " and what to do.
 *
 *     return err_set(err, EBUSY, "mount %s: already mounted; run `smfs unmount %s` first", p, p);
 *     return err_errno(err, "open %s", path);            // appends ": <strerror>"
 *     if ((r = pack_open(...)) < 0) return err_wrap(err, r, "ingest %s", name);
 *
 * Threads: one struct err belongs to one thread at a time. It owns no memory.
 */
#ifndef SMFS_BASE_ERR_H
#define SMFS_BASE_ERR_H

#include <errno.h>
#include <stddef.h>

#define ERR_MSG_MAX 1024

struct err {
	int code; /* positive errno, 0 = no error */
	char msg[ERR_MSG_MAX];
};

#define ERR_INIT ((struct err){0})

/* Record an error. `code` is a positive errno. Returns -code. Truncates, never overflows. */
int err_set(struct err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Record the current errno (EIO if it is 0), appending ": <strerror>". Returns -errno. */
int err_errno(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Put "context: " in front of the message already there. Returns `ret` unchanged. */
int err_wrap(struct err *err, int ret, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

void err_clear(struct err *err);

/* A static analyser sees one source file at a time: what these return is negative. */
#ifdef __clang_analyzer__
#define err_set(err, code, ...) ((void)(err_set)(err, code, __VA_ARGS__), -1)
#define err_errno(err, ...)	((void)(err_errno)(err, __VA_ARGS__), -1)
#define err_wrap(err, ret, ...) ((void)(err_wrap)(err, ret, __VA_ARGS__), (ret))
#endif

/*
 * Exit codes shared by the three commands (documented in their man pages):
 * 0 done, 1 failed, 2 usage, 3 not found, 4 exists or busy, 5 data refused (corrupt, foreign,
 * unsupported), 6 interrupted. `code` is a positive errno.
 */
enum exit_code {
	EXIT_OK = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2,
	EXIT_NOT_FOUND = 3,
	EXIT_BUSY = 4,
	EXIT_REFUSED = 5,
	EXIT_INTERRUPTED = 6,
};
int err_exit_code(int code);

#endif
