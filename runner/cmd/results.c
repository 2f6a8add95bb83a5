/* What the steps of a guest's new identity came to, for people. */
#include "runner/cmd/cmd.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void print_results(const char *vm, const json_t *timings)
{
	const json_t *list = json_object_get(timings, "identity"), *x;
	size_t i;

	json_array_foreach(list, i, x)
	{
		const char *item = json_string_value(json_object_get(x, "item"));
		const char *detail = json_string_value(json_object_get(x, "detail"));
		json_int_t code = json_integer_value(json_object_get(x, "code"));
		json_int_t limit = json_integer_value(json_object_get(x, "limit_ms"));
		double ms = (double)json_integer_value(json_object_get(x, "us")) / 1000;
		const bool hook = item && strncmp(item, "hook:", 5) == 0;

		/* The runner's own steps are worth a line when they failed, the user's programs
		 * always. */
		if (!item || (!hook && !code))
			continue;
		fprintf(stderr, "smvm-runner: %s: ", vm);
		say_plain(item);
		fputc(' ', stderr);
		if (code >= 256)
			fprintf(stderr, "ended with status %d", (int)code - 256);
		else
			fputs(code ? strerror((int)code) : "done", stderr);
		fprintf(stderr, " after %.1f ms", ms);
		if (limit)
			fprintf(stderr, " of %lld s", (long long)limit / 1000);
		if (detail && detail[0]) {
			fputs(": ", stderr);
			say_plain(detail);
		}
		fputc('\n', stderr);
	}
}
