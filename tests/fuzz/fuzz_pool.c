/*
 * What a client can send to a pool, and a worker's line to whoever reads words of it: any bytes.
 * What is taken is within its limits.
 */
#include <stdlib.h>
#include <string.h>

#include "runner/pool/claims.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char key[LINE_KEY_MAX], value[LINE_PATH_MAX];
	char *copy = malloc(size + 1);
	const char *p = copy, *end = copy + size;
	struct ask_line q;
	struct err err = ERR_INIT;

	if (!copy)
		abort();
	memcpy(copy, data, size);
	if (ask_parse(copy, size, &q, &err) == 0 &&
	    (strlen(q.id) > LINE_ID_MAX || q.deadline_ms > LINE_DEADLINE_MAX ||
	     (q.what == ASK_RELEASE && !q.claim == !q.vm[0])))
		abort();
	while (line_word(&p, end, key, value) > 0)
		if (p > end || strlen(key) >= LINE_KEY_MAX)
			abort();
	free(copy);
	return 0;
}
