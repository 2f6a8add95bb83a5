#include "smfs/base/log.h"

#include "smfs/base/num.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static const char *log_ident = "smfs";
static enum log_level log_max = LOG_WARN;

void log_init(const char *ident, enum log_level level)
{
	log_ident = ident;
	log_max = level;
}

void log_at(enum log_level level, const char *fmt, ...)
{
	char line[2048];
	int saved = errno;
	va_list ap;
	int n = 0;

	if (level > log_max)
		return;
	if (!isatty(STDERR_FILENO))
		n = snprintf(line, sizeof(line), "<%d>", level);
	n += snprintf(line + n, sizeof(line) - n, "%s: ", log_ident);
	errno = saved; /* for %m */
	va_start(ap, fmt);
	n += vsnprintf(line + n, sizeof(line) - n, fmt, ap);
	va_end(ap);
	n = MIN(n, (int)sizeof(line) - 2);
	for (int i = 0; i < n; i++)
		if ((unsigned char)line[i] < 0x20)
			line[i] = '?';
	line[n++] = '\n';
	if (write(STDERR_FILENO, line, n) < 0) {
		/* Nowhere left to say it. */
	}
	errno = saved;
}
