/* text.h - bounded copies between fixed buffers. */
#ifndef PULL_TEXT_H
#define PULL_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* Append `s` to the text in `out`, a buffer of `max` bytes; false, and nothing appended, when it
 * does not fit. */
static inline bool text_append(char *out, size_t max, const char *s)
{
	size_t have = strlen(out), n = strlen(s);

	if (n >= max - have)
		return false;
	memcpy(out + have, s, n + 1);
	return true;
}

/* The same into an empty buffer: false leaves "". */
static inline bool text_copy(char *out, size_t max, const char *s)
{
	out[0] = '\0';
	return text_append(out, max, s);
}

#endif
