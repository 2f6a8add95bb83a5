/*
 * output.c - times, JSON, and a progress line.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "smfs/base/num.h"
#include "smfs/base/progress.h"
#include "smfs/cmd/cmd.h"

const char *cmd_time(int64_t ns, char buf[CMD_TIME_MAX])
{
	time_t t = (time_t)(ns / 1000000000);
	struct tm tm;

	if (!localtime_r(&t, &tm) || strftime(buf, CMD_TIME_MAX, "%Y-%m-%d %H:%M:%S", &tm) == 0)
		snprintf(buf, CMD_TIME_MAX, "-");
	return buf;
}

int cmd_print_json(json_t *j)
{
	if (!j) {
		fprintf(stderr, "smfs: print JSON: out of memory\n");
		return EXIT_FAILED;
	}
	json_dumpf(j, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(j);
	return cmd_flush();
}

int cmd_flush(void)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return EXIT_OK;
	fprintf(stderr, "smfs: write to standard output: %s\n", strerror(errno));
	return EXIT_FAILED;
}

/* ---- progress ------------------------------------------------------------------------------- */

struct cmd_progress {
	struct progress *line;
	const char *what;
	uint64_t total;
	uint64_t (*done)(void *arg);
	void *arg;
};

static void draw(void *arg, char line[PROGRESS_LINE_MAX])
{
	struct cmd_progress *p = arg;
	char done[SIZE_STR_MAX], total[SIZE_STR_MAX];
	uint64_t n = p->done(p->arg);

	format_size(n, done);
	if (p->total)
		snprintf(line, PROGRESS_LINE_MAX, "%s: %s of %s (%" PRIu64 " %%)", p->what, done,
			 format_size(p->total, total), n * 100 / p->total);
	else
		snprintf(line, PROGRESS_LINE_MAX, "%s: %s", p->what, done);
}

struct cmd_progress *cmd_progress_start(const struct cmd *c, const char *what, uint64_t total,
					uint64_t (*done)(void *arg), void *arg)
{
	struct cmd_progress *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	*p = (struct cmd_progress){.what = what, .total = total, .done = done, .arg = arg};
	p->line = progress_start(c->quiet, 1000, draw, p);
	return p;
}

void cmd_progress_stop(struct cmd_progress *p)
{
	if (!p)
		return;
	progress_stop(p->line);
	free(p);
}
