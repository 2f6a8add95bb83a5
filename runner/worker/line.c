#include "runner/worker/line.h"

#include <string.h>

#include "smfs/base/hex.h"
#include "smfs/base/num.h"

#define ERRNO_END  134 /* Linux's names end there */
#define OTHERS_MAX 256 /* bytes of a request beside its path */

struct cursor {
	const char *p, *end;
	bool extended;
};

static const struct {
	const char *name;
	enum verb verb;
	bool takes_path, seed;
} verbs[] = {
	{"HELLO", VERB_HELLO, false, true},
	{"RESTORE", VERB_RESTORE, true, true},
	{"SNAPSHOT", VERB_SNAPSHOT, true, true},
	{"SNAPSHOT_ASYNC", VERB_SNAPSHOT_ASYNC, true, true},
	{"WARM_UP", VERB_WARM_UP, true, false},
	{"QUIT", VERB_QUIT, false, true},
};

static bool is_text(const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)p[i] < 0x20 || p[i] == 0x7f)
			return false;
	return true;
}

static void skip_spaces(struct cursor *c)
{
	while (c->p < c->end && *c->p == ' ')
		c->p++;
}

static bool at_word_end(const struct cursor *c)
{
	return c->p == c->end || *c->p == ' ';
}

/* ---- words -------------------------------------------------------------------------------- */

static int hex_digit(char c)
{
	return c >= '0' && c <= '9'   ? c - '0'
	       : c >= 'a' && c <= 'f' ? c - 'a' + 10
	       : c >= 'A' && c <= 'F' ? c - 'A' + 10
				      : -1;
}

/* The byte after a backslash; -1: there is no such escape. */
static int escaped(struct cursor *c)
{
	int hi, lo;

	if (c->p == c->end)
		return -1;
	const char k = *c->p++;

	if (k == '\\' || k == '"')
		return k;
	if (k != 'x' || c->end - c->p < 2)
		return -1;
	hi = hex_digit(c->p[0]);
	lo = hex_digit(c->p[1]);
	c->p += 2;
	return hi < 0 || lo < 0 ? -1 : hi << 4 | lo;
}

/* Between the quotes, the first of which is behind us. */
static int quoted(struct cursor *c, char *out, size_t room, struct err *err)
{
	size_t n = 0;

	while (c->p < c->end && *c->p != '"') {
		int b = (unsigned char)*c->p++;

		if (b == '\\')
			b = escaped(c);
		if (b <= 0)
			return err_set(err, EINVAL, "a quoted string with a bad escape");
		if (n + 1 >= room)
			return err_set(err, EINVAL, "a value of more than %zu bytes", room - 1);
		out[n++] = (char)b;
	}
	out[n] = '\0';
	if (c->p == c->end)
		return err_set(err, EINVAL, "a quoted string without an end");
	c->p++;
	return at_word_end(c) ? 0 : err_set(err, EINVAL, "something right behind a quoted string");
}

/* One value, up to the next space. Never empty. */
static int value(struct cursor *c, char *out, size_t room, struct err *err)
{
	size_t n = 0;
	int r = 0;

	if (c->extended && c->p < c->end && *c->p == '"') {
		c->p++;
		r = quoted(c, out, room, err);
		n = strlen(out);
	} else {
		while (!at_word_end(c)) {
			if (c->extended && *c->p == '"')
				return err_set(err, EINVAL, "a quote in the middle of a word");
			if (n + 1 >= room)
				return err_set(err, EINVAL, "a value of more than %zu bytes",
					       room - 1);
			out[n++] = *c->p++;
		}
		out[n] = '\0';
	}
	return r == 0 && !n ? err_set(err, EINVAL, "an empty value") : r;
}

static void skip_word(struct cursor *c)
{
	while (!at_word_end(c))
		c->p++;
}

/* ---- pairs --------------------------------------------------------------------------------- */

static int number(const char *key, const char *text, uint64_t min, uint64_t max, unsigned *out,
		  struct err *err)
{
	uint64_t v;

	if (parse_u64(text, min, max, &v, NULL) < 0)
		return err_set(err, EINVAL, "%s=%.32s: not a number from %llu to %llu", key, text,
			       (unsigned long long)min, (unsigned long long)max);
	*out = (unsigned)v;
	return 0;
}

int line_take_id(const char *text, char out[LINE_ID_MAX + 1], struct err *err)
{
	static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
				      "0123456789._-";

	if (!*text || strlen(text) > LINE_ID_MAX || text[strspn(text, allowed)])
		return err_set(err, EINVAL, "id: not 1 to %d of A-Z a-z 0-9 . _ -", LINE_ID_MAX);
	memcpy(out, text, strlen(text) + 1);
	return 0;
}

enum key { KEY_ID = 1, KEY_BASE = 2, KEY_DEADLINE = 4, KEY_IDLE = 8, KEY_CLOCK = 16 };

static const struct {
	const char *name;
	enum key key;
	bool seed;
	unsigned verbs;
} keys[] = {
#define OF(v) (1u << (v))
	{"id", KEY_ID, false, ~0u},
	{"base", KEY_BASE, true, OF(VERB_SNAPSHOT) | OF(VERB_SNAPSHOT_ASYNC)},
	{"deadline_ms", KEY_DEADLINE, false, ~OF(VERB_HELLO)},
	{"idle_ms", KEY_IDLE, false, OF(VERB_SNAPSHOT) | OF(VERB_SNAPSHOT_ASYNC)},
	{"clock", KEY_CLOCK, false, OF(VERB_RESTORE)},
#undef OF
};

static int take(struct request *q, enum key key, const char *text, struct err *err)
{
	int clock;

	switch (key) {
	case KEY_ID:
		return line_take_id(text, q->id, err);
	case KEY_BASE:
		memcpy(q->base, text, strlen(text) + 1);
		return 0;
	case KEY_DEADLINE:
		return number("deadline_ms", text, 1, LINE_DEADLINE_MAX, &q->deadline_ms, err);
	case KEY_IDLE:
		return number("idle_ms", text, 0, LINE_IDLE_MAX, &q->idle_ms, err);
	case KEY_CLOCK:
		clock = clock_policy_of(text);
		if (clock < 0)
			return err_set(err, EINVAL, "clock=%.32s: advance or freeze", text);
		q->clock = (enum clock_policy)clock;
		return 0;
	}
	return 0;
}

/* Length of the key, 0: this word is no pair. */
static size_t key_length(const struct cursor *c)
{
	size_t n = 0;

	while (c->p + n < c->end && ((c->p[n] >= 'a' && c->p[n] <= 'z') ||
				     (c->p[n] >= '0' && c->p[n] <= '9') || c->p[n] == '_'))
		n++;
	return c->p + n < c->end && c->p[n] == '=' ? n : 0;
}

/* The key this verb has any use for in this dialect; 0: it is to be ignored. */
static enum key known(const struct cursor *c, enum verb verb, size_t n)
{
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (strlen(keys[i].name) == n && !memcmp(keys[i].name, c->p, n) &&
		    (c->extended || keys[i].seed) && (keys[i].verbs & 1u << verb))
			return keys[i].key;
	return 0;
}

static int pair(struct cursor *c, struct request *q, unsigned *seen, struct err *err)
{
	char text[LINE_LEN_MAX + 1];
	const size_t n = key_length(c);
	const enum key key = n ? known(c, q->verb, n) : 0;
	const bool ignored = !key || (*seen & key);

	if (!n && c->extended)
		return err_set(err, EINVAL, "a word that is not KEY=VALUE");
	if (ignored && !c->extended) {
		skip_word(c);
		return 0;
	}
	c->p += n + 1;
	/* What is ignored must still be stepped over as the grammar has it. */
	int r = value(c, text, ignored ? sizeof(text) : LINE_PATH_MAX, err);
	if (r < 0 || ignored)
		return r;
	*seen |= key;
	return take(q, key, text, err);
}

/* ---- the line ------------------------------------------------------------------------------ */

static int verb_of(struct cursor *c, struct request *q, bool *takes_path, struct err *err)
{
	const char *word = c->p;

	skip_word(c);
	const size_t n = (size_t)(c->p - word);

	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		if (strlen(verbs[i].name) == n && !memcmp(verbs[i].name, word, n) &&
		    (c->extended || verbs[i].seed)) {
			q->verb = verbs[i].verb;
			*takes_path = verbs[i].takes_path;
			return 0;
		}
	return err_set(err, ENOSYS, "no such request: %.*s", (int)MIN(n, (size_t)64), word);
}

static int rest(struct cursor *c, struct request *q, bool takes_path, struct err *err)
{
	unsigned seen = 0;
	int r = 0;

	skip_spaces(c);
	if (q->verb == VERB_HELLO) {
		char text[24];

		r = value(c, text, sizeof(text), err);
		if (r == 0 && parse_u64(text, 1, UINT32_MAX, &q->version, NULL) < 0)
			r = err_set(err, EINVAL, "HELLO takes a version from 1 on");
		/* From here on the peer has said HELLO. */
		c->extended = true;
	} else if (takes_path) {
		if (c->p == c->end)
			return err_set(err, EINVAL, "a %s is missing",
				       q->verb == VERB_WARM_UP ? "program" : "path");
		r = value(c, q->path, sizeof(q->path), err);
	}
	for (skip_spaces(c); r == 0 && c->p < c->end; skip_spaces(c))
		r = pair(c, q, &seen, err);
	return r;
}

int line_parse(const char *p, size_t n, bool extended, struct request *out, struct err *err)
{
	struct cursor c = {.p = p, .end = p + n, .extended = extended};
	bool takes_path = false;
	int r;

	memset(out, 0, sizeof(*out));
	out->clock = CLOCK_ADVANCE;
	out->deadline_ms = LINE_DEADLINE_MS;
	out->idle_ms = LINE_IDLE_MS;
	if (n > LINE_LEN_MAX)
		return err_set(err, EMSGSIZE, "a line of more than %d bytes", LINE_LEN_MAX);
	if (!is_text(p, n))
		return err_set(err, EILSEQ, "a line that is not text");
	skip_spaces(&c);
	if (c.p == c.end)
		return 0;
	r = verb_of(&c, out, &takes_path, err);
	return r < 0 ? r : rest(&c, out, takes_path, err);
}

int line_word(const char **p, const char *end, char key[LINE_KEY_MAX], char value_[LINE_PATH_MAX])
{
	struct cursor c = {.p = *p, .end = end, .extended = true};

	skip_spaces(&c);
	if (c.p == c.end)
		return 0;
	const size_t n = key_length(&c);
	/* A longer one is cut, and so none that anybody knows. */
	const size_t kept = MIN(n, (size_t)LINE_KEY_MAX - 1);
	memcpy(key, c.p, kept);
	key[kept] = '\0';
	if (n)
		c.p += n + 1;
	if (value(&c, value_, LINE_PATH_MAX, NULL) < 0)
		return -EINVAL;
	*p = c.p;
	return 1;
}

const char *line_error_name(int code)
{
	const char *name = strerrorname_np(code);

	return code > 0 && name ? name : "EIO";
}

int line_error_code(const char *name, size_t n)
{
	for (int code = 1; code < ERRNO_END; code++) {
		const char *known = strerrorname_np(code);

		if (known && strlen(known) == n && !memcmp(known, name, n))
			return code;
	}
	return EIO;
}

int line_check_word(const char *what, const char *text, struct err *err)
{
	char word[4 * LINE_PATH_MAX + 3];
	const size_t n = strlen(text);

	if (n >= LINE_PATH_MAX)
		return err_set(err, EINVAL, "%s: %zu bytes, at most %d fit a request", what, n,
			       LINE_PATH_MAX - 1);
	line_quote(text, word);
	if (strlen(word) > LINE_LEN_MAX - OTHERS_MAX)
		return err_set(err, EINVAL,
			       "%s: %zu bytes once what is no text in it is quoted, at most %d fit "
			       "a request",
			       what, strlen(word), LINE_LEN_MAX - OTHERS_MAX);
	return 0;
}

void line_quote(const char *text, char *out)
{
	static const char hex[] = "0123456789abcdef";

	if (*text && !strpbrk(text, " \"\\") && is_text(text, strlen(text))) {
		memcpy(out, text, strlen(text) + 1);
		return;
	}
	*out++ = '"';
	for (; *text; text++) {
		const unsigned char b = (unsigned char)*text;

		if (b == '"' || b == '\\') {
			*out++ = '\\';
			*out++ = (char)b;
		} else if (b < 0x20 || b == 0x7f) {
			*out++ = '\\';
			*out++ = 'x';
			*out++ = hex[b >> 4];
			*out++ = hex[b & 15];
		} else {
			*out++ = (char)b;
		}
	}
	*out++ = '"';
	*out = '\0';
}
