/*
 * line.h - one line of a supervisor's as a request (doc/protocol.md, "Grammar").
 *
 * Pure: bytes in, a struct out; any bytes at all. Nothing is allocated.
 */
#ifndef RUNNER_WORKER_LINE_H
#define RUNNER_WORKER_LINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runner/snapshot/clock_policy.h"
#include "smfs/base/err.h"

#define LINE_LEN_MAX	  16384 /* without its LF */
#define LINE_PATH_MAX	  4096	/* with a NUL */
#define LINE_ID_MAX	  32
#define LINE_DEADLINE_MS  60000
#define LINE_DEADLINE_MAX 3600000
#define LINE_IDLE_MS	  1000
#define LINE_IDLE_MAX	  60000
#define LINE_VERSION	  1

enum verb {
	VERB_NONE,
	VERB_HELLO,
	VERB_RESTORE,
	VERB_SNAPSHOT,
	VERB_SNAPSHOT_ASYNC,
	VERB_WARM_UP,
	VERB_QUIT
};

struct request {
	enum verb verb;		  /* VERB_NONE: an empty line */
	char id[LINE_ID_MAX + 1]; /* "" without one */
	uint64_t version;	  /* HELLO's */
	char path[LINE_PATH_MAX]; /* of the others, WARM_UP's program; "" where there is none */
	char base[LINE_PATH_MAX]; /* "" without one */
	enum clock_policy clock;
	unsigned deadline_ms, idle_ms;
};

/*
 * `n` bytes, the LF not among them. `extended`: the peer has said HELLO. On failure out->verb (and
 * out->id, if it came before what is wrong) still tell whose error it is; VERB_NONE: nobody's.
 * EINVAL bad grammar, EILSEQ not text, EMSGSIZE too long, ENOSYS unknown verb.
 */
int line_parse(const char *p, size_t n, bool extended, struct request *out, struct err *err);

/*
 * The next word of [*p, end) in the extended dialect, for whoever reads the other side's lines: 1 a
 * pair (its key and value), 0 there is none, -EINVAL bad grammar or longer than its room. A word
 * that is no pair has the key "".
 */
#define LINE_KEY_MAX 32
int line_word(const char **p, const char *end, char key[LINE_KEY_MAX], char value[LINE_PATH_MAX]);

/* What `id=` may be. EINVAL. */
int line_take_id(const char *text, char out[LINE_ID_MAX + 1], struct err *err);

/* The word for an error's code, "EIO" for one that has none; and the code of `n` bytes, EIO for
 * what is no such word. */
const char *line_error_name(int code);
int line_error_code(const char *name, size_t n);

/* `text` as a word: as it is, or quoted where the grammar needs it. `out` has room for 4 * len + 3.
 */
void line_quote(const char *text, char *out);
/*
 * Whether a request has room for `text` as a word: of LINE_PATH_MAX with its NUL, and, quoted, of a
 * line with its verb, an id and numbers. EINVAL, saying that it is of `what`.
 */
int line_check_word(const char *what, const char *text, struct err *err);

#endif
